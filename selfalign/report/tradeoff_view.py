"""What verbose cloning trades, as the page shows it: answers cut to budgets of words, and helpfulness against trust."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from selfalign.report import figures
from selfalign.report.ablation import Family
from selfalign.report.ablation_view import Table, refusals, tax_table
from selfalign.report.pareto import Coordinate, Front
from selfalign.report.scores import SUBJECTS, with_error
from selfalign.report.sheet import Sheet
from selfalign.report.tax import Tax
from selfalign.report.truncation import curve


@dataclass(frozen=True)
class Truncation:
    """Answers under budgets of words."""

    about: str
    figure: Markup
    table: Table
    refusals: list[str]


def truncation(found: Mapping[int | None, Family]) -> Truncation:
    """A table with one row a budget and arm, and the curves of the first arm."""
    families = tuple(found.values())
    series = [figures.Curve(name, tuple(curve(found, side)), f"s-{name}") for name, side in
              (("engraved", "control"), ("cloned", "value"))]  # fmt: skip
    arm = next(one.arm for family in families for one in family.contrasts)
    about = (
        "Share of the answers to Calf's open questions that show the mark of every principle that governs their question, in their "
        "first words alone. A positive difference means that the cloned model has said it by then more often. The "
        "curves are those of "
        f"{arm}. Scores of choices have no length, and a judge's marks are of whole answers: neither is cut."
    )
    table = tax_table(Tax(families, {}))
    figure = figures.curves(
        series, x_label="words read", y_label="share governed", title="Governed answers under budgets of words"
    )
    return Truncation(about, figure, table, refusals(families))


@dataclass(frozen=True)
class Tradeoff:
    """One front: its figure and its points as a table."""

    figure: Markup
    sheet: Sheet
    subjects: tuple[str, ...]


def tradeoffs(fronts: Sequence[Front]) -> list[Tradeoff]:
    """Helpfulness against trust, one figure and table each."""
    return [_tradeoff(front) for front in fronts]


def _tradeoff(front: Front) -> Tradeoff:
    rows = tuple(
        (one.arm, one.subject, _text(one.trust), _text(one.help), "on it" if one.is_on_front else "")
        for one in front.points
    )
    present = {one.subject for one in front.points}
    spots = [
        figures.Spot(
            f"{one.arm}, {one.subject}",
            f"s-{one.subject}" if one.subject in SUBJECTS else "s-other",
            (one.trust.value, one.trust.stderr),
            (one.help.value, one.help.stderr),
            one.is_on_front,
        )
        for one in front.points
    ]
    about = (
        "Each point is a model of an arm, mean ± standard error over items (its seeds averaged); whiskers are 1.96 "
        "standard errors. On "
        "the front stand those that no other point equals or beats in both: by the estimates alone, so that points with whiskers "
        "across it may belong there too."
    )
    return Tradeoff(
        figures.scatter(spots, x_label=front.trust, y_label=front.help, title=f"{front.help} against {front.trust}"),
        Sheet(f"{front.help} against {front.trust}", about, ("arm", "model", front.trust, front.help, "front"), rows),
        tuple(name for name in SUBJECTS if name in present),
    )


def _text(one: Coordinate) -> str:
    return with_error(one.value, one.stderr)
