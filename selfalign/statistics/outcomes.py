"""Two arms' outcomes by item id in; arrays that stand side by side, their differences, and the items that flipped out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selfalign.errors import DataError

Array = NDArray[np.float64]

RIGHT = 0.5
"""An item counts as answered rightly where its outcome, averaged over seeds, is above this: for a 0/1 outcome in most of its
seeds, for a share of probability where the right candidates have most of it."""
NAMED = 3
"""Items that an error names."""


class Cluster(StrEnum):
    """What is taken for independent."""

    item = "item"
    """Items: an item's differences over seeds are averaged. The result speaks about new items, for the seeds that were run."""
    seed = "seed"
    """Seeds: a seed's differences over items are averaged. The result speaks about new seeds, for these items; with few
    seeds no test can reject (three seeds: p >= 0.25)."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """The outcomes of two arms, the same item in the same column and the same seed in the same row."""

    items: tuple[str, ...]
    """Ids of the columns, in the control's order."""
    control: Array
    """(seeds, items), float64."""
    arm: Array
    """(seeds, items), float64."""
    left_out: int = 0
    """Items that not every seed of both arms has."""

    @property
    def differences(self) -> Array:
        """(seeds, items): arm minus control."""
        return self.arm - self.control

    @property
    def is_binary(self) -> bool:
        """Whether every outcome is 0 or 1: no shares under ties."""
        return bool(np.isin(self.control, (0, 1)).all() and np.isin(self.arm, (0, 1)).all())


def align(control: Sequence[Mapping[str, float]], arm: Sequence[Mapping[str, float]], *, common: bool = False) -> Pairs:
    """Lay two arms side by side: each is one mapping a seed, from item id to outcome (any finite number; accuracies are in
    0..1), and the seeds of both stand in the same order.

    Where the items differ, `common` decides: False refuses, True pairs those that every seed of both arms has and counts
    the others in `left_out`.

    Raises DataError where there is no seed, where the arms have different numbers of seeds, where items differ and
    `common` is False, where none is common, and where an outcome is not finite.
    """
    if not control or len(control) != len(arm):
        raise DataError(
            f"expected the outcomes of both arms for the same seeds, found {len(control)} of the control and {len(arm)} of "
            "the arm; allowed are one seed or more, each in both arms; give the seeds that both have"
        )
    every = [*control, *arm]
    items = [item for item in control[0] if all(item in outcomes for outcomes in every)]
    union = dict.fromkeys(item for outcomes in every for item in outcomes)
    left_out = [item for item in union if any(item not in outcomes for outcomes in every)]
    if left_out and not common:
        shown = ", ".join(left_out[:NAMED]) + (", ..." if len(left_out) > NAMED else "")
        raise DataError(
            f"expected the same items in every seed of both arms, found {len(left_out)} of {len(union)} that some lack "
            f"({shown}); allowed are arms scored on the same evaluation set; score them on it, or pair the common items"
        )
    if not items:
        raise DataError(
            "expected items that both arms were scored on, found none; allowed is one or more; score both arms on the same "
            "evaluation set"
        )
    sides = [np.array([[side[item] for item in items] for side in one], dtype=np.float64) for one in (control, arm)]
    for name, values in zip(("control", "arm"), sides, strict=True):
        if not np.isfinite(values).all():
            place = items[int(np.argwhere(~np.isfinite(values))[0][1])]
            raise DataError(
                f"expected finite outcomes, found one of item {place} in the {name} that is not; allowed is any number; leave "
                "out a score that is not valid"
            )
    return Pairs(tuple(items), *sides, left_out=len(left_out))


def units(differences: ArrayLike, by: Cluster = Cluster.item) -> Array:
    """(items,) or (seeds, items) -> the values that are taken for independent: (items,) by item, (seeds,) by seed."""
    table = np.atleast_2d(np.asarray(differences, dtype=np.float64))
    return table.mean(axis=0 if by is Cluster.item else 1)


@dataclass(frozen=True)
class Flips:
    """Which items changed sides between control and arm (ids, in the order of the pairs)."""

    gained: tuple[str, ...]
    """Wrong in the control, right in the arm."""
    lost: tuple[str, ...]
    """Right in the control, wrong in the arm."""
    kept: tuple[str, ...]
    """The same in both."""


def flips(pairs: Pairs) -> Flips:
    """The items that removing (or adding) something gained, lost and kept: right is above RIGHT, averaged over seeds."""
    before, after = (values.mean(axis=0) > RIGHT for values in (pairs.control, pairs.arm))

    def chosen(mask: NDArray[np.bool_]) -> tuple[str, ...]:
        return tuple(item for item, is_in in zip(pairs.items, mask, strict=True) if is_in)

    return Flips(chosen(~before & after), chosen(before & ~after), chosen(before == after))
