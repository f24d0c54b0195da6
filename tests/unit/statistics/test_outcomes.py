"""Laws of aligning arms: columns are items, what differs is refused or counted, flips account for every item."""

from __future__ import annotations

import math

import numpy as np
import pytest

from selfalign.errors import DataError
from selfalign.statistics import Cluster, align, flips, units

CONTROL = [{"a": 1.0, "b": 0.0, "c": 1.0}, {"a": 1.0, "b": 1.0, "c": 0.0}]
ARM = [{"c": 0.0, "b": 1.0, "a": 0.5}, {"b": 1.0, "c": 1.0, "a": 0.0}]


def test_items_stand_in_the_same_column_whatever_their_order() -> None:
    pairs = align(CONTROL, ARM)
    assert pairs.items == ("a", "b", "c") and pairs.left_out == 0
    assert pairs.control.tolist() == [[1, 0, 1], [1, 1, 0]]
    assert pairs.arm.tolist() == [[0.5, 1, 0], [0, 1, 1]]
    assert pairs.differences.tolist() == [[-0.5, 1, -1], [-1, 0, 1]]
    assert not pairs.is_binary and align(CONTROL, CONTROL).is_binary


def test_items_that_differ_are_refused_by_name_unless_the_common_ones_are_asked_for() -> None:
    fewer = [{**ARM[0], "d": 1.0}, {"a": 1.0, "c": 1.0}]
    with pytest.raises(DataError, match=r"found 2 of 4 that some lack \(b, d\); allowed .*; score them"):
        align(CONTROL, fewer)
    pairs = align(CONTROL, fewer, common=True)
    assert pairs.items == ("a", "c") and pairs.left_out == 2


@pytest.mark.parametrize(
    ("control", "arm", "match"),
    [
        ([], [], "found 0 of the control"),
        (CONTROL, ARM[:1], "found 2 of the control and 1 of"),
        ([{"a": 1.0}], [{"b": 1.0}], "found none"),
        ([{"a": 1.0}], [{"a": math.nan}], "item a in the arm"),
    ],
)
def test_what_cannot_be_paired_is_refused(control: list, arm: list, match: str) -> None:
    with pytest.raises(DataError, match=match):
        align(control, arm, common=True)


def test_units_are_means_over_the_other_axis() -> None:
    table = np.array([[1.0, 0.0, -1.0], [0.0, 0.0, 1.0]])
    assert units(table).tolist() == [0.5, 0.0, 0.0]
    assert units(table, Cluster.seed) == pytest.approx([0.0, 1 / 3])
    assert units(table[0]).tolist() == table[0].tolist()


def test_flips_account_for_every_item_once() -> None:
    random = np.random.default_rng(3)
    names = [f"i{n}" for n in range(50)]
    sides = [[dict(zip(names, random.integers(0, 2, 50).astype(float), strict=True)) for _ in range(3)] for _ in "ca"]
    pairs = align(*sides)
    found = flips(pairs)
    assert sorted(found.gained + found.lost + found.kept) == sorted(names)
    change = sum(sum(arm[name] for arm in sides[1]) >= 2 for name in names)
    change -= sum(sum(arm[name] for arm in sides[0]) >= 2 for name in names)
    assert len(found.gained) - len(found.lost) == change
    back = flips(align(sides[1], sides[0]))
    assert (back.gained, back.lost, back.kept) == (found.lost, found.gained, found.kept)
