from __future__ import annotations

import math

import numpy as np
import pytest

from selfalign.evaluation.intervals import of_mean, of_share
from selfalign.evaluation.scores import mean, score


@pytest.mark.parametrize(
    ("right", "n", "low", "high"), [(7, 10, 0.3968, 0.8922), (0, 20, 0.0, 0.1611), (5, 5, 0.5655, 1.0)]
)
def test_of_right_and_wrong_it_is_wilsons_interval(right, n, low, high):
    # From the formula in Brown, Cai and DasGupta 2001, section 3.1.1, worked out by hand.
    found = of_share(*mean([1.0] * right + [0.0] * (n - right)), n)
    assert found == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@pytest.mark.parametrize("kind", ["right or wrong", "shares"])
@pytest.mark.parametrize(("truth", "n"), [(0.25, 40), (0.5, 80), (0.95, 60)])
def test_it_holds_the_truth_about_95_times_in_a_hundred(kind, truth, n):
    draw = np.random.default_rng(7)
    held = 0
    for _ in range(1000):
        values = draw.beta(8 * truth, 8 * (1 - truth), n) if kind == "shares" else 1.0 * (draw.random(n) < truth)
        low, high = of_share(*mean(values.tolist()), n)
        held += low <= truth <= high
    assert 925 <= held <= 985


def test_it_stays_inside_zero_and_one_and_holds_the_score():
    for values in ([1.0], [0.0] * 3, [0.5] * 4, [0.0, 1.0], [0.999, 1.0, 1.0]):
        low, high = of_share(*mean(values), len(values))
        assert 0 <= low <= mean(values)[0] <= high <= 1 and low < high


def test_outcomes_that_vary_less_have_a_narrower_interval():
    wide, narrow = [0.0, 1.0] * 20, [0.4, 0.6] * 20
    of = [of_share(*mean(values), 40) for values in (wide, narrow)]
    assert of[1][1] - of[1][0] < 0.3 * (of[0][1] - of[0][0])


def test_a_length_has_students_interval_and_a_single_one_none():
    low, high = of_mean(10.0, 2.0, 5) or (math.nan, math.nan)
    assert (low, high) == (pytest.approx(10 - 2.776445 * 2), pytest.approx(10 + 2.776445 * 2))
    assert of_mean(10.0, None, 1) is None


def test_every_valid_score_has_an_interval_and_an_invalid_one_has_none():
    lengths = score("base", "t", "generate", "mean_words", [10.0, 30.0, 20.0])
    shares = score("base", "t", "mc1", "accuracy", [1.0, 0.0, 1.0])
    assert lengths.high is not None and lengths.high > 30 and shares.high is not None and shares.high < 1
    broken = score("base", "t", "mc1", "accuracy", [1.0, math.nan])
    assert (broken.value, broken.low, broken.high) == (None, None, None)
