"""The comparison of arms as readers see it: sentences, tables, forest plots. A `Comparison` or `Tax` in, texts out.

Terminal, page and exports take their cells from here, so that they cannot differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from selfalign import statistics as stats
from selfalign.report import figures
from selfalign.report.ablation import ALPHA, POWER, Comparison, Contrast, Family
from selfalign.report.arms import told
from selfalign.report.scores import ABSENT, number
from selfalign.report.tax import Lengths, Tax

NAMED_ITEMS = 12
"""Ids of items that a tooltip lists."""


@dataclass(frozen=True)
class Cell:
    """One cell of a comparison."""

    text: str
    sort: float | None = None
    """Value to sort by; None where there is none."""
    detail: str = ""
    """Tooltip."""


@dataclass(frozen=True)
class Table:
    """A comparison on one metric of one model."""

    title: str
    subject: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    """Arm -> its cells, in the order of the headings behind the first."""
    figure: Markup
    is_open: bool


# ------------------------------------------------------------------------------------------------------------- cells


def p_text(p: float) -> str:
    """`0.031`, or `<0.0001` for what is smaller."""
    return "<0.0001" if p < 0.0001 else f"{p:.4f}" if p < 0.001 else f"{p:.3f}"


def interval_text(found: stats.Estimate, like: float) -> str:
    """`−0.081 to −0.003`, with as many digits as a value like `like` has."""
    digits = 3 if abs(like) < 10 else 1
    return f"{number(found.low, signed=True, digits=digits)} to {number(found.high, signed=True, digits=digits)}"


def _has_seeds(contrasts: Sequence[Contrast]) -> bool:
    return any(one.test_of_seeds for one in contrasts)


def head(contrasts: Sequence[Contrast], sides: tuple[str, str] = ("control", "arm's")) -> tuple[str, ...]:
    """Headings of `cells`."""
    many = len(contrasts) > 1
    names = ["n", "seeds", *sides, "difference", "95 % interval", "p"]
    names += ["p, Holm"] * many + [f"p, seeds too{', Holm' if many else ''}"] * _has_seeds(contrasts)
    return (*names, "detectable", "lost", "gained")


def cells(one: Contrast, contrasts: Sequence[Contrast]) -> tuple[Cell, ...]:
    """One contrast of some, as cells below the headings of `head`."""
    digits = 3 if abs(one.control) < 10 else 1
    left_out = f"{one.left_out:,} items are left out: not every run has them" if one.left_out else ""
    alone = (
        f"{one.seeds_left_out} runs are left out: no run of their seed to pair them with" if one.seeds_left_out else ""
    )
    by_seed = ", ".join(number(value, signed=True, digits=digits) for value in one.by_seed)
    found = [
        Cell(f"{one.items:,}" + (f" (−{one.left_out:,})" if one.left_out else ""), one.items, left_out),
        Cell(f"{one.seeds}" + (f" (−{one.seeds_left_out})" if one.seeds_left_out else ""), one.seeds, alone),
        Cell(number(one.control, digits=digits), one.control),
        Cell(number(one.value, digits=digits), one.value),
        Cell(
            number(one.difference.value, signed=True, digits=digits),
            one.difference.value,
            f"by seed: {by_seed}" if one.seeds > 1 else "",
        ),
        _interval(one),
        Cell(p_text(one.test.p), one.test.p, one.test.method),
    ]
    if len(contrasts) > 1:
        found.append(Cell(p_text(one.adjusted), one.adjusted, f"over {len(contrasts)} arms"))
    if _has_seeds(contrasts):
        found.append(
            Cell(ABSENT)
            if one.adjusted_of_seeds is None
            else Cell(p_text(one.adjusted_of_seeds), one.adjusted_of_seeds)
        )
    found.append(Cell(number(one.detectable, digits=digits), one.detectable) if one.detectable else Cell(ABSENT))
    return (*found, _items(one.flips.lost if one.flips else None), _items(one.flips.gained if one.flips else None))


def _interval(one: Contrast) -> Cell:
    if one.difference.low == one.difference.high:
        return Cell("every item alike" if one.items > 1 else ABSENT, None, "items that were not seen may differ")
    return Cell(interval_text(one.difference, one.control), one.difference.low, "BCa bootstrap over items")


def _items(ids: Sequence[str] | None) -> Cell:
    if ids is None:
        return Cell(ABSENT)
    more = f" and {len(ids) - NAMED_ITEMS:,} more" if len(ids) > NAMED_ITEMS else ""
    return Cell(f"{len(ids):,}", len(ids), ", ".join(ids[:NAMED_ITEMS]) + more)


# ----------------------------------------------------------------------------------------------------------- effects


def tables(comparison: Comparison) -> list[Table]:
    """One table a metric and model, with its forest plot; those to read first are open."""
    shown = [family for family in comparison.families if family.contrasts]
    leading = comparison.leading
    return [
        Table(
            family.name,
            family.subject,
            ("arm", *head(family.contrasts)),
            tuple((one.arm, cells(one, family.contrasts)) for one in family.contrasts),
            figures.forest(
                [_effect(one, one.arm) for one in family.contrasts],
                x_label=f"difference in {family.metric} from the control, with its 95 % interval",
                title=f"Effects on {family.name} of {family.subject}",
            ),
            family in leading,
        )
        for family in shown
    ]


def _effect(one: Contrast, label: str) -> figures.Effect:
    css = "effect-none" if one.adjusted >= ALPHA else "effect-down" if one.difference.value < 0 else "effect-up"
    digits = 3 if abs(one.control) < 10 else 1
    value = number(one.difference.value, signed=True, digits=digits)
    note = f"{value} ({_interval(one).text})"
    return figures.Effect(label, one.difference.value, one.difference.low, one.difference.high, css, note)


def method(comparison: Comparison) -> str:
    """How the numbers came about: pairing, tests, correction, clustering, n and seeds, in sentences."""
    found = [one for family in comparison.families for one in family.contrasts]
    if not found:
        return ""
    runs = ", ".join(run.run_id for run in comparison.control.runs.values())
    first = next(iter(comparison.control.runs.values()))
    items, seeds = ([getattr(one, name) for one in found] for name in ("items", "seeds"))
    return (
        f"The control is {runs} ({told(first.config)}). Every arm is paired with it by item and seed: {_spread(items)} items, "
        f"{_spread(seeds)} {'seed' if max(seeds) == 1 else 'seeds'}. "
        + _tests(found, max(len(family.contrasts) for family in comparison.families))
        + _leading_told(comparison)
    )


def _leading_told(comparison: Comparison) -> str:
    """Which models are shown first, and why."""
    first = comparison.first_read
    if not first or all(one.subject != first for one in comparison.leading):
        return ""
    return (
        f" The arms differ in principles or exemplars alone, and these shape what the {first} model is trained on: its tables are "
        "shown first."
    )


def _tests(found: Sequence[Contrast], arms: int) -> str:
    names = " or ".join(dict.fromkeys(one.test.method for one in found))
    several = max(one.seeds for one in found) > 1
    unit = "an item's outcomes over its seeds are averaged, and items are the unit" if several else "items are the unit"
    text = f"p: {names}, two-sided; {unit}, so that it speaks about new items, for the seeds that were run. "
    if several:
        text += (
            "p, seeds too, asks whether new seeds would show the difference as well as new items (min F' over both). "
        )
    if arms > 1:
        text += f"{'Both are' if several else 'It is'} corrected by Holm over the arms of a metric (up to {arms}). "
    level = f"{100 * ALPHA:g} %" + (" divided by the arms" if arms > 1 else "")
    return text + (
        f"Intervals: {100 * (1 - ALPHA):g} %, BCa bootstrap over items, not corrected; those of exams count one item more on "
        f"either side (Bonett and Price 2012). Detectable: the difference that is found with probability {100 * POWER:g} % at a "
        f"level of {level}, with as many items differing as did. Lost: items right in the first of the two only; gained: in the "
        "second only."
    )


def _spread(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def effects(comparison: Comparison) -> dict[str, Any]:
    """What the page shows of a comparison."""
    return {
        "method": method(comparison),
        "tables": tables(comparison),
        "refusals": refusals(comparison.families),
        "notes": list(comparison.notes),
    }


def refusals(families: Sequence[Family]) -> list[str]:
    """What was not compared and why, one sentence a model and reason. What all arms of a metric have to do with, such as an
    invalid control, stands alone: an arm's own reasons beside it are in the exported table."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for family in families:
        reasons: dict[str, list[str]] = {}
        parts = [one.reason.split("; ") for one in family.refusals]
        common = [part for part in parts[0] if all(part in own for own in parts)] if parts else []
        for one in family.refusals:
            reasons.setdefault("; ".join(common) or one.reason, []).append(one.arm)
        for reason, arms in reasons.items():
            is_all = len(arms) == len(family.refusals) + len(family.contrasts) > 1
            found.setdefault((family.subject, "all arms" if is_all else ", ".join(arms), reason), []).append(
                family.name
            )
    return [f"{', '.join(names)}, {subject}, {arms}: {reason}" for (subject, arms, reason), names in found.items()]


def grid(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the families to read first, all as text."""
    rows = []
    for family in comparison.leading:
        for one in family.contrasts:
            texts = dict(zip(head(family.contrasts), (cell.text for cell in cells(one, family.contrasts)), strict=True))
            where = [family.task, family.protocol, family.metric, family.subject, one.arm]
            rows.append(where + [texts.get(name, ABSENT) for name in _columns(comparison.leading)])
    return ["task", "protocol", "metric", "model", "arm", *_columns(comparison.leading)] if rows else [], rows


def _columns(families: Sequence[Family]) -> list[str]:
    return list(max((head(family.contrasts) for family in families), key=len, default=()))


# ------------------------------------------------------------------------------------------------------- verbose tax


def tax_table(tax: Tax) -> Table:
    """The verbose tax, one row a metric and arm, and its plot where there is a single arm."""
    is_single = all(len(family.contrasts) + len(family.refusals) == 1 for family in tax.families)
    widest = max((family.contrasts for family in tax.families), key=lambda found: len(head(found)))
    names = head(widest, ("engraved", "cloned"))
    per_100 = bool(tax.lengths)
    rows, effects = [], []
    for family in tax.families:
        for one in family.contrasts:
            label = family.name if is_single else f"{family.name} · {one.arm}"
            shown = dict(zip(head(family.contrasts, ("engraved", "cloned")), cells(one, family.contrasts), strict=True))
            row = [shown.get(name, Cell(ABSENT)) for name in names]
            rows.append((label, (*row, *([_per_100(tax, one)] if per_100 else []))))
            if one.flips is not None:
                effects.append(_effect(one, f"{family.task} · {family.protocol}"))
    figure = figures.forest(
        effects if is_single else [],
        x_label="cloned minus engraved, with its 95 % interval",
        title="Verbose tax",
    )
    return Table(
        "Verbose tax",
        "cloned",
        ("metric", *names, *(["per +100 tokens"] if per_100 else [])),
        tuple(rows),
        figure,
        True,
    )


def _per_100(tax: Tax, one: Contrast) -> Cell:
    found = tax.per_100(one) if one.flips is not None else None
    if found is None:
        return Cell(ABSENT)
    return Cell(f"{number(found.value, signed=True)} ({interval_text(found, found.value)})", found.value)


def tax_view(tax: Tax) -> dict[str, Any]:
    """What the page shows of the verbose tax."""
    return {"method": tax_method(tax), "table": tax_table(tax), "refusals": refusals(tax.families)}


def tax_method(tax: Tax) -> str:
    """How the verbose tax was computed, and how much longer answers became."""
    every = [one for family in tax.families for one in family.contrasts]
    arms = max(len(family.contrasts) for family in tax.families)
    text = "The same runs before and after verbose cloning, paired by item and seed. " + _tests(every, arms)
    for arm, found in tax.lengths.items():
        text += f" {_length_text(found)}" if len(tax.lengths) == 1 else f" {arm}: {_length_text(found)}"
    if tax.lengths:
        text += (
            " Per +100 tokens: the difference divided by that of the lengths (Fieller's interval), where answers became clearly "
            "longer or shorter."
        )
    return text


def _length_text(found: Lengths) -> str:
    error = f" ± {found.stderr:.1f}" if math.isfinite(found.stderr) else ""
    cut = f"; {found.cut:,} ended at the limit of tokens and would be longer" if found.cut else ""
    return (
        f"Answers to {found.answers:,} open questions have {found.engraved:.1f} tokens before and {found.cloned:.1f} after "
        f"({number(found.difference, signed=True, digits=1)}{error}){cut}."
    )
