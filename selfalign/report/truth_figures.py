"""The pictures of the page of known truth as SVG files: numbers in, markup out; the same numbers give the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from selfalign.evaluation.scores import EVERY
from selfalign.report.ablation import ALPHA
from selfalign.report.calf_figures import INK, STRIPE, WIDTH, _axis, _line, _svg, _text
from selfalign.report.calf_numbers import points, rule_name
from selfalign.report.truth import Numbers, own

COLOURS = {"engraved": "#009e73", "cloned": "#b4589a", "prompted": "#0072b2"}
DOWN, UP = (168, 50, 42), (0, 114, 178)


def forest(numbers: Numbers, models: list[str]) -> str:
    """What leaving out a rule does to its own behaviour, with intervals: planted rules first, then those that ask for nothing,
    whose own behaviour is what all behaviours come to."""
    left, right, top, row = 190, 28, 64, 30
    rules = [*numbers["planted"], *numbers["inert"]]
    bottom = top + row * len(rules)

    def across(value: float) -> float:
        return left + (value + 1.0) / 1.2 * (WIDTH - left - right)

    parts = [
        _text(
            16, 20, "A rule is left out: change of its own behaviour (below the line: of all behaviours), 95 % interval"
        )
    ]
    x = 16.0
    for name in models:
        parts += [
            f'<circle cx="{x + 5:.1f}" cy="40" r="5" fill="{COLOURS[name]}"/>',
            _text(x + 16, 44.5, name, size=12.5),
        ]
        x += 40 + 7 * len(name)
    for index in range(0, len(rules), 2):
        parts.append(f'<rect x="0" y="{top + row * index}" width="{WIDTH}" height="{row}" fill="{STRIPE}"/>')
    parts += _axis(lambda value: across(value / 100), [-100, -75, -50, -25, 0, 20], top, bottom, "")
    parts.append(_line(across(0), top - 6, across(0), bottom, INK, 1.6))
    border = top + row * len(numbers["planted"])
    parts.append(_line(0, border, WIDTH, border, INK, 1.2, ' stroke-dasharray="4 3"'))
    for index, rule in enumerate(rules):
        y = top + row * index
        parts.append(_text(left - 12, y + row / 2 + 4.5, rule_name(rule), anchor="end"))
        for lane, name in enumerate(models):
            cell = (
                own(numbers, name, rule)
                if rule in numbers["planted"]
                else numbers["models"][name]["cells"][rule][EVERY]
            )
            parts += _whisker(cell, y + row * (lane + 1) / (len(models) + 1), COLOURS[name], across)
    return _svg(bottom + 30, "Own effect of every rule that is left out", parts)


def _whisker(cell: Mapping[str, Any], y: float, colour: str, across: Callable[[float], float]) -> list[str]:
    shown = cell["p_table"] < ALPHA
    fill = colour if shown else "#ffffff"
    return [
        _line(across(cell["low"]), y, across(cell["high"]), y, colour, 2),
        f'<circle cx="{across(cell["difference"]):.1f}" cy="{y:.1f}" r="4.4" fill="{fill}" stroke="{colour}" stroke-width="1.8"/>',
    ]


def heat_map(numbers: Numbers, model: str) -> str:
    """Rule left out (row) against metric (column), in points; a frame is a difference after the correction over the table."""
    metrics: Mapping[str, str] = numbers["models"][model]["metrics"]
    rules = [*numbers["planted"], *numbers["inert"]]
    shown = [name for name in metrics if name != EVERY]
    shown.sort(key=lambda name: rules.index(name) if name in rules else len(rules))
    left, top, row = 172, 176, 25
    wide = (WIDTH - left - 64) / len(shown)
    parts = [
        _text(16, 20, f"Change (points) of each metric (column) of the {model} model when a rule (row) is left out")
    ]
    for index, name in enumerate(shown):
        x, y = left + wide * (index + 0.5), top - 8
        parts.append(_text(x + 4, y, metrics[name], size=12.5, more=f' transform="rotate(-55 {x + 4:.1f} {y})"'))
    framed = []
    for number, rule in enumerate(rules):
        y = top + row * number + (6 if rule in numbers["inert"] else 0)
        parts.append(_text(left - 10, y + row / 2 + 4.5, rule_name(rule), anchor="end"))
        for index, name in enumerate(shown):
            cell, x = numbers["models"][model]["cells"][rule].get(name), left + wide * index
            if cell is None:
                continue
            box = f'x="{x + 0.5:.1f}" y="{y + 0.5:.1f}" width="{wide - 1:.1f}" height="{row - 1}"'
            value = cell["difference"]
            parts.append(f'<rect {box} fill="{_shade(value)}" stroke="#dddddd" stroke-width="0.6"/>')
            colour = "#ffffff" if abs(value) > 0.6 else INK
            text = points(value).split(".")[0] if abs(value) >= 0.005 else "0"
            parts.append(_text(x + wide / 2, y + row / 2 + 4, text, size=10.5, anchor="middle", colour=colour))
            if cell["p_table"] < ALPHA:
                framed.append(f'<rect {box} fill="none" stroke="{INK}" stroke-width="2.2"/>')
    return _svg(
        top + row * len(rules) + 28, f"Every rule left out against every metric of the {model} model", [*parts, *framed]
    )


def _shade(value: float) -> str:
    """White at 0, red at −1, blue at +1."""
    ends = DOWN if value < 0 else UP
    return "#" + "".join(f"{round(255 + (end - 255) * min(1.0, abs(value))):02x}" for end in ends)


def power(numbers: Numbers) -> str:
    """How often a simulated arm is found, by the items that it loses: paired (filled) and unpaired (rings)."""
    curves: Mapping[str, Any] = numbers["simulated"]["power"]
    left, right, top, bottom, gap = 60, 24, 58, 300, 50
    wide = (WIDTH - left - right - gap * (len(curves) - 1)) / len(curves)
    parts = [
        _text(
            16,
            20,
            "Arms that lose some items: share of simulated sweeps that find it (filled: paired; rings: unpaired)",
        )
    ]
    for number, (name, curve) in enumerate(curves.items()):
        start, longest = left + (wide + gap) * number, max(point["lost"] for point in curve["points"])

        def across(value: float, start: float = start, longest: float = longest) -> float:
            return start + value / longest * wide

        def up(value: float) -> float:
            return bottom - value * (bottom - top)

        parts.append(_text(start, 46, f"{name} ({curve['items']} items)", size=12.5))
        for value in (0, 0.25, 0.5, 0.75, 1):
            parts += [
                _line(start, up(value), start + wide, up(value)),
                _text(start - 8, up(value) + 4, f"{value:g}", size=12, anchor="end"),
            ]
        for point in curve["points"]:
            parts.append(_text(across(point["lost"]), bottom + 18, str(point["lost"]), size=11, anchor="middle"))
        for key, colour in (("unpaired", "#767676"), ("paired", "#0072b2")):
            places = [(across(point["lost"]), up(point[key]["value"])) for point in curve["points"]]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
            fill = colour if key == "paired" else "#ffffff"
            parts += [
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="{colour}" stroke-width="1.8"/>'
                for x, y in places
            ]
        parts.append(_text(start + wide / 2, bottom + 38, "items lost", size=12, anchor="middle"))
    return _svg(bottom + 52, "Power of the paired and the unpaired test", parts)
