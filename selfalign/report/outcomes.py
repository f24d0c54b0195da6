"""What stands behind the scores of some runs: how each protocol is made, what the validity gate saw, and every item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfalign.evaluation.protocols import EXAMS
from selfalign.evaluation.scores import GENERATE, ORACLE, checks_of
from selfalign.report.drawings import DataTable
from selfalign.report.model import Node, Run
from selfalign.report.scores import ABSENT, lines, number
from selfalign.report.sheet import Sheet

ITEMS = "items.jsonl"
PROTOCOLS = "What the scores are"
CHECKS_HEAD = (
    *("model", "task", "protocol", "items", "NaN or infinite", "all tie", "at one position", "same letter twice"),
    *("cut prompts", "verdict"),
)
EXAM_COLUMNS = ("item", "category", "question", "right", "choice", "correct", "chance", "logprobs", "link")
COLUMNS = {
    GENERATE: ("item", "category", "question", "answer", "finish", "new_tokens", "link"),
    ORACLE: ("item", "category", "question", "answer", "marks", "link"),
}
"""Columns of the rows that have no choices, by protocol."""


def protocols(runs: Sequence[Run]) -> list[Sheet]:
    """The protocols of these runs' scores, with their chance and what they can be compared with; none without choices."""
    rows: dict[tuple[str, str], tuple[str, ...]] = {}
    for line in (line for run in runs for line in lines(run)):
        exam = EXAMS.get(line.protocol)
        if exam and line.metric == exam.metric:
            chance = ABSENT if line.chance is None else number(line.chance)
            rows.setdefault((line.task, line.protocol), (*(line.task, line.protocol, chance), exam.chance, exam.note))
    if not rows:
        return []
    about = (
        "All models of a run are asked in one chat layout. Chance is what a model scores that cannot tell candidates apart; a tie "
        "earns its expected value."
    )
    head = ("task", "protocol", "chance", "chance is", "can be compared with")
    return [Sheet(PROTOCOLS, about, head, tuple(rows.values()))]


def gate(runs: Sequence[Run]) -> list[Sheet]:
    """What the validity gate looked at, for every model, task and protocol whose items are stored."""
    rows = tuple(
        (f"{subject} of {run.run_id}" if len(runs) > 1 else subject, *_check_row(key, found))
        for run in runs
        for subject, node in _evaluations(run)
        for key, found in checks_of(node.rows(ITEMS)).items()
    )
    about = (
        "Counts of items. The order of candidates is random, so choices by content have no favourite position; letters are asked "
        "for in both orders, and the same letter twice is a choice of the letter. A refused score is stored with its reason and "
        "shown nowhere as a number."
    )
    return [Sheet("Validity", about, CHECKS_HEAD, rows)] if rows else []


def _check_row(key: tuple[str, str], found: Any) -> tuple[str, ...]:
    at = f"{found.at_position} of {found.choices} at {found.position}" if found.position else ABSENT
    letters = ABSENT if found.same_letter is None else str(found.same_letter)
    counts = (str(found.items), str(found.infinite), str(found.tied), at, letters, str(found.truncated))
    return (*key, *counts, f"refused: {found.reason}" if found.reason else "accepted")


def tables(run: Run) -> list[DataTable]:
    """A table of items for every model, task and protocol of a run, each row with the place of the stored one."""
    found: dict[str, tuple[tuple[str, ...], list[tuple[Any, ...]]]] = {}
    for subject, node in _evaluations(run):
        for number_, row in enumerate(node.rows(ITEMS), start=1):
            columns = COLUMNS.get(row["protocol"], EXAM_COLUMNS)
            link = f"stages/{node.name}/{ITEMS}:{number_}"
            name = f"items/{subject}/{row['task']}/{row['protocol']}"
            found.setdefault(name, (columns, []))[1].append(tuple(_cells(row, link)[column] for column in columns))
    return [DataTable(name, columns, tuple(rows)) for name, (columns, rows) in found.items()]


def _cells(row: Mapping[str, Any], link: str) -> dict[str, Any]:
    """A row of items.jsonl with the candidates' texts in the place of their numbers."""
    texts = row.get("choices", ())
    right = " | ".join(text for text, is_right in zip(texts, row.get("right", ()), strict=True) if is_right)
    choice = " | ".join(texts[position] for position in row.get("choice", ()))
    logprobs = " ".join(f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.get("logprobs", ()))
    marks = ", ".join(f"{name}: {'shown' if mark else 'missing'}" for name, mark in row.get("marks", {}).items())
    return {
        "finish": "",
        "new_tokens": None,
        **row,
        "marks": marks,
        "right": right,
        "choice": choice,
        "logprobs": logprobs,
        "link": link,
    }


def _evaluations(run: Run) -> list[tuple[str, Node]]:
    return [
        (node.name.removeprefix("scores_"), node)
        for node in run.nodes
        if node.name.startswith("scores_") and node.folder is not None
    ]
