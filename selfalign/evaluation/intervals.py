"""The interval of a score: value, standard error and number of items in, 95 % interval out."""

from __future__ import annotations

import math

Z = 1.959963984540054
"""The 0.975 quantile of the normal distribution."""


def of_share(value: float, stderr: float | None, n: int) -> tuple[float, float]:
    """95 % interval of a mean of n outcomes between 0 and 1: Wilson's (1927) score interval, inside 0..1.

    Outcomes between 0 and 1, such as shares of probability, vary less than right and wrong of the same mean: the size is then the
    number of right-or-wrong outcomes that would have this standard error (for those themselves, it is n).
    """
    spread = value * (1 - value)
    size = 1 + spread / stderr**2 if stderr and spread > 0 else float(n)
    middle = (value + Z**2 / (2 * size)) / (1 + Z**2 / size)
    half = Z / (1 + Z**2 / size) * math.sqrt(spread / size + Z**2 / (4 * size**2))
    # Of all wrong and of all right, rounding would leave the end a little on the other side.
    return max(0.0, min(value, middle - half)), min(1.0, max(value, middle + half))


def of_mean(value: float, stderr: float | None, n: int) -> tuple[float, float] | None:
    """95 % interval of a mean of n numbers without bounds, by Student's t; None for a single one."""
    if stderr is None or n < 2:
        return None
    # Imported here: scores are read at start-up, and this is needed for a few of them.
    from scipy import special

    half = float(special.stdtrit(n - 1, 0.975)) * stderr
    return value - half, value + half
