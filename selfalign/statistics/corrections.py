"""p-values of several arms in, adjusted p-values out: compare them with the level that one test would have had."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from selfalign.errors import DataError
from selfalign.statistics.outcomes import Array


def holm(p_values: ArrayLike) -> Array:
    """Adjusted p-values, (arms,) in the order given, that control the chance of any false rejection (Holm 1979).

    The k-th smallest of m is multiplied by m - k + 1, and none is smaller than a smaller one's; nothing is assumed of how
    the tests depend on one another. Equal p-values stay equal. Raises DataError for values that are no p-values.
    """
    found = _checked(p_values)
    order = np.argsort(found, kind="stable")
    factors = np.arange(found.size, 0, -1)
    adjusted = np.empty_like(found)
    adjusted[order] = np.minimum(np.maximum.accumulate(found[order] * factors), 1.0)
    return adjusted


def benjamini_hochberg(p_values: ArrayLike) -> Array:
    """Adjusted p-values, (arms,) in the order given, that control the expected share of false ones among the rejections
    (Benjamini and Hochberg 1995).

    The k-th smallest of m is multiplied by m / k, and none is larger than a larger one's. The tests are assumed independent
    or positively dependent. Equal p-values stay equal. Raises DataError for values that are no p-values.
    """
    found = _checked(p_values)
    order = np.argsort(found, kind="stable")
    factors = found.size / np.arange(1, found.size + 1)
    adjusted = np.empty_like(found)
    adjusted[order] = np.minimum(np.minimum.accumulate((found[order] * factors)[::-1])[::-1], 1.0)
    return adjusted


def _checked(p_values: ArrayLike) -> Array:
    found = np.asarray(p_values, dtype=np.float64)
    if found.ndim != 1 or not ((found >= 0) & (found <= 1)).all():
        raise DataError(
            f"expected a list of p-values, found {found.tolist()!r:.80}; allowed are numbers from 0 to 1; leave out tests that "
            "have none"
        )
    return found
