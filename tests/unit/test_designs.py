"""Laws of the designs: which factors each job leaves out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from selfalign import designs
from selfalign.designs import DESIGNS, DesignSettings, drops
from selfalign.errors import ConfigError
from selfalign.statistics import designs as analysis
from tests.factories import SIXTEEN

SETTINGS = DesignSettings()


@pytest.mark.parametrize("design", sorted(DESIGNS))
def test_every_job_is_another_and_leaves_out_factors_of_the_set_in_its_order(design: str) -> None:
    found = drops(design, SIXTEEN, SETTINGS)
    assert len({tuple(dropped) for dropped in found}) == len(found) > 1
    for dropped in found:
        assert dropped == [name for name in SIXTEEN if name in dropped]
    assert found == drops(design, SIXTEEN, SETTINGS)


@pytest.mark.parametrize(
    ("design", "number"),
    [("leave_one_out", 17), ("add_one", 17), ("pairs", 137), ("plackett_burman", 20), ("random_subsets", 33)],
)
def test_sixteen_factors_take_as_many_jobs_as_the_cookbook_says(design: str, number: int) -> None:
    assert len(drops(design, SIXTEEN, SETTINGS)) == number


@pytest.mark.parametrize("design", sorted(DESIGNS))
def test_factors_that_are_not_varied_stay_in_every_job(design: str) -> None:
    chosen = DesignSettings(of=["candor", "helpful", "static"], subsets=3)
    assert {name for dropped in drops(design, SIXTEEN, chosen) for name in dropped} <= set(chosen.of)


def test_the_first_job_is_the_control() -> None:
    for design in sorted(set(DESIGNS) - {"add_one"}):
        assert drops(design, SIXTEEN, SETTINGS)[0] == []
    assert drops("add_one", SIXTEEN, SETTINGS)[0] == SIXTEEN


def test_adding_one_and_leaving_one_out_are_each_others_mirror() -> None:
    without, alone = (drops(design, SIXTEEN, SETTINGS) for design in ("leave_one_out", "add_one"))
    assert [set(SIXTEEN) - set(dropped) for dropped in alone] == [set(dropped) for dropped in without]


def test_pairs_hold_what_an_interaction_needs() -> None:
    found = {frozenset(dropped) for dropped in drops("pairs", SIXTEEN[:4], SETTINGS)}
    for a, b in itertools.combinations(SIXTEEN[:4], 2):
        assert {frozenset(), frozenset({a}), frozenset({b}), frozenset({a, b})} <= found


def test_the_jobs_of_plackett_and_burman_are_the_matrix_that_is_analysed() -> None:
    found = drops("plackett_burman", SIXTEEN, SETTINGS)
    levels = np.array([[-1 if name in dropped else 1 for name in SIXTEEN] for dropped in found])
    assert (levels == analysis.plackett_burman(16)).all() and (levels.T @ levels == 20 * np.eye(16)).all()


def test_subsets_are_as_many_as_asked_for_and_all_where_that_is_all_there_are() -> None:
    chosen = DesignSettings(of=["candor", "static", "helpful"], subsets=7)
    assert len(drops("random_subsets", SIXTEEN, chosen)) == 8
    with pytest.raises(ConfigError, match="at most 7 subsets of 3 factors"):
        drops("random_subsets", SIXTEEN, DesignSettings(of=chosen.of, subsets=8))


def test_the_seed_decides_the_draws() -> None:
    for design in ("random_subsets", "shapley"):
        assert drops(design, SIXTEEN, DesignSettings(seed=1)) != drops(design, SIXTEEN, SETTINGS)


def test_every_set_that_a_permutation_passes_through_is_a_job_once_and_no_other_is() -> None:
    orders = designs.shapley_orders(SIXTEEN, SETTINGS)
    passed = {frozenset(order[there:]) for order in orders for there in range(17)}
    found = [frozenset(dropped) for dropped in drops("shapley", SIXTEEN, SETTINGS)]
    assert len(found) == len(set(found)) and set(found) == passed
    # 15 sets on the way for each of four permutations, and the whole and the empty set once.
    assert len(found) <= 4 * 15 + 2 and len(orders) == 4
    assert orders[1] == orders[0][::-1] and orders[3] == orders[2][::-1]


def test_values_of_a_known_game_come_back_from_the_jobs_of_shapley() -> None:
    worth = dict(zip(SIXTEEN, range(1, 17), strict=True))

    def response(there: set[str]) -> float:
        return sum(worth[name] for name in there) + 10.0 * ({"ethical", "candor"} <= there)

    jobs = {
        frozenset(dropped): response(set(SIXTEEN) - set(dropped)) for dropped in drops("shapley", SIXTEEN, SETTINGS)
    }
    orders = designs.shapley_orders(SIXTEEN, SETTINGS)
    rows = [[jobs[frozenset(order[there:])] for there in range(17)] for order in orders]
    found = analysis.shapley([[SIXTEEN.index(name) for name in order] for order in orders], rows, antithetic=True)
    expected = {name: value + 5.0 * (name in ("ethical", "candor")) for name, value in worth.items()}
    assert [one.value for one in found.values] == pytest.approx(list(expected.values()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (DesignSettings(of=["candour"]), "did you mean 'candor'"),
        (DesignSettings(subsets=0), r"design\.subsets: expected at least 1, found 0"),
        (DesignSettings(permutations=5), r"design\.permutations: expected an even number, 4 or more, found 5"),
        (DesignSettings(permutations=2), r"design\.permutations: expected an even number, 4 or more, found 2"),
    ],
)
def test_settings_out_of_range_are_refused(settings: DesignSettings, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        drops("shapley", SIXTEEN, settings)


def test_nothing_to_vary_and_an_unknown_design_are_refused() -> None:
    with pytest.raises(ConfigError, match="found an empty set"):
        drops("leave_one_out", [], SETTINGS)
    with pytest.raises(ConfigError, match="did you mean 'shapley'"):
        drops("shaply", SIXTEEN, SETTINGS)


@pytest.mark.parametrize(("text", "limit"), [("continue", None), ("stop", 1), ("max:1", 1), ("max:12", 12)])
def test_on_failure_is_the_number_of_failures_that_ends_a_sweep(text: str, limit: int | None) -> None:
    assert designs.failure_limit(text) == limit


@pytest.mark.parametrize("text", ["", "max", "max:", "max:0", "max:-1", "max:x", "min:3", "halt"])
def test_any_other_on_failure_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected continue, stop or max:k"):
        designs.failure_limit(text)
