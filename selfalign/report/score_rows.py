"""Scores of runs as the rows and cells of the page's tables, and what differs between several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfalign.identity import differences
from selfalign.report import scores
from selfalign.report.arms import comparable
from selfalign.report.methods import shown
from selfalign.report.model import Run


@dataclass(frozen=True)
class ScoreCell:
    """A cell of the score table."""

    text: str
    sort: str
    """Value to sort by; empty where there is none."""
    css: str
    detail: str
    """n and chance of this score, for the tooltip."""


def score_row(line: scores.Line, columns: Sequence[str]) -> dict[str, Any]:
    """One line of scores, for the template."""
    tax = line.tax
    return {
        "line": line,
        "cells": [_score_cell(line, subject) for subject in columns],
        "tax": ScoreCell(
            scores.tax_cell(line),
            "" if tax is None else repr(tax[0]),
            "absent" if tax is None else "",
            "cloned minus engraved" if tax else "needs a valid score before and after verbose cloning",
        ),
    }


def _score_cell(line: scores.Line, subject: str) -> ScoreCell:
    score = line.scores.get(subject)
    text = scores.cell(line, subject)
    if score is None:
        return ScoreCell(text, "", "absent", "not scored in this run")
    chance = "no chance level" if score.chance is None else f"chance {scores.number(score.chance)}"
    detail = f"n = {score.n:,}, {chance}"
    if not scores.is_number(score):
        return ScoreCell(text, "", "invalid", detail)
    return ScoreCell(text, repr(score.value), "", detail)


def compared(runs: Sequence[Run]) -> dict[str, Any]:
    """What differs between runs: settings, and each metric with one row a run."""
    reference = runs[0]
    configs = [comparable(run) for run in runs]
    keys = sorted({key for config in configs[1:] for key, _, _ in differences(configs[0], config)})
    metrics = _metrics(runs)
    paired = [row["is_paired"] for table in metrics for row in table["rows"] if row["is_paired"] is not None]
    return {
        "reference": reference,
        "settings": [(key, [shown(_at(config, key)) for config in configs]) for key in keys],
        "metrics": metrics,
        "errors": scores.errors(paired, "runs"),
    }


def _metrics(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One table a metric: rows are runs, columns are models and the last model's difference from the first run."""
    by_key: dict[tuple[str, str, str], dict[int, scores.Line]] = {}
    for index, run in enumerate(runs):
        for line in scores.lines(run):
            by_key.setdefault((line.task, line.protocol, line.metric), {})[index] = line
    tables = []
    for key, found in by_key.items():
        columns = [name for name in scores.subjects(runs) if any(name in line.scores for line in found.values())]
        with_tax = "engraved" in columns and "cloned" in columns
        last, first = columns[-1], found.get(0)
        rows = []
        for index, line in found.items():
            sides = ((line, last), (first, last)) if first and index else None
            against = scores.change(*sides) if sides else None
            like = first.scores[last].value if first and against else None
            text = scores.with_error(*against, like=like) if against else scores.ABSENT
            delta = ScoreCell(text, repr(against[0]) if against else "", "" if against else "absent", "")
            is_paired = scores.is_paired(*sides) if sides and against else None
            rows.append({**score_row(line, columns), "delta": delta, "is_paired": is_paired})
        name = " · ".join(key)
        tables.append({"name": name, "columns": columns, "last": last, "with_tax": with_tax, "rows": rows})
    return tables


def _at(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
