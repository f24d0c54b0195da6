"""Laws of the gap and of verdicts in reports: numbers come from the rows, splits are told apart, what is broken has a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selfalign import commands, jsonl
from selfalign.evaluation import gap as gaps
from selfalign.evaluation import rubric
from selfalign.report import html, load_run
from selfalign.report.adherence import assessed
from selfalign.report.gap import sheets, views
from tests.unit.evaluation.test_gap import row
from tests.unit.evaluation.test_rubric import said
from tests.unit.report.run_folders import write_json, write_run


def add_node(
    folder: Path, name: str, stage: str, file: str, rows: list[dict[str, Any]], metrics: dict[str, Any]
) -> None:
    place = folder / "stages" / name
    place.mkdir(exist_ok=True)
    jsonl.write(place / file, rows)
    jsonl.write_json(place / "manifest.json", {"files": {}})
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["nodes"][name] = {
        "status": "computed", "why": "", "seconds": 1.0, "metrics": metrics, "path": str(place), "stage": stage,
        "artifact": f"{stage}-1-dddddddddddd", "counts": {"in": len(rows), "kept": len(rows), "dropped": {}},
    }  # fmt: skip
    write_json(folder / "manifest.json", manifest)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run whose gap was measured on 20 responses, 6 of them held out, and whose answers were assessed."""
    made = write_run(tmp_path / "demo-12345678")
    rows = [
        row(n, -2.0 - n, -12.0 - 2 * n, -4.0 - 1.1 * n, cited=["candor"] if n % 2 else ["helpful", "odd"],
            source="red_team" if n % 3 else "self_instruct", split="trained" if n < 14 else "held_out")
        for n in range(20)
    ]  # fmt: skip
    add_node(made, "engraving_gap", "EngravingGap", "gaps.jsonl", rows, dict(gaps.metrics(rows)))
    verdicts = said({"candor": "fbnf", "static": "nn-b"})
    add_node(made, "rubric_engraved", "Assess", "verdicts.jsonl", verdicts, dict(rubric.metrics(verdicts)))
    return made


def test_the_section_has_every_model_and_split_and_groups_in_the_order_of_the_rules(folder: Path) -> None:
    (view,) = views([load_run(folder)])
    whole, by_principle, by_source = view.tables
    assert [(label, cells[0].text) for label, cells in whole.rows] == [
        ("base", "trained on"), ("base", "held out"), ("engraved", "trained on"), ("engraved", "held out"),
    ]  # fmt: skip
    assert [cells[1].text for _, cells in whole.rows] == ["14", "6", "14", "6"]
    # helpful stands before candor in the set; what is no rule of the run comes last.
    assert list(dict.fromkeys(label for label, _ in by_principle.rows)) == ["helpful", "candor", "odd"]
    assert list(dict.fromkeys(label for label, _ in by_source.rows)) == ["red_team", "self_instruct"]
    for table in view.tables:
        assert all(len(cells) == len(table.head) - 1 for _, cells in table.rows)


def test_page_and_terminal_say_the_same_numbers(folder: Path) -> None:
    run = load_run(folder)
    (sheet,) = sheets([run])
    page = html.render([run])
    assert 'id="gap"' in page and 'href="#gap"' in page
    for line in sheet.rows:
        assert all(text in page for text in line)
    assert sheet.rows[0][-1] == "–", "the base has closed nothing: it is what the share is of"
    assert html.render([load_run(folder)]) == page


def test_a_run_whose_gap_was_not_measured_has_no_section(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path / "demo-12345678"))
    assert views([run]) == [] and sheets([run]) == [] and 'id="gap"' not in html.render([run])


def test_what_is_left_out_is_counted_by_reason_and_makes_no_line(folder: Path) -> None:
    path = folder / "stages" / "engraving_gap" / "gaps.jsonl"
    rows = jsonl.read(path)
    dropped = {"kept": False, "reason": "revised", "logprobs": {}}
    jsonl.write(path, [row | dropped if "candor" in row["cited"] else row for row in rows])
    (view,) = views([load_run(folder)])
    assert "10 responses of 20 are left out (revised 10)." in view.about
    assert "candor" not in [label for label, _ in view.tables[1].rows]
    jsonl.write(path, [row | dropped for row in rows])
    (view,) = views([load_run(folder)])
    assert view.tables == () and "(revised 20)" in html.render([load_run(folder)])


def test_a_broken_model_is_said_to_be_and_not_shown_as_a_number(folder: Path) -> None:
    path = folder / "stages" / "engraving_gap" / "gaps.jsonl"
    rows = jsonl.read(path)
    rows[0]["logprobs"]["engraved"] = "nan"
    jsonl.write(path, rows)
    (sheet,) = sheets([load_run(folder)])
    assert sheet.about.startswith("Invalid: engraved: 1 of 14 log-probabilities")
    assert dict(zip(sheet.head, sheet.rows[2], strict=True))["gap, nats"] == "–"


def test_verdicts_are_shown_by_principle_with_what_the_judge_cost(folder: Path) -> None:
    (sheet,) = assessed([load_run(folder)])
    lines = {line[0]: line[1:] for line in sheet.rows}
    assert lines["candor"] == ("3", "0.667 ± 0.333 [0.208, 0.939]", "2", "1", "1", "0") and lines["static"][2:] == (
        "0",
        "1",
        "2",
        "1",
    )
    assert "The judge read 72 tokens and wrote 16." in sheet.about and "rubric_engraved" in html.render(
        [load_run(folder)]
    )


@pytest.mark.parametrize("node", ["engraving_gap", "rubric_engraved"])
def test_verify_derives_the_numbers_anew_and_finds_a_changed_one(
    node: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jsonl.write(folder / "scores.jsonl", [])
    commands.verify([str(folder)])
    assert "the manifest says" not in capsys.readouterr().out
    manifest = json.loads((folder / "manifest.json").read_text())
    key = next(key for key, value in manifest["nodes"][node]["metrics"].items() if isinstance(value, float))
    manifest["nodes"][node]["metrics"][key] += 0.25
    write_json(folder / "manifest.json", manifest)
    assert commands.verify([str(folder)]) == 1
    assert f"{node}: {key}: the manifest says" in capsys.readouterr().out
