"""Runs on the terminal: rich tables where there is one, aligned plain text in a file or a pipe."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from selfalign.report import ablation, ablation_view, gap, selection, verdicts
from selfalign.report.adherence import assessed
from selfalign.report.judged import judged
from selfalign.report.model import Run
from selfalign.report.outcomes import PROTOCOLS, protocols
from selfalign.report.published import published
from selfalign.report.scores import grid
from selfalign.report.sheet import Sheet

if TYPE_CHECKING:
    from rich.table import Table

_NUMERIC_FROM = "n"
"""Columns from this one on hold numbers."""
CALF_NOTICE = (
    "Calf is a model organism: a small model in a world of its own, in which principles have effects by construction. "
    "Its scores show that method and instruments work; they say nothing about language models in use."
)
EFFECTS = "Effects of the arms, on the model that each metric is read on first (the page shows all)"
NODE_COLUMNS = ("node", "stage", "status", "in", "kept", "dropped", "seconds", "why")


def score_table(runs: Sequence[Run]) -> Table:
    """The scores of one run or several as a rich table; texts in it are never read as markup."""
    head, rows = grid(runs)
    # Intervals below their values: four models side by side are wide enough.
    broken = [[value.replace(" [", "\n[") for value in row] for row in rows]
    return _table("Scores", head, broken, numeric_from=head.index(_NUMERIC_FROM))


def node_table(run: Run) -> Table:
    """What became of each node of a run: status, rows, seconds."""
    return _table(f"{run.run_id}: {run.status}", NODE_COLUMNS, node_rows(run), numeric_from=3, numeric_to=7)


def node_rows(run: Run) -> list[list[str]]:
    """One row a node, all as text: name, stage, status, rows in, kept, dropped, seconds, why."""
    rows = []
    for node in run.nodes:
        counted = node.rows_in is not None
        counts = [f"{node.rows_in:,}", f"{node.kept:,}", f"{sum(node.dropped.values()):,}"] if counted else ["", "", ""]
        why = node.why.splitlines()[0] if node.why else ""
        rows.append([node.name, node.stage, node.status, *counts, f"{node.seconds:.1f}", why])
    return rows


def _table(
    title: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, numeric_from: int, numeric_to: int = 10**6
) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title, style="bold"), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(head):
        table.add_column(Text(name), justify="right" if numeric_from <= index < numeric_to else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(value, style=_style(value)) for value in row))
    return table


def _style(value: str) -> str:
    if value.startswith("invalid") or value in ("failed", "blocked"):
        return "red"
    return "dim" if value in ("–", "reused", "skipped") else ""


def plain_text(runs: Sequence[Run], *, nodes: bool = True, control: str = "") -> str:
    """Nodes (unless told not to), notes, scores, effects and verdicts on claims as aligned text without colour or box."""
    parts = []
    for run in runs:
        table = f"\n{_aligned(NODE_COLUMNS, node_rows(run))}" if nodes else ""
        parts.append(f"{run.run_id}: {run.status}, {run.seconds:.1f} s{table}")
        parts += [f"note: {note}" for note in run.notes]
    head, rows = grid(runs)
    parts.append(_aligned(head, rows) if rows else "no scores")
    parts += [sheet_text(sheet) for sheet in _sheets(runs)]
    found = ablation.compare(runs, control)
    if found:
        head, rows = ablation_view.grid(found)
        parts += [f"{EFFECTS}\n{_aligned(head, rows)}"] if rows else []
        parts += said(found)
        parts += [sheet_text(sheet) for sheet in _selected(found)]
    parts += [sheet_text(sheet) for sheet in _claims(runs, found, control)]
    if any(run.uses_calf for run in runs):
        parts.append(CALF_NOTICE)
    return "\n\n".join(parts) + "\n"


def _sheets(runs: Sequence[Run]) -> list[Sheet]:
    return [*protocols(runs), *gap.sheets(runs), *judged(runs), *assessed(runs), *published(runs)]


def _selected(found: ablation.Comparison) -> list[Sheet]:
    """The filters that depend on what the arms change; those that do not are on the page."""
    one = selection.sheet(selection.selections(found), shown_only=True)
    return [one] if one else []


def _claims(runs: Sequence[Run], found: ablation.Comparison | None, control: str) -> list[Sheet]:
    return verdicts.sheets(verdicts.verdicts(runs, found, control))


def sheet_text(sheet: Sheet) -> str:
    """A sheet as aligned plain text."""
    return f"{sheet.title}\n{sheet.about}\n{_aligned(sheet.head, sheet.rows)}"


def said(found: ablation.Comparison) -> list[str]:
    """How the effects were computed, and what was not compared, in sentences."""
    texts = [ablation_view.method(found), *(f"note: {note}" for note in found.notes)]
    return [
        text for text in (*texts, *(f"not compared: {one}" for one in ablation_view.refusals(found.families))) if text
    ]


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    table = [list(head), *rows]
    widths = [max(len(row[index]) for row in table) for index in range(len(head))]
    return "\n".join(
        "  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip() for row in table
    )


def print_runs(runs: Sequence[Run], stream: TextIO | None = None, *, nodes: bool = True, control: str = "") -> None:
    """Print nodes (unless told not to), notes, scores, effects and verdicts on claims: tables on a terminal, plain text elsewhere.

    `control` is as in `ablation.compare`.
    """
    out = sys.stdout if stream is None else stream
    if not out.isatty():
        out.write(plain_text(runs, nodes=nodes, control=control))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(file=out, highlight=False)
    for run in runs:
        if nodes:
            console.print(node_table(run))
        for note in run.notes:
            console.print(Text(f"note: {note}", style="yellow"))
    if any(run.scores for run in runs):
        console.print(score_table(runs))
    for sheet in _sheets(runs):
        # What the protocols are is words, the others are numbers.
        numeric_from = len(sheet.head) if sheet.title == PROTOCOLS else 1
        console.print(_table(sheet.title, sheet.head, sheet.rows, numeric_from=numeric_from))
        console.print(Text(sheet.about, style="dim"))
    found = ablation.compare(runs, control)
    if found:
        head, rows = ablation_view.grid(found)
        if rows:
            console.print(_table(EFFECTS, head, rows, numeric_from=head.index(_NUMERIC_FROM)))
        for text in said(found):
            console.print(Text(text, style="dim"))
        for sheet in _selected(found):
            console.print(_table(sheet.title, sheet.head, sheet.rows, numeric_from=2))
            console.print(Text(sheet.about, style="dim"))
    for sheet in _claims(runs, found, control):
        from_, to = (verdicts.TOLD.index(name) for name in ("difference", "file"))
        console.print(_table(sheet.title, sheet.head, sheet.rows, numeric_from=from_, numeric_to=to))
        console.print(Text(sheet.about, style="dim"))
    if any(run.uses_calf for run in runs):
        console.print(Text(CALF_NOTICE, style="italic"))
