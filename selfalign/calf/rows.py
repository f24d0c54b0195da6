"""Token rows of Calf's corpus: a shard's number in, its batches out, the same for the same arguments.

A document is a row of its own, so that no header is in sight of another document's questions; rows of like length share a batch.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from selfalign.calf import corpus
from selfalign.calf.guides import GUIDES
from selfalign.identity import seed_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Row:
    """One document as tokens."""

    ids: list[int]
    weights: list[float]
    """Weight of each token in the loss."""
    looks: list[tuple[int, int, int]]
    """(guide, asking position, position to look at)."""


@dataclass(frozen=True)
class Batch:
    """Rows of like length as tensors."""

    ids: torch.Tensor
    """`[batch, seq]`, int64."""
    weights: torch.Tensor
    """`[batch, seq]`, float32, in the loss; 0 for what is only read and for padding."""
    looks: torch.Tensor
    """`[looks, 4]`, int64: guide, row, asking position, position to look at."""


def encode(tokenizer: Any, document: corpus.Document) -> Row:
    """A document as a row, with its end. Pieces are encoded one by one, as the stages encode prompt and completion."""
    ids: list[int] = []
    weights: list[float] = []
    starts: list[int] = []
    offset = 0
    for piece in document.pieces:
        encoded = tokenizer(piece.text, add_special_tokens=False, return_offsets_mapping=True)
        ids += encoded["input_ids"]
        weights += [piece.weight] * len(encoded["input_ids"])
        starts += [offset + start for start, _ in encoded["offset_mapping"]]
        offset += len(piece.text)
    looks = [found for look in document.looks for found in _positions(look, starts)]
    return Row([*ids, int(tokenizer.eos_token_id)], [*weights, 1.0], looks)


def _positions(look: corpus.Look, starts: Sequence[int]) -> list[tuple[int, int, int]]:
    guide = list(GUIDES).index(look.guide)
    first = bisect_right(starts, look.at) - 1
    last = bisect_right(starts, look.at + look.length - 1) - 1
    found = []
    for token in range(first, last + 1):
        at = max(starts[token], look.at)
        target = bisect_right(starts, look.to + at - look.at) - 1 if look.to >= 0 else 0
        asking = token if GUIDES[look.guide].from_itself else token - 1
        if asking >= target:
            found.append((guide, asking, target))
    return found


def shard(
    tokenizer: Any,
    seed: int,
    number: int,
    *,
    documents: int = 640,
    batch_tokens: int = 4096,
    max_tokens: int = 1408,
    progress: float = 1.0,
) -> list[Batch]:
    """The batches of `documents` documents, in a seeded order; documents of more than `max_tokens` tokens are left out.

    `progress`, the share of training that is done, sets how many headers have few rules (`corpus.few_rules`).
    """
    few = corpus.few_rules(progress)
    rows = []
    for index in range(number * documents, (number + 1) * documents):
        row = encode(tokenizer, corpus.document(seed, index, few))
        if len(row.ids) <= max_tokens:
            rows.append(row)
    rows.sort(key=lambda row: (len(row.ids), row.ids))
    batches: list[list[Row]] = []
    for row in rows:
        # Rows come by length, so the newest is the longest: it says what a batch is padded to.
        if batches and len(row.ids) * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    Random(seed_of(seed, "calf batches", number)).shuffle(batches)
    return [collate(batch, int(tokenizer.pad_token_id)) for batch in batches]


def collate(rows: Sequence[Row], pad: int) -> Batch:
    """Rows as one batch, padded on the right."""
    import torch

    length = max(len(row.ids) for row in rows)
    looks = [(guide, index, asking, to) for index, row in enumerate(rows) for guide, asking, to in row.looks]
    return Batch(
        torch.tensor([row.ids + [pad] * (length - len(row.ids)) for row in rows]),
        torch.tensor([row.weights + [0.0] * (length - len(row.weights)) for row in rows]),
        torch.tensor(looks, dtype=torch.long).reshape(-1, 4),
    )
