"""Verdicts of a judge and lengths of answers in; the win rate at equal length out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from selfalign.errors import DataError
from selfalign.statistics.outcomes import Array
from selfalign.statistics.paired import Estimate

RIDGE = 0.1
"""Penalty of half of this times the squared weight of length: a normal prior around 0 with a standard deviation of 3.2 in log-odds.
It keeps the weight finite where the longer answer always wins; twenty questions weigh about 2 in the same unit, eighty about 8."""
DRAWS = 1_999
"""Resamples of an interval; each is a fit, and no small p-value hangs on them."""
STEP = 1e-6
"""Newton steps are taken until one is shorter than this: it squares the error, so that what is left is below rounding."""


@dataclass(frozen=True)
class LengthControlled:
    """A win rate at equal length."""

    win_rate: Estimate
    """0..1, with its bootstrap interval."""
    stderr: float
    """Standard deviation over the resamples."""


def length_controlled(
    points: ArrayLike, extra: ArrayLike, *, confidence: float = 0.95, draws: int = DRAWS, seed: int = 0
) -> LengthControlled | None:
    """The win rate that a logistic regression predicts at equal length (Dubois et al. 2024, arXiv:2404.04475).

    `points` is (questions,): 1 for a question won, 0.5 for a tie, 0 for one lost; `extra` is (questions,), by how much the own
    answer is longer, in any unit. The log-odds of winning are a + b tanh(extra / s), where s is the standard deviation of
    `extra`; the win rate is that of `a` alone. Where no answer is longer than the other, it is the mean of the points.

    What differs from AlpacaEval 2 (tatsu-lab/alpaca_eval, metrics/glm_winrate.py): there is no difficulty of the question,
    because one verdict a question does not tell difficulty from chance (there it is learned from many models' answers to the
    same 805 questions). Of the two weights that are left, `b` alone is shrunk, by RIDGE; there an L1 penalty chosen by
    cross-validation shrinks all, and answers of models told to be brief or lengthy are added, which pulls win rates towards
    1/2. Outcomes are verdicts, not a judge's probabilities.

    None where every answer of one side is longer: equal length then lies outside what was seen, `a` and `b` cannot be told
    apart, and the penalty would decide. Where few answers are on one side, the interval is wide. All questions won (or lost)
    are a win rate of 1 (or 0) at any length, which is the limit of the fit.

    The interval has the percentiles of `draws` resamples of questions, each question with its verdict and lengths; s stays. As
    in `bootstrap`, one question more of either verdict is resampled with them, here at the mean length, so that an interval
    has a width where all were won. In simulations of 20 to 80 questions 95 % intervals cover 90 to 97 %; the least where
    nearly all answers of one side are longer. Questions are assumed independent.

    Raises DataError for points outside 0..1, lengths that are not finite or not one a question, no questions, or a
    confidence outside (0, 1).
    """
    won, longer = _checked(points, extra, confidence)
    if longer.min() > 0 or longer.max() < 0:
        return None
    order = np.lexsort((longer, won))
    won, longer = won[order], longer[order]
    spread = float(longer.std())
    length = np.tanh(longer / spread) if spread else np.zeros_like(longer)
    (value,) = _at_equal_length(won, length, np.ones((1, won.size)))
    won, length = np.append(won, (0, 1)), np.append(length, [length.mean()] * 2)
    chosen = np.random.default_rng(seed).multinomial(won.size, np.full(won.size, 1 / won.size), size=draws)
    found = _at_equal_length(won, length, chosen.astype(np.float64))
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return LengthControlled(Estimate(float(value), float(low), float(high)), float(found.std(ddof=1)))


def _at_equal_length(won: Array, length: Array, weights: Array) -> Array:
    """(fits,): the predicted win rate at length 0 for each row of `weights`, (fits, questions); `won` and `length` (questions,).

    Newton's method on all fits at once. A step is shortened by a factor of log(1 + t) / t, where t is its length times the
    longest row of the design: with that it converges from anywhere (Sun and Tran-Dinh 2019, arXiv:1703.04599; the logistic loss is
    one of theirs).
    """
    rate = weights @ won / weights.sum(axis=1)
    mixed = (rate > 0) & (rate < 1)
    weights = weights[mixed]
    fitted = np.zeros((2, len(weights)))
    model, effect = fitted
    furthest, longest = float(np.hypot(1, np.abs(length).max())), np.inf
    while weights.size and longest > STEP:
        expected = special.expit(model[:, None] + np.outer(effect, length))
        missed, curved = weights * (won - expected), weights * expected * (1 - expected)
        up, along = missed.sum(axis=1), missed @ length - RIDGE * effect
        one, both, two = curved.sum(axis=1), curved @ length, curved @ length**2 + RIDGE
        steps = np.array([two * up - both * along, one * along - both * up]) / (one * two - both**2)
        size = furthest * np.hypot(*steps)
        # A step of 0 stays one.
        fitted += steps * special.log1p(size) / np.maximum(size, np.finfo(float).tiny)
        longest = float(size.max())
    rate[mixed] = special.expit(model)
    return rate


def _checked(points: ArrayLike, extra: ArrayLike, confidence: float) -> tuple[Array, Array]:
    won, longer = np.asarray(points, dtype=np.float64), np.asarray(extra, dtype=np.float64)
    if (
        won.ndim != 1
        or won.shape != longer.shape
        or not won.size
        or not ((won >= 0) & (won <= 1)).all()
        or not np.isfinite(longer).all()
        or not 0 < confidence < 1
    ):
        raise DataError(
            f"expected points, lengths and a confidence, found shapes {won.shape} and {longer.shape} with {won[:4].tolist()!r:.60} "
            f"and {longer[:4].tolist()!r:.60}, and confidence {confidence!r}; allowed are points from 0 to 1, one finite "
            "difference in length for each, and 0 < confidence < 1; leave out questions whose lengths are not known"
        )
    return won, longer
