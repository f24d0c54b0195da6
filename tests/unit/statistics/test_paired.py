"""Laws of the paired tests and intervals: equal to scipy or to enumeration, of the right size, blind to order."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from selfalign.errors import DataError
from selfalign.statistics import (
    Cluster,
    binary_pairs,
    bootstrap,
    equivalence,
    holm,
    mcnemar,
    min_f,
    paired,
    ratio,
    rejection_rate,
    sign_flips,
    units,
    unpaired,
)


def by_enumeration(differences: np.ndarray) -> float:
    """The sign-flip test in the slowest way there is: every pattern of signs of every unit, zeros too."""
    observed = abs(math.fsum(differences))
    signs = itertools.product((1, -1), repeat=len(differences))
    sums = [abs(math.fsum(sign * value for sign, value in zip(one, differences, strict=True))) for one in signs]
    return sum(value >= observed - 1e-9 for value in sums) / len(sums)


# ------------------------------------------------------------------------------------------------------------ McNemar


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (3, 3), (2, 9), (40, 21), (0, 12), (150, 90)])
def test_mcnemar_is_the_binomial_test_of_the_pairs_that_differ(gained: int, lost: int) -> None:
    control = np.array([0.0] * gained + [1.0] * lost + [1.0, 0.0] * 20)
    arm = np.array([1.0] * gained + [0.0] * lost + [1.0, 0.0] * 20)
    expected = scipy_stats.binomtest(gained, gained + lost, 0.5).pvalue if gained + lost else 1.0
    assert mcnemar(control, arm).p == pytest.approx(expected, rel=1e-9)
    assert mcnemar(arm, control).p == mcnemar(control, arm).p


def test_mcnemar_takes_only_right_and_wrong() -> None:
    for control, arm in [([0.5, 1], [1, 1]), ([1, 0], [1, 0, 1]), ([[1, 0]], [[0, 1]])]:
        with pytest.raises(DataError, match="0 or 1"):
            mcnemar(control, arm)


# --------------------------------------------------------------------------------------------------------- sign flips

RANDOM = np.random.default_rng(7)
SMALL = {
    "0/1 of one seed": RANDOM.integers(-1, 2, 11).astype(float),
    "means over three seeds": RANDOM.integers(-3, 4, 11) / 3,
    "shares under ties": RANDOM.choice([-1, -0.5, -1 / 3, 0, 0.25, 1], 11),
    "continuous": RANDOM.normal(0.3, 1, 10),
    "one unit": np.array([0.7]),
}


@pytest.mark.parametrize("differences", SMALL.values(), ids=SMALL)
def test_sign_flips_of_few_units_are_exact(differences: np.ndarray) -> None:
    found = sign_flips(differences)
    assert found.method == "exact sign-flip test"
    assert found.p == pytest.approx(by_enumeration(differences), abs=1e-12)


@pytest.mark.parametrize("differences", [d for d in SMALL.values() if d.size > 1])
def test_sign_flips_are_the_permutation_test_of_scipy(differences: np.ndarray) -> None:
    found = scipy_stats.permutation_test(
        (differences, np.zeros_like(differences)),
        lambda left, right, axis: left.mean(axis=axis) - right.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=2**12,
    )
    assert sign_flips(differences).p == pytest.approx(found.pvalue, abs=1e-9)


def test_sign_flips_of_right_and_wrong_are_mcnemar_at_any_size() -> None:
    random = np.random.default_rng(1)
    for items in (5, 60, 817):
        control, arm = random.integers(0, 2, (2, items)).astype(float)
        assert sign_flips(arm - control).p == pytest.approx(mcnemar(control, arm).p, rel=1e-9)


def test_drawn_sign_flips_are_near_the_exact_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    differences = np.random.default_rng(2).normal(0.4, 1, 12)
    exact = sign_flips(differences)
    monkeypatch.setattr(paired, "ENUMERATED", 0)
    drawn = sign_flips(differences)
    assert (exact.method, drawn.method) == ("exact sign-flip test", "sign-flip test, 9,999 draws")
    assert drawn.p == pytest.approx(exact.p, abs=4 * math.sqrt(exact.p * (1 - exact.p) / 9_999) + 1e-4)
    assert drawn.p == sign_flips(differences).p != sign_flips(differences, seed=1).p


def test_draws_count_the_observed_pattern_so_that_no_p_value_is_zero() -> None:
    assert sign_flips(np.random.default_rng(3).normal(5, 0.1, 40), draws=199).p == 1 / 200


def test_three_seeds_taken_as_units_can_never_reject() -> None:
    differences = np.full((3, 50), 1.0)
    assert sign_flips(units(differences, Cluster.seed)).p == 0.25
    assert sign_flips(units(differences)).p == 2 * 0.5**50


def test_no_difference_anywhere_has_a_p_value_of_one() -> None:
    assert sign_flips(np.zeros(30)).p == 1.0


# ---------------------------------------------------------------------------------------------------------- bootstrap


@pytest.mark.parametrize("kind", ["binary", "skewed"])
def test_the_interval_is_that_of_scipy_to_within_its_own_noise(kind: str) -> None:
    random = np.random.default_rng(5)
    values = random.choice([-1.0, 0, 0, 0, 0, 0, 1, 1], 120) if kind == "binary" else random.exponential(1, 80) - 1
    theirs = scipy_stats.bootstrap(
        (values,), np.mean, method="BCa", n_resamples=9_999, rng=np.random.default_rng(0)
    ).confidence_interval
    ours = bootstrap(values)
    noise = 0.06 * values.std() / math.sqrt(values.size)
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=max(noise, 1.01 / values.size))


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    random, repeats, effect = np.random.default_rng(11), 400, -0.06
    covered = 0
    for _ in range(repeats):
        control, arm = binary_pairs(random, 150, accuracy=0.7, effect=effect, discordance=0.2)
        found = bootstrap(arm - control, draws=499)
        covered += found.low <= effect <= found.high
    assert abs(covered / repeats - 0.95) <= 3 * math.sqrt(0.95 * 0.05 / repeats)


def test_where_few_items_differ_an_interval_covers_the_truth_only_with_a_reach() -> None:
    random, repeats, effect = np.random.default_rng(17), 400, -0.02
    plain = reaching = 0
    for _ in range(repeats):
        control, arm = binary_pairs(random, 80, accuracy=0.7, effect=effect, discordance=0.04)
        alone, found = (bootstrap(arm - control, reach=reach, draws=499) for reach in (0.0, 1.0))
        plain += alone.low <= effect <= alone.high
        reaching += found.low <= effect <= found.high
    noise = 3 * math.sqrt(0.95 * 0.05 / repeats)
    assert plain / repeats < 0.95 - noise and reaching / repeats >= 0.95 - noise


def test_items_that_all_agree_leave_doubt_only_with_a_reach() -> None:
    found = bootstrap(np.full(9, 0.1))
    assert found.low == found.high == found.value == pytest.approx(0.1)
    for items in (10, 100):
        unseen = bootstrap(np.zeros(items), reach=1.0)
        # The rule of three: what was not seen in n items may be the case in 3 of n.
        assert unseen.value == 0 and 1 / items <= unseen.high <= 4 / items and -4 / items <= unseen.low <= -1 / items


@pytest.mark.parametrize("differing", [1, 2, 3, 4])
def test_an_interval_with_a_reach_holds_zero_where_the_exact_test_is_far_from_rejecting(differing: int) -> None:
    differences = np.array([-1.0] * differing + [0.0] * 77)
    assert sign_flips(differences).p == 0.5 ** (differing - 1)
    found = bootstrap(differences, reach=1.0)
    assert found.low < 0 <= found.high and found.value == differences.mean()


def test_a_wider_confidence_holds_a_narrower_one_and_the_mirror_image_mirrors() -> None:
    values = np.random.default_rng(4).exponential(1, 60)
    narrow, wide = bootstrap(values, confidence=0.8), bootstrap(values, confidence=0.99)
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high
    mirrored = bootstrap(-values)
    noise = 0.06 * values.std() / math.sqrt(60)
    assert (-mirrored.high, -mirrored.low) == pytest.approx((bootstrap(values).low, bootstrap(values).high), abs=noise)


# --------------------------------------------------------------------------------------------------------- invariance


@pytest.mark.parametrize("kind", ["binary", "thirds", "continuous"])
def test_the_order_of_items_changes_nothing(kind: str) -> None:
    random = np.random.default_rng(9)
    table = {
        "binary": random.integers(-1, 2, (1, 70)).astype(float),
        "thirds": random.integers(-1, 2, (3, 70)).astype(float),
        "continuous": random.normal(0.1, 1, (3, 70)),
    }[kind]
    shuffled = table[:, random.permutation(70)]
    # Means over seeds may differ in their last bit, the draws may not.
    assert sign_flips(units(shuffled)).p == sign_flips(units(table)).p
    first, second = bootstrap(units(table)), bootstrap(units(shuffled))
    assert (first.value, first.low, first.high) == pytest.approx((second.value, second.low, second.high), rel=1e-12)


def test_swapping_control_and_arm_changes_the_sign_and_nothing_else() -> None:
    values = np.random.default_rng(10).normal(0.2, 1, 40)
    assert sign_flips(-values).p == sign_flips(values).p
    table = values.reshape(4, 10)
    (there, p_there), (back, p_back) = min_f(table), min_f(-table)
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low))
    assert p_back.p == p_there.p


# --------------------------------------------------------------------------------------------------------- simulation


def test_p_values_are_uniform_where_there_is_no_difference() -> None:
    random = np.random.default_rng(12)
    # Draws of their own: with the same ones for all, the p-values would share the draws' error too.
    p_values = [sign_flips(random.normal(0, 1, 30), draws=199, seed=repeat).p for repeat in range(400)]
    assert scipy_stats.kstest(p_values, "uniform").pvalue > 0.01
    # The exact test is discrete: it may reject less often than its level, and not more often.
    exact = np.array(
        [mcnemar(*binary_pairs(random, 80, accuracy=0.6, effect=0, discordance=0.3)).p for _ in range(2000)]
    )
    for level in (0.01, 0.05, 0.2, 0.5):
        assert (exact <= level).mean() <= level + 3 * math.sqrt(level * (1 - level) / 2000)


@pytest.mark.parametrize("seeds", [1, 3])
def test_null_sweeps_of_sixteen_arms_are_rarely_called_an_effect_after_holm(seeds: int) -> None:
    random, sweeps, items = np.random.default_rng(20 + seeds), 200, 120
    wrong = 0
    for _ in range(sweeps):
        difficulty = random.random(items)
        control = random.random((seeds, items)) < difficulty
        arms = random.random((16, seeds, items)) < difficulty
        p_values = [sign_flips(units(arm.astype(float) - control)).p for arm in arms]
        wrong += bool((holm(p_values) <= 0.05).any())
    assert wrong / sweeps <= 0.07


def test_pairing_finds_what_the_same_items_unpaired_do_not_show() -> None:
    def draw(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return binary_pairs(random, 300, accuracy=0.6, effect=-0.06, discordance=0.12)

    paired = rejection_rate(lambda c, a: mcnemar(c, a).p, draw, repeats=200, seed=1)
    alone = rejection_rate(lambda c, a: unpaired(c, a).p, draw, repeats=200, seed=1)
    assert paired.value - alone.value > 3 * math.hypot(paired.stderr, alone.stderr)
    assert paired.value > 0.7 and alone.value < 0.4


def test_seeds_that_differ_by_luck_mislead_a_test_over_items_and_not_one_over_both() -> None:
    """Every seed moves all items of an arm together: no effect of the arm, yet these three seeds do differ."""
    random, repeats = np.random.default_rng(30), 400
    over_items, over_both = 0, 0
    for _ in range(repeats):
        table = random.normal(0, 1, (3, 200)) + random.normal(0, 0.3, (3, 1)) + random.normal(0, 0.5, (1, 200))
        over_items += sign_flips(units(table), draws=199).p <= 0.05
        over_both += min_f(table)[1].p <= 0.05
    noise = 3 * math.sqrt(0.05 * 0.95 / repeats)
    assert over_items / repeats > 0.2 and over_both / repeats <= 0.05 + noise


def test_min_f_is_a_t_test_of_items_where_seeds_agree() -> None:
    """Two seeds with the same differences: the mean square of seeds is 0, and what remains is the t test over items."""
    row = np.random.default_rng(31).normal(0.2, 1, 50)
    found, p_value = min_f(np.stack([row, row]))
    theirs = scipy_stats.ttest_1samp(row, 0)
    interval = theirs.confidence_interval(0.95)
    assert p_value.p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


# ------------------------------------------------------------------------------------- unpaired, equivalence, ratios


def test_unpaired_is_welchs_test_of_scipy() -> None:
    random = np.random.default_rng(13)
    control, arm = random.normal(0, 1, 30), random.normal(0.5, 2, 45)
    assert unpaired(control, arm).p == pytest.approx(scipy_stats.ttest_ind(control, arm, equal_var=False).pvalue)
    assert unpaired(np.ones(4), np.ones(4)).p == 1.0 and unpaired(np.ones(4), np.zeros(4)).p == 0.0


@pytest.mark.parametrize("shift", [-0.3, 0.02, 0.5])
def test_equivalence_is_the_larger_of_two_one_sided_t_tests(shift: float) -> None:
    values = np.random.default_rng(14).normal(shift, 1, 90)
    lower = scipy_stats.ttest_1samp(values, -0.25, alternative="greater").pvalue
    upper = scipy_stats.ttest_1samp(values, 0.25, alternative="less").pvalue
    found = equivalence(values, 0.25)
    assert found.p == pytest.approx(max(lower, upper))
    inside = max(-found.interval.low, found.interval.high) < 0.25
    assert (found.p < 0.05) == inside


def test_equivalence_with_a_reach_is_not_proven_by_a_few_items_that_agree() -> None:
    few, many = np.zeros(5), np.zeros(500)
    assert equivalence(few, 0.05).p == 0.0, "what has no spread is all there is"
    assert equivalence(few, 0.05, reach=1.0).p > 0.3
    assert equivalence(many, 0.05, reach=1.0).p < 0.001


def test_equivalence_without_any_spread_is_a_comparison_with_the_margin() -> None:
    assert equivalence(np.full(5, 0.1), 0.2).p == 0.0 and equivalence(np.full(5, 0.2), 0.1).p == 1.0


def test_arms_at_the_margin_are_called_equivalent_no_more_often_than_the_level() -> None:
    random, repeats = np.random.default_rng(15), 400
    wrong = sum(equivalence(random.normal(0.3, 1, 60), 0.3).p < 0.05 for _ in range(repeats))
    assert wrong / repeats <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / repeats)


def test_a_ratio_covers_the_truth_as_often_as_it_says() -> None:
    random, repeats = np.random.default_rng(16), 2000
    covered = 0
    for _ in range(repeats):
        found = ratio(random.normal(-2, 1), 1.0, random.normal(10, 1.5), 1.5)
        covered += found is not None and found.low <= -0.2 <= found.high
    assert abs(covered / repeats - 0.95) <= 3 * math.sqrt(0.95 * 0.05 / repeats)


def test_a_ratio_with_an_exact_divisor_is_the_scaled_interval_and_without_a_clear_one_is_none() -> None:
    found = ratio(6.0, 1.0, 2.0, 0.0)
    assert found is not None
    z = scipy_stats.norm.ppf(0.975)
    assert (found.value, found.low, found.high) == pytest.approx((3.0, (6 - z) / 2, (6 + z) / 2))
    below = ratio(6.0, 1.0, -2.0, 0.0)
    assert below is not None and (below.low, below.high) == pytest.approx((-(6 + z) / 2, -(6 - z) / 2))
    assert ratio(6.0, 1.0, 2.0, 1.1) is None and ratio(6.0, 1.0, 0.0, 0.0) is None


@pytest.mark.parametrize(
    "call",
    [
        lambda: sign_flips([]),
        lambda: sign_flips([[1.0, 0.0]]),
        lambda: bootstrap([1.0, math.nan]),
        lambda: bootstrap([1.0, 2.0], confidence=95),
        lambda: bootstrap([1.0, 2.0], reach=-1),
        lambda: min_f([[1.0, 2.0]]),
        lambda: min_f([1.0, 2.0]),
        lambda: unpaired([1.0], [1.0, 2.0]),
        lambda: equivalence([1.0, 2.0], 0.0),
        lambda: equivalence([1.0, 2.0], 0.1, alpha=0.5),
    ],
)
def test_what_cannot_be_tested_is_refused_with_what_is_allowed(call) -> None:
    with pytest.raises(DataError, match="expected .*found .*allowed .*;"):
        call()
