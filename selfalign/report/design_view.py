"""A designed sweep as readers see it: sentences, one table and forest plot a metric and model. A `Designed` in, texts out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selfalign.evaluation.scores import Key
from selfalign.report import figures
from selfalign.report.ablation import ALPHA
from selfalign.report.ablation_view import Cell, Table, interval_text, p_text
from selfalign.report.design import MAIN, PAIR, SHAPLEY, Analysis, Designed, Line, holm
from selfalign.report.matrix import MatrixView, column, is_share, shaded
from selfalign.report.scores import number

MEANS = {
    MAIN: "Main effects: the mean score of the arms that have a factor minus that of those that have not, by least squares over "
    "all arms. p and interval: sign flips and BCa bootstrap over items, for the models that were trained.",
    PAIR: "Interactions of two: the score with all, minus that without each of the two, plus that without both. Negative: removing "
    "both costs more than the sum of removing each, as where either can stand in for the other; positive: less, as where one is of "
    "no use without the other. Sign-flip tests and BCa bootstraps over items.",
    SHAPLEY: "Shapley values: what a factor adds on average when factors join one after the other in random order; they add up to "
    "the score with all minus the score with none. Intervals are over pairs of reversed permutations: how far the drawn orders are "
    "from all orders, not how uncertain a score is.",
}
RUNS_TOO = (
    "p, runs too: whether the same settings would show it again, trained anew (min F' over items and runs; how much runs differ is "
    "what the main effects leave over)."
)
NO_RUN_LEFT = (
    "There is no run left over to tell how much runs of the same settings differ, so that a main effect can be the luck of some "
    "trainings: more arms, fewer factors or new seeds would tell."
)


@dataclass(frozen=True)
class DesignView:
    """What the page shows of a designed sweep."""

    about: str
    matrices: list[MatrixView]
    matrix_method: str
    tables: list[Table]
    refusals: list[str]
    is_first: bool
    """Whether arms leave out several factors at a time, so that single arms beside the control say little."""


def view(found: Designed) -> DesignView:
    """Sentences and tables of a designed sweep."""
    kinds = list(dict.fromkeys(one.kind for one in found.analyses))
    name = found.design.replace("_", " ") or "no design of ours"
    parts = [f"{found.arms} arms, {len(found.factors)} {found.group} varied ({name})."]
    if found.missing:
        parts.append(f"{found.missing} jobs of the design are missing, so that its columns are not balanced.")
    parts += [MEANS[kind] for kind in kinds]
    if MAIN in kinds:
        parts.append(RUNS_TOO if any(_has_runs(one.lines) for one in found.analyses) else NO_RUN_LEFT)
    if MAIN in kinds and found.aliased > 1e-9:
        parts.append(
            f"A main effect also holds up to {found.aliased:.2f} of an interaction of two other factors (aliasing): where two "
            "factors stand in for one another, it is a mixture of both."
        )
    parts.append("p is corrected by Holm over the lines of a table." if set(kinds) & {MAIN, PAIR} else "")
    first = _leading(found)
    tables = [_table(one, is_open=one.subject == first[one.kind, one.key] and one.is_overall) for one in found.analyses]
    matrices = _matrices(found)
    return DesignView(
        " ".join(part for part in parts if part),
        matrices,
        _matrix_method(found) if matrices else "",
        tables,
        list(found.refusals),
        MAIN in kinds or SHAPLEY in kinds,
    )


def _leading(found: Designed) -> dict[tuple[str, Key], str]:
    """Kind and metric -> the model to read first."""
    first: dict[tuple[str, Key], str] = {}
    for one in found.analyses:
        if first.get((one.kind, one.key)) != found.leading or not found.leading:
            first[one.kind, one.key] = one.subject
    return first


def _has_runs(lines: Sequence[Line]) -> bool:
    return any(line.p_of_runs is not None for line in lines)


# ---------------------------------------------------------------------------------------------------------- all at once


def _matrices(found: Designed) -> list[MatrixView]:
    """Factors against metrics, one table a kind and model; none of a single metric."""
    made = []
    first = _leading(found)
    shares = [one for one in found.analyses if is_share(one.key)]
    for kind, subject in dict.fromkeys((one.kind, one.subject) for one in shares):
        columns = [one for one in shares if (one.kind, one.subject) == (kind, subject)]
        if len(columns) < 2:
            continue
        over_items = _over_the_table(columns, [line.p for one in columns for line in one.lines])
        over_both = _over_the_table(columns, [line.p_of_runs for one in columns for line in one.lines])
        rows = []
        for place, line in enumerate(columns[0].lines):
            cells = tuple(_cell(one, place, over_items, over_both) for one in columns)
            rows.append((_name(line), cells))
        heading = (_factor_heading(kind), *(column(one.key) for one in columns))
        is_open = 2 * sum(first[kind, one.key] == subject for one in columns) > len(columns)
        made.append(MatrixView(f"All {kind}", subject, heading, tuple(rows), is_open))
    return made


def _over_the_table(
    columns: Sequence[Analysis], p_values: Sequence[float | None]
) -> dict[tuple[Key, int], float | None]:
    places = [(one.key, place) for one in columns for place in range(len(one.lines))]
    return dict(zip(places, holm(p_values), strict=True))


def _cell(
    one: Analysis,
    place: int,
    over_items: Mapping[tuple[Key, int], float | None],
    over_both: Mapping[tuple[Key, int], float | None],
) -> tuple[Cell, str]:
    line, p, of_runs = one.lines[place], over_items[one.key, place], over_both[one.key, place]
    is_shown, is_shown_of_runs = (value is not None and value < ALPHA for value in (p, of_runs))
    detail = f"{_name(line)}, {column(one.key)}: {interval_text(line.estimate, line.estimate.value)}"
    detail += "" if p is None else f"; p over the table {p_text(p)}"
    detail += "" if of_runs is None else f", runs too {p_text(of_runs)}"
    return shaded(line.estimate.value, "**" if is_shown and is_shown_of_runs else "*" if is_shown else "", detail)


def _matrix_method(found: Designed) -> str:
    text = "Each factor (row) on each metric (column) of one model."
    if any(line.p is not None for one in found.analyses for line in one.lines):
        text += f" *: p below {ALPHA:g} after Holm over all cells of the table"
        text += "; **: p, runs too, as well." if any(_has_runs(one.lines) for one in found.analyses) else "."
    return text


# ----------------------------------------------------------------------------------------------------- metric by metric


def _name(line: Line) -> str:
    return " with ".join(line.factors)


def _factor_heading(kind: str) -> str:
    return "two factors" if kind == PAIR else "factor"


def _table(one: Analysis, *, is_open: bool) -> Table:
    has_runs = _has_runs(one.lines)
    rows = tuple((_name(line), _cells(line, has_runs)) for line in one.lines)
    heads = [_factor_heading(one.kind), "value" if one.kind == SHAPLEY else "effect", "95 % interval"]
    heads += ["p", "p, Holm"] if one.kind != SHAPLEY else []
    heads += ["p, runs too, Holm"] if has_runs else []
    total = f", all minus none {number(one.total, signed=True)}" if one.total is not None else ""
    seeds = "" if one.seeds == 1 else f", {one.seeds} seeds"
    figure = figures.forest(
        [_effect(line, name) for name, line in zip((row[0] for row in rows), one.lines, strict=True)],
        x_label=f"{one.kind[:-1] if one.kind == MAIN else one.kind} in {one.key[2]}, with 95 % intervals",
        title=f"{one.kind} on {one.name} of {one.subject}",
    )
    about = f"{one.subject} ({one.items:,} items{seeds}{total})"
    return Table(f"{one.kind}: {one.name}", about, tuple(heads), rows, figure, is_open)


def _cells(line: Line, has_runs: bool) -> tuple[Cell, ...]:
    value, digits = line.estimate.value, 3 if abs(line.estimate.value) < 10 else 1
    found = [
        Cell(number(value, signed=True, digits=digits), value),
        Cell(interval_text(line.estimate, value), line.estimate.low),
    ]
    p_values = (line.p, line.adjusted, *([line.adjusted_of_runs] if has_runs else []))
    found += [Cell(p_text(p), p) for p in p_values if p is not None]
    return tuple(found)


def _effect(line: Line, name: str) -> figures.Effect:
    one = line.estimate
    is_shown = line.adjusted < ALPHA if line.adjusted is not None else one.low > 0 or one.high < 0
    css = "effect-none" if not is_shown else "effect-down" if one.value < 0 else "effect-up"
    note = f"{number(one.value, signed=True)} ({interval_text(one, one.value)})"
    return figures.Effect(name, one.value, one.low, one.high, css, note)
