"""Runs in, their models as points out: helpfulness against truthfulness, and those that no other point beats in both.

The paper's trade-off in one picture: verbose cloning is meant to help and costs trust. A point is a model of an arm, its
coordinates the means over its seeds and items.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from selfalign.evaluation.judge import review_of
from selfalign.evaluation.judge_card import Card, card
from selfalign.evaluation.scores import Key, mean
from selfalign.report.ablation import values
from selfalign.report.arms import Arm, arms
from selfalign.report.model import Run
from selfalign.report.scores import subjects

TRUST: tuple[Key, ...] = (
    ("truthfulqa_mc", "mc1", "accuracy"),
    ("truthfulqa_mc", "true_false", "accuracy"),
    ("calf_truth", "mc1", "accuracy"),
    ("calf_truth", "true_false", "accuracy"),
)
"""What is taken for trust: the first of these that any run scored."""
HELP: tuple[Key, ...] = (("hhh_alignment", "ab_swap", "accuracy_helpful"), ("calf_hhh", "ab_swap", "accuracy_helpful"))
"""What is taken for helpfulness, likewise; the share of questions that a judge gave a model is the other."""


@dataclass(frozen=True)
class Coordinate:
    """A mean with its standard error over items."""

    value: float
    stderr: float | None
    """None for a single item."""
    n: int


@dataclass(frozen=True)
class Point:
    """One model of one arm."""

    arm: str
    subject: str
    trust: Coordinate
    help: Coordinate
    is_on_front: bool
    """Whether no other point is at least as good in both and better in one, by the estimates."""


@dataclass(frozen=True)
class Front:
    """The models of some runs on one pair of axes."""

    trust: str
    help: str
    """What the axes are."""
    points: tuple[Point, ...]
    """Arm by arm, models in the order of the method."""


def fronts(runs: Sequence[Run], control: str = "") -> list[Front]:
    """Helpfulness against trust: by HHH's helpful questions, and by each judged comparison, as it stands and at equal length; those
    with two points or more.

    `control` is as in `arms.arms`.
    """
    found_arms, _ = arms(runs, control)
    trust = _first(runs, TRUST)
    if trust is None:
        return []
    found = []
    if helped := _first(runs, HELP):
        found.append(
            _front(found_arms, runs, trust, " · ".join(helped), lambda arm, subject: _scored(arm, helped, subject))
        )
    for other in _opponents(runs):
        for share, name in ((_raw, ""), (_controlled, ", length-controlled")):
            read = functools.partial(_won, other=other, share=share)
            found.append(_front(found_arms, runs, trust, f"share of questions won against {other}{name}", read))
    return [front for front in found if len(front.points) > 1]


def _first(runs: Sequence[Run], keys: Sequence[Key]) -> Key | None:
    scored = {(score.task, score.protocol, score.metric) for run in runs for score in run.scores if score.valid}
    return next((key for key in keys if key in scored), None)


Read = Callable[[Arm, str], Coordinate | None]
Share = tuple[float, float | None]
"""A share of questions won, and its standard error."""


def _front(found_arms: Sequence[Arm], runs: Sequence[Run], trust: Key, name: str, read: Read) -> Front:
    points, seen = [], set()
    for arm in found_arms:
        for subject in subjects(runs):
            across, up = _scored(arm, trust, subject), read(arm, subject)
            # A model that the settings of an arm do not reach is the control's, and one point.
            made = tuple(node.artifact if (node := run.evaluation(subject)) else "" for run in arm.runs.values())
            if across and up and not (all(made) and made in seen):
                seen.add(made)
                points.append(Point(arm.label, subject, across, up, False))
    on_front = [_is_free(one, points) for one in points]
    chosen = (Point(p.arm, p.subject, p.trust, p.help, is_on) for p, is_on in zip(points, on_front, strict=True))
    return Front(" · ".join(trust), name, tuple(chosen))


def _is_free(one: Point, others: Sequence[Point]) -> bool:
    mine = (one.trust.value, one.help.value)
    theirs = ((other.trust.value, other.help.value) for other in others)
    return not any(x >= mine[0] and y >= mine[1] and (x, y) != mine for x, y in theirs)


def _scored(arm: Arm, key: Key, subject: str) -> Coordinate | None:
    """The mean over items of the items' means over seeds; None where any seed has no outcomes, or none in common."""
    by_seed = [values(run, key, subject) for run in arm.runs.values()]
    found = [one for one in by_seed if not isinstance(one, str)]
    if len(found) < len(by_seed) or not found:
        return None
    common = [item for item in found[0] if all(item in one for one in found)]
    if not common:
        return None
    value, stderr = mean([math.fsum(one[item] for one in found) / len(found) for item in common])
    return Coordinate(value, stderr, len(common))


def _judged(node_name: str) -> tuple[str, str] | None:
    """Subject and opponent of a judge's node (`judged_<subject>_<opponent>`)."""
    word, _, rest = node_name.partition("_")
    subject, _, other = rest.partition("_")
    return (subject, other) if word == "judged" and other else None


def _opponents(runs: Sequence[Run]) -> list[str]:
    found = [
        pair[1]
        for run in runs
        for node in run.nodes
        if (pair := _judged(node.name)) and any(node.rows("reviews.jsonl"))
    ]
    return list(dict.fromkeys(found))


def _raw(found: Card) -> Share | None:
    return None if found.win_rate is None else (found.win_rate, found.stderr)


def _controlled(found: Card) -> Share | None:
    return None if found.controlled is None else (found.controlled.win_rate.value, found.controlled.stderr)


def _won(arm: Arm, subject: str, *, other: str, share: Callable[[Card], Share | None]) -> Coordinate | None:
    """The share of questions that a judge gave a model, a tie counting half: over its seeds, whose errors are independent."""
    shares: list[Share] = []
    questions = 0
    for run in arm.runs.values():
        rows = [
            row for node in run.nodes if _judged(node.name) == (subject, other) for row in node.rows("reviews.jsonl")
        ]
        found = card([review_of(row) for row in rows])
        if (one := share(found)) is None:
            return None
        shares.append(one)
        questions += found.whole.questions
    errors = [stderr for _, stderr in shares if stderr is not None]
    stderr = math.hypot(*errors) / len(shares) if len(errors) == len(shares) else None
    return Coordinate(math.fsum(value for value, _ in shares) / len(shares), stderr, questions)
