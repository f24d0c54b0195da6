"""Inline SVG figures: training curves, a dot plot of scores, a forest plot of differences. Numbers in, markup out, coloured
by the page's CSS.

Our own rather than matplotlib's: text stays text, colours follow light and dark, and a figure is a few kilobytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

WIDTH = 640.0
SLACK = 1e-9
"""Rounding of a place on an axis."""
MAX_POINTS = 400
"""Points that a curve is drawn with at most; the last of each stretch is kept."""
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
"""Control characters and halves of surrogate pairs: they are no text, and a page may not contain them."""


@dataclass(frozen=True)
class Curve:
    """A named series of (step, value)."""

    name: str
    points: tuple[tuple[float, float], ...]
    css: str = ""
    """CSS class of the line."""


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers from `low` to `high`, both inside or just outside the range."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    raw = span / max(count, 1)
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _short(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= MAX_POINTS:
        return list(points)
    stride = math.ceil(len(points) / MAX_POINTS)
    return [*points[stride - 1 :: stride], *([points[-1]] if len(points) % stride else [])]


def curves(series: Sequence[Curve], *, x_label: str, y_label: str, title: str) -> Markup:
    """A line chart; points that are not finite are left out, a curve of few points shows each of them.

    Returns an empty text where no curve has a finite point.
    """
    clean = [Curve(c.name, tuple(p for p in c.points if all(map(math.isfinite, p))), c.css) for c in series]
    clean = [curve for curve in clean if curve.points]
    if not clean:
        return Markup("")
    height, left, right, top, bottom = 260.0, 52.0, 12.0, 12.0, 40.0
    xs = [x for curve in clean for x, _ in curve.points]
    ys = [y for curve in clean for _, y in curve.points]
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys), 4)
    x_low, x_high = min(xs), max(xs)
    y_low, y_high = min(*ys, y_ticks[0]), max(*ys, y_ticks[-1])
    x_span, y_span = (x_high - x_low) or 1.0, (y_high - y_low) or 1.0

    def at(x: float, y: float) -> tuple[float, float]:
        across = left + (x - x_low) / x_span * (WIDTH - left - right)
        return round(across, 1), round(height - bottom - (y - y_low) / y_span * (height - top - bottom), 1)

    parts = [f'<svg class="figure" viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{escape(title)}">']
    for value in y_ticks:
        _, y = at(x_low, value)
        parts.append(f'<line class="grid" x1="{left}" x2="{WIDTH - right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{left - 8}" y="{y + 4:g}" text-anchor="end">{_short(value)}</text>')
    for value in x_ticks:
        if x_low <= value <= x_high:
            x, _ = at(value, y_low)
            parts.append(
                f'<text class="tick" x="{x}" y="{height - bottom + 18}" text-anchor="middle">{_short(value)}</text>'
            )
    middle = (left + WIDTH - right) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{height - 4}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(f'<text class="axis" x="{left}" y="{top - 2}" text-anchor="start">{escape(y_label)}</text>')
    for curve in clean:
        places = [at(x, y) for x, y in _thinned(curve.points)]
        path = "M" + "L".join(f"{x},{y}" for x, y in places)
        parts.append(f'<path class="curve {escape(curve.css)}" d="{path}"><title>{escape(curve.name)}</title></path>')
        if len(places) <= 40:
            for (x, y), (step, value) in zip(places, curve.points, strict=True):
                tip = f"{escape(curve.name)}, {escape(x_label)} {_short(step)}: {value:.4g}"
                parts.append(
                    f'<circle class="dot {escape(curve.css)}" cx="{x}" cy="{y}" r="2.6"><title>{tip}</title></circle>'
                )
    return Markup("".join(parts) + "</svg>")


@dataclass(frozen=True)
class Dot:
    """One score on a line of the dot plot."""

    label: str
    css: str
    value: float
    stderr: float | None


@dataclass(frozen=True)
class DotLine:
    """One metric of the dot plot; all its values lie in 0..1."""

    label: str
    dots: tuple[Dot, ...]
    chance: float | None


def dots(rows: Sequence[DotLine], *, title: str) -> Markup:
    """Scores from 0 to 1, one row a metric: a dot a model, a whisker of 1.96 standard errors, a tick at chance."""
    if not rows:
        return Markup("")
    row_height, top, bottom, left, right = 46.0, 6.0, 26.0, 10.0, 10.0
    height = top + bottom + row_height * len(rows)

    def across(value: float) -> float:
        return round(left + min(max(value, 0.0), 1.0) * (WIDTH - left - right), 1)

    parts = [f'<svg class="figure" viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{escape(title)}">']
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = across(value)
        anchor = "start" if value == 0 else "end" if value == 1 else "middle"
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{top}" y2="{height - bottom}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{height - bottom + 18}" text-anchor="{anchor}">{value:g}</text>')
    for index, row in enumerate(rows):
        y = top + index * row_height + 30
        parts.append(f'<text class="label" x="{left}" y="{y - 15:g}">{escape(row.label)}</text>')
        parts.append(f'<line class="rail" x1="{left}" x2="{WIDTH - right}" y1="{y:g}" y2="{y:g}"/>')
        if row.chance is not None:
            x = across(row.chance)
            parts.append(f'<line class="chance" x1="{x}" x2="{x}" y1="{y - 9:g}" y2="{y + 9:g}">')
            parts.append(f"<title>chance {row.chance:.3f}</title></line>")
        for dot in row.dots:
            parts.append(_dot(dot, y, across))
    return Markup("".join(parts) + "</svg>")


def _dot(dot: Dot, y: float, across) -> str:
    x, css = across(dot.value), escape(dot.css)
    whisker = ""
    if dot.stderr:
        low, high = across(dot.value - 1.96 * dot.stderr), across(dot.value + 1.96 * dot.stderr)
        whisker = f'<line class="whisker {css}" x1="{low}" x2="{high}" y1="{y:g}" y2="{y:g}"/>'
    tip = f"{escape(dot.label)}: {dot.value:.3f}" + (f" ± {dot.stderr:.3f}" if dot.stderr else "")
    return f'{whisker}<circle class="dot {css}" cx="{x}" cy="{y:g}" r="5.5"><title>{tip}</title></circle>'


@dataclass(frozen=True)
class Effect:
    """A line of the forest plot: a difference with its interval."""

    label: str
    value: float
    low: float
    high: float
    css: str
    """Class that colours it."""
    note: str
    """Text at the right end of the line: the numbers."""


def forest(effects: Sequence[Effect], *, x_label: str, title: str) -> Markup:
    """A forest plot: a line an effect with its interval, and a line at 0. Empty where there is no effect."""
    if not effects:
        return Markup("")
    row, top, bottom, left, right = 22.0, 6.0, 40.0, 176.0, 172.0
    height = top + bottom + row * len(effects)
    ends = [0.0, *(end for one in effects for end in (one.low, one.value, one.high))]
    marks = ticks(min(ends), max(ends), 4)
    low, high = min(marks[0], *ends), max(marks[-1], *ends)
    if low == high:
        low, high = low - 1.0, high + 1.0

    def across(value: float) -> float:
        return round(left + (value - low) / (high - low) * (WIDTH - left - right), 1)

    parts = [f'<svg class="figure dense" viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{_clean(title)}">']
    for mark in marks:
        x, css = across(mark), "chance" if mark == 0 else "grid"
        parts.append(f'<line class="{css}" x1="{x}" x2="{x}" y1="{top}" y2="{height - bottom:g}"/>')
        parts.append(
            f'<text class="tick" x="{x}" y="{height - bottom + 17:g}" text-anchor="middle">{_short(mark)}</text>'
        )
    middle = (left + WIDTH - right) / 2
    parts.append(f'<text class="axis" x="{middle:g}" y="{height - 4:g}" text-anchor="middle">{_clean(x_label)}</text>')
    for index, one in enumerate(effects):
        y, css = top + row * (index + 0.5), _clean(one.css)
        name, tip = _clean(_cut(one.label, 25)), _clean(f"{one.label}: {one.note}")
        parts.append(
            f'<text class="label" x="{left - 8:g}" y="{y + 4:g}" text-anchor="end">{name}<title>{tip}</title></text>'
        )
        ends_x = f'x1="{across(one.low)}" x2="{across(one.high)}"'
        parts.append(f'<line class="whisker {css}" {ends_x} y1="{y:g}" y2="{y:g}"/>')
        parts.append(
            f'<circle class="dot {css}" cx="{across(one.value)}" cy="{y:g}" r="4.5"><title>{tip}</title></circle>'
        )
        parts.append(f'<text class="tick" x="{WIDTH:g}" y="{y + 4:g}" text-anchor="end">{_clean(one.note)}</text>')
    return Markup("".join(parts) + "</svg>")


@dataclass(frozen=True)
class Spot:
    """A point of a scatter plot, with its standard errors (None: no whisker)."""

    label: str
    css: str
    x: tuple[float, float | None]
    y: tuple[float, float | None]
    is_on_front: bool = False


def scatter(spots: Sequence[Spot], *, x_label: str, y_label: str, title: str) -> Markup:
    """A scatter plot with whiskers of 1.96 standard errors, and a line along the spots on the front. Empty for no spot."""
    if not spots:
        return Markup("")
    height, left, right, top, bottom = 380.0, 52.0, 14.0, 24.0, 40.0

    def ends(pick: Callable[[Spot], tuple[float, float | None]]) -> tuple[list[float], float, float]:
        reach = [value + sign * 1.96 * (error or 0.0) for value, error in map(pick, spots) for sign in (-1, 1)]
        low, high = (min(reach), max(reach)) if min(reach) < max(reach) else (min(reach) - 0.5, max(reach) + 0.5)
        if all(0 <= pick(spot)[0] <= 1 for spot in spots):
            # A share has no room below 0 or above 1, whatever its whiskers say.
            low, high = max(low, 0.0), min(high, 1.0)
        marks = ticks(low, high, 5)
        return [mark for mark in marks if low - SLACK <= mark <= high + SLACK], low, high

    (x_marks, x_low, x_high), (y_marks, y_low, y_high) = ends(lambda spot: spot.x), ends(lambda spot: spot.y)

    def across(value: float) -> float:
        return round(left + (min(max(value, x_low), x_high) - x_low) / (x_high - x_low) * (WIDTH - left - right), 1)

    def up(value: float) -> float:
        return round(
            height - bottom - (min(max(value, y_low), y_high) - y_low) / (y_high - y_low) * (height - top - bottom), 1
        )

    parts = [f'<svg class="figure" viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{_clean(title)}">']
    for mark in x_marks:
        x = across(mark)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{top}" y2="{height - bottom}"/>')
        parts.append(
            f'<text class="tick" x="{x}" y="{height - bottom + 17}" text-anchor="middle">{_short(mark)}</text>'
        )
    for mark in y_marks:
        y = up(mark)
        parts.append(f'<line class="grid" x1="{left}" x2="{WIDTH - right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text class="tick" x="{left - 8}" y="{y + 4:g}" text-anchor="end">{_short(mark)}</text>')
    middle = (left + WIDTH - right) / 2
    parts.append(f'<text class="axis" x="{middle:g}" y="{height - 4:g}" text-anchor="middle">{_clean(x_label)}</text>')
    parts.append(f'<text class="axis" x="0" y="{top - 10:g}">{_clean(y_label)}</text>')
    front = sorted((across(spot.x[0]), up(spot.y[0])) for spot in spots if spot.is_on_front)
    if len(front) > 1:
        parts.append(f'<path class="curve front" d="M{"L".join(f"{x},{y}" for x, y in front)}"/>')
    for spot in spots:
        x, y, css = across(spot.x[0]), up(spot.y[0]), _clean(spot.css)
        for (value, error), place, line in ((spot.x, across, 'y1="{1}" y2="{1}" x1="{2}" x2="{3}"'),
                                            (spot.y, up, 'x1="{0}" x2="{0}" y1="{2}" y2="{3}"')):  # fmt: skip
            if error:
                low, high = place(value - 1.96 * error), place(value + 1.96 * error)
                parts.append(f'<line class="whisker thin {css}" {line.format(x, y, low, high)}/>')
        tip = _clean(f"{spot.label}: {spot.x[0]:.3f}, {spot.y[0]:.3f}")
        parts.append(
            f'<circle class="dot {css}" cx="{x}" cy="{y}" r="{6 if spot.is_on_front else 4.5}"><title>{tip}</title></circle>'
        )
    return Markup("".join(parts) + "</svg>")


def _clean(text: str) -> str:
    return escape(CONTROL.sub("\ufffd", text))


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1].rstrip() + "…"
