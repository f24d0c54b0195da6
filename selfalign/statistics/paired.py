"""Differences between two arms in; p-values and intervals out.

Unless said otherwise an argument `differences` is (units,) of float64, arm minus control, with one value for each
independent unit: `outcomes.units` makes them of (seeds, items). Draws are seeded and made of sorted values, so that no
result depends on the order of items or on the name of an arm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from selfalign.errors import DataError
from selfalign.statistics.outcomes import Array

DRAWS = 9_999
"""Random draws of a test or interval: p-values down to 0.0001, enough for a correction over a hundred arms."""
ENUMERATED = 16
"""Units that differ up to which all sign patterns (65,536) are enumerated."""
FINEST = 60
"""Finest fraction that differences are taken for multiples of: shares of ties between up to 6 candidates (and 10), and means
over as many seeds."""
LONGEST = 20_000
"""Steps of the longest exact distribution that is computed; beyond it sign patterns are drawn."""
ROUNDING = 1e-9
"""Relative difference below which two sums count as equal."""
CHUNK = 1_000_000
"""Numbers drawn at a time."""


@dataclass(frozen=True)
class PValue:
    """The result of a two-sided test."""

    p: float
    """0..1; 0 only where it is below the smallest float."""
    method: str
    """What was computed, as a methods section names it."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval."""

    value: float
    low: float
    high: float


def mcnemar(control: ArrayLike, arm: ArrayLike) -> PValue:
    """Exact McNemar test (McNemar 1947; the binomial form): (items,) of 0 and 1 for each arm, columns paired.

    Under the null hypothesis an item that changed did so either way with probability 1/2. Items are assumed independent.
    Raises DataError for outcomes other than 0 and 1 (`sign_flips` takes any).
    """
    left, right = np.asarray(control, dtype=np.float64), np.asarray(arm, dtype=np.float64)
    if (
        left.shape != right.shape
        or left.ndim != 1
        or not (np.isin(left, (0, 1)).all() and np.isin(right, (0, 1)).all())
    ):
        raise DataError(
            f"expected outcomes 0 or 1 of the same items in both arms, found shapes {left.shape} and {right.shape} with values "
            f"{np.union1d(left, right)[:4].tolist()}; allowed are two arrays of one length with 0 and 1; use the sign-flip "
            "test for shares and for means over seeds"
        )
    gained, lost = int((right > left).sum()), int((right < left).sum())
    p = 2 * special.bdtr(min(gained, lost), gained + lost, 0.5) if gained + lost else 1.0
    return PValue(min(1.0, float(p)), "exact McNemar test")


def sign_flips(differences: ArrayLike, *, draws: int = DRAWS, seed: int = 0) -> PValue:
    """Paired permutation test of a mean difference of 0: every unit's sign is flipped (Fisher 1935; Pitman 1937).

    Under the null hypothesis control and arm may be exchanged within a unit; units are assumed independent. Two-sided:
    how often the sum of signed sizes is as far from 0 as the observed one. On 0/1 outcomes of one seed this is the exact
    McNemar test.

    Exact where the sizes are multiples of a common fraction (their sum's distribution is built up unit by unit: Pagano and
    Tritchler 1983) and where at most ENUMERATED units differ. Else `draws` random patterns are drawn with `seed`, and the
    observed one is counted with them, so that p is never 0 (Phipson and Smyth 2010). Tests with the same `seed` share the
    error of the draws, which is sqrt(p (1 - p) / draws): a study of many p-values gives each its own.
    """
    found = _vector(differences)
    sizes = np.sort(np.abs(found[found != 0]))
    if not sizes.size:
        return PValue(1.0, "exact sign-flip test")
    observed = abs(math.fsum(found))
    bound = observed - ROUNDING * float(sizes.sum())
    steps = _steps(sizes)
    if steps is not None:
        return PValue(_exact(steps, bound * steps.sum() / sizes.sum()), "exact sign-flip test")
    if sizes.size <= ENUMERATED:
        sums = np.zeros(1)
        for size in sizes:
            sums = np.concatenate([sums + size, sums - size])
        return PValue(float((np.abs(sums) >= bound).mean()), "exact sign-flip test")
    random, total, extreme = np.random.default_rng(seed), float(sizes.sum()), 0
    for count in _chunks(draws, sizes.size):
        flipped = random.integers(0, 2, size=(count, sizes.size), dtype=np.uint8) @ sizes
        extreme += int((np.abs(total - 2 * flipped) >= bound).sum())
    return PValue((1 + extreme) / (1 + draws), f"sign-flip test, {draws:,} draws")


def _steps(sizes: Array) -> NDArray[np.int64] | None:
    """The sizes as whole multiples of the largest fraction 1/q that they are multiples of; None where q is too large."""
    for fraction in range(1, FINEST + 1):
        steps = np.rint(sizes * fraction)
        if (np.abs(sizes * fraction - steps) <= ROUNDING * np.maximum(steps, 1)).all() and steps.min() >= 1:
            return steps.astype(np.int64) if steps.sum() <= LONGEST else None
    return None


def _exact(steps: NDArray[np.int64], bound: float) -> float:
    """Share of all sign patterns whose sum of signed steps is `bound` or more away from 0."""
    total = int(steps.sum())
    shares = np.zeros(total + 1)
    shares[0] = 1.0
    for step in steps:
        moved = np.zeros_like(shares)
        moved[step:] = shares[:-step]
        shares = (shares + moved) / 2
    return min(1.0, float(shares[np.abs(2 * np.arange(total + 1) - total) >= bound].sum()))


def bootstrap(
    differences: ArrayLike, *, reach: float = 0.0, confidence: float = 0.95, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """Mean difference with its BCa bootstrap interval over units (Efron 1987).

    BCa rather than percentiles: where most items that change do so one way, differences are skewed, and BCa is accurate to
    second order there. The acceleration is the jackknife's, which for a mean is a closed form.

    No bootstrap knows what it has not seen: of three items that differ, all one way, it makes an interval that leaves out
    0. `reach`, the largest difference that a unit can have (1 for outcomes in 0..1), mends that: one unit at +reach and one
    at -reach are resampled with the others, as Bonett and Price 2012 do for paired proportions. The value stays the mean
    of the differences. Without a reach, the interval is too narrow for fewer than about 20 units that differ, and has no
    width where all differences are the same.

    Units are assumed independent. Raises DataError for no units, a negative reach, or a confidence outside (0, 1).
    """
    observed = _vector(differences)
    _check_share("confidence", confidence)
    if not reach >= 0:
        raise DataError(f"expected a reach, found {reach!r}; allowed is 0 or more; 1 suits outcomes from 0 to 1")
    estimate = float(observed.mean())
    found = np.sort(np.append(observed, (-reach, reach)) if reach else observed)
    centre, scale = float(found.mean()), float(np.abs(found).max())
    if np.ptp(found) <= ROUNDING * scale:
        return Estimate(estimate, estimate, estimate)
    means = _resampled_means(found, draws, np.random.default_rng(seed))
    # Ties count half: means of few distinct values often equal the observed one.
    slack = ROUNDING * scale
    below = ((means < centre - slack).mean() + (means <= centre + slack).mean()) / 2
    bias = special.ndtri(np.clip(below, 0.5 / draws, 1 - 0.5 / draws))
    acceleration = float(((found - centre) ** 3).sum()) / (6 * float(((found - centre) ** 2).sum()) ** 1.5)
    wanted = bias + special.ndtri(np.array([(1 - confidence) / 2, (1 + confidence) / 2]))
    low, high = np.quantile(means, special.ndtr(bias + wanted / (1 - acceleration * wanted)))
    return Estimate(estimate, float(low), float(high))


def _resampled_means(values: Array, draws: int, random: np.random.Generator) -> Array:
    """(draws,): means of samples with replacement of (units,) values."""
    distinct, counts = np.unique(values, return_counts=True)
    # How often each distinct value is drawn is multinomial: for outcomes of 0 and 1, three numbers instead of one a unit.
    if distinct.size * 8 <= values.size:
        return random.multinomial(values.size, counts / values.size, size=draws) @ distinct / values.size
    parts = (random.integers(0, values.size, (count, values.size)) for count in _chunks(draws, values.size))
    return np.concatenate([values[part].mean(axis=1) for part in parts])


def min_f(differences: ArrayLike, *, confidence: float = 0.95) -> tuple[Estimate, PValue]:
    """Mean difference, its interval and test where both items and seeds are drawn from many: min F' (Clark 1973).

    `differences` is (seeds, items), at least 2 of each. The mean squares of items and of seeds add up, which errs on the
    safe side by the residual's; degrees of freedom are Satterthwaite's. Items and seeds are assumed drawn independently
    and their effects about normal. It answers whether the difference would be there for new seeds too, which a test over
    items alone does not ask.

    Raises DataError for fewer than 2 seeds or items, or a confidence outside (0, 1).
    """
    table = np.asarray(differences, dtype=np.float64)
    _check_share("confidence", confidence)
    if table.ndim != 2 or min(table.shape) < 2:
        raise DataError(
            f"expected differences of (seeds, items), found shape {table.shape}; allowed are two or more of each; run another "
            "seed, or test over items alone"
        )
    seeds, items = table.shape
    value = float(table.mean())
    by_item = seeds * float(table.mean(axis=0).var(ddof=1))
    by_seed = items * float(table.mean(axis=1).var(ddof=1))
    method = "min F' over items and seeds"
    if by_item + by_seed == 0:
        return Estimate(value, value, value), PValue(float(value == 0), method)
    freedom = (by_item + by_seed) ** 2 / (by_item**2 / (items - 1) + by_seed**2 / (seeds - 1))
    error = math.sqrt((by_item + by_seed) / table.size)
    half = float(special.stdtrit(freedom, (1 + confidence) / 2)) * error
    p = 2 * float(special.stdtr(freedom, -abs(value) / error))
    return Estimate(value, value - half, value + half), PValue(p, method)


def unpaired(control: ArrayLike, arm: ArrayLike) -> PValue:
    """Welch's t test (Welch 1947) of two arms, (items,) each, as if they had been scored on different items.

    It is here to show what pairing gains; on the same items it is too cautious. Raises DataError for fewer than two items.
    """
    sides = [_vector(values, least=2) for values in (control, arm)]
    parts = [float(values.var(ddof=1)) / values.size for values in sides]
    difference = float(sides[1].mean() - sides[0].mean())
    if sum(parts) == 0:
        return PValue(float(difference == 0), "Welch's t test")
    freedom = sum(parts) ** 2 / sum(part**2 / (side.size - 1) for part, side in zip(parts, sides, strict=True))
    p = 2 * float(special.stdtr(freedom, -abs(difference) / math.sqrt(sum(parts))))
    return PValue(p, "Welch's t test")


@dataclass(frozen=True)
class Equivalence:
    """The result of two one-sided tests."""

    p: float
    """Below alpha: the mean difference lies within the margin."""
    interval: Estimate
    """Mean difference with its interval of confidence 1 - 2 alpha: equivalent where it lies inside the margin."""
    margin: float


def equivalence(differences: ArrayLike, margin: float, *, alpha: float = 0.05, reach: float = 0.0) -> Equivalence:
    """Whether two arms are the same to within `margin` (> 0, in the unit of the outcomes): paired two one-sided t tests
    (Schuirmann 1987; for paired samples Lakens 2017).

    A large p of an ordinary test is no evidence for sameness; a small p here is. `reach` is as in `bootstrap`: without one, a few
    items of which none changed would prove that none ever will. Units are assumed independent and their mean about normal.
    Raises DataError for fewer than two units, a margin that is not above 0, or alpha outside (0, 0.5).
    """
    found = _vector(differences, least=2)
    if not margin > 0 or not 0 < alpha < 0.5:
        raise DataError(
            f"expected a margin and a level, found margin {margin!r} and alpha {alpha!r}; allowed are margin > 0 and 0 < alpha "
            "< 0.5; give the largest difference that does not matter to you as the margin"
        )
    seen = np.append(found, (-reach, reach)) if reach else found
    value, freedom = float(found.mean()), seen.size - 1
    error = float(seen.std(ddof=1)) / math.sqrt(seen.size)
    half = float(special.stdtrit(freedom, 1 - alpha)) * error
    inside = margin - abs(value)
    # The larger of the two p-values belongs to the nearer bound.
    p = float(special.stdtr(freedom, -inside / error)) if error else float(inside <= 0)
    return Equivalence(p, Estimate(value, value - half, value + half), margin)


def ratio(
    top: float, top_error: float, bottom: float, bottom_error: float, *, confidence: float = 0.95
) -> Estimate | None:
    """top / bottom with its interval, for two independent, about normal estimates with standard errors (Fieller 1954).

    None where the interval of `bottom` covers 0: the ratio could then be anything.
    """
    _check_share("confidence", confidence)
    square = float(special.ndtri((1 + confidence) / 2)) ** 2
    leading = bottom**2 - square * bottom_error**2
    if leading <= 0:
        return None
    root = math.sqrt(max(0.0, (top * bottom) ** 2 - leading * (top**2 - square * top_error**2)))
    return Estimate(top / bottom, (top * bottom - root) / leading, (top * bottom + root) / leading)


def _vector(values: ArrayLike, least: int = 1) -> Array:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or found.size < least or not np.isfinite(found).all():
        raise DataError(
            f"expected one finite number a unit, found shape {found.shape}; allowed are {least} or more numbers in one row; "
            "average over seeds (or items) first"
        )
    return found


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise DataError(f"expected a share as {name}, found {value!r}; allowed is 0 < {name} < 1; 0.95 is usual")


def _chunks(draws: int, size: int) -> list[int]:
    """The draws in parts of about CHUNK numbers."""
    part = max(1, CHUNK // size)
    return [min(part, draws - start) for start in range(0, draws, part)]
