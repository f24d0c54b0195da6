"""The tables of a report for other programs: each as CSV, LaTeX and Markdown, and scores and effects with one number a line."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from selfalign.records import Score
from selfalign.report.ablation import Comparison
from selfalign.report.model import Run
from selfalign.report.page import PageTable, slug, tables
from selfalign.report.scores import invalid, is_number

LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$", "→": r"$\rightarrow$", "<": "$<$", ">": "$>$",
    "–": "--", "·": r"$\cdot$", "…": r"\ldots{}", "|": r"$|$",
}  # fmt: skip
"""Signs that mean something to LaTeX, or that its fonts may lack, as it writes them."""


def write(page: str, runs: Sequence[Run], comparison: Comparison | None, folder: Path) -> list[Path]:
    """Write every table of a page to a folder, three files each, numbered in the order of the page; returns the paths.

    `scores.csv` and `effects.csv` hold scores and effects in full precision, one a line.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"scores.csv": to_csv(runs)} | ({"effects.csv": effects_csv(comparison)} if comparison else {})
    for number, table in enumerate(tables(page), start=1):
        stem = f"{number:02}-{slug(table.title)}"
        texts |= {f"{stem}.csv": as_csv(table), f"{stem}.tex": as_latex(table), f"{stem}.md": as_markdown(table)}
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def as_markdown(table: PageTable) -> str:
    """A table in Markdown, below its title."""
    lines = [table.head, ["---"] * len(table.head), *([cell.text for cell in row] for row in table.rows)]
    body = "".join("| " + " | ".join(map(_markdown_cell, line)) + " |\n" for line in lines)
    return f"**{_markdown_cell(table.title)}**\n\n{body}"


def _markdown_cell(value: str) -> str:
    plain = " ".join(value.split())
    return plain.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")


def as_latex(table: PageTable) -> str:
    """A table in LaTeX (package booktabs), columns of numbers to the right."""
    columns = list(zip(*table.rows, strict=False)) if table.rows else [()] * len(table.head)
    kinds = "".join("r" if any(cell.value or cell.text[:1].isdigit() for cell in column) else "l" for column in columns)
    rows = [" & ".join(_latex_cell(cell.text) for cell in row) + r" \\" for row in table.rows]
    lines = [
        f"% {' '.join(table.title.split())}",
        rf"\begin{{tabular}}{{{kinds or 'l' * len(table.head)}}}",
        r"\toprule",
        " & ".join(map(_latex_cell, table.head)) + r" \\",
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex_cell(text: str) -> str:
    return "".join(LATEX.get(sign, sign) for sign in text)


def as_csv(table: PageTable) -> str:
    """A table as it is read, and behind each column with numbers one with their full precision (`<name>, value`)."""
    precise = [any(index < len(row) and row[index].value for row in table.rows) for index in range(len(table.head))]
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([_csv_cell(name) for head, is_precise in zip(table.head, precise, strict=True)
                     for name in ([head, f"{head}, value"] if is_precise else [head])])  # fmt: skip
    for row in table.rows:
        writer.writerow([_csv_cell(text) for cell, is_precise in zip(row, precise, strict=False)
                         for text in ([cell.text, cell.value or _number(cell.text)] if is_precise else [cell.text])])  # fmt: skip
    return stream.getvalue()


def _number(text: str) -> str:
    """A text that is its own value, such as `120`; empty where it is no number."""
    try:
        float(text)
    except ValueError:
        return ""
    return text


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
    """A spreadsheet must not take a text for a formula; a number is none."""
    if not isinstance(value, str) or not value or value[0] not in "=+-@\t" or _number(value):
        return value
    return f"'{value}"
