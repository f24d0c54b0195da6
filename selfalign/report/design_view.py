"""A designed sweep as readers see it: sentences, one table and forest plot a metric and model. A `Designed` in, texts out."""

from __future__ import annotations

from dataclasses import dataclass

from selfalign.report import figures
from selfalign.report.ablation import ALPHA
from selfalign.report.ablation_view import Cell, Table, interval_text, p_text
from selfalign.report.design import MAIN, PAIR, SHAPLEY, Analysis, Designed, Line
from selfalign.report.scores import number

MEANS = {
    MAIN: "Main effects: the mean score of the arms that have a factor minus that of those that have not, by least "
    "squares over all arms, "
    "with t intervals over items.",
    PAIR: "Interactions of two: the score with all, minus that without each of the two, plus that without both. Negative: removing "
    "both costs more than the sum of removing each, as where either can stand in for the other; positive: less, as "
    "where one is of no use "
    "without the other. Sign-flip tests and BCa bootstraps over items.",
    SHAPLEY: "Shapley values: what a factor adds on average when factors join one after the other in random order; "
    "they add up to the "
    "score with all minus the score with none. Intervals are over pairs of reversed permutations: how far the drawn "
    "orders are from all "
    "orders, not how uncertain a score is.",
}


@dataclass(frozen=True)
class DesignView:
    """What the page shows of a designed sweep."""

    about: str
    tables: list[Table]
    refusals: list[str]


def view(found: Designed) -> DesignView:
    """Sentences and tables of a designed sweep."""
    kinds = list(dict.fromkeys(one.kind for one in found.analyses))
    name = found.design.replace("_", " ") or "no design of ours"
    parts = [f"{found.arms} arms, {len(found.factors)} {found.group} varied ({name})."]
    if found.missing:
        parts.append(f"{found.missing} jobs of the design are missing, so that its columns are not balanced.")
    parts += [MEANS[kind] for kind in kinds]
    if MAIN in kinds and found.aliased > 1e-9:
        parts.append(
            f"A main effect also holds up to {found.aliased:.2f} of an interaction of two other factors (aliasing): where two "
            "factors stand in for one another, it is a mixture of both."
        )
    parts.append("p is corrected by Holm over the lines of a table." if set(kinds) & {MAIN, PAIR} else "")
    first: dict[tuple[str, str], str] = {}
    for one in found.analyses:
        if first.get((one.kind, one.name)) != found.leading or not found.leading:
            first[one.kind, one.name] = one.subject
    tables = [
        _table(one, is_open=one.subject == first[one.kind, one.name] and one.is_overall) for one in found.analyses
    ]
    return DesignView(" ".join(part for part in parts if part), tables, list(found.refusals))


def _table(one: Analysis, *, is_open: bool) -> Table:
    rows = tuple((" with ".join(line.factors), _cells(line)) for line in one.lines)
    heads = [
        "two factors" if one.kind == PAIR else "factor",
        "value" if one.kind == SHAPLEY else "effect",
        "95 % interval",
    ]
    heads += ["p", "p, Holm"] if one.kind != SHAPLEY else []
    total = f", all minus none {number(one.total, signed=True)}" if one.total is not None else ""
    seeds = "" if one.seeds == 1 else f", {one.seeds} seeds"
    figure = figures.forest(
        [_effect(line, name) for name, line in zip((row[0] for row in rows), one.lines, strict=True)],
        x_label=f"{one.kind[:-1] if one.kind == MAIN else one.kind} in {one.metric}, with 95 % intervals",
        title=f"{one.kind} on {one.name} of {one.subject}",
    )
    about = f"{one.subject} ({one.items:,} items{seeds}{total})"
    return Table(f"{one.kind}: {one.name}", about, tuple(heads), rows, figure, is_open)


def _cells(line: Line) -> tuple[Cell, ...]:
    value, digits = line.estimate.value, 3 if abs(line.estimate.value) < 10 else 1
    found = [
        Cell(number(value, signed=True, digits=digits), value),
        Cell(interval_text(line.estimate, value), line.estimate.low),
    ]
    found += [Cell(p_text(p), p) for p in (line.p, line.adjusted) if p is not None]
    return tuple(found)


def _effect(line: Line, name: str) -> figures.Effect:
    one = line.estimate
    is_shown = line.adjusted < ALPHA if line.adjusted is not None else one.low > 0 or one.high < 0
    css = "effect-none" if not is_shown else "effect-down" if one.value < 0 else "effect-up"
    note = f"{number(one.value, signed=True)} ({interval_text(one, one.value)})"
    return figures.Effect(name, one.value, one.low, one.high, css, note)
