"""Laws of corrections for many arms: by their definitions, for any order, with ties."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from selfalign.errors import DataError
from selfalign.statistics import benjamini_hochberg, holm

CORRECTIONS = [holm, benjamini_hochberg]


def draws() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    found = [random.random(size) ** 2 for size in (1, 2, 5, 16, 40)]
    return [*found, np.array([0.01, 0.01, 0.02, 0.5, 0.5]), np.array([0.0, 1.0, 1.0]), np.full(4, 0.3)]


def holm_by_steps(p_values: np.ndarray, alpha: float) -> np.ndarray:
    """Rejections of Holm's procedure as the paper words it: smallest first, until one is not below alpha / (those left)."""
    rejected = np.zeros(p_values.size, dtype=bool)
    for step, index in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[index] > alpha / (p_values.size - step):
            break
        rejected[index] = True
    return rejected


def step_up(p_values: np.ndarray, rate: float) -> np.ndarray:
    """Rejections of Benjamini and Hochberg's procedure: all up to the largest k with p_(k) <= k rate / m."""
    order = np.argsort(p_values, kind="stable")
    below = [k for k in range(p_values.size) if p_values[order[k]] <= (k + 1) * rate / p_values.size]
    rejected = np.zeros(p_values.size, dtype=bool)
    rejected[order[: max(below, default=-1) + 1]] = True
    return rejected


@pytest.mark.parametrize("p_values", draws(), ids=lambda p: f"{p.size} arms")
@pytest.mark.parametrize("alpha", [0.011, 0.052, 0.23])
def test_comparing_adjusted_values_with_the_level_is_the_stepwise_procedure(p_values: np.ndarray, alpha: float) -> None:
    assert ((holm(p_values) <= alpha) == holm_by_steps(p_values, alpha)).all()
    assert ((benjamini_hochberg(p_values) <= alpha) == step_up(p_values, alpha)).all()


@pytest.mark.parametrize("p_values", draws(), ids=lambda p: f"{p.size} arms")
def test_benjamini_hochberg_is_that_of_scipy(p_values: np.ndarray) -> None:
    assert benjamini_hochberg(p_values) == pytest.approx(false_discovery_control(p_values, method="bh"), abs=1e-15)


@pytest.mark.parametrize("correct", CORRECTIONS)
def test_corrections_keep_the_order_and_ties_and_are_never_below_the_raw_value(correct) -> None:
    for p_values in draws():
        adjusted = correct(p_values)
        assert (adjusted >= p_values - 1e-15).all() and (adjusted <= 1).all()
        assert (np.diff(adjusted[np.argsort(p_values, kind="stable")]) >= 0).all()
        for value in p_values:
            assert len(set(adjusted[p_values == value])) == 1
        shuffled = np.random.default_rng(1).permutation(p_values.size)
        assert (correct(p_values[shuffled]) == adjusted[shuffled]).all()


@pytest.mark.parametrize("correct", CORRECTIONS)
def test_one_arm_needs_no_correction_and_none_gives_none(correct) -> None:
    assert correct([0.03]).tolist() == [0.03] and correct([]).size == 0


def test_holm_is_never_below_benjamini_hochberg() -> None:
    for p_values in draws():
        assert (holm(p_values) >= benjamini_hochberg(p_values) - 1e-15).all()


@pytest.mark.parametrize("wrong", [[0.5, 1.2], [-0.1], [float("nan")], [[0.1]]])
@pytest.mark.parametrize("correct", CORRECTIONS)
def test_what_is_no_list_of_p_values_is_refused(correct, wrong: list) -> None:
    with pytest.raises(DataError, match="from 0 to 1"):
        correct(wrong)
