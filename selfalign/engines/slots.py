"""Live rows of a batch: each with columns of its own, and segments that it shares with others.

A row takes a free slot and leaves it when it is finished; the others do not move. All rows grow by one token in a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from selfalign.engines.attention import Segment, Sight, forward

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Slots:
    """Keys and values of live rows, `[slots, kv_heads, room, head_dim]` per layer, and one forward pass per token.

    A head's columns lie side by side: attention over them is much of a step, and it reads them up to twice as fast.
    """

    is_compileable = False

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self.count = 0
        """Slots, taken or free."""
        self.room = 0
        """Columns that a slot has."""
        self._layers: list[list[torch.Tensor]] = []
        self._shared: list[tuple[Segment, ...]] = []
        self._used: list[int] = []
        self._sight: list[tuple[torch.Tensor | None, Segment]] | None = None
        self._live: list[int] = []
        self._state: dict[str, torch.Tensor] = {}

    def resize(self, keep: Sequence[int], count: int, room: int) -> None:
        """Make `count` slots with this many columns each; the first ones hold what the slots `keep` held."""
        import torch

        kept = torch.tensor(keep, dtype=torch.long, device=self._model.device)
        used = max([self._used[slot] for slot in keep], default=0)
        for held in self._layers:
            for i, old in enumerate(held):
                new = old.new_zeros(count, old.shape[1], room, old.shape[3])
                if used:
                    new[: len(keep), :, :used] = old[kept, :, :used]
                held[i] = new
        self._shared = [self._shared[slot] for slot in keep] + [()] * (count - len(keep))
        self._used = [self._used[slot] for slot in keep] + [0] * (count - len(keep))
        self.count, self.room = count, room
        self._sight, self._state = None, {}

    def fill(self, slot: int, own: Sequence[Segment], shared: Sequence[Segment]) -> None:
        """Put a row into a slot: the segments whose columns become its own, and those it shares with others."""
        start = 0
        for segment in own:
            if not self._layers:
                self._allocate(segment)
            end = start + len(segment)
            for (keys, values), (key, value) in zip(self._layers, segment.layers, strict=True):
                keys[slot, :, start:end] = key
                values[slot, :, start:end] = value
            start = end
        self._shared[slot] = tuple(shared)
        self._used[slot] = start
        self._sight, self._state = None, {}

    def _allocate(self, like: Segment) -> None:
        """Make the columns of all layers, shaped like a segment's."""
        self._layers = [
            [one.new_zeros(self.count, one.shape[0], self.room, one.shape[2]) for one in layer] for layer in like.layers
        ]

    def step(self, tokens: Sequence[int], positions: Sequence[int], live: Sequence[int]) -> torch.Tensor:
        """Append one token to every live slot; float32 logits `[live, vocab]` behind it.

        Tokens and positions are those of the live slots. The others are computed along, and nobody looks at them.
        """
        import torch

        device = self._model.device
        if self._sight is None:
            self._sight = self._seen(device)
            self._state = {
                "slots": torch.arange(self.count, device=device),
                "used": torch.tensor(self._used, device=device),
                "mask": torch.full((self.count, self.room), float("-inf"), dtype=self._model.dtype, device=device),
            }
            columns = torch.arange(self.room, device=device)
            self._state["mask"].masked_fill_(columns < self._state["used"][:, None], 0.0)
        state = self._state
        if self._live != live:
            self._live = list(live)
            state.pop("live", None)
        if "live" not in state:
            state["live"] = torch.tensor(self._live, device=device)
        every = torch.zeros(2, self.count, 1, dtype=torch.long)
        every[:, live, 0] = torch.tensor([tokens, positions])
        every = every.to(device)
        # A free slot has no column to write to when its last row filled it: it writes over the last one.
        state["at"] = state["used"].clamp(max=self.room - 1)
        state["mask"].view(-1).index_fill_(0, state["slots"] * self.room + state["at"], 0.0)
        self._window = self.longest(live) + 1
        mask = state["mask"][:, None, None, : self._window]
        logits = forward(self._model, every[0], every[1], self, Sight(mask, self._sight))
        state["used"][state["live"]] += 1
        for slot in live:
            self._used[slot] += 1
        return logits[state["live"]] if len(live) < self.count else logits

    def _seen(self, device: torch.device) -> list[tuple[torch.Tensor | None, Segment]]:
        """The segments in use, each with the slots that see it."""
        import torch

        seeing: dict[int, tuple[Segment, list[int]]] = {}
        for slot, segments in enumerate(self._shared):
            for segment in segments:
                seeing.setdefault(id(segment), (segment, []))[1].append(slot)
        return [
            (None if len(slots) == self.count else torch.tensor(slots, device=device), segment)
            for segment, slots in seeing.values()
        ]

    def update(self, key: torch.Tensor, value: torch.Tensor, layer: int, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """What a layer calls: write `[slots, kv_heads, 1, dim]` to the next columns, get `[slots, kv_heads, window, dim]`."""
        import torch

        if len(self._layers) == layer:
            self._layers.append([new.new_zeros(*new.shape[:2], self.room, new.shape[3]) for new in (key, value)])
        if layer == 0:
            heads = torch.arange(key.shape[1], device=key.device)
            lines = (self._state["slots"][:, None] * key.shape[1] + heads) * self.room + self._state["at"][:, None]
            self._state["lines"] = lines.flatten()
        found = []
        for held, new in zip(self._layers[layer], (key, value), strict=True):
            held.view(-1, new.shape[3]).index_copy_(0, self._state["lines"], new.reshape(-1, new.shape[3]))
            found.append(held[:, :, : self._window])
        return found[0], found[1]

    def get_seq_length(self, layer: int = 0) -> int:
        """Columns before this call: positions are given, so nothing depends on it."""
        return 0

    def longest(self, slots: Sequence[int]) -> int:
        """Columns in use by the longest of these slots."""
        return max(self._used[slot] for slot in slots)

    def nbytes(self) -> int:
        """Bytes of all columns."""
        return sum(one.nbytes for held in self._layers for one in held)
