"""Laws of `judge --rubric`: a run's own principles, dropped ones too; verdicts become a node of it and part of its report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from selfalign import commands, jsonl
from selfalign.errors import ConfigError, SelfAlignError
from tests.unit.report.run_folders import RULES, answer_row, write_json, write_run, write_scores


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that left out candor, its answers in a store of its own."""
    folder = write_run(tmp_path / "runs" / "demo-12345678", drop=["candor"])
    rows = [answer_row(item, words=4 + item) for item in range(5)]
    write_scores(folder, {"engraved": rows, "cloned": rows})
    place = folder / "stages" / "scores_engraved"
    jsonl.write(place / "items.jsonl", [row | {"item": f"other-{row['item']}"} for row in rows])
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config |= {"evaluation": {"data": "calf"}, "assistant": {"name": "Juniper", "maker": "us", "cutoff": "2020"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture
def judge(tmp_path: Path) -> list[str]:
    """The settings of a judge that finds candor broken and everything else followed."""
    rows = [
        {"prompt_contains": "[Rule: candor]", "text": "It guesses.\nVerdict: breaks"},
        {"text": "It does.\nVerdict: follows"},
    ]
    jsonl.write(tmp_path / "judge.jsonl", rows)
    return ["engine=scripted", f"engine.script={tmp_path / 'judge.jsonl'}", "model=tiny_random"]


def test_all_principles_of_the_run_are_judged_and_the_dropped_one_stands_out(
    run: Path, judge: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.judge([str(run), "--rubric", "all", "--price", "2", "8", *judge]) == 0
    out = capsys.readouterr().out
    lines = {
        line.split()[0]: line.split()[1:3]
        for line in out.splitlines()
        if line.split()[:1] in [[name] for name in RULES]
    }
    assert set(lines) == set(RULES)
    assert lines["candor"] == ["5", "0.000"] and lines["helpful"] == ["5", "1.000"] and "cost: 0.0" in out
    manifest = json.loads((run / "manifest.json").read_text())
    entry = manifest["nodes"]["rubric_cloned"]
    assert entry["status"] == "computed" and entry["stage"] == "Assess" and entry["counts"]["in"] == 5 * len(RULES)
    assert "rubric_cloned of demo-12345678" in (run / "report.html").read_text()
    assert commands.judge([str(run), "--rubric", "all", *judge]) == 0
    again = json.loads((run / "manifest.json").read_text())["nodes"]["rubric_cloned"]
    assert again["status"] == "reused" and again["artifact"] == entry["artifact"]


def test_some_principles_of_another_model_are_a_result_of_their_own(run: Path, judge: list[str]) -> None:
    assert commands.judge([str(run), "--rubric", "candor,helpful", "--subject", "engraved", *judge]) == 0
    entry = json.loads((run / "manifest.json").read_text())["nodes"]["rubric_engraved"]
    rows = jsonl.read(Path(entry["path"]) / "verdicts.jsonl")
    assert {row["principle"] for row in rows} == {"candor", "helpful"} and rows[0]["item"].startswith("other-")


def test_a_judge_that_is_constant_is_shown_without_a_number(
    run: Path, judge: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jsonl.write(tmp_path / "judge.jsonl", [{"text": "Verdict: follows"}])
    assert commands.judge([str(run), "--rubric", "all", *judge]) == 0
    out = capsys.readouterr().out
    assert "Invalid: every verdict is 'follows'" in out and "1.000" not in out


def test_wrong_principles_are_all_named_before_the_judge_is_asked(run: Path, judge: list[str]) -> None:
    with pytest.raises((ConfigError, SelfAlignError)) as caught:
        commands.judge([str(run), "--rubric", "candour", *judge])
    assert "candour" in str(caught.value) and "candor" in str(caught.value)
    before = json.loads((run / "manifest.json").read_text())["nodes"]
    assert not any(name.startswith("rubric_") for name in before)


def test_comparing_and_assessing_at_once_is_refused(run: Path, judge: list[str], tmp_path: Path) -> None:
    write_json(tmp_path / "other.jsonl", {})
    with pytest.raises(SystemExit):
        commands.judge([str(run), "--rubric", "all", "--against", str(tmp_path / "other.jsonl"), *judge])
    with pytest.raises(SystemExit):
        commands.judge([str(run), *judge])
