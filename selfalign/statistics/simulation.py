"""Sweeps that never ran: how often the analysis of a sweep finds what is not there, and how often what is.

Items are drawn as they were observed: each is right with its own probability, so that hard items and easy ones are as in the sweep
that the probabilities were estimated from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selfalign.statistics.corrections import holm
from selfalign.statistics.outcomes import Array, units
from selfalign.statistics.paired import sign_flips, unpaired
from selfalign.statistics.power import Rate


@dataclass(frozen=True)
class NullSweeps:
    """What the analysis says of sweeps whose arms do nothing."""

    repeats: int
    tests: int
    """Comparisons of a sweep."""
    any_in_table: Rate
    """Sweeps with a difference after Holm over all comparisons."""
    any_in_metric: Rate
    """Metrics of a sweep with a difference after Holm over the arms of the metric."""


@dataclass(frozen=True)
class Power:
    """How often an effect of one size is found."""

    lost: int
    """Items that the arm always gets wrong and the control gets right as often as before."""
    paired: Rate
    unpaired: Rate


def _drawn(random: np.random.Generator, rates: Array, seeds: int) -> NDArray[np.float64]:
    return (random.random((seeds, rates.size)) < rates).astype(np.float64)


def _rate(count: int, of: int) -> Rate:
    value = count / of
    return Rate(value, math.sqrt(value * (1 - value) / of))


def null_sweeps(
    metrics: Sequence[Array], *, arms: int, seeds: int, repeats: int = 200, alpha: float = 0.05, seed: int = 0
) -> NullSweeps:
    """Sweeps of `arms` arms that all draw each item with the control's probability, analysed by sign flips of item means.

    `metrics` holds one array (items,) of probabilities a metric.
    """
    random = np.random.default_rng(seed)
    in_table = in_metric = 0
    for _ in range(repeats):
        p_values = np.empty((len(metrics), arms))
        for row, rates in enumerate(metrics):
            control = _drawn(random, rates, seeds)
            for arm in range(arms):
                p_values[row, arm] = sign_flips(units(_drawn(random, rates, seeds) - control)).p
        in_table += bool((holm(p_values.ravel()) <= alpha).any())
        in_metric += sum(bool((holm(row) <= alpha).any()) for row in p_values)
    found = _rate(in_table, repeats), _rate(in_metric, repeats * len(metrics))
    return NullSweeps(repeats, len(metrics) * arms, *found)


def power_curve(
    rates: Array, lost: Sequence[int], *, level: float, seeds: int, repeats: int = 200, seed: int = 0
) -> list[Power]:
    """How often an arm that loses some items is found at `level`: paired by item, and as if the arms had been asked other items.

    `rates` (items,) are the control's probabilities. The items that are lost are drawn anew each time from those that the control
    is more often right on than not. The unpaired test is Welch's, over each arm's item means.
    """
    random = np.random.default_rng(seed)
    usual = np.flatnonzero(rates > 0.5)
    found = []
    for count in lost:
        hits = np.zeros(2, dtype=int)
        for _ in range(repeats):
            theirs = rates.copy()
            theirs[random.choice(usual, size=min(count, usual.size), replace=False)] = 0.0
            control, arm = _drawn(random, rates, seeds), _drawn(random, theirs, seeds)
            p_values = sign_flips(units(arm - control)).p, unpaired(units(control), units(arm)).p
            hits += np.array(p_values) <= level
        found.append(Power(count, _rate(int(hits[0]), repeats), _rate(int(hits[1]), repeats)))
    return found
