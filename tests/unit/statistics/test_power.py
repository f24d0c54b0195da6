"""Laws of power: the closed form keeps what it promises in simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from selfalign.errors import DataError
from selfalign.statistics import binary_pairs, mcnemar, minimum_detectable_effect, rejection_rate


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 16])
def test_the_minimum_detectable_effect_solves_the_sample_size_of_mcnemars_test(alpha: float) -> None:
    discordance, items = 0.15, 400
    effect = minimum_detectable_effect(discordance, items, alpha=alpha, power=0.8)
    a, b = norm.ppf(1 - alpha / 2), norm.ppf(0.8)
    size = (a * math.sqrt(discordance) + b * math.sqrt(discordance - effect**2)) ** 2 / effect**2
    assert size == pytest.approx(items)


def test_an_effect_of_the_minimum_detectable_size_is_found_as_often_as_it_says() -> None:
    effect = minimum_detectable_effect(0.2, 500, power=0.8)
    found = rejection_rate(
        lambda control, arm: mcnemar(control, arm).p,
        lambda random: binary_pairs(random, 500, accuracy=0.6, effect=effect, discordance=0.2),
        repeats=600,
        seed=3,
    )
    # The exact test is a little more cautious than the normal approximation behind the closed form.
    assert 0.8 - 0.05 - 3 * found.stderr <= found.value <= 0.8 + 3 * found.stderr


def test_more_items_less_discordance_and_a_looser_level_detect_less() -> None:
    base = minimum_detectable_effect(0.2, 200)
    assert minimum_detectable_effect(0.2, 800) == pytest.approx(base / 2, rel=0.02)
    assert minimum_detectable_effect(0.1, 200) < base < minimum_detectable_effect(0.2, 200, alpha=0.01)
    assert base < minimum_detectable_effect(0.2, 200, power=0.9) and minimum_detectable_effect(0.0, 200) == 0


def test_drawn_pairs_have_the_accuracy_effect_and_discordance_asked_for() -> None:
    control, arm = binary_pairs(np.random.default_rng(0), 40_000, accuracy=0.7, effect=-0.1, discordance=0.3)
    shares = [control.mean(), arm.mean(), (control != arm).mean()]
    assert shares == pytest.approx([0.7, 0.6, 0.3], abs=3 * 0.5 / math.sqrt(40_000))


def test_a_test_that_ignores_the_data_rejects_as_often_as_it_says() -> None:
    found = rejection_rate(lambda left, right: float(left[0]), lambda r: (r.random(1), r.random(1)), alpha=0.3, seed=1)
    assert abs(found.value - 0.3) <= 3 * math.sqrt(0.3 * 0.7 / 1000)
    assert found.stderr == pytest.approx(math.sqrt(found.value * (1 - found.value) / 1000))


@pytest.mark.parametrize(
    "call",
    [
        lambda: minimum_detectable_effect(-0.1, 10),
        lambda: minimum_detectable_effect(0.1, 0),
        lambda: minimum_detectable_effect(0.1, 10, power=1),
        lambda: binary_pairs(np.random.default_rng(0), 5, accuracy=0.5, effect=0.3, discordance=0.2),
        lambda: binary_pairs(np.random.default_rng(0), 5, accuracy=0.95, effect=0.1, discordance=0.1),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_is_allowed(call) -> None:
    with pytest.raises(DataError, match="expected .*found .*allowed .*;"):
        call()
