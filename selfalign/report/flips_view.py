"""What changed, as the page shows it: a table of counts, and the single changes as JSON that a script of the page reads.

The JSON stands in the page as data. Every sign that could end its element is written as an escape, and the script puts texts
into the page as text alone, so that markup in an answer stays words.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from selfalign.report.figures import CONTROL
from selfalign.report.flips import DIRECTIONS, Change, Flips, Question, Side
from selfalign.report.samples import cut

ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}
"""Signs that end an element or a line of a script somewhere: in JSON they occur inside texts alone, where an escape means
the same."""


@dataclass(frozen=True)
class FlipsView:
    """What changed, for the template."""

    directions: tuple[str, ...]
    """Headings of the counts: the directions that occur."""
    rows: tuple[tuple[str, str, int, tuple[int, ...]], ...]
    """Arm, place, items compared, and how many changed in each direction."""
    said: str
    """How many changes are shown, of how many."""
    data: Markup
    """All that the browser of changes needs, as JSON."""


def view(found: Flips) -> FlipsView:
    """What the page shows of some changes."""
    occurring = [name for name in DIRECTIONS if any(one.counts.get(name) for one in found.tallies)]
    rows = tuple(
        (one.arm, one.place, one.compared, tuple(one.counts.get(name, 0) for name in occurring))
        for one in found.tallies
    )
    shown = len(found.changes)
    said = (
        f"All {found.total:,} changes can be looked at below."
        if shown == found.total
        else f"Of {found.total:,} changes, {shown:,} can be looked at below: the same number of every kind as far as there are "
        "so many, drawn by a hash of their ids."
    )
    return FlipsView(tuple(DIRECTIONS[name] for name in occurring), rows, said, as_json(_data(found)))


def as_json(value: Any) -> Markup:
    """A value as JSON that can stand inside a script element of type application/json, whatever its texts say."""
    return Markup(json.dumps(value, ensure_ascii=False, separators=(",", ":")).translate(ESCAPES))


def _data(found: Flips) -> dict[str, Any]:
    questions: dict[Question, int] = {}
    changes = [_change(change, questions.setdefault(change.question, len(questions))) for change in found.changes]
    return {
        "directions": DIRECTIONS,
        "principles": found.principles,
        "questions": [_question(question) for question in questions],
        "changes": changes,
    }


def _question(one: Question) -> dict[str, Any]:
    return {"text": _text(one.text)} | (
        {"candidates": [_text(text) for text in one.candidates], "right": one.right} if one.candidates else {}
    )


def _change(one: Change, question: int) -> dict[str, Any]:
    return {"arm": one.arm, "seed": _seed(one.seed), "place": one.place, "item": _text(one.item), "direction": one.direction,
            "question": question, "before": _side(one.before), "after": _side(one.after)}  # fmt: skip


def _side(one: Side) -> dict[str, Any]:
    if one.choices:
        return {"choices": one.choices}
    return {"text": _text(one.text)} | ({"note": _text(one.note)} if one.note else {})


def _text(text: str) -> str:
    return CONTROL.sub("\ufffd", cut(text))


def _seed(seeds: str) -> str:
    """The seeds of a run (`arms.arms`) for readers: one number where all are the same, else each with its name."""
    found = json.loads(seeds)
    values = list(dict.fromkeys(map(str, found.values())))
    return values[0] if len(values) == 1 else ", ".join(f"{name} {value}" for name, value in found.items())
