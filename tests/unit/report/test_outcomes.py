from __future__ import annotations

import json
from pathlib import Path

import pytest

from selfalign import jsonl
from selfalign.report import load_run
from selfalign.report.outcomes import gate, protocols, tables
from selfalign.report.scores import grid
from selfalign.report.terminal import plain_text
from tests.unit.report.run_folders import answer_row, write_run, write_scores

LETTERS = ["One.", "Two."]


def row(item: str, logprobs: list[float | str], **more) -> dict:
    return {"task": "hhh_alignment", "protocol": "ab_swap", "item": item, "category": "honest", "question": f"Is it {item}?",
            "choices": LETTERS, "right": [0, 1], "logprobs": logprobs, "choice": [1], "correct": 1.0, "chance": 0.5,
            "truncated_tokens": 0} | more  # fmt: skip


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """A run folder with one evaluation whose second item is broken, and one answer."""
    from selfalign.evaluation.scores import scores_of
    from selfalign.records import to_row

    node = tmp_path / "stages" / "scores_base"
    node.mkdir(parents=True)
    exam = [row("a", [-2.0, -1.0, -1.0, -2.0]), row("b", ["nan", -1.0, -1.0, -2.0], choice=[], correct=None)]
    answer = {"task": "vicuna_questions", "protocol": "generate", "item": "c", "category": "", "question": "Why?",
              "answer": "Because.", "finish": "stop", "new_tokens": 3}  # fmt: skip
    jsonl.write(node / "items.jsonl", [*exam, answer])
    jsonl.write(tmp_path / "scores.jsonl", map(to_row, scores_of("base", jsonl.iterate(node / "items.jsonl"))))
    entry = {"stage": "Evaluate", "status": "computed", "counts": {"in": 4, "kept": 2, "dropped": {"invalid": 2}}}
    manifest = {"run_id": "one", "name": "one", "nodes": {"scores_base": entry}, "status": "done"}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    return tmp_path


def test_every_protocol_says_what_it_can_be_compared_with_and_what_chance_is(scored):
    (sheet,) = protocols([load_run(scored)])
    assert [line[:4] for line in sheet.rows] == [("hhh_alignment", "ab_swap", "0.500", "1/2")]
    assert "HHH in Sun et al. 2023" in sheet.rows[0][4]
    assert sheet.rows[0][4] in plain_text([load_run(scored)])


def test_the_gates_counts_stand_beside_its_verdict(scored):
    (sheet,) = gate([load_run(scored)])
    cells = dict(zip(sheet.head, sheet.rows[0], strict=True))
    assert (cells["items"], cells["NaN or infinite"], cells["all tie"], cells["same letter twice"]) == (
        "2",
        "1",
        "0",
        "0",
    )
    assert cells["verdict"].startswith("refused: 1 of 2 items")


def test_a_refused_score_is_no_number_in_the_table_whatever_its_items_say(scored):
    head, rows = grid([load_run(scored)])
    of = {line[2]: line[-1] for line in rows}
    assert head[-1] == "base" and of["accuracy"].startswith("invalid: 1 of 2") and of["mean_words"] == "1.000"


def test_every_item_is_in_a_table_of_its_protocol_with_the_line_that_holds_it(scored):
    made = {table.name: table for table in tables(load_run(scored))}
    assert list(made) == ["items/base/hhh_alignment/ab_swap", "items/base/vicuna_questions/generate"]
    for table in made.values():
        for values in table.rows:
            cells = dict(zip(table.columns, values, strict=True))
            file, line = cells["link"].rsplit(":", 1)
            stored = jsonl.read(scored / file)[int(line) - 1]
            assert (stored["item"], stored["question"]) == (cells["item"], cells["question"])
    exam = made["items/base/hhh_alignment/ab_swap"]
    first = dict(zip(exam.columns, exam.rows[0], strict=True))
    assert (first["right"], first["choice"], first["correct"]) == ("Two.", "Two.", 1.0)
    assert first["logprobs"] == "-2.0000 -1.0000 -1.0000 -2.0000"
    assert dict(zip(exam.columns, exam.rows[1], strict=True))["correct"] is None


def test_what_an_oracle_says_of_answers_is_a_table_of_marks_and_nothing_for_the_gate(tmp_path):
    answers = [answer_row(0, 3)]
    marks = {"task": "adherence", "protocol": "oracle", "item": "open-000", "category": "", "question": "Why?", "answer": "word",
             "marks": {"candor": 1, "helpful": 0}}  # fmt: skip
    run = load_run(write_scores(write_run(tmp_path / "a"), {"engraved": [*answers, marks]}))
    (table,) = [one for one in tables(run) if one.name.endswith("adherence/oracle")]
    (row,) = [dict(zip(table.columns, values, strict=True)) for values in table.rows]
    assert row["marks"] == "candor: shown, helpful: missing"
    assert row["link"] == "stages/scores_engraved/items.jsonl:2"
    assert gate([run]) == []
