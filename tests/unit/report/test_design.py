"""Laws of the sections on designs: recognised by their jobs, planted effects found with their signs, gaps said and not computed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selfalign import designs
from selfalign.designs import DesignSettings
from selfalign.report import load_runs
from selfalign.report.design import MAIN, PAIR, SHAPLEY, Analysis, Designed, designed
from selfalign.report.design_view import view
from selfalign.report.html import render
from selfalign.report.model import Run
from tests.unit.report.run_folders import RULES, exam_row, write_run, write_scores

ITEMS = 60
Score = Callable[[set[str]], float]


def sweep(folder: Path, jobs: list[list[str]], probability: Score, settings: DesignSettings | None = None) -> list[Run]:
    """Runs of some jobs: an item is right where its own draw is below the probability that the principles there give."""
    draw = random.Random("items")
    draws = [draw.random() for _ in range(ITEMS)]
    folders = []
    for number, drop in enumerate(jobs):
        chance = probability(set(RULES) - set(drop))
        rows = [exam_row(item, float(value < chance)) for item, value in enumerate(draws)]
        base = [exam_row(item, float(value < 0.5)) for item, value in enumerate(draws)]
        run = write_run(folder / f"run-{number}", drop=drop)
        folders.append(write_scores(run, {"base": base, "cloned": rows}, artifacts={"base": "Evaluate-1-base"}))
    if settings is not None:
        (folder / "sweep").mkdir()
        content = {"jobs": [{"id": path.name} for path in folders],
                   "design": {name: getattr(settings, name) for name in settings.__dataclass_fields__}}  # fmt: skip
        (folder / "sweep" / "sweep.json").write_text(json.dumps(content))
    return load_runs(folders)


def found(runs: list[Run], kind: str) -> tuple[Designed, Analysis]:
    one = designed(runs)
    assert one is not None
    (analysis,) = [entry for entry in one.analyses if entry.kind == kind]
    assert analysis.subject == "cloned", "no analysis of a model that the factors do not reach"
    return one, analysis


def additive(there: set[str]) -> float:
    return 0.2 + 0.4 * ("candor" in there) - 0.2 * ("ethical" in there) + 0.2 * ("helpful" in there)


def test_main_effects_of_a_plackett_burman_sweep_are_those_that_were_planted(tmp_path: Path):
    jobs = designs.drops("plackett_burman", RULES, DesignSettings())
    one, main = found(sweep(tmp_path, jobs, additive, DesignSettings()), MAIN)
    assert (one.design, one.missing, one.factors) == ("plackett_burman", 0, tuple(RULES))
    estimates = {line.factors[0]: line for line in main.lines}
    assert estimates["candor"].estimate.value == pytest.approx(0.4, abs=0.12)
    assert estimates["candor"].adjusted is not None and estimates["candor"].adjusted < 0.05
    assert estimates["ethical"].estimate.value < 0 < estimates["helpful"].estimate.value
    assert abs(estimates["reasoning"].estimate.value) < 0.1
    assert 0 < one.aliased <= 1 and "aliasing" in view(one).about


def test_the_sum_of_shapley_values_is_the_whole_difference_along_the_orders_that_the_sweep_drew(tmp_path: Path):
    settings = DesignSettings(of=["ethical", "helpful", "candor"], permutations=6, seed=3)
    runs = sweep(tmp_path, designs.drops("shapley", RULES, settings), additive, settings)
    one, values = found(runs, SHAPLEY)
    assert one.design == "shapley" and values.total is not None
    assert sum(line.estimate.value for line in values.lines) == pytest.approx(values.total)
    assert {line.factors[0]: line.estimate.value > 0 for line in values.lines} == {
        "ethical": False, "helpful": True, "candor": True,
    }  # fmt: skip
    assert "all minus none" in "".join(table.subject for table in view(one).tables)


def test_a_shapley_sweep_with_a_missing_set_says_so_and_gives_no_values(tmp_path: Path):
    settings = DesignSettings(of=["ethical", "helpful", "candor"], permutations=6)
    jobs = designs.drops("shapley", RULES, settings)
    runs = sweep(tmp_path, jobs, additive, settings)
    one = designed([run for run in runs if run.run_id != f"run-{len(jobs) - 1}"])
    assert one is None or not [entry for entry in one.analyses if entry.kind == SHAPLEY]


def test_two_principles_that_stand_in_for_one_another_have_a_negative_interaction(tmp_path: Path):
    def either(there: set[str]) -> float:
        return 0.9 if there & {"candor", "ethical"} else 0.3

    jobs = designs.drops("pairs", RULES, DesignSettings(of=["ethical", "candor", "helpful"]))
    one, pairs = found(sweep(tmp_path, jobs, either), PAIR)
    lines = {line.factors: line for line in pairs.lines}
    assert len(lines) == 3 and one.design == "pairs"
    strong = lines["ethical", "candor"]
    # Without either 0.9, without both 0.3: whole - a - b + both = 0.9 - 0.9 - 0.9 + 0.3.
    assert (
        strong.estimate.value == pytest.approx(-0.6, abs=0.15)
        and strong.adjusted is not None
        and strong.adjusted < 0.05
    )
    assert all(line.estimate.value == 0 for factors, line in lines.items() if "helpful" in factors)


def test_a_sweep_that_leaves_out_one_at_a_time_has_no_section_of_its_own(tmp_path: Path):
    jobs = designs.drops("leave_one_out", RULES, DesignSettings())
    runs = sweep(tmp_path, jobs, additive)
    assert designed(runs) is None and 'id="design"' not in render(runs)


def test_arms_that_differ_in_other_settings_are_no_design(tmp_path: Path):
    jobs = designs.drops("plackett_burman", RULES, DesignSettings())
    runs = sweep(tmp_path, jobs, additive)
    assert designed(runs) is not None
    path = runs[3].folder / "config.yaml"
    path.write_text(path.read_text().replace("dtype: float32", "dtype: bfloat16"))
    assert designed(load_runs([run.folder for run in runs])) is None


def test_missing_jobs_of_a_design_are_counted_and_the_rest_is_still_analysed(tmp_path: Path):
    settings = DesignSettings(of=["ethical", "helpful", "candor", "reasoning"])
    runs = sweep(tmp_path, designs.drops("plackett_burman", RULES, settings), additive, settings)
    one, _ = found([*runs[:2], *runs[3:]], MAIN)
    assert one.missing == 1 and "1 jobs of the design are missing" in view(one).about


def test_runs_that_cannot_tell_all_factors_apart_are_refused_with_the_reason(tmp_path: Path):
    runs = sweep(tmp_path, designs.drops("plackett_burman", RULES, DesignSettings()), additive, DesignSettings())
    one = designed(runs[1:])
    assert one is not None and not one.analyses
    assert "runs that tell 7 terms apart" in one.refusals[0] and "runs that tell 7 terms" in render(runs[1:])


def test_the_page_has_the_section_with_its_tables_and_figures(tmp_path: Path):
    runs = sweep(tmp_path, designs.drops("plackett_burman", RULES, DesignSettings()), additive)
    page = render(runs)
    assert 'id="design"' in page and "main effects: calf_truth · mc1 · accuracy" in page


def adherence(item: int, principle: str, shows: bool) -> dict[str, Any]:
    return {"task": "adherence", "protocol": "oracle", "item": f"{principle}-{item}", "category": "", "question": "?",
            "answer": f"{item}", "marks": {principle: int(shows)}}  # fmt: skip


def governed(folder: Path, rules: list[str]) -> list[Run]:
    """A Plackett-Burman sweep in which every principle alone decides whether its own questions show it."""
    folders = []
    for number, drop in enumerate(designs.drops("plackett_burman", rules, DesignSettings())):
        rows = [adherence(item, rule, rule not in drop) for rule in rules for item in range(12)]
        folders.append(write_scores(write_run(folder / f"run-{number}", drop=drop), {"engraved": rows, "cloned": rows}))
    return load_runs(folders)


@pytest.mark.parametrize(("rules", "has_runs"), [(RULES[:5], True), (RULES, False)])
def test_the_table_of_all_main_effects_marks_each_own_behaviour_and_no_rounding(
    tmp_path: Path, rules: list[str], has_runs: bool
):
    one = designed(governed(tmp_path, rules))
    assert one is not None
    shown = view(one)
    (table,) = [matrix for matrix in shown.matrices if matrix.is_open]
    assert (table.title, table.subject) == ("All main effects", "engraved") and shown.is_first
    for name, cells in table.rows:
        found = {head: cell.text for head, (cell, _) in zip(table.head[1:], cells, strict=True)}
        assert found[name.replace("_", " ")].rstrip("*") == "+1.00"
        assert found[name.replace("_", " ")].endswith("**" if has_runs else "*")
        others = [text for head, text in found.items() if head not in (name.replace("_", " "), "adherence, all")]
        assert others == ["0"] * (len(rules) - 1), "equal scores are no effect, whatever least squares leave of them"
    assert ("p, runs too" in shown.about) == has_runs != ("no run left over" in shown.about)
    heads = {table.head for table in shown.tables}
    assert all(("p, runs too, Holm" in head) == has_runs for head in heads)


def test_a_design_that_leaves_out_several_at_a_time_stands_before_its_single_arms(tmp_path: Path):
    page = render(governed(tmp_path / "a", RULES))
    assert page.index('<section id="design">') < page.index('<section id="effects">')
    assert page.index('href="#design"') < page.index('href="#effects"')
    jobs = designs.drops("pairs", RULES, DesignSettings(of=["ethical", "candor", "helpful"]))
    page = render(sweep(tmp_path / "b", jobs, additive))
    assert page.index('<section id="effects">') < page.index('<section id="design">')
