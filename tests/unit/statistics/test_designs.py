"""Laws of designs: balanced and orthogonal, planted effects come back, Shapley values add up."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from selfalign.errors import DataError
from selfalign.statistics import aliases, bootstrap, effects, pair_interaction, plackett_burman, shapley


@pytest.mark.parametrize("factors", [1, 3, 4, 7, 8, 11, 13, 16, 19, 20, 23, 31])
def test_columns_are_balanced_and_orthogonal_and_the_first_run_has_every_factor(factors: int) -> None:
    design = plackett_burman(factors).astype(int)
    runs = len(design)
    assert set(design.ravel()) == {1, -1} and design.shape == (runs, factors) and (design[0] == 1).all()
    assert (design.sum(axis=0) == 0).all()
    assert (design.T @ design == runs * np.eye(factors, dtype=int)).all()


def test_sixteen_factors_take_twenty_runs() -> None:
    assert plackett_burman(16).shape == (20, 16)
    assert len({tuple(run) for run in plackett_burman(16)}) == 20


def test_planted_main_effects_come_back_from_runs_without_noise() -> None:
    design = plackett_burman(16)
    planted = np.linspace(-1, 1, 16)
    found = effects(design, 3 + design @ planted / 2)
    assert [one.factors for one in found] == [(i,) for i in range(16)]
    assert [one.effect.value for one in found] == pytest.approx(planted)


def test_an_interaction_is_half_of_what_an_effect_changes_by() -> None:
    design = np.array(list(itertools.product((-1, 1), repeat=3)))
    # The effect of factor 0 is 2 where factor 1 is there and 0.4 where it is not.
    response = np.where(design[:, 1] > 0, 1.0, 0.2) * design[:, 0]
    found = {one.factors: one.effect.value for one in effects(design, response, interactions=[(0, 1)])}
    assert found == pytest.approx({(0,): 1.2, (1,): 0.0, (2,): 0.0, (0, 1): 0.8})


@pytest.mark.parametrize("by_item", [False, True])
def test_intervals_of_effects_cover_the_truth_as_often_as_they_say(by_item: bool) -> None:
    random, design, repeats = np.random.default_rng(1), plackett_burman(8), 60
    planted = np.linspace(-0.5, 0.5, 8)
    covered = rejected = 0
    for _ in range(repeats):
        shape = (12, 40) if by_item else (12,)
        noise = random.normal(0, 1, shape)
        mean = design @ planted / 2
        own = random.normal(0, 0.5, (8, 40))  # each item has its own effects, around the planted ones
        response = (mean[:, None] + design @ (own - own.mean(axis=1, keepdims=True)) / 2 if by_item else mean) + noise
        found = effects(design, response)
        covered += sum(one.effect.low <= truth <= one.effect.high for one, truth in zip(found, planted, strict=True))
        rejected += sum((one.p <= 0.05) == (one.effect.low > 0 or one.effect.high < 0) for one in found)
    share = covered / (8 * repeats)
    # Items that are drawn once and centred vary less than the interval assumes: it may then cover too often.
    assert share >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / (8 * repeats))
    assert by_item or share <= 0.95 + 3 * math.sqrt(0.95 * 0.05 / (8 * repeats))
    # Over items a test by flipped signs has an interval by resampling, which now and then falls on the other side.
    assert rejected >= (0.94 if by_item else 1) * 8 * repeats, "p and interval say the same"


@pytest.mark.parametrize("factors", [16, 19])
def test_a_factor_that_alone_decides_has_all_of_the_effect_and_rounding_is_none(factors: int) -> None:
    design = plackett_burman(factors)
    there = np.repeat((design[:, [3]] + 1.0) / 2, 24, axis=1)
    found = effects(design, there, reach=1.0)
    assert found[3].effect.value == pytest.approx(1) and found[3].p < 1e-6
    for one in (*found[:3], *found[4:]):
        assert (one.effect.value, one.p) == (0, 1) and one.p_of_runs in (None, 1.0)
        assert one.effect.low < 0 < one.effect.high, "items that were not seen may differ"
    assert (found[3].p_of_runs is None) == (factors == 19), "no run is left over to tell how much runs differ"
    of_runs = effects(design[:, :16], there[:, 0])
    assert [one.p for one in of_runs] == [float(index != 3) for index in range(16)]


def test_what_training_alone_does_to_a_run_is_an_effect_over_items_and_none_over_runs_too() -> None:
    random, design, repeats = np.random.default_rng(3), plackett_burman(16), 40
    over_items = over_both = 0
    for _ in range(repeats):
        # Each run is better or worse at every item alike, whatever its settings are.
        response = random.normal(0, 0.3, (20, 1)) + random.normal(0, 0.1, (20, 30))
        found = effects(design, response)
        over_items += sum(one.p < 0.05 for one in found)
        over_both += sum(one.p_of_runs is not None and one.p_of_runs < 0.05 for one in found)
    assert over_items > 0.5 * 16 * repeats
    assert over_both <= (0.05 + 3 * math.sqrt(0.05 * 0.95 / repeats)) * 16 * repeats, (
        "runs of a repeat share their noise"
    )


def test_an_effect_that_runs_agree_on_is_found_over_items_and_runs() -> None:
    random, design = np.random.default_rng(4), plackett_burman(12)
    response = design @ np.linspace(0, 1, 12)[:, None] / 2 + random.normal(0, 0.2, (20, 40))
    found = effects(design, response)
    assert all(one.p_of_runs is not None and one.p_of_runs >= one.p for one in found)
    assert found[-1].p_of_runs is not None and found[-1].p_of_runs < 0.01
    assert found[-1].p < 5e-5, "as small as a correction over a thousand tests needs"
    assert found[0].p_of_runs is not None and found[0].p_of_runs > 0.01


@pytest.mark.parametrize(
    ("settings", "responses", "interactions", "match"),
    [
        ([[0, 1], [1, 0]], [1.0, 2.0], [], r"\+1 \(there\)"),
        (plackett_burman(3), [1.0, 2.0], [], "one row a run"),
        (plackett_burman(3), [1.0, 2.0, 3.0, 4.0], [], "found 4 runs and 4 terms"),
        (plackett_burman(3), np.ones((4, 9)), [(0, 1)], "tell 4 terms apart"),
        (plackett_burman(7), np.ones(8), [(0, 0)], "pairs of two factors"),
        (plackett_burman(3), np.ones((4, 1)), [], "fewer than 2"),
    ],
)
def test_what_a_design_cannot_tell_is_refused(settings, responses, interactions: list, match: str) -> None:
    with pytest.raises(DataError, match=match):
        effects(settings, responses, interactions=interactions)


def test_two_things_that_stand_in_for_each_other_interact_and_two_that_add_up_do_not() -> None:
    random = np.random.default_rng(2)
    both = (random.random((2, 60)) < 0.8).astype(float)
    either = pair_interaction(both, both, both, 0 * both)
    assert (either == -both).all()
    adds = pair_interaction(np.full(9, 0.9), np.full(9, 0.7), np.full(9, 0.6), np.full(9, 0.4))
    assert bootstrap(adds).value == pytest.approx(0.0)
    with pytest.raises(DataError, match="one shape"):
        pair_interaction(np.ones(3), np.ones(3), np.ones(3), np.ones(4))


# ------------------------------------------------------------------------------------------------------------ Shapley


def game(members: frozenset[int]) -> float:
    """Responses of a made-up sweep with four factors: two add, two can stand in for each other."""
    return 0.3 + 0.2 * (0 in members) - 0.1 * (1 in members) + 0.4 * bool({2, 3} & members)


def responses(orders: np.ndarray) -> np.ndarray:
    return np.array([[game(frozenset(order[:size])) for size in range(len(order) + 1)] for order in orders])


def by_definition(factor: int, factors: int = 4) -> float:
    """The Shapley value as a weighted sum over all coalitions without the factor."""
    others = [i for i in range(factors) if i != factor]
    total = 0.0
    for size in range(factors):
        weight = math.factorial(size) * math.factorial(factors - size - 1) / math.factorial(factors)
        for chosen in itertools.combinations(others, size):
            total += weight * (game(frozenset({*chosen, factor})) - game(frozenset(chosen)))
    return total


def test_over_all_permutations_shapley_values_are_those_of_the_definition() -> None:
    orders = np.array(list(itertools.permutations(range(4))))
    found = shapley(orders, responses(orders))
    assert [one.value for one in found.values] == pytest.approx([by_definition(i) for i in range(4)])
    assert [one.value for one in found.values] == pytest.approx([0.2, -0.1, 0.2, 0.2])


@pytest.mark.parametrize("antithetic", [False, True])
def test_sampled_shapley_values_add_up_to_the_whole_and_their_intervals_hold_the_truth(antithetic: bool) -> None:
    random, repeats, covered = np.random.default_rng(3), 100, 0
    for _ in range(repeats):
        orders = np.array([random.permutation(4) for _ in range(20)])
        if antithetic:
            orders[1::2] = orders[::2, ::-1]
        found = shapley(orders, responses(orders), antithetic=antithetic)
        assert abs(found.gap) < 1e-12 and found.total == pytest.approx(game(frozenset(range(4))) - game(frozenset()))
        values = found.values
        # Factors that only add are the same in every permutation; antithetic pairs are, for two that share a role.
        assert values[0].low == pytest.approx(0.2) and values[0].high == pytest.approx(0.2)
        covered += values[2].low - 1e-9 <= 0.2 <= values[2].high + 1e-9
    assert covered / repeats >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / repeats)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda o, r: (np.zeros_like(o), r), "permutations of the factors"),
        (lambda o, r: (o, r[:, 1:]), "responses a permutation"),
        (lambda o, r: (o[:1], r[:1]), "two or more"),
        (lambda o, r: (o, r + np.eye(*r.shape)[::-1, ::-1]), "same response"),
    ],
)
def test_marginals_that_cannot_add_up_are_refused(change, match: str) -> None:
    orders = np.array([[0, 1, 2, 3], [3, 1, 0, 2], [2, 0, 3, 1]])
    with pytest.raises(DataError, match=match):
        shapley(*change(orders, responses(orders)))
    with pytest.raises(DataError, match="reversed"):
        shapley(orders, responses(orders), antithetic=True)


def test_main_effects_hold_nothing_of_interactions_in_a_full_factorial_and_all_of_one_in_its_half() -> None:
    full = np.array(list(itertools.product((-1, 1), repeat=3)))
    assert np.abs(aliases(full)).max() == pytest.approx(0)
    half = full[full.prod(axis=1) == 1]
    # In this half c is a times b: pairs are (a, b), (a, c), (b, c).
    assert aliases(half) == pytest.approx(np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]]))


def test_the_aliases_of_plackett_burman_are_what_an_interaction_adds_to_an_estimate() -> None:
    design = plackett_burman(7)
    found = aliases(design)
    response = design[:, 0] * design[:, 1] * 0.5
    estimates = [one.effect.value for one in effects(design[:, :6], response)]
    part = aliases(design[:, :6])[:, 0]
    assert estimates == pytest.approx(list(part)), "the interaction of the two is 1, and effects hold their part of it"
    assert found.shape == (7, 21) and 0 < np.abs(found).max() <= 1 + 1e-9
