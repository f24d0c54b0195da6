from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from selfalign import jsonl, prompts
from selfalign.artifacts import Store
from selfalign.engines.scripted import ScriptedEngine, ScriptedSettings
from selfalign.errors import DataError
from selfalign.identity import digest
from selfalign.pipeline import run
from selfalign.stages.base import Context, read_responses
from selfalign.stages.engrave import Engrave
from selfalign.stages.given_answers import Format, GivenAnswers

CONTEXT = Context(engine=ScriptedSettings(ScriptedEngine()))
ALPACA = [
    {"instruction": "Name a bird.", "input": "", "output": "A heron. "},
    {"instruction": "Add these.", "input": "1 and 2", "output": "3"},
    {"instruction": "Add these.", "input": "1 and 2", "output": "3"},
    {"instruction": "Add these.", "input": "1 and 2", "output": "three"},
    {"instruction": "Say nothing.", "input": "", "output": "  "},
    {"instruction": " ", "input": "", "output": "To nothing."},
]
DOLLY = [
    {"instruction": "Who wrote it?", "context": "A book by Ann.", "response": "Ann.", "category": "closed_qa"},
    {"instruction": "Name a fish.", "context": "", "response": "A carp.", "category": "open_qa"},
]


def as_list(path: Path, rows: list[dict]) -> str:
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return str(path)


def as_lines(path: Path, rows: list[dict]) -> str:
    jsonl.write(path, rows)
    return str(path)


def problem(**settings: object) -> str:
    (found,) = GivenAnswers(**settings).problems(CONTEXT)  # type: ignore[arg-type]
    return found


def test_every_row_is_kept_or_dropped_with_its_reason_and_the_funnel_adds_up(tmp_path):
    stage = GivenAnswers(file=as_list(tmp_path / "data.json", ALPACA))
    result = run({"responses": stage}, Store(tmp_path / "store"), CONTEXT)["responses"]
    assert result.counts == {"in": 6, "kept": 3, "dropped": {"duplicate": 1, "no_answer": 1, "no_instruction": 1}}
    rows = jsonl.read(Path(result.path) / "responses.jsonl")
    assert [row["reason"] for row in rows] == ["", "", "duplicate", "", "no_answer", "no_instruction"]
    assert rows[0]["text"] == "A heron." and rows[0]["raw"] == "A heron. " and rows[0]["source"] == "alpaca"
    asked = jsonl.read(Path(result.path) / "prompts.jsonl")
    assert [row["instruction"] for row in asked] == ["Name a bird.", "Add these."]


def test_what_a_row_works_on_stands_below_its_instruction_and_the_answer_is_finished(tmp_path):
    found = GivenAnswers(file=as_lines(tmp_path / "d.jsonl", DOLLY), format=Format.dolly).responses()
    assert [row.prompt_text for row in found] == ["Who wrote it?\n\nA book by Ann.", "Name a fish."]
    assert [row.text for row in found] == ["Ann.", "A carp."] and all(row.is_finished for row in found)


def test_a_list_and_lines_with_the_same_rows_are_the_same_answers(tmp_path):
    files = as_list(tmp_path / "a.json", ALPACA), as_lines(tmp_path / "a.jsonl", ALPACA)
    one, two = (GivenAnswers(file=file).responses() for file in files)
    assert one == two


def test_the_result_is_named_by_the_files_content_and_not_by_its_place(tmp_path):
    (tmp_path / "there").mkdir()
    here, there = (GivenAnswers(file=as_list(tmp_path / name, ALPACA)) for name in ("a.json", "there/b.json"))
    assert digest(here.identity(CONTEXT)) == digest(there.identity(CONTEXT))
    other = GivenAnswers(file=as_list(tmp_path / "c.json", ALPACA[:2]))
    assert digest(here.identity(CONTEXT)) != digest(other.identity(CONTEXT))
    assert str(tmp_path) not in json.dumps(here.identity(CONTEXT))


def test_a_limit_chooses_by_content_and_marks_the_rest(tmp_path):
    rows = [{"instruction": f"Say {n}.", "output": f"{n}"} for n in range(30)]
    stage = GivenAnswers(file=as_lines(tmp_path / "a.jsonl", rows), limit=7)
    turned = replace(stage, file=as_lines(tmp_path / "b.jsonl", rows[::-1]))
    kept = [{row.text for row in one.responses() if row.kept} for one in (stage, turned)]
    assert kept[0] == kept[1] and len(kept[0]) == 7
    assert {row.reason for row in stage.responses()} == {"", "beyond_limit"}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"instruction": "A?", "context": "", "response": "B."}, ["row 2", "set given_answers.format=dolly"]),
        (
            {"prompt": "A?", "completion": "B."},
            ["row 2", "the fields prompt, completion", "allowed formats are alpaca"],
        ),
        ({"instruction": "A?", "input": "", "output": 3}, ["row 2", "output=3", "repair the row"]),
        ({"instruction": "A?", "input": ["x"], "output": "B."}, ["row 2", "input=['x']"]),
        ("A?", ["row 2", "found 'A?'"]),
    ],
)
def test_a_row_of_another_format_is_named_with_what_to_do(tmp_path, row, words):
    text = problem(file=as_list(tmp_path / "data.json", [ALPACA[0], row]))
    assert "data.json" in text and "expected texts in instruction, input, output" in text
    assert all(word in text for word in words), text


def test_a_file_that_is_missing_torn_or_not_wanted_is_a_problem_before_anything_runs(tmp_path):
    assert "found none given" in problem() and "give given_answers.file=<file>" in problem()
    assert "found nothing at 'no.json'" in problem(file="no.json")
    (tmp_path / "torn.json").write_text('[{"instruction": "A?",\n')
    assert "torn.json:2: expected a JSON list" in problem(file=str(tmp_path / "torn.json"))
    (tmp_path / "torn.jsonl").write_text('{"instruction": "A?", "output": "B."}\n{"instr\n')
    assert "torn.jsonl:2:" in problem(file=str(tmp_path / "torn.jsonl"))
    assert "expected none with given_answers.format=identity" in problem(file="a.json", format=Format.identity)
    assert "found -1" in problem(file=as_list(tmp_path / "a.json", ALPACA), limit=-1)
    with pytest.raises(DataError, match="row 1"):
        GivenAnswers(file=as_list(tmp_path / "b.json", [{}])).responses()


def test_the_identity_rows_alone_make_the_examples_that_engraving_adds_to_any_answers(tmp_path):
    alone = GivenAnswers(format=Format.identity)
    assert len(alone.responses()) == len(prompts.load_identity(prompts.Assistant()))
    files = {"alone": alone, "some": GivenAnswers(file=as_list(tmp_path / "a.json", ALPACA))}
    results = run(files, Store(tmp_path / "store"), CONTEXT)
    made = {name: Store(tmp_path / "store").find(result.artifact) for name, result in results.items()}
    assert len(read_responses(made["some"])) == 3
    only = Engrave(identity_rows=False).examples(made["alone"])
    beside = [one for one in Engrave().examples(made["some"]) if one.source == "identity"]
    assert only == beside and len(only) > 10
