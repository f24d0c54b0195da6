"""Token rows in, the batches of every optimiser step out: a pure function of (seed, epoch), the same after a crash.

Which rows make a step is random; within the step they are grouped by length (`bucket`), or by what they begin with and then laid
end to end (`pack`) or padded (`share`), so batching changes speed and not what is learned. Each process of a data-parallel run
takes every n-th micro batch.
"""

from __future__ import annotations

import functools
import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from selfalign.identity import seed_of
from selfalign.training.encode import IGNORE_INDEX, Row
from selfalign.training.settings import Batching

Micro = dict[str, Any]
"""One forward pass: `input_ids` and `labels` [batch, seq] int64, and `sources`, one for each row. Padded: `first` = the first
position that any row has a label at. Shared: also `prefix` [1, prefix] int64, which stands before every row. Packed (batch is 1):
`position_ids` [1, seq], `at` [n] int64 = the positions that predict a label, `counts` = how many of those each row has, `rows` =
what `attention` needs: `common` = number of tokens at the start that every row begins with, `places` [rows, longest] int64 = where
the rest of each row stands, `slots` [own] int64 = which of those places, counted row by row, are no padding."""


class Named(Protocol):
    """What has an id."""

    @property
    def id(self) -> str:
        """Its name, by which it is drawn."""
        ...


N = TypeVar("N", bound=Named)


def hold_out(rows: Sequence[N], fraction: float, seed: int) -> tuple[list[N], list[N]]:
    """Training rows and validation rows, both in file order; the draw depends on row ids and the seed alone.

    A fraction above 0 holds out at least one of two or more rows.
    """
    if fraction <= 0 or len(rows) < 2:
        return list(rows), []
    count = min(max(1, round(fraction * len(rows))), len(rows) - 1)
    by_draw = sorted(range(len(rows)), key=lambda index: (seed_of(seed, "validation", rows[index].id), index))
    held = set(by_draw[:count])
    return (
        [row for index, row in enumerate(rows) if index not in held],
        [row for index, row in enumerate(rows) if index in held],
    )


@functools.lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, n_rows: int) -> array[int]:
    """The row numbers 0..n-1 in the order of one epoch (from 0)."""
    order = list(range(n_rows))
    random.Random(seed_of(seed, "order", epoch)).shuffle(order)
    return array("l", order)


def split(rows: Sequence[Row], micro_batch_size: int, batching: Batching, rank: int, world: int) -> list[list[Row]]:
    """The micro batches of one process: equally many on every process, an empty one where the rows do not suffice.

    They have `micro_batch_size` rows, or fewer. A process alone packs as many rows as have no more tokens together than that many
    of the longest row; among several, micro batches of unequal size would let some wait for the others.
    """
    runs = [list(rows)] if batching is Batching.bucket else alike(sorted(rows, key=lambda row: row.ids))
    runs = [sorted(run, key=lambda row: len(row.ids), reverse=True) for run in runs]
    if batching is Batching.pack and world == 1:
        room = micro_batch_size * max((len(row.ids) for row in rows), default=0)
        return [pack for run in runs for pack in filled(run, micro_batch_size, room)]
    micros = [run[start : start + micro_batch_size] for run in runs for start in range(0, len(run), micro_batch_size)]
    micros += [[] for _ in range(-len(micros) % world)]
    return micros[rank::world]


def collate(rows: Sequence[Row], batching: Batching) -> Micro:
    """One micro batch as tensors [batch, seq] int64, padded on the right with token 0 and label IGNORE_INDEX.

    No attention mask: a causal model cannot look to the right, where the padding is.
    Shared: `prefix` is what all rows begin with, their last prompt token apart, and the rows go on from there. Packed: [1, total],
    the same beginning once and the rest of each row behind it, without padding. An empty micro batch is two tokens without a
    label: its loss and gradients are 0.
    """
    import torch

    if not rows:
        rows = [Row("", array("i", [0, 0]), 2)]
    if batching is Batching.share:
        common = common_beginning(rows)
        rest = [Row(row.id, row.ids[common:], max(row.prompt_length, 1) - common, row.source) for row in rows]
        prefix = {"prefix": torch.tensor(rows[0].ids[:common].tolist())[None]} if common else {}
        return {**collate(rest, Batching.bucket), **prefix}
    if batching is Batching.pack:
        return _pack(rows)
    first = max(min(row.prompt_length for row in rows), 1)
    longest = max(len(row.ids) for row in rows)
    input_ids = torch.zeros((len(rows), longest), dtype=torch.int64)
    labels = torch.full((len(rows), longest), IGNORE_INDEX, dtype=torch.int64)
    for number, row in enumerate(rows):
        input_ids[number, : len(row.ids)] = torch.tensor(row.ids.tolist())
        labels[number, : len(row.ids)] = torch.tensor(row.labels)
    return {"input_ids": input_ids, "labels": labels, "first": first, "sources": [row.source for row in rows]}


def _pack(rows: Sequence[Row]) -> Micro:
    """Rows end to end behind what all of them begin with."""
    import torch

    common = common_beginning(rows)
    lengths = torch.tensor([len(row.ids) - common for row in rows])
    columns = torch.arange(int(lengths.max()))
    starts = common + lengths.cumsum(0) - lengths
    real = columns[None] < lengths[:, None]
    tokens = rows[0].ids[:common].tolist() + [token for row in rows for token in row.ids[common:]]
    labels = torch.tensor([IGNORE_INDEX] * common + [label for row in rows for label in row.labels[common:]])
    positions = torch.cat([torch.arange(common), *(common + torch.arange(int(length)) for length in lengths)])
    return {
        "input_ids": torch.tensor(tokens)[None],
        "labels": labels[None],
        "sources": [row.source for row in rows],
        "position_ids": positions[None],
        "at": torch.nonzero(labels[1:] != IGNORE_INDEX).flatten(),
        "counts": [row.n_labels for row in rows],
        # A place that is no token of the row repeats its first one: what is computed there is thrown away.
        "rows": {
            "common": common,
            "places": starts[:, None] + columns * real,
            "slots": torch.nonzero(real.flatten()).flatten(),
        },
    }


def filled(run: Sequence[Row], least: int, room: int) -> list[list[Row]]:
    """Rows that begin alike as packs of at most `room` tokens, or of `least` rows where those have more."""
    common = common_beginning(run)
    packs: list[list[Row]] = []
    taken = 0
    for row in run:
        own = len(row.ids) - common
        if packs and (taken + own <= room or len(packs[-1]) < least):
            packs[-1].append(row)
            taken += own
        else:
            packs.append([row])
            taken = common + own
    return packs


def labels_by_source(rows: Sequence[Row]) -> dict[str, int]:
    """How many tokens carry loss, for each source, in the order of their names."""
    found: dict[str, int] = {}
    for row in rows:
        found[row.source] = found.get(row.source, 0) + row.n_labels
    return dict(sorted(found.items()))


def common_beginning(rows: Sequence[Row]) -> int:
    """How many tokens all rows begin with, prompt tokens only.

    A prompt's last token is never among them: what is predicted from it is another token in every row.
    """
    count = min(max(row.prompt_length, 1) - 1 for row in rows)
    for row in rows[1:]:
        both = zip(rows[0].ids[:count], row.ids, strict=False)
        count = next((place for place, (a, b) in enumerate(both) if a != b), count)
    return count


def alike(rows: Sequence[Row]) -> list[list[Row]]:
    """Runs of neighbouring rows: one joins the run before it where at least half of that run's beginning stays common."""
    runs: list[list[Row]] = []
    common = 0
    for row in rows:
        same = min(common, common_beginning([runs[-1][0], row])) if runs else 0
        if runs and 2 * same >= common:
            runs[-1].append(row)
            common = same
        else:
            runs.append([row])
            common = common_beginning([row])
    return runs


@dataclass(frozen=True)
class StepPlan:
    """Which rows belong to which optimiser step (steps count from 0)."""

    rows: Sequence[Row]
    global_batch_size: int
    epochs: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of one epoch; the last one may have fewer rows."""
        return -(-len(self.rows) // self.global_batch_size)

    @property
    def total_steps(self) -> int:
        """Optimiser steps of all epochs."""
        return self.steps_per_epoch * self.epochs

    def rows_of(self, step: int) -> list[Row]:
        """The rows of one optimiser step over all processes."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = epoch_order(self.seed, epoch, len(self.rows))
        start = place * self.global_batch_size
        return [self.rows[index] for index in order[start : start + self.global_batch_size]]


class StepLoader:
    """The batches of the steps from `start` on, for one process; Lightning iterates over it.

    A batch is a whole optimiser step of this process: `step` (from 0), `tokens` (source -> labels of the step over all
    processes), `input_tokens` (of all processes, padding not counted) and `micros`, a list of `Micro`.
    """

    def __init__(
        self, plan: StepPlan, start: int, micro_batch_size: int, batching: Batching, rank: int, world: int
    ) -> None:
        self.plan = plan
        self.start = start
        self.micro_batch_size = micro_batch_size
        self.batching = batching
        self.rank = rank
        self.world = world

    def __len__(self) -> int:
        return self.plan.total_steps - self.start

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for step in range(self.start, self.plan.total_steps):
            rows = self.plan.rows_of(step)
            micros = split(rows, self.micro_batch_size, self.batching, self.rank, self.world)
            yield {
                "step": step,
                "tokens": labels_by_source(rows),
                "input_tokens": sum(len(row.ids) for row in rows),
                "micros": [collate(micro, self.batching) for micro in micros],
            }
