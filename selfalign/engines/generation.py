"""Rows in, finished rows out: a batch whose free slots are filled again while the others are written.

Waiting rows stand in the order of their tokens, so that those that share most come one after another: what they share
is computed when the first of them takes a slot and forgotten when the last one has (`prefix_tree`). A long stem is held
once for all rows that see it, a short one is copied to each row's own columns. Where other arms branch off between nodes
that equally many rows see, these are one piece for the rows: a further piece costs every step more than the copy costs once.

Memory: a row takes a slot where the columns that it is expected to need fit into what is free. Where a row grows beyond
what was expected and nothing is free, the row that has written least goes back to those that wait, and writes on from
where it was; so do all rows where memory runs out for real, and half as many take a slot from then on.
"""

from __future__ import annotations

import bisect
import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from selfalign.engines.base import Load, Watch
from selfalign.engines.memory import is_out_of_memory, no_memory, usable_bytes
from selfalign.engines.rows import Row
from selfalign.engines.sampling import Sampler
from selfalign.engines.slots import Slots
from selfalign.errors import StageError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from selfalign.engines.attention import Segment
    from selfalign.engines.forest import Forest
    from selfalign.engines.prefix_tree import Node

log = logging.getLogger(__name__)

HELD = 1024
"""Tokens are held once, not copied, from this many on, times the rows of a batch that may see them: where fewer are
copied, attending to them costs less than a further piece of attention."""
WAITING = 1024
"""Rows that wait, at most, where there are not more slots: enough for those of all arms of a sweep to find one another."""
FIRST_GUESS = 128
"""New tokens that a row is expected to have before any row is finished."""
WATCH_STEPS = 16
"""Steps between two reports of the load."""


class Generation:
    """One stream of rows through the slots of a batch."""

    def __init__(
        self, model: PreTrainedModel, forest: Forest, ends: frozenset[int], *, slots: int, memory: int = 0
    ) -> None:
        """At most `slots` rows at a time, whose keys and values take at most `memory` bytes (0: what is free)."""
        self._model = model
        self._forest = forest
        self._ends = ends
        self._most = slots
        self._memory = memory
        self._slots = Slots(model)
        self._rows: list[Row | None] = []
        """By slot."""
        self._pool: list[tuple[list[int], int, Row, Node[Segment]]] = []
        """Rows that wait, by their tokens."""
        self._sampler: Sampler | None = None
        self._number = 0
        self._finished = 0
        self._written = 0
        self._column_bytes = 0
        self._runs: WeakValueDictionary[tuple[Any, ...], Segment] = WeakValueDictionary()
        """Joined segments that some slot sees."""

    def run(self, rows: Iterator[Row], watch: Watch | None = None) -> Iterator[Row]:
        """Every row, when it is finished. Raises StageError for logits that are not numbers, and where not even one row
        fits the memory."""
        steps = 0
        try:
            while True:
                self._read(rows)
                try:
                    self._admit()
                    live = self._live()
                    if not live:
                        break
                    logits = self._step(live)
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    self._halve(error)
                    continue
                done = self._draw(logits, live)
                steps += 1
                yield from done
                if watch and (done or steps % WATCH_STEPS == 0):
                    live = self._live()
                    going = sum(row.new_tokens for row in self._rows if row)
                    watch(Load(self._finished, len(live), self._written + going))
        finally:
            for *_, node in self._pool:
                self._forest.tree.release(node)
            self._pool = []

    def _live(self) -> list[int]:
        """The slots that are taken."""
        return [slot for slot, row in enumerate(self._rows) if row]

    # ------------------------------------------------------------------------------------------------ waiting

    def _read(self, rows: Iterator[Row]) -> None:
        """Take new rows as long as there are not enough waiting to choose from."""
        most = max(WAITING, self._most)
        if len(self._pool) >= most // 2:
            return
        for row in rows:
            self._wait(row)
            if len(self._pool) >= most:
                return

    def _wait(self, row: Row) -> None:
        """Put a row among those that wait. Its last token is what its first step begins with: it is not computed before."""
        tree = self._forest.tree
        if not self._number:
            self._forest.begin(row.tokens[: row.shared])
        if row.shared:
            self._forest.remember(tree.stem(row.tokens[: row.shared], self._most))
        node = tree.insert(row.tokens[:-1])
        tree.hold(node)
        self._number += 1
        bisect.insort(self._pool, (row.tokens[:-1], self._number, row, node), key=lambda one: one[:2])

    def _expected(self, row: Row) -> int:
        """New tokens that a row is thought to need still: half as many again as others had, not more than it may have."""
        mean = self._written / self._finished if self._finished else FIRST_GUESS
        return min(row.left, max(16, int(1.5 * mean) - row.new_tokens, row.new_tokens // 2))

    # --------------------------------------------------------------------------------------------------- slots

    def _columns(self) -> int:
        """Columns of all slots together that the memory has room for."""
        if not self._column_bytes:
            return 2**62
        free = self._memory or usable_bytes(self._model.device) + self._slots.nbytes()
        return free // self._column_bytes

    def _admit(self) -> None:
        """Fill free slots with waiting rows, once an eighth of the slots is free."""
        import torch

        live = self._live()
        free = self._most - len(live)
        if not self._pool:
            if live and len(live) <= 0.75 * self._slots.count:
                self._resize(live, len(live), self._slots.room)
            return
        if live and free < max(1, self._most // 8):
            return
        with torch.inference_mode():
            taken = self._pool[:free]
            self._forest.compute(node for *_, node in taken)
            parts = {number: self._parts(node) for _, number, _, node in taken}
            needs = {number: sum(map(len, parts[number][0])) + self._expected(row) + 1 for _, number, row, _ in taken}
            chosen = self._fitting(live, needs)
            if not chosen:
                return
            taken = [one for one in taken if one[1] in chosen]
            room = max(self._slots.room, *(needs[number] for number in chosen))
            if len(live) + len(taken) > self._slots.count or room > self._slots.room:
                self._resize(live, max(self._slots.count, len(live) + len(taken)), room)
            slots = [slot for slot, row in enumerate(self._rows) if row is None]
            for slot, (_, number, row, _) in zip(slots, taken, strict=False):
                self._slots.fill(slot, *parts[number])
                self._rows[slot] = row
        self._pool = [one for one in self._pool if one[1] not in chosen]
        for *_, node in taken:
            self._forest.tree.release(node)
        self._sampler = None

    def _parts(self, node: Node[Segment]) -> tuple[list[Segment], list[Segment]]:
        """A row's segments: those that become its own columns, and those held once."""
        own: list[Segment] = []
        held: list[Segment] = []
        for users, run in itertools.groupby(node.path(), key=lambda one: min(one.users, self._most)):
            nodes = list(run)
            lengths = [len(one.tokens) for one in nodes]
            # Joining copies the longest too: not for a few tokens beside it.
            pieces = [nodes] if (sum(lengths) - max(lengths)) * users >= HELD else [[one] for one in nodes]
            for piece in pieces:
                if sum(len(one.tokens) for one in piece) * users >= HELD:
                    held.append(self._joined(piece))
                else:
                    own += [one.state for one in piece if one.state]
        if not self._column_bytes and (known := [*own, *held]):
            self._column_bytes = known[0].nbytes() // len(known[0])
        return own, held

    def _joined(self, nodes: Sequence[Node[Segment]]) -> Segment:
        """Consecutive nodes of a path as one segment, made once for all rows that see it at a time."""
        from selfalign.engines.attention import Segment

        parts = [one.state for one in nodes if one.state]
        if len(parts) == 1:
            return parts[0]
        # Keys and values hang on all tokens before them.
        key = (nodes[0].start, *(one.tokens for one in nodes[-1].path()))
        found = self._runs.get(key)
        if found is None:
            found = self._runs[key] = Segment.join(parts)
        return found

    def _fitting(self, live: Sequence[int], needs: dict[int, int]) -> set[int]:
        """The numbers of the rows that can take a slot beside the live ones: those of few columns where not all can."""
        limit = self._columns()
        chosen = set(needs)
        while chosen:
            room = max(self._slots.room, *(needs[number] for number in chosen))
            if (len(live) + len(chosen)) * room <= limit or (len(chosen) == 1 and not live):
                break
            chosen.remove(max(chosen, key=lambda number: (needs[number], number)))
        return chosen

    def _resize(self, keep: Sequence[int], count: int, room: int) -> None:
        """Make other slots of these, the kept rows first."""
        self._slots.resize(keep, count, room)
        self._rows = [self._rows[slot] for slot in keep] + [None] * (count - len(keep))
        self._sampler = None

    def _grow(self, live: list[int]) -> list[int]:
        """Make room for a token more in every slot; rows for which there is none go back to those that wait."""
        needed = self._slots.longest(live) + 1
        if needed <= self._slots.room:
            return live
        room = needed + max(self._expected(row) for slot in live if (row := self._rows[slot]))
        while len(live) > 1 and len(live) * room > self._columns():
            if len(live) * needed <= self._columns():
                room = needed
                break
            least = min(live, key=lambda slot: (row.new_tokens if (row := self._rows[slot]) else 0, -slot))
            live.remove(least)
            self._send_back([least])
        self._resize(live, len(live), room)
        return list(range(len(live)))

    def _send_back(self, slots: Sequence[int]) -> None:
        """Let the rows of these slots wait again, with what they have written."""
        # Where memory runs out while slots are filled, those that took one have not left the others yet.
        waiting = {id(row) for _, _, row, _ in self._pool}
        for slot in slots:
            row = self._rows[slot]
            self._rows[slot] = None
            if row and id(row) not in waiting:
                self._wait(row)
        self._sampler = None

    def _halve(self, error: BaseException) -> None:
        """After memory ran out: half as many rows at a time from now on, all of them to be taken up again.

        Raises StageError where it ran out with one row.
        """
        import torch

        if self._most == 1:
            raise no_memory(error) from error
        live = self._live()
        self._most = max(1, (len(live) or self._most) // 2)
        log.warning("memory ran out: at most %d rows at a time from here on", self._most)
        self._send_back(live)
        self._slots, self._rows = Slots(self._model), []
        self._forest.forget()
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()

    # --------------------------------------------------------------------------------------------------- steps

    def _step(self, live: list[int]) -> torch.Tensor:
        """Logits float32 `[live, vocab]` behind the last token of every live row. `live` is changed where slots are."""
        import torch

        with torch.inference_mode():
            live[:] = self._grow(list(live))
            rows = [row for slot in live if (row := self._rows[slot])]
            return self._slots.step([row.tokens[-1] for row in rows], [len(row.tokens) - 1 for row in rows], live)

    def _draw(self, logits: torch.Tensor, live: Sequence[int]) -> list[Row]:
        """Append one drawn token to every live row; those that it finishes leave their slots."""
        import torch

        rows = [row for slot in live if (row := self._rows[slot])]
        with torch.inference_mode():
            check_numbers(logits, rows)
            if self._sampler is None:
                self._sampler = Sampler([row.draw for row in rows if row.draw], self._model.device)
            tokens = self._sampler(logits)
        done: list[Row] = []
        for slot, row, token in zip(live, rows, tokens, strict=True):
            row.add(token, self._ends)
            if row.finish:
                self._rows[slot] = None
                self._sampler = None
                self._finished += 1
                self._written += row.new_tokens
                done.append(row)
        return done


def check_numbers(logits: torch.Tensor, rows: Sequence[Row]) -> None:
    """Raise StageError naming the first row whose logits `[rows, vocab]` hold NaN: nothing can be drawn from them."""
    broken = logits.isnan().any(dim=-1).tolist()
    for row, bad in zip(rows, broken, strict=True):
        if bad and not row.finish:
            raise StageError(
                f"request '{row.request.id}': expected numbers as logits, found NaN after {row.new_tokens} new tokens; "
                "the model or its adapter is broken, train it again"
            )
