"""What a judge's reviews come to: questions won, marks, the win rate at equal length, and what is to be known about the judge.

Reviews in, a `Card` out. FastChat's verdict: a question goes to the side with the higher marks over all orders.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from selfalign.evaluation.intervals import of_share
from selfalign.evaluation.judge import Review
from selfalign.evaluation.scores import mean

if TYPE_CHECKING:
    from selfalign.statistics import LengthControlled

MAX_FLIPS = 0.5
"""Above this share of questions whose winner changes with the order, a judge goes by position."""


@dataclass(frozen=True)
class Tally:
    """What reviews of some questions come to, for our side."""

    wins: int
    ties: int
    losses: int
    ours: float
    """Sum over questions of our marks, each the mean over the orders."""
    theirs: float

    @property
    def questions(self) -> int:
        """Questions with a verdict."""
        return self.wins + self.ties + self.losses

    @property
    def share(self) -> float | None:
        """Share of questions won, a tie counting half; None without a question."""
        return (self.wins + self.ties / 2) / self.questions if self.questions else None

    @property
    def relative(self) -> float | None:
        """Our marks over theirs, the relative score of the Vicuna evaluation; None without a question."""
        return self.ours / self.theirs if self.questions else None


@dataclass(frozen=True)
class Card:
    """What a judge's reviews say, and what is to be known about the judge."""

    whole: Tally
    categories: dict[str, Tally]
    reviews: int
    unread: int
    """Reviews without two marks."""
    unjudged: int
    """Questions without a verdict, one of their reviews being unread."""
    win_rate: float | None
    """Share of questions won, a tie counting half; None where `reason` says why not."""
    stderr: float | None
    interval: tuple[float, float] | None
    """95 % interval of the share over questions, as of any score."""
    controlled: LengthControlled | None
    """The win rate at equal length, in words; None where `reason` or `uncontrolled` says why not."""
    uncontrolled: str
    """Why the win rate could not be controlled for length; empty where it was, or there is none."""
    flip_rate: float | None
    """Share of questions whose winner changes with the order, of those that were shown in both; None where none was."""
    tie_rate: float | None
    longer_wins: float | None
    """Share of the decided questions that the longer answer wins; None where no lengths are known."""
    first_wins: float | None
    """Share of the decided reviews that the answer shown first wins: 0.5 for a judge that does not look at the order."""
    prompt_tokens: int
    new_tokens: int
    reason: str
    """Why the reviews say nothing about the answers; empty where they do."""


def card(reviews: Sequence[Review]) -> Card:
    """The card of some reviews of the same two sides. A question counts where each of its reviews has two marks."""
    by_question: dict[Any, list[Review]] = {}
    for review in reviews:
        by_question.setdefault(review.question_id, []).append(review)
    judged = [group for group in by_question.values() if all(review.kept for review in group)]
    kept = [review for review in reviews if review.kept]
    both = [group for group in judged if len({review.is_swapped for review in group}) == 2]
    flips = [any(one.sign * other.sign < 0 for one in group for other in group) for group in both]
    decided = [review for review in kept if review.sign]
    reason = _broken(kept, judged, flips)
    points = [(1 + _verdict(group)) / 2 for group in judged]
    win_rate, stderr = mean(points) if not reason else (None, None)
    interval = None if win_rate is None else of_share(win_rate, stderr, len(points))
    controlled, uncontrolled = (None, "") if win_rate is None else _at_equal_length(judged, points)
    categories: dict[str, list[list[Review]]] = {}
    for group in judged:
        if category := group[0].metadata.get("category"):
            categories.setdefault(category, []).append(group)
    whole = _tally(judged)
    return Card(
        whole=whole,
        categories={name: _tally(groups) for name, groups in categories.items()},
        reviews=len(reviews),
        unread=len(reviews) - len(kept),
        unjudged=len(by_question) - len(judged),
        win_rate=win_rate,
        stderr=stderr,
        interval=interval,
        controlled=controlled,
        uncontrolled=uncontrolled,
        flip_rate=_share(flips),
        tie_rate=whole.ties / whole.questions if judged else None,
        longer_wins=_share(_longer_wins(judged)),
        first_wins=_share([review.score[0] > review.score[1] for review in decided]),
        prompt_tokens=sum(review.metadata.get("prompt_tokens", 0) for review in reviews),
        new_tokens=sum(review.metadata.get("new_tokens", 0) for review in reviews),
        reason=reason,
    )


def _broken(kept: Sequence[Review], judged: Sequence[Any], flips: Sequence[bool]) -> str:
    if not judged:
        return "no question has readable marks"
    if len(judged) > 1 and len({review.score for review in kept}) == 1:
        given = " and ".join(f"{mark:g}" for mark in kept[0].score)
        return f"every review gives the marks {given}: the judge does not look at the answers"
    if sum(flips) > MAX_FLIPS * len(flips):
        return f"the winner changes with the order of the answers in {sum(flips)} of {len(flips)} questions"
    return ""


def _sides(group: Sequence[Review]) -> tuple[float, float]:
    """The marks of both sides, each the mean over the reviews of a question."""
    pairs = [review.by_side(review.score) for review in group]
    return math.fsum(ours for ours, _ in pairs) / len(pairs), math.fsum(theirs for _, theirs in pairs) / len(pairs)


def _verdict(group: Sequence[Review]) -> int:
    """1 won, -1 lost, 0 tied, by the marks of all orders together."""
    ours, theirs = _sides(group)
    return (ours > theirs) - (ours < theirs)


def _tally(groups: Sequence[Sequence[Review]]) -> Tally:
    verdicts = [_verdict(group) for group in groups]
    sides = [_sides(group) for group in groups]
    return Tally(
        verdicts.count(1),
        verdicts.count(0),
        verdicts.count(-1),
        math.fsum(ours for ours, _ in sides),
        math.fsum(theirs for _, theirs in sides),
    )


def _longer_wins(groups: Iterable[Sequence[Review]]) -> list[bool]:
    """For each decided question whose answers differ in length: whether the longer one won."""
    decided = ((_verdict(group), _extra_words(group)) for group in groups)
    return [(verdict > 0) == (extra > 0) for verdict, extra in decided if verdict and extra]


def _extra_words(group: Sequence[Review]) -> float | None:
    """By how many words our answer to a question is longer; None where that is not known."""
    if not (words := group[0].metadata.get("words")):
        return None
    ours, theirs = group[0].by_side(words)
    return ours - theirs


def _at_equal_length(
    groups: Sequence[Sequence[Review]], points: Sequence[float]
) -> tuple[LengthControlled | None, str]:
    """The win rate at equal length, or why there is none."""
    # Imported here: judges are known at start-up, and scipy is needed for their cards alone.
    from selfalign.statistics import length_controlled

    extra = [words for group in groups if (words := _extra_words(group)) is not None]
    if missing := len(groups) - len(extra):
        return None, (
            f"the lengths of the answers to {missing} of {len(groups)} questions are not known; published reviews take them from "
            "--questions and --answers"
        )
    found = length_controlled(points, extra)
    longer = "ours" if extra[0] > 0 else "the other"
    return found, "" if found else f"{longer} is the longer answer to {len(extra)} of {len(extra)} questions"


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
