"""Designs with many factors: settings and responses of runs in; main effects, interactions and Shapley values out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from selfalign.errors import DataError
from selfalign.statistics.outcomes import Array
from selfalign.statistics.paired import DRAWS, Estimate, bootstrap, sign_flips

SLACK = 1e-9
"""Rounding that sums of outcomes are allowed, relative to the largest of them."""


def plackett_burman(factors: int) -> NDArray[np.int8]:
    """(runs, factors) of +1 (the factor is there) and -1 (it is not), whose columns are balanced and orthogonal: each main
    effect is estimated from all runs (Plackett and Burman 1946).

    Built from the quadratic residues of a prime q = 3 mod 4 (Paley 1933), the smallest q >= `factors`: 16 factors take
    20 runs. The first run has every factor. Main effects are partly mixed with interactions of two others.

    Raises DataError for fewer than 1 factor.
    """
    if factors < 1:
        raise DataError(f"expected factors, found {factors!r}; allowed is 1 or more; name what is to be varied")
    prime = next(q for q in itertools.count(max(factors, 3)) if q % 4 == 3 and all(q % d for d in range(2, q)))
    residues = {x * x % prime for x in range(1, prime)}
    row = np.array([-1 if shift in residues else 1 for shift in range(prime)], dtype=np.int8)
    cyclic = np.stack([np.roll(row, shift) for shift in range(prime)])
    # The sum of a row of `cyclic` is 1, so that a row of the opposite sign balances every column.
    return np.vstack([np.ones(prime, dtype=np.int8), -cyclic])[:, :factors]


@dataclass(frozen=True)
class Effect:
    """What a factor, or two together, do to the response."""

    factors: tuple[int, ...]
    """Columns of the settings: one for a main effect, two for an interaction."""
    effect: Estimate
    """Main effect: mean response at +1 minus mean response at -1. Interaction: half of what the effect of one changes by
    between the levels of the other."""
    p: float
    """Over runs, or over items for these runs."""
    p_of_runs: float | None = None
    """Over items and runs, min F' as in `paired.min_f`: whether the same settings would show it again, trained anew. None for
    responses without items, and where no run is left over to tell how much runs differ."""


def effects(
    settings: ArrayLike,
    responses: ArrayLike,
    *,
    interactions: Sequence[tuple[int, int]] = (),
    reach: float = 0.0,
    confidence: float = 0.95,
) -> list[Effect]:
    """Main effects of all factors, then the interactions asked for, by least squares (Box, Hunter and Hunter 2005, chapters 5 to
    7).

    `settings` is (runs, factors) of +1 and -1. `responses` is (runs,): the error is what the model leaves over, intervals and tests
    are those of t, and there must be more runs than terms. Or (runs, items): each item has its own effect, whose mean over items is
    tested by `paired.sign_flips` and has the interval of `paired.bootstrap` (with `reach`, the largest difference that an outcome
    can have), for these runs; what the model leaves of the runs' means tells, where runs are left over, how much runs differ.
    Units (runs, or items) are assumed independent.

    Raises DataError for settings other than +1 and -1, shapes that do not fit, terms that the runs cannot tell apart, and
    too few runs or items.
    """
    levels, response = np.asarray(settings, dtype=np.float64), np.asarray(responses, dtype=np.float64)
    if levels.ndim != 2 or not np.isin(levels, (-1, 1)).all():
        raise DataError(
            f"expected settings of (runs, factors), found shape {levels.shape} with {np.unique(levels)[:4].tolist()}; allowed "
            "are +1 (there) and -1 (not there); recode the levels"
        )
    runs, count = levels.shape
    if response.ndim not in (1, 2) or response.shape[0] != runs:
        raise DataError(
            f"expected responses of the {runs} runs, found shape {response.shape}; allowed are (runs,) and (runs, items); give "
            "one row a run"
        )
    terms: list[tuple[int, ...]] = [*((i,) for i in range(count)), *(tuple(pair) for pair in interactions)]
    if not all(0 <= i < count for term in terms for i in term) or any(len(set(term)) != len(term) for term in terms):
        raise DataError(
            f"expected pairs of two factors as interactions, found {list(interactions)!r:.80}; allowed are columns 0 to "
            f"{count - 1}; name two different ones"
        )
    matrix = np.column_stack([np.ones(runs), *(levels[:, list(term)].prod(axis=1) for term in terms)])
    rank = int(np.linalg.matrix_rank(matrix))
    if rank < matrix.shape[1]:
        raise DataError(
            f"expected runs that tell {len(terms)} terms apart, found {rank - 1} that can be; allowed are terms that are no sum "
            "of others in these runs; leave out interactions, or add runs"
        )
    inverse, freedom = np.asarray(np.linalg.pinv(matrix), dtype=np.float64), runs - matrix.shape[1]
    # What least squares leave of equal responses is rounding, which no test may take for an effect.
    slack = SLACK * float(np.abs(response).max(initial=0.0))
    if response.ndim == 1:
        if freedom < 1:
            raise DataError(
                f"expected more runs than terms, found {runs} runs and {matrix.shape[1]} terms with the mean; allowed is at "
                "least one run more; leave out terms, or give responses by item"
            )
        values, errors = _fitted(matrix, inverse, response, slack)
        return [
            Effect(term, *_t_test(float(value), float(error), freedom, confidence))
            for term, value, error in zip(terms, values[1:], errors[1:], strict=True)
        ]
    items = response.shape[1]
    if items < 2:
        raise DataError("expected items, found fewer than 2; allowed are two or more; give the responses as (runs,)")
    by_item = 2 * (inverse @ response)
    by_item[np.abs(by_item) <= slack] = 0.0
    means = response.mean(axis=1, dtype=np.float64)
    errors = _fitted(matrix, inverse, means, slack)[1] if freedom else np.full(len(matrix.T), np.nan)
    return [
        Effect(
            term,
            bootstrap(one, reach=reach, confidence=confidence),
            p,
            # It asks for more than the test over items alone.
            max(p, _over_both(one, float(error), freedom)) if freedom else None,
        )
        for term, one, error, p in zip(terms, by_item[1:], errors[1:], map(_flipped, by_item[1:]), strict=True)
    ]


def _flipped(by_item: Array) -> float:
    """p over items; one that is as small as the draws allow is drawn again, ten times as often, for corrections over many."""
    p = sign_flips(by_item).p
    return p if p > 2 / (DRAWS + 1) else sign_flips(by_item, draws=10 * DRAWS).p


def _fitted(matrix: Array, inverse: Array, response: Array, slack: float) -> tuple[Array, Array]:
    """Effects (with the mean's place first) and their standard errors, from what the model leaves over."""
    found = inverse @ response
    noise = float(((response - matrix @ found) ** 2).sum()) / (len(response) - matrix.shape[1])
    values, errors = 2 * found, 2 * np.sqrt(noise * (inverse**2).sum(axis=1))
    return np.where(np.abs(values) <= slack, 0.0, values), np.where(errors <= slack, 0.0, errors)


def _over_both(by_item: Array, error_of_runs: float, freedom_of_runs: int) -> float:
    """p of a mean effect whose error is that of items and that of runs together, with Satterthwaite's degrees of freedom."""
    value, items = float(by_item.mean()), by_item.size
    parts = (float(by_item.var(ddof=1)) / items, items - 1), (error_of_runs**2, freedom_of_runs)
    square = sum(part for part, _ in parts)
    if square == 0:
        return float(value == 0)
    freedom = square**2 / sum(part**2 / degrees for part, degrees in parts)
    return 2 * float(special.stdtr(freedom, -abs(value) / math.sqrt(square)))


def _t_test(value: float, error: float, freedom: int, confidence: float) -> tuple[Estimate, float]:
    half = float(special.stdtrit(freedom, (1 + confidence) / 2)) * error
    p = 2 * float(special.stdtr(freedom, -abs(value) / error)) if error > 0 else float(value == 0)
    return Estimate(value, value - half, value + half), p


def aliases(settings: ArrayLike) -> Array:
    """(factors, pairs of factors in the order of `itertools.combinations`): how much of the interaction of each two the
    estimate of each main effect holds, where interactions are left out of the model (the alias matrix of Box and Wilson 1951).

    `settings` is (runs, factors) of +1 and -1 that tell main effects apart; 0 where main effects are free of interactions.
    """
    levels = np.asarray(settings, dtype=np.float64)
    pairs = [levels[:, a] * levels[:, b] for a, b in itertools.combinations(range(levels.shape[1]), 2)]
    if not pairs:
        return np.zeros((levels.shape[1], 0))
    matrix = np.column_stack([np.ones(len(levels)), levels])
    return (np.linalg.pinv(matrix) @ np.column_stack(pairs))[1:]


def pair_interaction(whole: ArrayLike, without_a: ArrayLike, without_b: ArrayLike, without_both: ArrayLike) -> Array:
    """What removing two things does beyond the sum of removing each: whole - without a - without b + without both.

    Outcomes of the same shape, (items,) or (seeds, items), columns paired; the result has that shape and goes through
    `units` to the paired tests. Negative: removing both costs more than the sum of removing each (either can stand in for the
    other); positive: less (one is of no use without the other). Raises DataError where shapes differ.
    """
    arms = [np.asarray(arm, dtype=np.float64) for arm in (whole, without_a, without_b, without_both)]
    if len({arm.shape for arm in arms}) > 1:
        raise DataError(
            f"expected four arms with the same items, found shapes {[arm.shape for arm in arms]}; allowed is one shape; pair "
            "the items of all four first"
        )
    return arms[0] - arms[1] - arms[2] + arms[3]


@dataclass(frozen=True)
class Shapley:
    """Shapley values of some factors, sampled."""

    values: tuple[Estimate, ...]
    """One for each factor, in the unit of the responses."""
    total: float
    """Response with all factors minus response with none."""
    gap: float
    """Sum of the values minus `total`: efficiency says that it is 0, up to rounding."""


def shapley(orders: ArrayLike, responses: ArrayLike, *, antithetic: bool = False, confidence: float = 0.95) -> Shapley:
    """Shapley values from sampled permutations (Castro, Gomez and Tejada 2009), with t intervals over permutations.

    `orders` is (permutations, factors) of integers: each row names every factor once, in the order in which they are
    added. `responses` is (permutations, factors + 1): the response with none, with the first, with the first two, ... A
    factor's marginal is the step at which it is added. With `antithetic`, every other row is the one before it reversed
    (Mitchell et al. 2022), and the two count as one unit. Permutations (pairs) are assumed drawn independently; the
    intervals say how far the sample is from all permutations, not how uncertain a response is.

    Raises DataError for rows that are no permutations, shapes that do not fit, rows that are not reversed where they
    should be, a response with all (or with no) factors that differs between permutations, and fewer than two units.
    """
    order, response = np.asarray(orders), np.asarray(responses, dtype=np.float64)
    if order.ndim != 2 or not (np.sort(order, axis=1) == np.arange(order.shape[1])).all():
        raise DataError(
            f"expected permutations of the factors, found shape {order.shape}; allowed are rows with each of 0 to factors - 1 "
            "once; repair the orders"
        )
    if response.shape != (order.shape[0], order.shape[1] + 1):
        raise DataError(
            f"expected {order.shape[1] + 1} responses a permutation, found shape {response.shape}; allowed is one before the "
            "first factor and one after each; give the response with none too"
        )
    if antithetic and (order.shape[0] % 2 or (order[1::2] != order[::2, ::-1]).any()):
        raise DataError(
            f"expected every other permutation to be the one before it reversed, found {order.shape[0]} that are not; allowed "
            "are such pairs; order the rows, or set antithetic to False"
        )
    ends = response[:, [0, -1]]
    if (np.abs(ends - ends[0]) > SLACK * max(1.0, float(np.abs(response).max()))).any():
        raise DataError(
            f"expected the same response in every permutation where all factors are there, and where none is, found "
            f"{np.unique(ends[:, 1])[:3].tolist()} and {np.unique(ends[:, 0])[:3].tolist()}; allowed is one of each, or values "
            "do not add up to the whole; use the same seeds and items in all permutations"
        )
    marginals = np.empty((order.shape[0], order.shape[1]))
    np.put_along_axis(marginals, order, np.diff(response, axis=1), axis=1)
    by_unit = marginals.reshape(-1, 2, order.shape[1]).mean(axis=1) if antithetic else marginals
    if by_unit.shape[0] < 2:
        raise DataError(
            f"expected permutations to estimate an error from, found {by_unit.shape[0]} independent ones; allowed are two or "
            "more; sample more"
        )
    means = by_unit.mean(axis=0)
    means[np.abs(means) <= SLACK * float(np.abs(response).max())] = 0.0
    errors = by_unit.std(axis=0, ddof=1) / math.sqrt(by_unit.shape[0])
    values = tuple(
        _t_test(float(mean), float(error), by_unit.shape[0] - 1, confidence)[0]
        for mean, error in zip(means, errors, strict=True)
    )
    total = float(ends[0, 1] - ends[0, 0])
    return Shapley(values, total, float(means.sum()) - total)
