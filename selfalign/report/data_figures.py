"""Figures of a run's data as inline SVG: bars by group, a matrix, histograms, split bars. Numbers in, markup out.

Colours come from the page's CSS by class, as in figures.py; every bar says its numbers in a tooltip, and every text of a
model or a user is escaped here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from selfalign.report.diversity import Histogram
from selfalign.report.figures import CONTROL, WIDTH, ticks

LETTER = 6.6
"""Average width of a letter at the figures' text size."""


def _clean(text: str) -> str:
    return escape(CONTROL.sub("\ufffd", text))


def _fitted(text: str, width: float) -> str:
    """A text cut to what `width` has room for, escaped."""
    room = max(int(width / LETTER), 1)
    return _clean(text if len(text) <= room else text[: room - 1].rstrip() + "…")


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _open(width: float, height: float, title: str, css: str = "dense") -> str:
    return f'<svg class="figure {css}" viewBox="0 0 {_n(width)} {_n(height)}" role="img" aria-label="{_clean(title)}">'


def _text(x: float, y: float, text: str, css: str, anchor: str = "start", more: str = "") -> str:
    return f'<text class="{css}" x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}"{more}>{text}</text>'


def _bar(x: float, y: float, width: float, height: float, css: str, tip: str) -> str:
    box = f'x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}"'
    return f'<rect class="fill {_clean(css)}" {box}><title>{_clean(tip)}</title></rect>'


# ----------------------------------------------------------------------------------------------------- grouped bars


@dataclass(frozen=True)
class Measure:
    """One bar of a group."""

    css: str
    """Class that colours it."""
    share: float
    """Its length, 0..1."""
    tip: str


@dataclass(frozen=True)
class Group:
    """A name with one bar a series."""

    label: str
    bars: tuple[Measure, ...]
    note: str = ""
    """What is said of a name that is not like the others; it is shown in the warning colour."""


def grouped_bars(groups: Sequence[Group], *, x_label: str, title: str) -> Markup:
    """Horizontal bars, one group a name, shares in percent; empty where there is no group or no bar."""
    bars = max((len(group.bars) for group in groups), default=0)
    if not bars:
        return Markup("")
    left = 222.0 if any(group.note for group in groups) else 178.0
    right, top, bottom, bar, gap = 44.0, 4.0, 40.0, (11.0 if bars < 3 else 8.0), 9.0
    row = bars * bar + gap
    height = top + bottom + row * len(groups)
    marks = [mark for mark in ticks(0.0, max([0.01, *(m.share for group in groups for m in group.bars)])) if mark >= 0]
    scale = (WIDTH - left - right) / marks[-1]
    parts = [_open(WIDTH, height, title)]
    for mark in marks:
        x = left + mark * scale
        parts.append(f'<line class="grid" x1="{_n(x)}" x2="{_n(x)}" y1="{_n(top)}" y2="{_n(height - bottom)}"/>')
        parts.append(_text(x, height - bottom + 17, f"{100 * mark:g} %", "tick", "middle"))
    parts.append(_text((left + WIDTH - right) / 2, height - 4, _clean(x_label), "axis", "middle"))
    for index, group in enumerate(groups):
        y = top + row * index + gap / 2
        note = f"{group.label}: {group.note}" if group.note else group.label
        tip = f"<title>{_clean(note)}</title>"
        shown = f"{group.label} · {group.note}" if group.note else group.label
        css = "label noted" if group.note else "label"
        parts.append(_text(left - 8, y + bars * bar / 2 + 4, _fitted(shown, left - 8) + tip, css, "end"))
        for place, measure in enumerate(group.bars):
            size = measure.share * scale
            parts.append(_bar(left, y + place * bar, max(size, 0.8), bar - 1.5, measure.css, measure.tip))
            if bars < 3:
                percent = f"{100 * measure.share:.1f}"
                parts.append(_text(left + size + 5, y + place * bar + 8.5, percent, "tick tiny"))
    return Markup("".join(parts) + "</svg>")


# ----------------------------------------------------------------------------------------------------------- matrix


def matrix(names: Sequence[str], cells: Sequence[Sequence[int]], noted: Sequence[bool], *, title: str) -> Markup:
    """A symmetric matrix of counts, shaded by the highest count beside the diagonal, whose cells are framed instead.

    `noted` names are shown in the warning colour. Raises ValueError where `cells` is not [names, names].
    """
    if len(cells) != len(names) or any(len(row) != len(names) for row in cells):
        raise ValueError(f"expected {len(names)} rows of {len(names)} counts; give one row and one column a name")
    if not names:
        return Markup("")
    left, top = 160.0, 132.0
    size = min((WIDTH - left - 8) / len(names), 30.0)
    most = max((cells[i][j] for i in range(len(names)) for j in range(len(names)) if i != j), default=0)
    height = top + size * len(names) + 6
    parts = [_open(WIDTH, height, title)]
    for index, name in enumerate(names):
        css = "label noted" if noted[index] else "label"
        tip = f"<title>{_clean(name)}</title>"
        x, y = left + size * (index + 0.5) + 4, top - 8
        turned = f' transform="rotate(-50 {_n(x)} {_n(y)})"'
        parts.append(_text(x, y, _fitted(name, 150) + tip, css, "start", turned))
        parts.append(_text(left - 8, top + size * (index + 0.5) + 4, _fitted(name, left - 8) + tip, css, "end"))
    for i, left_name in enumerate(names):
        for j, right_name in enumerate(names):
            count, x, y = cells[i][j], left + size * j, top + size * i
            tip = f"{left_name}: {count:,}" if i == j else f"{left_name} and {right_name}: {count:,}"
            shade = 0.0 if i == j or not most else count / most
            box = f'x="{_n(x + 0.5)}" y="{_n(y + 0.5)}" width="{_n(size - 1)}" height="{_n(size - 1)}"'
            css = "cell own" if i == j else "cell"
            parts.append(f'<rect class="{css}" {box} fill-opacity="{shade:.2f}"><title>{_clean(tip)}</title></rect>')
            if count and size >= 17:
                css = "label tiny light" if shade > 0.7 else "label tiny"
                parts.append(_text(x + size / 2, y + size / 2 + 3.5, _short(count), css, "middle"))
    return Markup("".join(parts) + "</svg>")


def _short(count: int) -> str:
    """`999`, `1.2k`, `35k`: fits a cell."""
    return f"{count}" if count < 1000 else f"{count / 1000:.1f}k" if count < 9950 else f"{count / 1000:.0f}k"


# -------------------------------------------------------------------------------------------------------- histogram


def histogram(found: Histogram, *, x_label: str, title: str, mark: float | None = None, mark_label: str = "") -> Markup:
    """Vertical bars; values beyond the last bin stand in a bar of their own, `mark` is a line with its label."""
    width, height, left, right, top, bottom = 320.0, 180.0, 40.0, 8.0, 16.0, 38.0
    bins = [*found.counts, *([found.beyond] if found.beyond else [])]
    step = (width - left - right) / len(bins)
    marks = [value for value in ticks(0, max([1, *bins]), 3) if value >= 0]
    ground = height - bottom

    def across(value: float) -> float:
        return left + (value - found.low) / found.width * step

    parts = [_open(width, height, title, "small")]
    for value in marks:
        y = ground - value / marks[-1] * (ground - top)
        parts.append(f'<line class="grid" x1="{_n(left)}" x2="{_n(width - right)}" y1="{_n(y)}" y2="{_n(y)}"/>')
        parts.append(_text(left - 6, y + 4, f"{value:,g}", "tick", "end"))
    for index, count in enumerate(bins):
        size = count / marks[-1] * (ground - top)
        edges = found.low + index * found.width, found.low + (index + 1) * found.width
        is_beyond = index == len(found.counts)
        tip = f"{_edge(edges[0])} and more: {count:,}" if is_beyond else f"{_between(*edges)}: {count:,}"
        css = "beyond" if is_beyond else "data"
        parts.append(_bar(left + index * step + 0.5, ground - size, max(step - 1, 0.5), size, css, tip))
    for value in ticks(found.low, found.high, 4):
        if found.low <= value <= found.high + 1e-9:
            parts.append(_text(across(value), ground + 15, _edge(value), "tick", "middle"))
    if found.beyond:
        parts.append(_text(width - right, ground + 15, "more", "tick", "end"))
    parts.append(_text((left + width - right) / 2, height - 5, _clean(x_label), "axis", "middle"))
    if mark is not None:
        x = across(mark)
        parts.append(f'<line class="chance" x1="{_n(x)}" x2="{_n(x)}" y1="{_n(top - 4)}" y2="{_n(ground)}"/>')
        parts.append(_text(x - 4, top + 4, _clean(mark_label), "tick", "end"))
    return Markup("".join(parts) + "</svg>")


def _edge(value: float) -> str:
    return f"{value:g}"


def _between(low: float, high: float) -> str:
    """A bin in words: a single whole number where it holds no other."""
    if high - low == 1 and float(low).is_integer():
        return _edge(low)
    whole = float(low).is_integer() and float(high).is_integer()
    return f"{_edge(low)} to {_edge(high - 1)}" if whole else f"{_edge(round(low, 9))} to {_edge(round(high, 9))}"


# ------------------------------------------------------------------------------------------------------- split bars


@dataclass(frozen=True)
class Segment:
    """A part of a split bar."""

    css: str
    count: int
    text: str = ""
    """What it stands for, in its tooltip."""


@dataclass(frozen=True)
class Line:
    """A name with one split bar a panel."""

    label: str
    panels: tuple[tuple[Segment, ...], ...]
    note: str = ""
    """Text at the right end of the line, where figures have room for one."""


def split_bars(
    lines: Sequence[Line], heads: Sequence[str], *, title: str, left: float = 178.0, notes: float = 0.0
) -> Markup:
    """Split bars, panels side by side with a scale of their own each; a number behind each bar says how long it is.

    `left` and `notes` are the widths of names and notes. Raises ValueError for a line without one bar a head.
    """
    if any(len(line.panels) != len(heads) for line in lines):
        raise ValueError(f"expected {len(heads)} bars a line, one for each of {', '.join(heads)}")
    if not lines:
        return Markup("")
    top, row, bar, number = (22.0 if any(heads) else 4.0), 22.0, 16.0, 46.0
    wide = (WIDTH - left - notes) / len(heads)
    height = top + row * len(lines) + 4
    parts = [_open(WIDTH, height, title)]
    for place, head in enumerate(heads):
        longest = max([1, *(sum(part.count for part in line.panels[place]) for line in lines)])
        scale, start = (wide - number) / longest, left + wide * place
        parts.append(_text(start, 12, _clean(head), "axis") if head else "")
        for index, line in enumerate(lines):
            x, y = start, top + row * index
            for part in line.panels[place]:
                size = part.count * scale
                if not part.count:
                    continue
                tip = f"{line.label}: {part.text} {part.count:,}"
                parts.append(_bar(x, y, max(size - 1, 0.5), bar, part.css, tip))
                x += size
            total = sum(part.count for part in line.panels[place])
            parts.append(_text(x + 5, y + 12, f"{total:,}", "tick"))
    for index, line in enumerate(lines):
        tip = f"<title>{_clean(line.label)}</title>"
        parts.append(_text(left - 8, top + row * index + 12, _fitted(line.label, left - 8) + tip, "label", "end"))
        if line.note and notes:
            tip = f"<title>{_clean(line.note)}</title>"
            parts.append(_text(WIDTH - notes, top + row * index + 12, _fitted(line.note, notes) + tip, "tick"))
    return Markup("".join(parts) + "</svg>")
