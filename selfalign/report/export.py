"""The score table for other programs: Markdown as it is read, CSV with one score a line."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import fields

from selfalign.records import Score
from selfalign.report.model import Run
from selfalign.report.scores import grid, invalid, is_number


def markdown(runs: Sequence[Run]) -> str:
    """The score table in Markdown, as the terminal shows it."""
    head, rows = grid(runs)
    text = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(_markdown_cell(value) for value in row) + " |\n" for row in text)


def _markdown_cell(value: str) -> str:
    plain = " ".join(value.split())
    return plain.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")


def to_csv(runs: Sequence[Run]) -> str:
    """One line a score with full precision; the value of a score that is not valid is empty, its reason is not."""
    columns = [field.name for field in fields(Score)]
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["run_id", "name", *columns])
    for run in runs:
        for score in run.scores:
            row = {name: getattr(score, name) for name in columns}
            if not is_number(score):
                row |= {
                    "value": None,
                    "stderr": None,
                    "valid": False,
                    "reason": invalid(score).removeprefix("invalid: "),
                }
            writer.writerow([run.run_id, run.name, *(_csv_cell(row[name]) for name in columns)])
    return stream.getvalue()


def _csv_cell(value: object) -> object:
    """A spreadsheet must not take a text for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t" and value else value
