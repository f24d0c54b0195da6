"""The engraving gap of runs as readers see it: by model and split, by cited principle and by source, derived anew from its rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from selfalign.evaluation import gap
from selfalign.report import figures
from selfalign.report.ablation_view import Cell, Table
from selfalign.report.model import Run
from selfalign.report.principle_use import rules_of
from selfalign.report.scores import ABSENT, with_error
from selfalign.report.sheet import Sheet

HEAD = ("model", "responses", "n", "gap, nats", "nats a token", "share closed")
SPLIT_NAMES = {gap.TRAINED: "trained on", gap.HELD_OUT: "held out"}
ABOUT = (
    "A response's gap is its log-probability for its writer (the base behind rules, exemplars and its own thoughts) minus "
    "that for a model that sees the question alone. The bare base's gap is what there was to engrave, the share closed is "
    "what of it training took over: 1 is all, below 0 the gap has grown. Thoughts, which no student has, tell part of an "
    "answer, so that all of it is out of reach. Trained on and held out are said of the engraving; the cloned model was "
    "trained on other answers to these prompts. ± is one standard error over responses."
)


@dataclass(frozen=True)
class GapView:
    """The gap of one run."""

    run_id: str
    about: str
    tables: tuple[Table, ...]
    """All responses, then by cited principle, then by source."""


def rows_of(run: Run) -> list[Mapping[str, Any]]:
    """The scored responses of a run; none where the gap was not measured."""
    return [row for node in run.nodes if node.stage == "EngravingGap" for row in node.rows("gaps.jsonl")]


def views(runs: Sequence[Run]) -> list[GapView]:
    """What the page shows: a view for each run whose gap was measured."""
    found = []
    for run in runs:
        if rows := rows_of(run):
            order = list(rules_of(run.config).shown)
            tables = (
                _whole(rows),
                _grouped("By cited principle", "principle", rows, lambda row: row["cited"], order),
                _grouped("By source of the prompt", "source", rows, lambda row: [row["source"]], []),
            )
            found.append(GapView(run.run_id, said(rows), tuple(table for table in tables if table.rows)))
    return found


def sheets(runs: Sequence[Run]) -> list[Sheet]:
    """What the terminal shows: the gap of each run by model and split."""
    found = []
    for run in runs:
        if rows := rows_of(run):
            table = [(label, *(cell.text for cell in cells)) for label, cells in _whole(rows).rows]
            found.append(Sheet(f"Engraving gap of {run.run_id}", said(rows), HEAD, tuple(table)))
    return found


def said(rows: Sequence[Mapping[str, Any]]) -> str:
    """How the numbers came about, what was left out, and what is broken."""
    lost = Counter(row["reason"] for row in rows if not row["kept"])
    broken = {
        f"{model}: {one.reason}"
        for model in gap.models(rows)
        for own in gap.by(rows, _split).values()
        if (one := gap.gap(own, model)).reason
    }
    parts = [f"Invalid: {reason}." for reason in sorted(broken)] + [ABOUT]
    if lost:
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in sorted(lost.items()))
        parts.append(f"{lost.total():,} responses of {len(rows):,} are left out ({reasons}).")
    return " ".join(parts)


def _split(row: Mapping[str, Any]) -> list[str]:
    return [row["split"]]


def _whole(rows: Sequence[Mapping[str, Any]]) -> Table:
    table, effects = [], []
    for model in gap.models(rows):
        for split, own in gap.by(rows, _split).items():
            one, name = gap.gap(own, model), SPLIT_NAMES[split]
            table.append((model, (Cell(name), Cell(f"{one.n:,}", one.n), *_cells(one))))
            if one.per_token is not None:
                half = 1.96 * (one.per_token_error or 0.0)
                note = with_error(one.per_token, one.per_token_error)
                effects.append(
                    figures.Effect(
                        f"{model}, {name}",
                        one.per_token,
                        one.per_token - half,
                        one.per_token + half,
                        f"s-{model}",
                        note,
                    )
                )
    plot = figures.forest(effects, x_label="gap in nats a token, with 1.96 standard errors", title="Engraving gap")
    return Table("All responses", "", HEAD, tuple(table), plot, True)


def _cells(one: gap.Gap) -> tuple[Cell, Cell, Cell]:
    return (
        _cell(one.nats, one.nats_error),
        _cell(one.per_token, one.per_token_error),
        _cell(one.closed, one.closed_error),
    )


def _cell(value: float | None, error: float | None) -> Cell:
    return Cell(ABSENT) if value is None else Cell(with_error(value, error), value)


def _grouped(
    title: str,
    what: str,
    rows: Sequence[Mapping[str, Any]],
    names: Callable[[Mapping[str, Any]], Iterable[str]],
    order: Sequence[str],
) -> Table:
    """Gaps a token of all models, a row for each name and split, and what the engraved model closed."""
    models = gap.models(rows)
    groups = gap.by(rows, names)
    known = [name for name in order if name in groups]
    table = []
    for name in (*known, *sorted(set(groups) - set(known))):
        for split in gap.SPLITS:
            own = [row for row in groups[name] if row["split"] == split and row["kept"]]
            if own:
                found = {model: gap.gap(own, model) for model in models}
                cells = [_cell(one.per_token, one.per_token_error) for one in found.values()]
                closed = [_cell(one.closed, one.closed_error) for model, one in found.items() if model != gap.BASE]
                n = found[gap.BASE].n
                table.append((name, (Cell(SPLIT_NAMES[split]), Cell(f"{n:,}", n), *cells, *closed)))
    head = (what, "responses", "n", *(f"{model}, nats a token" for model in models))
    closed_head = (f"{model}, share closed" for model in models if model != gap.BASE)
    return Table(title, "", (*head, *closed_head), tuple(table), Markup(""), False)
