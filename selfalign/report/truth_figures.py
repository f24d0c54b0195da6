"""The pictures of the page of known truth as SVG files: numbers in, markup out; the same numbers give the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from selfalign.evaluation.scores import EVERY
from selfalign.report.ablation import ALPHA
from selfalign.report.calf_figures import INK, SERIES, STRIPE, WIDTH, _axis, _line, _svg, _text
from selfalign.report.calf_numbers import rule_name
from selfalign.report.truth import JUDGED, Numbers, own

DOWN, UP = (168, 50, 42), (0, 114, 178)


def forest(numbers: Numbers) -> str:
    """What leaving out a rule does to its own behaviour, with intervals: planted rules first, then those that ask for nothing,
    whose own behaviour is what all behaviours come to."""
    left, right, top, row = 190, 28, 44, 24
    rules = [*numbers["planted"], *numbers["inert"]]
    bottom = top + row * len(rules)

    def across(value: float) -> float:
        return left + (value + 1.0) / 1.2 * (WIDTH - left - right)

    parts = [
        _text(16, 20, "A rule is left out: change of its own behaviour (below the line: of all), points, 95 % interval")
    ]
    for index in range(0, len(rules), 2):
        parts.append(f'<rect x="0" y="{top + row * index}" width="{WIDTH}" height="{row}" fill="{STRIPE}"/>')
    parts += _axis(lambda value: across(value / 100), [-100, -75, -50, -25, 0, 20], top, bottom, "")
    parts.append(_line(across(0), top - 6, across(0), bottom, INK, 1.6))
    border = top + row * len(numbers["planted"])
    parts.append(_line(0, border, WIDTH, border, INK, 1.2, ' stroke-dasharray="4 3"'))
    for index, rule in enumerate(rules):
        y = top + row * (index + 0.5)
        is_planted = rule in numbers["planted"]
        cell = own(numbers, JUDGED, rule) if is_planted else numbers["models"][JUDGED]["cells"][rule][EVERY]
        parts.append(_text(left - 12, y + 4.5, rule_name(rule), anchor="end"))
        parts += _whisker(cell, y, across)
    return _svg(bottom + 30, "Own effect of every rule that is left out", parts)


def _whisker(cell: Mapping[str, Any], y: float, across: Callable[[float], float]) -> list[str]:
    colour = SERIES[JUDGED][1]
    fill = colour if cell["p_holm"] < ALPHA else "#ffffff"
    return [
        _line(across(cell["low"]), y, across(cell["high"]), y, colour, 2),
        f'<circle cx="{across(cell["difference"]):.1f}" cy="{y:.1f}" r="4.4" fill="{fill}" stroke="{colour}" stroke-width="1.8"/>',
    ]


def heat_map(numbers: Numbers) -> str:
    """Rule left out (row) against metric (column), in points; a frame is a difference after the correction over the table."""
    metrics: Mapping[str, str] = numbers["models"][JUDGED]["metrics"]
    rules = [*numbers["planted"], *numbers["inert"]]
    shown = [name for name in metrics if name != EVERY]
    shown.sort(key=lambda name: rules.index(name) if name in rules else len(rules))
    left, top, row = 172, 176, 25
    wide = (WIDTH - left - 64) / len(shown)
    parts = [
        _text(16, 20, f"Change (points) of each metric (column) of the {JUDGED} model when a rule (row) is left out")
    ]
    for index, name in enumerate(shown):
        x, y = left + wide * (index + 0.5), top - 8
        parts.append(_text(x + 4, y, metrics[name], size=12.5, more=f' transform="rotate(-55 {x + 4:.1f} {y})"'))
    framed = []
    for number, rule in enumerate(rules):
        y = top + row * number + (6 if rule in numbers["inert"] else 0)
        parts.append(_text(left - 10, y + row / 2 + 4.5, rule_name(rule), anchor="end"))
        for index, name in enumerate(shown):
            cell, x = numbers["models"][JUDGED]["cells"][rule].get(name), left + wide * index
            if cell is None:
                continue
            box = f'x="{x + 0.5:.1f}" y="{y + 0.5:.1f}" width="{wide - 1:.1f}" height="{row - 1}"'
            value = cell["difference"]
            parts.append(f'<rect {box} fill="{_shade(value)}" stroke="#dddddd" stroke-width="0.6"/>')
            colour = "#ffffff" if abs(value) > 0.6 else INK
            text = f"{round(100 * value):+d}".replace("-", "−") if round(100 * value) else "0"
            size = 10.5 if len(text) < 4 else 9.5
            parts.append(_text(x + wide / 2, y + row / 2 + 4, text, size=size, anchor="middle", colour=colour))
            if cell["p_table"] < ALPHA:
                framed.append(f'<rect {box} fill="none" stroke="{INK}" stroke-width="2.2"/>')
    return _svg(
        top + row * len(rules) + 28,
        f"Every rule left out against every metric of the {JUDGED} model",
        [*parts, *framed],
    )


def _shade(value: float) -> str:
    """White at 0, red at −1, blue at +1."""
    ends = DOWN if value < 0 else UP
    return "#" + "".join(f"{round(255 + (end - 255) * min(1.0, abs(value))):02x}" for end in ends)


def power(numbers: Numbers) -> str:
    """How often a simulated arm is found, by the items that it loses: paired (filled) and unpaired (rings)."""
    left, top, high, gap, below = 60, 74, 190, 50, 70
    rows: Mapping[str, Any] = numbers["simulated"]["power"]
    parts = [
        _text(
            16,
            20,
            "Arms that lose some items: share of simulated sweeps that find it (filled: paired; rings: unpaired)",
        )
    ]
    for row, (difficulty, curves) in enumerate(rows.items()):
        y = top + (high + below) * row
        wide = (WIDTH - left - 24 - gap * (len(curves) - 1)) / len(curves)
        for column, (name, curve) in enumerate(curves.items()):
            x = left + (wide + gap) * column
            parts.append(_text(x, y - 12, f"{name}: {curve['items']} items {difficulty}", size=12.5))
            parts += _panel(curve, x, y, wide, high)
    return _svg(top + (high + below) * len(rows) - 14, "Power of the paired and the unpaired test", parts)


def _panel(curve: Mapping[str, Any], left: float, top: float, wide: float, high: float) -> list[str]:
    longest, bottom = max((point["lost"] for point in curve["points"]), default=1), top + high
    parts = []
    for value in (0, 0.25, 0.5, 0.75, 1):
        y = bottom - value * high
        parts += [_line(left, y, left + wide, y), _text(left - 8, y + 4, f"{value:g}", size=12, anchor="end")]
    for point in curve["points"]:
        x = left + point["lost"] / longest * wide
        parts.append(_text(x, bottom + 18, str(point["lost"]), size=11, anchor="middle"))
    for key, colour in (("unpaired", "#767676"), ("paired", "#0072b2")):
        places = [
            (left + point["lost"] / longest * wide, bottom - point[key]["value"] * high) for point in curve["points"]
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        fill = colour if key == "paired" else "#ffffff"
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="{colour}" stroke-width="1.8"/>'
            for x, y in places
        ]
    parts.append(_text(left + wide / 2, bottom + 36, "items lost", size=12, anchor="middle"))
    return parts
