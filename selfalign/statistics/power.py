"""How large an effect must be to be found: in closed form from the discordance, and by simulation for any test."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from selfalign.errors import DataError
from selfalign.statistics.outcomes import Array


def minimum_detectable_effect(discordance: float, units: int, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """The mean paired difference that a two-sided test at level `alpha` finds with probability `power`.

    `discordance` is the mean square of the units' differences: for 0/1 outcomes of one seed, the share of items that
    differ. It is taken to stay as observed, and the sum to be about normal, so that the result is meaningless where only a
    handful of units differ. From the sample size of Connor 1987 for McNemar's test, n = (a sqrt(d) + b sqrt(d - e^2))^2 / e^2
    with the normal quantiles a and b, solved for the effect e. 0 for a discordance of 0.

    Raises DataError for a negative discordance, no units, or shares outside (0, 1).
    """
    if discordance < 0 or units < 1 or not 0 < alpha < 1 or not alpha / 2 < power < 1:
        raise DataError(
            f"expected discordance, units, alpha and power, found {discordance!r}, {units!r}, {alpha!r} and {power!r}; allowed "
            "are discordance >= 0, units >= 1, 0 < alpha < 1 and alpha / 2 < power < 1; alpha 0.05 and power 0.8 are usual"
        )
    a, b = float(special.ndtri(1 - alpha / 2)), float(special.ndtri(power))
    inside = max(0.0, units + b**2 - a**2)
    return math.sqrt(discordance) * (a * math.sqrt(units) + b * math.sqrt(inside)) / (units + b**2)


@dataclass(frozen=True)
class Rate:
    """A share of simulations."""

    value: float
    stderr: float
    """sqrt(value (1 - value) / repeats)."""


def rejection_rate(
    p_value: Callable[[Array, Array], float],
    draw: Callable[[np.random.Generator], tuple[Array, Array]],
    *,
    alpha: float = 0.05,
    repeats: int = 1_000,
    seed: int = 0,
) -> Rate:
    """How often a test rejects at level `alpha` on simulated data: its power, or its size where `draw` has no effect.

    `draw` makes the outcomes of control and arm from a generator, `p_value` takes them; both are free in their shapes.
    """
    random = np.random.default_rng(seed)
    value = sum(p_value(*draw(random)) <= alpha for _ in range(repeats)) / repeats
    return Rate(value, math.sqrt(value * (1 - value) / repeats))


def binary_pairs(
    random: np.random.Generator, items: int, *, accuracy: float, effect: float, discordance: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Outcomes 0 or 1 of control and arm, (items,) each: the control is right with probability `accuracy`, the arm with
    `accuracy + effect`, and the two differ with probability `discordance`.

    Raises DataError where no such pair of arms exists.
    """
    gained, lost = (discordance + effect) / 2, (discordance - effect) / 2
    both = accuracy - lost
    if min(gained, lost, both, 1 - both - discordance) < 0:
        raise DataError(
            f"expected arms that can exist, found accuracy {accuracy!r}, effect {effect!r} and discordance {discordance!r}; "
            "allowed is |effect| <= discordance, with no outcome of negative probability; raise or lower the discordance"
        )
    kind = random.random(items)
    control = kind < both + lost
    arm = (kind < both) | ((kind >= both + lost) & (kind < both + lost + gained))
    return control.astype(np.float64), arm.astype(np.float64)
