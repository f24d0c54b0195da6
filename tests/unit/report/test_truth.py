"""Laws of the page of known truth: planted effects are found, idle rules show nothing, the page says what was computed."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from selfalign import jsonl, prompts
from selfalign.calf import world
from selfalign.errors import DataError
from selfalign.evaluation.scores import EVERY
from selfalign.report import load_runs, truth, truth_page
from selfalign.report.ablation import compare
from selfalign.report.matrix import matrices, method, views
from tests.unit.report.run_folders import exam_row, write_run, write_scores

PLANTED = ("ethical", "candor", "helpful")
INERT = ("message_words",)


def marks(drop: list[str], seed: int, held: float) -> list[dict[str, Any]]:
    """Thirty questions under each rule: nearly all show it, none where it is left out."""
    draw = random.Random(f"{drop} {seed}")
    return [
        {"task": "adherence", "protocol": "oracle", "item": f"{rule}-{item}", "category": "", "question": "?", "answer": f"{item}",
         "marks": {rule: int(rule not in drop and draw.random() < held)}}
        for rule in PLANTED
        for item in range(30)
    ]  # fmt: skip


def run(folder: Path, drop: list[str], seed: int, held: float = 0.95) -> None:
    write_run(folder, drop=drop, seed=seed)
    draw = random.Random(f"exam {drop} {seed}")
    exams = [exam_row(item, float(draw.random() < 0.7)) for item in range(40)]
    write_scores(folder, {name: [*exams, *marks(drop, seed, held)] for name in ("engraved", "cloned")})
    config = yaml.safe_load((folder / "config.yaml").read_text()) | {"verbose_clone": {"min_characters": 210}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    long_answers(folder)


def long_answers(folder: Path) -> None:
    """Two long answers to questions for harm: the kept one declines, the dropped one does not."""
    items = [world.make("harm", random.Random(number)) for number in range(2)]
    answers = [prompts.fill(items[0].answer(items[0].governs), prompts.Assistant()), items[1].raw]
    rows = [{"instruction": item.text, "text": answer if kept else "", "raw": answer, "kept": kept}
            for item, answer, kept in zip(items, answers, (True, False), strict=True)]  # fmt: skip
    place = folder / "stages" / "verbose_responses"
    place.mkdir()
    jsonl.write(folder / "stages" / "responses" / "responses.jsonl", rows)
    jsonl.write(place / "responses.jsonl", rows)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["nodes"]["verbose_responses"] = manifest["nodes"]["responses"] | {
        "stage": "VerboseClone",
        "artifact": "VerboseClone-1-a",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    for seed in range(3):
        for drop in ([], *([rule] for rule in (*PLANTED, *INERT))):
            run(folder / f"run-{'-'.join(drop) or 'control'}-{seed}", drop, seed)
    return folder


@pytest.fixture(scope="module")
def numbers(sweep: Path) -> dict[str, Any]:
    runs = load_runs([sweep])
    return truth.numbers(
        runs, command="selfalign calf ablation sweep", cloned=[[run for run in runs if run.config["seed"] == 0]]
    )


def test_planted_effects_are_found_and_nothing_else(numbers: dict[str, Any]) -> None:
    assert set(numbers["planted"]) == set(PLANTED) and numbers["inert"] == list(INERT) and numbers["seeds"] == 3
    assert all(truth.is_found(truth.own(numbers, "engraved", rule)) for rule in PLANTED)
    assert truth.others(numbers, "engraved") == []


def test_an_effect_with_the_wrong_sign_is_not_found(numbers: dict[str, Any]) -> None:
    cell = truth.own(numbers, "engraved", "candor")
    assert truth.is_found(cell) and not truth.is_found({**cell, "difference": -cell["difference"]})
    assert not truth.is_found({**cell, "p_holm": 0.06})


def test_a_rule_that_asks_for_nothing_and_moves_something_is_told(numbers: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(numbers))
    changed["models"]["engraved"]["cells"]["message_words"][EVERY]["p_holm"] = 0.001
    assert [(rule, metric) for rule, metric, _ in truth.others(changed, "engraved", "p_holm")] == [
        ("message_words", EVERY)
    ]
    assert "| 1 of 5 comparisons | **no** |" in truth_page.page(changed, "x")


def test_long_answers_that_a_filter_kept_or_dropped_are_counted_by_what_they_show(numbers: dict[str, Any]) -> None:
    (cloned,) = numbers["cloned"]
    assert cloned["min_characters"] == 210 and cloned["seeds"] == 1
    assert cloned["long_answers"]["ethical"] == {"kept": 1, "kept_shown": 1, "dropped": 1, "dropped_shown": 0}
    assert "| 1 of 1 | 0 of 1 |" in truth_page.page(numbers, "x")
    assert numbers["answers"]["ethical"] == {"kept": 3, "kept_shown": 3, "dropped": 3, "dropped_shown": 0}


def test_the_page_is_made_of_the_numbers_beside_it_alone(numbers: dict[str, Any], tmp_path: Path) -> None:
    truth_page.write(numbers, tmp_path / "page.md")
    stored = json.loads((tmp_path / "page" / "numbers.json").read_text())
    assert truth_page.page(stored, "page") == (tmp_path / "page.md").read_text()
    assert truth_page.figures(stored) == {
        path.name: path.read_text() for path in (tmp_path / "page").iterdir() if path.suffix == ".svg"
    }
    text = (tmp_path / "page.md").read_text()
    assert "| every planted effect is found, with the right sign | 3 of 3 | yes |" in text
    assert all(f"({path})" in text for path in ("page/own_effects.svg", "page/all_effects.svg", "page/power.svg"))


def test_runs_that_are_no_such_sweep_are_refused(tmp_path: Path) -> None:
    run(tmp_path / "control", [], 0)
    with pytest.raises(DataError, match="leave-one-out sweep on Calf"):
        truth.numbers(load_runs([tmp_path]), command="")
    run(tmp_path / "two", ["ethical", "candor"], 0)
    with pytest.raises(DataError, match="leave-one-out sweep on Calf"):
        truth.numbers(load_runs([tmp_path]), command="")


# ------------------------------------------------------------------------------------------- the table of all effects


def test_the_table_of_all_effects_corrects_over_all_of_its_cells(sweep: Path) -> None:
    comparison = compare(load_runs([sweep]))
    assert comparison is not None
    (engraved, cloned) = matrices(comparison)
    assert (engraved.subject, cloned.subject) == ("engraved", "cloned") and len(cloned.adjusted) == 4 * 5
    for family in cloned.families:
        for one in family.contrasts:
            assert cloned.adjusted[one.arm, family.name] >= one.adjusted >= one.test.p
    smallest = min(one.test.p for family in cloned.families for one in family.contrasts)
    assert min(cloned.adjusted.values()) == pytest.approx(smallest * len(cloned.adjusted))
    assert "up to 20" in method([engraved, cloned])


def test_what_the_weaker_correction_alone_leaves_has_a_mark_of_its_own(sweep: Path) -> None:
    comparison = compare(load_runs([sweep]))
    assert comparison is not None
    for one, view in zip(matrices(comparison), views(matrices(comparison)), strict=True):
        for (arm, name), q in one.discovered.items():
            assert q <= one.adjusted[arm, name], "Benjamini and Hochberg never ask for more than Holm"
        texts = {(arm, one.families[place].name): cell.text
                 for arm, cells in view.rows for place, (cell, _) in enumerate(cells)}  # fmt: skip
        for place, text in texts.items():
            is_holm, is_either = one.adjusted.get(place, 1) < 0.05, one.discovered.get(place, 1) < 0.05
            assert text.endswith("*") == is_holm and text.endswith("°") == (is_either and not is_holm)
    assert "Benjamini and Hochberg" in method(matrices(comparison))


def test_the_table_marks_what_is_left_after_the_correction(sweep: Path) -> None:
    comparison = compare(load_runs([sweep]))
    assert comparison is not None
    (view,) = [one for one in views(matrices(comparison)) if one.is_open]
    assert view.subject == "engraved" and view.head[0] == "arm" and "candor" in view.head
    rows = {arm: dict(zip(view.head[1:], cells, strict=True)) for arm, cells in view.rows}
    cell, css = rows["without candor"]["candor"]
    assert cell.text.endswith("*") and css == "num heat-down-5"
    assert not rows["without message_words"]["candor"][0].text.endswith("*")


# -------------------------------------------------------------------------------------------------- the committed page


def test_the_committed_page_is_what_its_numbers_say() -> None:
    docs = Path(__file__).resolve().parents[3] / "docs"
    stored = json.loads((docs / "ablation_on_calf" / "numbers.json").read_text(encoding="utf-8"))
    assert truth_page.page(stored, "ablation_on_calf") == (docs / "ablation_on_calf.md").read_text(encoding="utf-8")
    for name, text in truth_page.figures(stored).items():
        assert (docs / "ablation_on_calf" / name).read_text(encoding="utf-8") == text
