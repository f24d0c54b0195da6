"""Published results beside a run's own: for every published table whose task a run scored, its rows and the run's."""

from __future__ import annotations

from collections.abc import Sequence

from selfalign.evaluation.reference import REPORTED, tables
from selfalign.report.model import Run
from selfalign.report.scores import ABSENT, Line, cell, lines, number, subjects
from selfalign.report.sheet import Sheet


def published(runs: Sequence[Run]) -> list[Sheet]:
    """The tables of published results that have something to say beside these runs; none where no run scored their tasks."""
    scored = [line for run in runs for line in lines(run)]
    found = []
    for table in tables():
        if not any(line.task == table.task for line in scored):
            continue
        rows = [
            (
                row.model,
                *(ABSENT if value is None else number(value, digits=2) for value in row.values),
                REPORTED,
                row.source,
            )
            for row in table.rows
        ]
        for run in runs:
            own = {
                line.metric: line for line in lines(run) if (line.task, line.protocol) == (table.task, table.protocol)
            }
            rows += [_own(run, subject, table.metrics, own) for subject in subjects([run]) if _has(own, subject)]
        title = f"Published results: {table.task}, {table.protocol}"
        head = ("model", *table.metrics, "origin", "source")
        found.append(Sheet(title, f"{table.about[0].upper()}{table.about[1:]}.", head, tuple(rows)))
    return found


def _has(own: dict[str, Line], subject: str) -> bool:
    return any(subject in line.scores for line in own.values())


def _own(run: Run, subject: str, metrics: Sequence[str], own: dict[str, Line]) -> tuple[str, ...]:
    values = (cell(own[metric], subject) if metric in own else ABSENT for metric in metrics)
    return f"{subject} of {run.run_id}", *values, "this run", ""
