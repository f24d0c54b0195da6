"""The validity gate: the outcomes of one task and protocol in, what is suspicious about them counted, or why they are refused, out.

Ours: lm-eval gives a model of NaNs or constants a perfect score wherever the right answer comes first, so a number is
only given where the log-probabilities behind it can be those of a working model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from selfalign.evaluation.protocols import Outcome

MAX_TIED = 0.5
"""Above this share of items with no difference at all between candidates, a score says nothing about the model."""
MIN_FOR_POSITION = 20
"""Items (> 1) from which choices that stand nearly always at the same shown position are taken for broken: with two candidates
in random order, a model that answers by content does that once in 2**19 times."""
MAX_AT_ONE_POSITION = 0.95
"""Above this share of items with the choice at one and the same shown position, it was chosen by position."""
LETTERS = ("ab_swap", "ab_renormalised")
"""Protocols that ask for a letter in both orders: log p of A and B in the first order, then in the second."""


@dataclass(frozen=True)
class Check:
    """What was looked at in the outcomes of one task and protocol."""

    items: int
    infinite: int
    """Items with a log-probability that is NaN or infinite."""
    tied: int
    """Items with two candidates or more on which all of them tie."""
    choices: int
    """Items with two candidates or more: released_half has some with one."""
    position: int
    """The shown position, from 1, at which most choices stand; 0 without choices."""
    at_position: int
    """Choices that stand there. The order shown is random, so a model that goes by content has no favourite."""
    same_letter: int | None
    """Items on which both orders get the same letter, so that the letter and not the answer was chosen; None without letters."""
    truncated: int
    """Items with a prompt that did not fit the model's context and lost its beginning."""

    @property
    def reason(self) -> str:
        """Why these outcomes say nothing about the model that gave them; empty where they do."""
        if not self.items:
            return "no items"
        if self.infinite:
            return f"{self.infinite} of {self.items} items have a log-probability that is NaN or infinite"
        if self.tied > MAX_TIED * self.items:
            return f"all candidates tie on {self.tied} of {self.items} items: the log-probabilities are constant"
        if self.choices >= MIN_FOR_POSITION and self.at_position > MAX_AT_ONE_POSITION * self.choices:
            return (
                f"the choice is at shown position {self.position} in {self.at_position} of {self.choices} items, whose order is "
                "random"
            )
        return ""


def check(outcomes: Sequence[Outcome], truncated: int = 0) -> Check:
    """What is to be known about some outcomes of one protocol."""
    several = [outcome for outcome in outcomes if len(outcome.shown) > 1]
    # An item with a broken number has no choice.
    ((best, count),) = Counter(outcome.best for outcome in several).most_common(1) or [((), 0)]
    letters = [outcome.logprobs for outcome in outcomes if outcome.protocol in LETTERS and outcome.scores]
    return Check(
        items=len(outcomes),
        infinite=sum(not outcome.scores for outcome in outcomes),
        tied=sum(len(outcome.best) == len(outcome.shown) for outcome in several),
        choices=len(several),
        position=best[0] + 1 if best else 0,
        at_position=count if best else 0,
        same_letter=sum((one - two) * (three - four) > 0 for one, two, three, four in letters) if letters else None,
        truncated=truncated,
    )
