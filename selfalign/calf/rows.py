"""Token rows of Calf's corpus: a shard's number in, its batches out, the same for the same arguments.

A document is a row of its own, so that no header is in sight of another document's questions; rows of like length share a batch.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from selfalign.calf import corpus
from selfalign.calf.documents import Document, Look
from selfalign.calf.guides import GUIDES
from selfalign.identity import seed_of

if TYPE_CHECKING:
    import torch


COPY_WEIGHT = 2.0
"""How many times as much a copied token weighs in the loss: copying is learned late, and an answer is wrong without it."""


@dataclass(frozen=True)
class Row:
    """One document as tokens."""

    ids: list[int]
    weights: list[float]
    """Weight of each token in the loss."""
    looks: list[tuple[int, int, int, int]]
    """(guide, asking position, position to look at, token to say or to know; -1 for none)."""


@dataclass(frozen=True)
class Batch:
    """Rows of like length as tensors."""

    ids: torch.Tensor
    """`[batch, seq]`, int64."""
    weights: torch.Tensor
    """`[batch, seq]`, float32, in the loss; 0 for what is only read and for padding."""
    looks: torch.Tensor
    """`[looks, 5]`, int64: guide, row, asking position, position to look at, token to say or to know; -1 for none."""


def encode(tokenizer: Any, document: Document) -> Row:
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
    looks = []
    for number, (name, guide) in enumerate(GUIDES.items()):
        for look in (look for look in document.looks if look.guide == name):
            for asking, target in _positions(look, starts, guide.from_itself):
                said = -1
                if guide.knows and look.to >= 0:
                    said = ids[target]
                elif guide.says and look.to >= 0:
                    said = _said(tokenizer, document, look, ids[asking + 1])
                looks.append((number, asking, target, said))
    for stress in document.stresses:
        first, last = (bisect_right(starts, at) - 1 for at in (stress.at, stress.at + stress.length - 1))
        weights[first : last + 1] = [stress.weight] * (last + 1 - first)
    for token in {asking + 1 for guide, asking, _, _ in looks if guide == list(GUIDES).index("copy")}:
        weights[token] *= COPY_WEIGHT
    return Row([*ids, int(tokenizer.eos_token_id)], [*weights, 1.0], looks)


def _positions(look: Look, starts: Sequence[int], from_itself: bool) -> Iterator[tuple[int, int]]:
    """(asking position, position to look at) for every token of a look; `starts` are the tokens' first characters."""
    first = bisect_right(starts, look.at) - 1
    last = bisect_right(starts, look.at + look.length - 1) - 1
    for token in range(first, last + 1):
        at = max(starts[token], look.at)
        target = bisect_right(starts, look.to + at - look.at) - 1 if look.to >= 0 else 0
        asking = token if from_itself else token - 1
        if asking >= target:
            yield asking, target


def _said(tokenizer: Any, document: Document, look: Look, following: int) -> int:
    """The token that a head is to say: the one that follows, or a rule's number as a citation writes it."""
    if look.guide != "number":
        return following
    number = re.match(r"\d+", document.text[look.to :])
    assert number, f"expected a number, found '{document.text[look.to : look.to + 20]}'"
    return tokenizer.encode(f" {number[0]}", add_special_tokens=False)[0]


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
    looks = [(guide, index, *rest) for index, row in enumerate(rows) for guide, *rest in row.looks]
    return Batch(
        torch.tensor([row.ids + [pad] * (length - len(row.ids)) for row in rows]),
        torch.tensor([row.weights + [0.0] * (length - len(row.weights)) for row in rows]),
        torch.tensor(looks, dtype=torch.long).reshape(-1, 5),
    )
