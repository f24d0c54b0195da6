"""Laws of simulated sweeps."""

from __future__ import annotations

import numpy as np

from selfalign.statistics import null_sweeps, power_curve


def test_sweeps_without_an_effect_rarely_show_one() -> None:
    random = np.random.default_rng(0)
    metrics = [random.random(24) for _ in range(6)]
    found = null_sweeps(metrics, arms=10, seeds=3, repeats=100)
    assert found.tests == 60 and found.any_in_table.value <= 0.07 and found.any_in_metric.value <= 0.07


def test_a_test_at_a_level_of_one_finds_everything() -> None:
    found = null_sweeps([np.full(10, 0.5)], arms=3, seeds=1, repeats=5, alpha=1.0)
    assert found.any_in_table.value == found.any_in_metric.value == 1.0


def test_more_lost_items_are_found_more_often_and_pairing_finds_more() -> None:
    # Half of the items are always right, the others always wrong: the same items side by side say all.
    rates = np.repeat([1.0, 0.0], 60)
    points = power_curve(rates, [0, 6, 12, 40], level=0.01, seeds=1, repeats=60)
    paired, unpaired = ([getattr(one, name).value for one in points] for name in ("paired", "unpaired"))
    assert paired == sorted(paired) and paired[0] == 0.0 and paired[-1] == 1.0
    assert paired[2] == 1.0 and unpaired[2] < 0.5


def test_the_same_seed_gives_the_same_sweeps() -> None:
    rates = [np.full(20, 0.6)]
    assert null_sweeps(rates, arms=4, seeds=2, repeats=5, seed=3) == null_sweeps(
        rates, arms=4, seeds=2, repeats=5, seed=3
    )
