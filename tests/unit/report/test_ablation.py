"""Laws of comparing the arms of a sweep: paired by seed and item, one correction a metric, reasons instead of wrong numbers."""

from __future__ import annotations

import csv
import io
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from markupsafe import escape
from scipy import stats as scipy_stats

from selfalign import jsonl
from selfalign.errors import DataError
from selfalign.evaluation.scores import item_values, scores_of
from selfalign.report import load_run, load_runs, print_scores
from selfalign.report.ablation import Contrast, Family, compare
from selfalign.report.ablation_view import grid, method, refusals, tables
from selfalign.report.arms import Arm
from selfalign.report.export import effects_csv
from selfalign.report.figures import Effect, forest
from selfalign.report.html import render
from selfalign.report.model import Run
from selfalign.report.page import tables as page_tables
from selfalign.report.scores import change, is_paired, lines
from selfalign.report.tax import verbose_tax
from selfalign.report.terminal import plain_text
from selfalign.statistics import holm
from tests.unit.report.run_folders import HOSTILE, RULES, answer_row, exam_row, score, write_run, write_scores

ITEMS = 80


def exams(seed: int, wrong: set[int] = frozenset(), *, items: int = ITEMS, share: float = 0.7) -> list[dict[str, Any]]:
    """Rows of an exam: right by a draw that depends on the item alone, and wrong where it is asked to be."""
    draw = random.Random(f"outcomes {seed}")
    right = [draw.random() < share for _ in range(ITEMS)]
    return [exam_row(item, float(right[item] and item not in wrong)) for item in range(items)]


def lost(rows: list[dict[str, Any]], count: int) -> set[int]:
    """The first items that are right."""
    return set([index for index, row in enumerate(rows) if row["correct"]][:count])


def arm(folder: Path, *, drop: list[str], seed: int = 0, wrong: int = 0, words: int = 30, **more: Any) -> Path:
    """A run whose cloned model gets some of the control's right items wrong; base and engraved are the same in all arms."""
    write_run(folder, drop=drop, seed=seed)
    base = exams(seed)
    rows = {
        "base": exams(100 + seed),
        "engraved": [*base, *(answer_row(item, 20 + item % 5) for item in range(20))],
        "cloned": [*exams(seed, lost(base, wrong)), *(answer_row(item, words + item % 7) for item in range(20))],
    }
    return write_scores(folder, rows, artifacts={"base": f"Evaluate-1-base-{seed}"}, **more)


@pytest.fixture
def sweep(tmp_path: Path) -> list[Run]:
    """A control, an arm that loses 20 items, one that loses 2, and one that loses none; two seeds each."""
    folders = []
    for seed in (0, 1):
        folders.append(arm(tmp_path / f"all-{seed}", drop=[], seed=seed))
        for name, wrong in (("candor", 20), ("ethical", 2), ("helpful", 0)):
            folders.append(arm(tmp_path / f"{name}-{seed}", drop=[name], seed=seed, wrong=wrong))
    return load_runs(folders)


def family(runs: list[Run], subject: str = "cloned", protocol: str = "mc1") -> Family:
    found = compare(runs)
    assert found is not None
    (one,) = [f for f in found.families if (f.subject, f.protocol) == (subject, protocol)]
    return one


def dropped(one: Arm) -> list[str]:
    return next(iter(one.runs.values())).config["principles"]["drop"]


def one_seed(runs: list[Run], seed: int = 0) -> list[Run]:
    return [run for run in runs if run.config["seed"] == seed]


# -------------------------------------------------------------------------------------------------------------- arms


def test_runs_that_differ_in_seeds_alone_are_one_arm_and_arms_are_named_by_what_they_leave_out(sweep: list[Run]):
    found = compare(sweep)
    assert found is not None
    assert [run.run_id for run in found.control.runs.values()] == ["all-0", "all-1"]
    assert [one.label for one in found.arms] == ["without ethical", "without helpful", "without candor"]
    assert [dropped(one)[0] for one in found.arms] == [
        name for name in RULES if name in ("ethical", "helpful", "candor")
    ]
    assert all(len(one.runs) == 2 for one in found.arms)


def test_an_arm_with_few_principles_is_named_by_those_that_it_has_in_the_order_of_the_set(tmp_path: Path):
    def without_all_but(*names: str) -> list[str]:
        return [rule for rule in RULES if rule not in names]

    folders = [arm(tmp_path / f"run-{place}", drop=without_all_but(*names))
               for place, names in enumerate(((), ("helpful",), ("ethical",), ("candor", "ethical")))]  # fmt: skip
    found = compare(load_runs(folders))
    assert found is not None
    assert [one.label for one in found.arms] == ["only ethical", "only ethical, candor", "only helpful"]
    assert "The control is run-0 (no principle)." in method(found)


def test_an_arm_without_an_exemplar_is_named_by_it(tmp_path: Path):
    runs = load_runs([arm(tmp_path / name, drop=[]) for name in ("all", "less")])
    runs[1].config["exemplars"]["drop"] = ["harm"]
    found = compare(runs)
    assert found is not None and [one.label for one in found.arms] == ["without exemplar harm"]
    assert {one.subject for one in found.leading} == {"engraved"}


def test_the_control_does_not_depend_on_the_order_of_runs_unless_it_is_told(sweep: list[Run]):
    backwards = compare(sweep[::-1])
    assert backwards is not None and {run.run_id for run in backwards.control.runs.values()} == {"all-0", "all-1"}
    told = compare(sweep, control="helpful-1")
    assert told is not None and dropped(told.control) == ["helpful"]
    assert "principles.drop=[]" in [one.label for one in told.arms]
    with pytest.raises(DataError, match="did you mean 'helpful-1'"):
        compare(sweep, control="helpfull-1")


def test_without_an_arm_that_keeps_all_principles_the_first_one_is_the_control(sweep: list[Run]):
    found = compare([run for run in sweep if run.config["principles"]["drop"]])
    assert found is not None and dropped(found.control) == ["candor"]


def test_one_arm_is_nothing_to_compare(sweep: list[Run]):
    assert compare([run for run in sweep if not run.config["principles"]["drop"]]) is None
    assert compare(sweep[:1]) is None


def test_settings_that_stages_share_are_named_once_and_an_arm_of_another_kind_by_its_run(tmp_path: Path):
    first = write_run(tmp_path / "first")
    second = write_run(tmp_path / "second")
    third = write_run(tmp_path / "third")
    for folder, changes in ((second, {"model": {"path": "other"}, "engine": {"model": {"path": "other"}}}),
                            (third, {f"setting_{n}": n for n in range(9)})):  # fmt: skip
        config = yaml.safe_load((folder / "config.yaml").read_text())
        base = {"engine": {"model": {"path": "calf"}}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config | base | changes))
    config = yaml.safe_load((first / "config.yaml").read_text())
    (first / "config.yaml").write_text(
        yaml.safe_dump(config | {"engine": {"model": {"path": "calf"}}, "arms": {"x": 1}})
    )
    found = compare(load_runs([first, second, third]))
    assert found is not None
    assert [one.label for one in found.arms] == ["model.dtype=None, model.path=other", "third"]


def test_a_run_with_the_settings_and_seed_of_another_counts_once_and_is_named(sweep: list[Run], tmp_path: Path):
    twin = arm(tmp_path / "twin", drop=["candor"], wrong=40)
    (tmp_path / "twin" / "config.yaml").write_text((tmp_path / "candor-0" / "config.yaml").read_text())
    found, without = compare([*sweep, load_run(twin)]), compare(sweep)
    assert found is not None and without is not None
    assert found.families == without.families
    assert found.notes == (
        "twin is in no comparison: it has the settings and seeds of candor-0, which stands for both",
    )


def test_a_run_without_settings_is_in_no_arm_and_named(sweep: list[Run], tmp_path: Path):
    (tmp_path / "ethical-0" / "config.yaml").unlink()
    found = compare([*one_seed(sweep)[:2], load_run(tmp_path / "ethical-0")])
    assert found is not None and "ethical-0 is in no comparison" in found.notes[0]


# --------------------------------------------------------------------------------------------------------- contrasts


def test_a_single_seed_of_right_and_wrong_is_tested_by_mcnemar_on_the_same_items(sweep: list[Run]):
    one = {c.arm: c for c in family(one_seed(sweep)).contrasts}["without candor"]
    assert (one.items, one.seeds, one.left_out, one.test.method) == (ITEMS, 1, 0, "exact McNemar test")
    assert one.test.p == pytest.approx(scipy_stats.binomtest(0, 20, 0.5).pvalue)
    assert one.difference.value == pytest.approx(-20 / ITEMS) == one.value - one.control
    assert one.flips is not None and len(one.flips.lost) == 20 and one.flips.gained == ()
    assert one.test_of_seeds is None


def test_items_are_the_unit_over_several_seeds(sweep: list[Run]):
    found = {c.arm: c for c in family(sweep).contrasts}["without candor"]
    alone = [family(one_seed(sweep, seed)).contrasts[-1] for seed in (0, 1)]
    assert (found.items, found.seeds) == (ITEMS, 2)
    assert found.by_seed == pytest.approx([one.difference.value for one in alone])
    assert found.difference.value == pytest.approx(sum(found.by_seed) / 2)
    assert found.test.method == "exact sign-flip test" and found.test_of_seeds is not None
    assert found.difference.low < found.difference.value < found.difference.high < 0


def test_holm_corrects_over_the_arms_of_one_metric(sweep: list[Run]):
    contrasts = family(sweep).contrasts
    raw = [one.test.p for one in contrasts]
    assert [one.adjusted for one in contrasts] == pytest.approx(list(holm(raw)))
    assert [one.arm for one in contrasts if one.adjusted < 0.05] == ["without candor"]


def test_the_minimum_detectable_effect_grows_with_the_arms_that_are_corrected_for(sweep: list[Run]):
    many = {one.arm: one for one in family(one_seed(sweep)).contrasts}["without candor"]
    two = [run for run in one_seed(sweep) if run.config["principles"]["drop"] in ([], ["candor"])]
    (few,) = family(two).contrasts
    assert few.test == many.test and 0 < few.detectable < many.detectable
    unchanged = {one.arm: one for one in family(one_seed(sweep)).contrasts}["without helpful"]
    assert unchanged.detectable == 0 and unchanged.test.p == 1.0


def test_lengths_of_answers_are_compared_too_and_no_item_of_them_is_lost(sweep: list[Run]):
    found = family(sweep, protocol="generate")
    assert found.metric == "mean_words" and all(one.flips is None and one.items == 20 for one in found.contrasts)


def test_the_names_of_arms_and_the_order_of_runs_and_items_change_no_number(sweep: list[Run], tmp_path: Path):
    def numbers(runs: list[Run]) -> dict[str, tuple[Any, ...]]:
        return {
            one.arm: (one.test, one.adjusted, one.difference, one.detectable, one.test_of_seeds)
            for one in family(runs).contrasts
        }

    before = numbers(sweep)
    for run in sweep:
        path = run.folder / "stages" / "scores_cloned" / "items.jsonl"
        rows = jsonl.read(path)
        random.Random(run.run_id).shuffle(rows)
        jsonl.write(path, rows)
    after = numbers(load_runs([run.folder for run in sweep][::-1]))
    assert after.keys() == before.keys()
    for name, values in before.items():
        assert after[name][0] == values[0] and after[name][2] == pytest.approx(values[2]), name


# ---------------------------------------------------------------------------------------------------------- refusals


def refused(runs: list[Run], subject: str = "cloned") -> dict[str, str]:
    return {one.arm: one.reason for one in family(runs, subject).refusals}


def test_models_that_an_arm_does_not_change_are_not_tested(sweep: list[Run]):
    found = family(sweep, "base")
    assert found.contrasts == () and len(found.refusals) == 3
    assert all("the same result as the control's" in one.reason for one in found.refusals)


def reload(runs: list[Run]) -> list[Run]:
    return load_runs([run.folder for run in runs])


def test_an_invalid_score_is_never_compared_and_no_seed_is_left_out_for_it(sweep: list[Run], tmp_path: Path):
    path = tmp_path / "candor-1" / "scores.jsonl"
    rows = [
        row | ({"valid": False, "reason": "constant choice"} if row["subject"] == "cloned" else {})
        for row in jsonl.read(path)
    ]
    jsonl.write(path, rows)
    found = family(reload(sweep))
    assert [one.arm for one in found.contrasts] == ["without ethical", "without helpful"]
    assert refused(reload(sweep)) == {"without candor": "candor-1, cloned: invalid: constant choice"}


def test_an_invalid_control_leaves_nothing_to_compare_with(sweep: list[Run], tmp_path: Path):
    path = tmp_path / "all-0" / "scores.jsonl"
    jsonl.write(path, [row | {"valid": False, "value": None, "reason": "NaN"} for row in jsonl.read(path)])
    found = family(reload(sweep))
    assert found.contrasts == () and all("all-0, cloned: invalid: NaN" in one.reason for one in found.refusals)


def test_what_all_arms_are_refused_for_is_said_once(sweep: list[Run], tmp_path: Path):
    for name in ("all-0", "candor-0"):
        path = tmp_path / name / "scores.jsonl"
        jsonl.write(path, [row | {"valid": False, "value": None, "reason": "NaN"} for row in jsonl.read(path)])
    found = compare(reload(sweep))
    assert found is not None
    told = [one for one in refusals(found.families) if "cloned" in one]
    assert told == [
        "calf_truth · mc1 · accuracy, calf_questions · generate · mean_words, cloned, all arms: all-0, cloned: invalid: NaN"
    ]


def test_items_that_are_not_stored_or_not_those_that_were_scored_are_refused(sweep: list[Run], tmp_path: Path):
    (tmp_path / "candor-0" / "stages" / "scores_cloned" / "items.jsonl").unlink()
    path = tmp_path / "ethical-0" / "stages" / "scores_cloned" / "items.jsonl"
    jsonl.write(path, jsonl.read(path)[1:])
    found = refused(reload(one_seed(sweep)))
    assert found["without candor"] == "the items of candor-0, cloned, are not stored"
    assert found["without ethical"] == "ethical-0, cloned: 80 items were scored, 79 are stored"


def test_arms_with_other_items_are_paired_on_the_common_ones_and_the_rest_is_counted(tmp_path: Path):
    whole = arm(tmp_path / "whole", drop=[])
    part = write_scores(write_run(tmp_path / "part", drop=["candor"]), {"cloned": exams(0, {0}, items=50)})
    (one,) = family(load_runs([whole, part])).contrasts
    assert (one.items, one.left_out) == (50, 30)


def test_a_seed_that_only_one_side_has_is_left_out_and_counted(sweep: list[Run]):
    found = {one.arm: one for one in family([run for run in sweep if run.run_id != "candor-1"]).contrasts}
    assert (found["without candor"].seeds, found["without candor"].seeds_left_out) == (1, 1)
    assert (found["without ethical"].seeds, found["without ethical"].seeds_left_out) == (2, 0)
    assert found["without candor"].test_of_seeds is None and found["without ethical"].test_of_seeds is not None
    assert found["without candor"].difference.value == family(one_seed(sweep)).contrasts[-1].difference.value


def test_arms_without_a_common_seed_or_item_are_refused(tmp_path: Path):
    whole = arm(tmp_path / "whole", drop=[])
    other = arm(tmp_path / "other", drop=["candor"], seed=5)
    assert refused(load_runs([whole, other])) == {"without candor": "it has no seed in common with the control"}
    rows = [row | {"item": f"else-{n}"} for n, row in enumerate(exams(0))]
    apart = write_scores(write_run(tmp_path / "apart", drop=["ethical"]), {"cloned": rows})
    assert "no item was scored" in refused(load_runs([whole, apart]))["without ethical"]


# --------------------------------------------------------------------------------------------------- the verbose tax


def test_the_tax_is_paired_by_item_where_items_are_stored_and_as_if_independent_where_not(sweep: list[Run]):
    run = {run.run_id: run for run in sweep}["candor-0"]
    line = next(one for one in lines(run) if one.protocol == "mc1" and one.metric == "accuracy")
    differences = [-1.0] * 20 + [0.0] * (ITEMS - 20)
    assert line.tax is not None and line.is_tax_paired
    assert line.tax == pytest.approx((-20 / ITEMS, scipy_stats.sem(differences)))
    (run.folder / "stages" / "scores_cloned" / "items.jsonl").unlink()
    alone = next(one for one in lines(load_run(run.folder)) if one.protocol == "mc1" and one.metric == "accuracy")
    assert alone.tax is not None and not alone.is_tax_paired
    errors = [alone.scores[name].stderr for name in ("engraved", "cloned")]
    assert alone.tax[1] == pytest.approx(sum(error**2 for error in errors if error) ** 0.5)
    assert alone.tax[0] == pytest.approx(line.tax[0]) and alone.tax[1] > line.tax[1]


def test_differences_between_runs_are_paired_the_same_way(sweep: list[Run]):
    first, second = (next(line for line in lines(run) if line.protocol == "mc1") for run in sweep[:2])
    assert is_paired((second, "cloned"), (first, "cloned"))
    found = change((second, "cloned"), (first, "cloned"))
    assert found is not None and found[0] == pytest.approx(-20 / ITEMS)


def test_the_tax_of_some_runs_is_pooled_by_arm_over_seeds(sweep: list[Run]):
    found = verbose_tax(sweep)
    assert found is not None
    (exam,) = [one for one in found.families if one.protocol == "mc1"]
    taxes = {one.arm: one for one in exam.contrasts}
    assert list(taxes) == ["control", "without ethical", "without helpful", "without candor"]
    assert taxes["without candor"].difference.value == pytest.approx(-20 / ITEMS) and taxes["without candor"].seeds == 2
    assert taxes["control"].test.p == 1.0


def test_the_tax_per_100_tokens_is_its_ratio_to_the_length_that_answers_gained(sweep: list[Run]):
    found = verbose_tax([run for run in sweep if run.run_id == "candor-0"])
    assert found is not None
    (exam,) = [one for one in found.families if one.protocol == "mc1"]
    (one,) = exam.contrasts
    (length,) = found.lengths.values()
    before = [(20 + item % 5) * 3 // 2 for item in range(20)]
    after = [(30 + item % 7) * 3 // 2 for item in range(20)]
    assert (length.engraved, length.cloned) == pytest.approx((sum(before) / 20, sum(after) / 20))
    assert length.stderr == pytest.approx(scipy_stats.sem([b - a for a, b in zip(before, after, strict=True)]))
    per_100 = found.per_100(one)
    assert per_100 is not None
    assert per_100.value == pytest.approx(one.difference.value / (length.difference / 100))
    assert per_100.low < per_100.value < per_100.high < 0


def test_a_tax_of_an_invalid_score_is_a_reason_and_no_number(sweep: list[Run], tmp_path: Path):
    path = tmp_path / "candor-0" / "scores.jsonl"
    invalid = {"valid": False, "value": None, "reason": "NaN in 3 items"}
    jsonl.write(path, [row | (invalid if row["protocol"] == "mc1" else {}) for row in jsonl.read(path)])
    text = render([load_run(tmp_path / "candor-0")])
    section = text[text.index('id="verbose-tax"') :]
    assert "candor-0, engraved: invalid: NaN in 3 items; candor-0, cloned: invalid: NaN in 3 items" in section
    assert "mean_words" in section and '<td class="wrap">calf_truth' not in section


def test_where_answers_did_not_become_longer_there_is_no_tax_per_token(tmp_path: Path):
    run = load_run(arm(tmp_path / "same", drop=[], wrong=9, words=20))
    rows = jsonl.read(run.folder / "stages" / "scores_engraved" / "items.jsonl")
    answers = [row for row in rows if row["protocol"] == "generate"]
    cloned = [*exams(0, lost(exams(0), 9)), *answers]
    write_scores(run.folder, {"engraved": rows, "cloned": cloned})
    found = verbose_tax([load_run(run.folder)])
    assert found is not None and found.lengths["all runs"].difference == 0
    assert all(found.per_100(one) is None for family in found.families for one in family.contrasts)


def test_answers_that_ended_at_the_limit_are_counted_in_the_report(tmp_path: Path):
    folder = arm(tmp_path / "cut", drop=[])
    path = folder / "stages" / "scores_cloned" / "items.jsonl"
    jsonl.write(path, [row | ({"finish": "length"} if "finish" in row else {}) for row in jsonl.read(path)])
    assert "20 ended at the limit of tokens" in render([load_run(folder)])


def test_values_of_items_have_the_scores_as_their_means():
    rows = [exam_row(item, 1.0, category=f"c{item % 2}", logprobs=[-1.0 - item % 3, -2.0]) for item in range(30)]
    rows += [
        exam_row(item, None, protocol="true_false", logprobs=[-1.0, -2.0, -2.5, -1.5 + item]) for item in range(30)
    ]
    rows += [answer_row(item, item + 1) for item in range(9)]
    scored = scores_of("base", rows)
    # What a row states as its outcome is what its log-probabilities come to, as the harness writes it.
    stated = [row | {"correct": _outcome(row)} if "logprobs" in row else row for row in rows]
    values = item_values(stated)
    assert len(values) == len(scored) == 3 + 1 + 1 + 1 + 1 + 1
    for one in scored:
        found = list(values[one.task, one.protocol, one.metric].values())
        assert len(found) == one.n
        assert not one.valid or sum(found) / len(found) == pytest.approx(one.value)


def _outcome(row: dict[str, Any]) -> float:
    first, second = row["logprobs"][:2]
    if row["protocol"] == "true_false":
        first, second = row["logprobs"][0] - row["logprobs"][1], row["logprobs"][2] - row["logprobs"][3]
    return 1.0 if first > second else 0.5 if first == second else 0.0


# -------------------------------------------------------------------------------------------------- what readers see


def test_the_page_shows_a_line_an_arm_with_its_interval_and_how_it_was_computed(sweep: list[Run]):
    text = render(sweep)
    section = text[text.index('<section id="effects">') : text.index('<section id="comparison">')]
    for part in (
        "exact sign-flip test",
        "Holm over the arms",
        "80 items",
        "2 seeds",
        "items are the unit",
        "control is all-0, all-1",
    ):
        assert part in section
    assert section.count("<figure") == 4 and section.count('class="chance"') == 4  # two metrics of two models
    row = re.search(r"<tr><td class=\"wrap\">without candor</td>.*?</tr>", section, re.DOTALL)
    assert row and "effect-down" in section and "−0.250" in section
    assert "item-000" in section or "item-001" in section, "lost items are named in the tooltip"
    assert "base, all arms: the same result as the control" in section


def test_the_list_of_runs_says_which_arm_each_is_of(sweep: list[Run]):
    (listed, *_) = page_tables(render(sweep))
    shown = {row[0].text: row[listed.head.index("arm")].text for row in listed.rows}
    assert shown["all-0"] == "control, seed 0" and shown["candor-1"] == "without candor, seed 1"
    (listed, *_) = page_tables(render(one_seed(sweep)))
    assert "without candor" in [row[listed.head.index("arm")].text for row in listed.rows]


def test_a_report_of_one_run_has_its_tax_with_an_interval_and_no_effects(sweep: list[Run]):
    text = render([run for run in sweep if run.run_id == "candor-0"])
    assert 'id="effects"' not in text and 'id="verbose-tax"' in text and "per +100 tokens" in text
    assert "their errors are over the differences of items" in text and "as independent" not in text


def test_a_report_without_stored_items_says_that_its_errors_are_too_wide(tmp_path: Path):
    runs = load_runs([write_run(tmp_path / "one"), write_run(tmp_path / "two", drop=["candor"])])
    text = render(runs)
    assert "treat the two models as independent although they answer the same items" in text
    assert 'id="verbose-tax"' not in text


def test_the_terminal_names_arms_numbers_and_reasons_in_plain_lines(
    sweep: list[Run], capsys: pytest.CaptureFixture[str]
):
    print_scores([run.folder for run in sweep])
    shown = capsys.readouterr().out
    assert shown == plain_text(sweep) and "Effects of the arms" in shown
    head, rows = grid(compare(sweep))  # type: ignore[arg-type]
    assert {row[head.index("model")] for row in rows} == {"engraved"}, "what principles shape is read first"
    line = next(line for line in shown.splitlines() if "without candor" in line and "mc1" in line)
    assert "0.688    0.688  +0.000" in line and "−0.037 to +0.037" in line
    assert "not compared: calf_truth · mc1 · accuracy, base, all arms" in shown and "\x1b" not in shown


def test_an_ablation_is_read_on_the_engraved_model_first_and_other_sweeps_on_the_last(sweep: list[Run]):
    found = compare(sweep)
    assert found is not None and {one.subject for one in found.leading} == {"engraved"}
    assert {one.name for one in found.leading} == {one.name for one in found.families if one.contrasts}
    assert "its tables are shown first" in method(found)
    assert {table.subject for table in tables(found) if table.is_open} == {"engraved"}
    for run in sweep:
        if run.run_id.startswith("candor"):
            run.config["verbose_clone"] = {"min_characters": 1}
    other = compare(sweep)
    assert other is not None and {one.subject for one in other.leading} == {"cloned"}
    assert "shown first" not in method(other)
    assert {table.subject for table in tables(other) if table.is_open} == {"cloned"}


def test_the_control_can_be_told_everywhere(sweep: list[Run]):
    assert "control is helpful-0, helpful-1" in plain_text(sweep, control="helpful-0")
    assert "control is helpful-0, helpful-1" in render(sweep, control="helpful-0")


def test_the_command_takes_a_control(sweep: list[Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from selfalign.commands.runs import report

    names = [run.run_id for run in one_seed(sweep)]
    out = tmp_path / "page.html"
    assert report([*names, "--runs", str(tmp_path), "--control", "helpful-0", "--out", str(out)]) == 0
    said = "The control is helpful-0 (without helpful)."
    assert said in capsys.readouterr().out and said in out.read_text()


def test_the_export_has_every_contrast_in_full_precision_and_every_refusal_with_its_reason(sweep: list[Run]):
    found = compare(sweep)
    assert found is not None
    rows = list(csv.DictReader(io.StringIO(effects_csv(found))))
    contrasts: list[Contrast] = [one for family in found.families for one in family.contrasts]
    assert len(rows) == len(contrasts) + sum(len(family.refusals) for family in found.families)
    for row in rows:
        assert bool(row["reason"]) != bool(row["difference"])
    numbered = [row for row in rows if row["difference"]]
    for row, one in zip(numbered, contrasts, strict=True):
        assert (float(row["difference"]), float(row["p"]), row["arm"]) == (one.difference.value, one.test.p, one.arm)
        assert len(row["lost"].split()) == (len(one.flips.lost) if one.flips else 0)
    text = render(sweep)
    assert "without candor" in text and method(found).split(".")[0] in text
    assert refusals(found.families) and all(str(escape(reason)) in text for reason in refusals(found.families))


def test_planted_markup_in_arms_items_and_reasons_is_inert(tmp_path: Path):
    whole = arm(tmp_path / "whole", drop=[])
    planted = arm(tmp_path / "planted", drop=[HOSTILE], wrong=5)
    refusing = arm(tmp_path / "refusing", drop=["candor"])
    path = planted / "stages" / "scores_cloned" / "items.jsonl"
    for folder in (whole, planted):
        path = folder / "stages" / "scores_cloned" / "items.jsonl"
        jsonl.write(path, [row | {"item": HOSTILE + row["item"]} for row in jsonl.read(path)])
    rows = [score("cloned", None, task="calf_truth", protocol="mc1", valid=False, reason=HOSTILE)]
    jsonl.write(refusing / "scores.jsonl", rows)
    manifest = json.loads((whole / "manifest.json").read_text())
    (whole / "manifest.json").write_text(json.dumps(manifest | {"run_id": HOSTILE}))
    text = render(load_runs([whole, planted, refusing]))
    assert text.count("<script") == 2 and "<img" not in text
    assert "&lt;script&gt;alert(&#39;planted&#39;)&lt;/script&gt;" in text


# ------------------------------------------------------------------------------------------------------------ figure


def test_a_forest_plot_has_a_line_at_zero_and_keeps_every_interval_inside():
    figure = forest(
        [Effect("a" * 60, -0.4, -0.9, -0.1, "effect-down", "x"), Effect("<b>", 0.0, -0.01, 0.02, "effect-none", "y")],
        x_label="difference",
        title="t",
    )
    places = [float(value) for value in re.findall(r'(?:x1|x2|cx)="([\d.]+)"', figure)]
    assert figure.count('class="chance"') == 1 and min(places) >= 176 and max(places) <= 468
    assert "…" in figure and "&lt;b&gt;" in figure and "a" * 60 in figure, "a cut name is whole in its tooltip"


def test_a_forest_plot_of_nothing_is_empty_and_of_no_difference_can_be_drawn():
    assert forest([], x_label="d", title="t") == ""
    assert forest([Effect("a", 0.0, 0.0, 0.0, "effect-none", "")], x_label="d", title="t").count("<circle") == 1


def test_what_a_left_out_principle_does_is_told_by_its_own_adherence_item_by_item(tmp_path: Path) -> None:
    def answered(principles: set[str]) -> list[dict[str, Any]]:
        rows = []
        for item in range(24):
            marks = {name: int(name in principles) for name in (("candor",) if item % 2 else ("candor", "static"))}
            row = answer_row(item, 8) | {"answer": f"answer {item}"}
            own = {key: row[key] for key in ("item", "category", "question", "answer")}
            rows += [row, {"task": "adherence", "protocol": "oracle", **own, "marks": marks}]
        return rows

    folders = []
    for name, principles in (("all", {"candor", "static"}), ("no-candor", {"static"})):
        folder = write_run(tmp_path / name, drop=["candor"] if name != "all" else [])
        folders.append(write_scores(folder, {"engraved": answered(principles)}))
    found = compare(load_runs(folders))
    assert found is not None
    effects = {one.metric: one.contrasts[0] for one in found.families if one.task == "adherence"}
    assert set(effects) == {"all", "candor", "static"}
    assert (
        effects["candor"].difference.value == -1.0 and effects["candor"].items == 24 and effects["candor"].test.p < 1e-6
    )
    assert effects["static"].difference.value == 0.0 and effects["static"].items == 12
    assert effects["candor"].flips is not None and len(effects["candor"].flips.lost) == 24
