"""The score table and the effects of arms for other programs: Markdown as it is read, CSV with one number a line."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import fields

from selfalign.records import Score
from selfalign.report import ablation_view
from selfalign.report.ablation import Comparison
from selfalign.report.model import Run
from selfalign.report.scores import grid, invalid, is_number


def markdown(runs: Sequence[Run]) -> str:
    """The score table in Markdown, as the terminal shows it."""
    return _markdown_table(*grid(runs))


def effects_markdown(comparison: Comparison) -> str:
    """The effects of the arms in Markdown, as the terminal shows them, with what was not compared below."""
    head, rows = ablation_view.grid(comparison)
    said = [
        ablation_view.method(comparison),
        *comparison.notes,
        *map("Not compared: {}".format, ablation_view.refusals(comparison.families)),
    ]
    table = _markdown_table(head, rows) if rows else ""
    return "\n".join([table, *(f"{_markdown_cell(text)}\n" for text in said if text)])


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
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
                    "low": None,
                    "high": None,
                    "valid": False,
                    "reason": invalid(score).removeprefix("invalid: "),
                }
            writer.writerow([run.run_id, run.name, *(_csv_cell(row[name]) for name in columns)])
    return stream.getvalue()


PLAIN_COLUMNS = ("arm", "items", "left_out", "seeds", "seeds_left_out", "control", "value", "stderr")
EFFECT_COLUMNS = (
    *("task", "protocol", "metric", "subject"),
    *PLAIN_COLUMNS,
    *(
        "difference",
        "low",
        "high",
        "p",
        "method",
        "p_holm",
        "p_of_items_and_seeds",
        "p_of_items_and_seeds_holm",
        "detectable",
    ),
    *("lost", "gained", "reason"),
)


def effects_csv(comparison: Comparison) -> str:
    """One line an arm, metric and model with full precision; a comparison that was not made has its reason and no number."""
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, EFFECT_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for family in comparison.families:
        where = {"task": family.task, "protocol": family.protocol, "metric": family.metric, "subject": family.subject}
        for one in family.contrasts:
            row = where | {name: getattr(one, name) for name in PLAIN_COLUMNS}
            row |= {"difference": one.difference.value, "low": one.difference.low, "high": one.difference.high}
            row |= {"p": one.test.p, "method": one.test.method, "p_holm": one.adjusted, "detectable": one.detectable}
            if one.test_of_seeds:
                row |= {"p_of_items_and_seeds": one.test_of_seeds.p, "p_of_items_and_seeds_holm": one.adjusted_of_seeds}
            if one.flips:
                row |= {"lost": " ".join(one.flips.lost), "gained": " ".join(one.flips.gained)}
            writer.writerow({name: _csv_cell(value) for name, value in row.items()})
        for refusal in family.refusals:
            row = where | {"arm": refusal.arm, "reason": refusal.reason}
            writer.writerow({name: _csv_cell(value) for name, value in row.items()})
    return stream.getvalue()


def _csv_cell(value: object) -> object:
    """A spreadsheet must not take a text for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t" and value else value
