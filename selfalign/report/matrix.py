"""All effects of a sweep on one model at a glance: arms against metrics, tested as one table.

A comparison corrects over the arms of one metric. Who looks through all of its metrics for what stands out has asked many more
questions, and is told here what is left after a correction over all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from selfalign import statistics as stats
from selfalign.evaluation.protocols import EXAMS
from selfalign.evaluation.scores import EVERY, ORACLE, Key
from selfalign.report.ablation import ALPHA, Comparison, Contrast, Family
from selfalign.report.ablation_view import Cell, p_text
from selfalign.report.scores import ABSENT, number

SHADES = 5
"""Steps of colour from no difference to a difference of 1."""


@dataclass(frozen=True)
class Matrix:
    """The contrasts of one model on every metric whose items are shares."""

    subject: str
    families: tuple[Family, ...]
    """Columns."""
    arms: tuple[str, ...]
    """Rows."""
    adjusted: Mapping[tuple[str, str], float]
    """(arm, name of the family) -> p after Holm over all cells; a comparison that was not made has none."""
    discovered: Mapping[tuple[str, str], float]
    """(arm, name of the family) -> p after Benjamini and Hochberg over all cells: below it, the expected share of false ones."""
    is_leading: bool
    """Whether most of its columns are what their metrics are read on first."""

    def contrast(self, arm: str, family: Family) -> Contrast | None:
        """One cell; None where it was not compared."""
        return next((one for one in family.contrasts if one.arm == arm), None)

    def is_shown(self, arm: str, family: Family) -> bool:
        """Whether a cell is a difference after the correction over the table."""
        return self.adjusted.get((arm, family.name), 1.0) < ALPHA


def matrices(comparison: Comparison) -> list[Matrix]:
    """One table a model, in the order of the models; none for a comparison of fewer than two arms with the control, or of
    one metric."""
    found = []
    arms = tuple(arm.label for arm in comparison.arms)
    leading = comparison.leading
    shares = [one for one in comparison.families if one.contrasts and is_share(one.key)]
    for subject in dict.fromkeys(one.subject for one in shares):
        families = tuple(one for one in shares if one.subject == subject)
        if len(arms) > 1 and len(families) > 1:
            is_leading = 2 * sum(one in leading for one in families) > len(families)
            holm, discovered = (_adjusted(families, by) for by in (stats.holm, stats.benjamini_hochberg))
            found.append(Matrix(subject, families, arms, holm, discovered, is_leading))
    return found


def _adjusted(
    families: Sequence[Family], correction: Callable[[Sequence[float]], Iterable[float]]
) -> dict[tuple[str, str], float]:
    tested = [(one.arm, family.name, one.test.p) for family in families for one in family.contrasts]
    adjusted = correction([p for _, _, p in tested])
    return {(arm, name): float(p) for (arm, name, _), p in zip(tested, adjusted, strict=True)}


# ---------------------------------------------------------------------------------------------------------- the page


@dataclass(frozen=True)
class MatrixView:
    """A table of cells with their shades."""

    title: str
    subject: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[Cell, str], ...]], ...]
    """Arm, or factor -> cells with their CSS classes."""
    is_open: bool


def method(found: Sequence[Matrix]) -> str:
    """How to read the tables."""
    cells = max(len(one.adjusted) for one in found)
    return (
        "Difference of each arm (row) from the control on each metric (column) of one model. "
        f"*: p below {ALPHA:g} after Holm over all comparisons of the table (up to {cells:,}): what is left for a reader who "
        "looks for anything that stands out. "
        f"°: below it after Benjamini and Hochberg alone, of which one in {1 / ALPHA:.0f} is expected to be chance. The tables "
        "of single metrics correct over their arms alone, and have intervals and items."
    )


def views(found: Sequence[Matrix]) -> list[MatrixView]:
    """The tables as the page shows them; the one to read first is open."""
    return [
        MatrixView(
            "All metrics",
            one.subject,
            ("arm", *(column(family.key) for family in one.families)),
            tuple((arm, tuple(_cell(one, arm, family) for family in one.families)) for arm in one.arms),
            one.is_leading,
        )
        for one in found
    ]


def column(key: Key) -> str:
    """The short name of a metric: the principle of an adherence, else the task and its protocol."""
    task, protocol, metric = key
    if protocol == ORACLE:
        return f"{task}, all" if metric == EVERY else metric.replace("_", " ")
    return f"{task} {protocol}"


def is_share(key: Key) -> bool:
    """Whether a metric is a share of items, so that its differences can stand beside those of others."""
    return key[1] in EXAMS or key[1] == ORACLE


def _cell(matrix: Matrix, arm: str, family: Family) -> tuple[Cell, str]:
    one = matrix.contrast(arm, family)
    if one is None:
        return Cell(ABSENT), "absent"
    p = matrix.adjusted[arm, family.name]
    flips = f"; lost {len(one.flips.lost)}, gained {len(one.flips.gained)} of {one.items:,}" if one.flips else ""
    detail = f"{arm}, {column(family.key)}: p {p_text(one.test.p)}, over the table {p_text(p)}{flips}"
    is_discovered = matrix.discovered[arm, family.name] < ALPHA
    return shaded(one.difference.value, "*" if matrix.is_shown(arm, family) else "°" if is_discovered else "", detail)


def shaded(value: float, mark: str, detail: str) -> tuple[Cell, str]:
    """A difference with its mark and tooltip, and the CSS class of its shade."""
    shade = min(SHADES, round(abs(value) * SHADES + 0.3))
    css = f"num heat-{'down' if value < 0 else 'up'}-{shade}" if shade else "num absent"
    text = number(value, signed=True, digits=2) if abs(value) >= 0.005 else "0"
    return Cell(text + mark, value, detail), css
