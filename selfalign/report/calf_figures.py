"""The three pictures of Calf's card as SVG files: numbers in, markup out; the same numbers give the same bytes.

Files of their own, shown as images: colours stand in the markup (Okabe and Ito's palette, with a shape for each series, so
that nobody needs to tell colours apart), on a white ground.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from statistics import mean

from selfalign.report.calf_numbers import Numbers, TaxLine, half_width, length_ratios, over_seeds, rule_name, tax_lines
from selfalign.report.figures import ticks

WIDTH = 800
INK, FAINT, STRIPE = "#222222", "#c8c8c8", "#f4f4f4"
SERIES = {
    "base": ("base, no rules", "#767676"),
    "prompted": ("prompted, all rules", "#0072b2"),
    "without": ("prompted, its rule left out", "#d55e00"),
    "engraved": ("engraved, no rules", "#009e73"),
    "cloned": ("cloned, no rules", "#b4589a"),
}
"""Condition -> its name in the legend and its colour."""


def _mark(series: str, x: float, y: float, size: float = 4.2) -> str:
    """The shape of a series at a place."""
    colour, s = SERIES[series][1], size
    if series == "base":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{s - 0.4:.1f}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
    if series == "prompted":
        return f'<rect x="{x - s + 0.6:.1f}" y="{y - s + 0.6:.1f}" width="{2 * s - 1.2:.1f}" height="{2 * s - 1.2:.1f}" fill="{colour}"/>'  # noqa: E501
    shapes = {
        "without": ((-s, -s + 1), (s, -s + 1), (0, s)),
        "engraved": ((0, -s - 0.6), (s + 0.6, 0), (0, s + 0.6), (-s - 0.6, 0)),
        "cloned": ((-s, s - 1), (s, s - 1), (0, -s)),
    }
    corners = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in shapes[series])
    return f'<polygon points="{corners}" fill="{colour}"/>'


def _text(x: float, y: float, text: str, *, size: float = 13, anchor: str = "start", colour: str = INK, more: str = ""):
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" text-anchor="{anchor}" fill="{colour}"{more}>'
        f"{escape(text)}</text>"
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str = FAINT, width: float = 1, more: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width:g}"{more}/>'


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:g}" viewBox="0 0 {WIDTH} {height:g}" '
        f'role="img" font-family="system-ui, Segoe UI, Helvetica, Arial, sans-serif"><title>{escape(title)}</title>'
        f'<rect width="{WIDTH}" height="{height:g}" fill="#ffffff"/>'
    )
    return "\n".join([head, *parts, "</svg>"]) + "\n"


def _axis(across: Callable[[float], float], values: Sequence[float], top: float, bottom: float, unit: str) -> list[str]:
    parts = []
    for value in values:
        parts.append(_line(across(value), top, across(value), bottom))
        parts.append(_text(across(value), bottom + 17, f"{value:g}{unit}".replace("-", "−"), size=12, anchor="middle"))
    return parts


# --------------------------------------------------------------------------------------------------------- behaviour


def behaviour(numbers: Numbers) -> str:
    """How often each principle's behaviour is shown: one row a principle, one shape a condition.

    Students are shown by the mean over seeds, with a line from the lowest to the highest.
    """
    left, right, top, row = 172, 24, 62, 46
    rules = numbers["principles"]
    bottom = top + row * len(rules)
    names = [name for name in SERIES if numbers["seeds"] or name not in ("engraved", "cloned")]

    def across(value: float) -> float:
        return left + value / 100 * (WIDTH - left - right)

    parts = [_text(16, 20, "Answers that show a principle's behaviour, by the principle that governs the question")]
    x = 16.0
    for name in names:
        parts += [_mark(name, x + 5, 40), _text(x + 15, 44.5, SERIES[name][0], size=12.5)]
        x += 34 + 6.6 * len(SERIES[name][0])
    for index in range(0, len(rules), 2):
        parts.append(f'<rect x="0" y="{top + row * index}" width="{WIDTH}" height="{row}" fill="{STRIPE}"/>')
    parts += _axis(across, [0, 25, 50, 75, 100], top, bottom, " %")
    for index, rule in enumerate(rules):
        y = top + row * index
        parts.append(_text(left - 12, y + row / 2 + 4.5, rule_name(rule), anchor="end"))
        for lane, name in enumerate(names):
            values = _values(numbers, name, rule)
            height = y + row * (lane + 0.9) / (len(names) + 0.8)
            if values:
                colour = SERIES[name][1]
                low, high = (across(100 * bound) for bound in (min(values), max(values)))
                parts.append(_line(low, height, high, height, colour, 2) if high > low else "")
                parts.append(_mark(name, across(100 * mean(values)), height))
    return _svg(bottom + 30, "Behaviour shown by base, prompted, ablated, engraved and cloned Calf", parts)


def _values(numbers: Numbers, condition: str, rule: str) -> list[float]:
    if condition in ("engraved", "cloned"):
        return over_seeds(numbers, condition, rule)
    if condition == "without":
        return [numbers["without"][rule][rule]]
    return [numbers[condition]["principles"][rule]]


# ---------------------------------------------------------------------------------------------------------- heat map


def _blue(share: float) -> str:
    """White at 0, dark blue at 1."""
    ends = ((255, 255, 255), (8, 64, 129))
    return "#" + "".join(f"{round(low + (high - low) * share):02x}" for low, high in zip(*ends, strict=True))


def ablation(numbers: Numbers) -> str:
    """Rule left out (row) against behaviour shown (column), in percent; the dark frame marks the rule's own behaviour."""
    rules = numbers["principles"]
    left, top, row = 172, 176, 25
    wide = (WIDTH - left - 64) / len(rules)
    lines = [("", numbers["prompted"]["marks"]), *((rule, numbers["without"][rule]) for rule in rules)]
    parts = [_text(16, 20, "Share of answers (%) that show the mark of a rule (column) when a rule (row) is left out")]
    for index, rule in enumerate(rules):
        x, y = left + wide * (index + 0.5), top - 8
        parts.append(_text(x + 4, y, rule_name(rule), size=12.5, more=f' transform="rotate(-55 {x + 4:.1f} {y})"'))
    framed = []
    for number, (gone, shares) in enumerate(lines):
        y = top + row * number + (6 if number else 0)
        parts.append(_text(left - 10, y + row / 2 + 4.5, rule_name(gone) or "none left out", anchor="end"))
        for index, rule in enumerate(rules):
            value, x = shares.get(rule), left + wide * index
            box = f'x="{x + 0.5:.1f}" y="{y + 0.5:.1f}" width="{wide - 1:.1f}" height="{row - 1}"'
            if value is None:
                continue
            parts.append(f'<rect {box} fill="{_blue(value)}" stroke="#dddddd" stroke-width="0.6"/>')
            colour = "#ffffff" if value > 0.5 else INK
            parts.append(
                _text(x + wide / 2, y + row / 2 + 4, f"{100 * value:.0f}", size=11.5, anchor="middle", colour=colour)
            )
            if gone == rule:
                framed.append(f'<rect {box} fill="none" stroke="#d55e00" stroke-width="2.4"/>')
    return _svg(top + row * len(lines) + 22, "Which behaviour goes when a rule is left out", [*parts, *framed])


# -------------------------------------------------------------------------------------------------------- verbose tax


def tax(numbers: Numbers) -> str:
    """Cloned minus engraved for each benchmark, seeds as rings and their mean with its 95 % t-interval; answer lengths."""
    lines = tax_lines(numbers)
    left, right, top, row = 232, 28, 52, 30
    bottom = top + row * len(lines)
    reach = max([1.0, *(100 * abs(value) for line in lines for value in _reach(line))]) * 1.05
    marks = ticks(-reach, reach, 6)

    def across(value: float) -> float:
        return left + (value - marks[0]) / (marks[-1] - marks[0]) * (WIDTH - left - right)

    parts = [
        _text(16, 20, "Verbose tax: cloned − engraved, points (ring: a seed; dot and line: mean, 95 % t-interval)")
    ]
    for index in range(0, len(lines), 2):
        parts.append(f'<rect x="0" y="{top + row * index}" width="{WIDTH}" height="{row}" fill="{STRIPE}"/>')
    parts += _axis(across, marks, top, bottom, "")
    parts.append(_line(across(0), top - 6, across(0), bottom, INK, 1.6))
    parts.append(_text(across(0) - 8, top - 8, "◀ cloning costs", size=12, anchor="end"))
    parts.append(_text(across(0) + 8, top - 8, "cloning gains ▶", size=12))
    for index, line in enumerate(lines):
        parts += _tax_row(line, top + row * (index + 0.5), left, across)
    return _svg(bottom + 170, "Verbose tax and answer length", [*parts, *_lengths(numbers, bottom + 62, left, right)])


def _reach(line: TaxLine) -> list[float]:
    if not line.differences:
        return []
    half = half_width(line.differences) or 0.0
    return [*line.differences, mean(line.differences) - half, mean(line.differences) + half]


def _tax_row(line: TaxLine, y: float, left: float, across: Callable[[float], float]) -> list[str]:
    parts = [_text(left - 12, y + 4.5, line.label, anchor="end")]
    if not line.differences:
        return [*parts, _text(left + 8, y + 4.5, "invalid", size=12, colour="#a33c00")]
    for value in line.differences:
        parts.append(
            f'<circle cx="{across(100 * value):.1f}" cy="{y:.1f}" r="3.4" fill="none" stroke="#767676" stroke-width="1.3"/>'
        )
    centre, half = mean(line.differences), half_width(line.differences)
    if half is not None:
        parts.append(_line(across(100 * (centre - half)), y, across(100 * (centre + half)), y, "#0072b2", 2.4))
    parts.append(f'<circle cx="{across(100 * centre):.1f}" cy="{y:.1f}" r="5" fill="#0072b2"/>')
    return parts


def _lengths(numbers: Numbers, top: float, left: float, right: float) -> list[str]:
    found = {"base": numbers["base"]["tokens"]}
    found |= {name: mean(seed[name]["tokens"] for seed in numbers["seeds"]) for name in ("engraved", "cloned")}
    longest = max(found.values())
    ratio = mean(length_ratios(numbers))
    parts = [
        _text(16, top - 8, f"Tokens of an answer, mean: cloned answers are {ratio:.2f} times as long as engraved ones")
    ]
    for index, (name, value) in enumerate(found.items()):
        y = top + 6 + 28 * index
        size = value / longest * (WIDTH - left - right - 60)
        parts.append(_text(left - 12, y + 15, SERIES[name][0], anchor="end"))
        parts.append(f'<rect x="{left}" y="{y:.1f}" width="{size:.1f}" height="20" fill="{SERIES[name][1]}"/>')
        parts.append(_text(left + size + 8, y + 15, f"{value:.1f}", size=12.5))
    return parts
