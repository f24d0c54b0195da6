"""Rows and items through a model's own attention: for models whose attention cannot be shared (`attention.share`).

Slower: a batch ends when its last row does, and the shared prefix is copied to every row. Its keys and values are still
computed once, and a cache of fixed size (transformers' StaticCache) takes them, where the model looks back at everything.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from selfalign.engines.attention import has_window
from selfalign.engines.base import Load, Watch
from selfalign.engines.generation import check_numbers
from selfalign.engines.rows import Row
from selfalign.engines.sampling import Sampler
from selfalign.engines.scoring import Item

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class Plain:
    """Batches of rows, one after another."""

    def __init__(self, model: PreTrainedModel, ends: frozenset[int], slots: int) -> None:
        self._model = model
        self._ends = ends
        self._slots = slots
        # Padding between prefix and row would count towards a window that is measured in columns.
        self._copies_prefix = not has_window(model)
        self._accepted = inspect.signature(model.forward).parameters
        self._prefix: tuple[tuple[int, ...], Any] = ((), None)

    def generate(self, rows: Iterator[Row], watch: Watch | None = None) -> Iterator[Row]:
        """Every row, when its batch is finished. Raises StageError for logits that are not numbers."""
        finished = written = 0
        while batch := list(itertools.islice(rows, self._slots)):
            self._write(batch)
            finished, written = finished + len(batch), written + sum(row.new_tokens for row in batch)
            yield from batch
            if watch:
                watch(Load(finished, 0, written))

    def _write(self, rows: list[Row]) -> None:
        """Generate one batch to its end."""
        import torch

        with torch.inference_mode():
            device = self._model.device
            # Every row keeps a token behind the prefix, for something has to be read.
            size = min(min(row.shared, row.start - 1) for row in rows) if self._copies_prefix else 0
            prefix = tuple(rows[0].tokens[:size])
            if any(tuple(row.tokens[:size]) != prefix for row in rows):
                prefix = ()
            width = max(row.start for row in rows) - len(prefix)
            tokens = torch.tensor([[0] * (width - row.start + len(prefix)) + row.tokens[len(prefix) :] for row in rows])
            real = torch.tensor(
                [[0] * (width - row.start + len(prefix)) + [1] * (row.start - len(prefix)) for row in rows]
            )
            cache = self._cache(prefix, len(rows), len(prefix) + width + max(row.left for row in rows))
            held = torch.cat([real.new_ones(len(rows), len(prefix)), real], dim=1).to(device)
            sampler = Sampler([row.draw for row in rows if row.draw], device)
            tokens = tokens.to(device)
            while True:
                logits = self._forward(tokens, held, cache)
                check_numbers(logits, rows)
                for row, token in zip(rows, sampler(logits), strict=True):
                    row.add(token, self._ends)
                if all(row.finish for row in rows):
                    return
                tokens = torch.tensor([[row.tokens[-1]] for row in rows], device=device)
                held = torch.cat([held, held.new_ones(len(rows), 1)], dim=1)

    def _forward(self, tokens: torch.Tensor, held: torch.Tensor, cache: Any) -> torch.Tensor:
        """Float32 logits `[batch, vocab]` behind the last of the new tokens; `held` says which columns are real."""
        given: dict[str, Any] = {"input_ids": tokens, "attention_mask": held, "use_cache": True}
        if "position_ids" in self._accepted:
            given["position_ids"] = (held.cumsum(1)[:, -tokens.shape[1] :] - 1).clamp(min=0)
        if "logits_to_keep" in self._accepted:
            given["logits_to_keep"] = 1
        return self._model(**given, past_key_values=cache).logits[:, -1].float()

    def _cache(self, prefix: tuple[int, ...], batch: int, length: int) -> Any:
        """A cache for a batch, with the prefix in every row."""
        import torch
        from transformers import DynamicCache, StaticCache

        if not self._copies_prefix:
            return DynamicCache(config=self._model.config)
        cache = StaticCache(config=self._model.config, max_cache_len=length)
        if prefix:
            if self._prefix[0] != prefix:
                held = DynamicCache(config=self._model.config)
                ids = torch.tensor([prefix], device=self._model.device)
                self._model(input_ids=ids, past_key_values=held, use_cache=True)
                self._prefix = (prefix, held)
            for number, layer in enumerate(self._prefix[1].layers):
                copies = (one.expand(batch, -1, -1, -1) for one in (layer.keys, layer.values))
                cache.update(*copies, number)
        return cache

    def score(self, items: Iterable[Item]) -> Iterator[Item]:
        """Every item, by one pass over its context and continuation."""
        import torch

        items = iter(items)
        while window := sorted(itertools.islice(items, 8 * self._slots), key=lambda item: -len(item.tokens)):
            for start in range(0, len(window), self._slots):
                with torch.inference_mode():
                    self._score(window[start : start + self._slots])
                yield from window[start : start + self._slots]

    def _score(self, items: Sequence[Item]) -> None:
        """Score some items in one forward pass, padded on the right."""
        import torch

        width, device = len(items[0].tokens), self._model.device
        tokens = torch.tensor([[*item.tokens, *[0] * (width - len(item.tokens))] for item in items], device=device)
        real = torch.tensor(
            [[1] * len(item.tokens) + [0] * (width - len(item.tokens)) for item in items], device=device
        )
        logits = self._model(input_ids=tokens, attention_mask=real, use_cache=False).logits
        for row, item in enumerate(items):
            first = len(item.context) - 1
            found = torch.log_softmax(logits[row, first : len(item.tokens)].float(), dim=-1)
            targets = torch.tensor(item.continuation, device=device)
            logprobs, greedy = found.gather(1, targets[:, None])[:, 0], found.argmax(dim=-1) == targets
            for number, (logprob, likeliest) in enumerate(zip(logprobs.tolist(), greedy.tolist(), strict=True)):
                item.place(number, logprob, likeliest)
