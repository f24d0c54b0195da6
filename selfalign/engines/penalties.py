"""Requests in, shifts of their next logits out: biases on chosen tokens, penalties on n-grams written before.

Formula and white-list of the penalties are those of the reference (IBM/Dromedary, branch dromedary_v1,
llama_dromedary/generation.py); the bias comes first there too, and both before the temperature.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from selfalign.engines.base import END_TOKENS
from selfalign.errors import StageError

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

    from selfalign.engines.base import GenerateRequest, NgramPenalty, Sampling

WORD_MARKS = ("▁", "Ġ")
"""How a vocabulary writes the space before a word: SentencePiece's way, and that of byte-level BPE."""
BEFORE_TEXT = ("x ", "x\n")
"""What stands before a text when its first token is looked up: a word follows a space, or begins a line."""
NOTHING = -1
"""Stands in an n-gram for a token from before the completion."""


class Vocabulary:
    """What biases and penalties ask of a model's tokens."""

    def __init__(self, tokenizer: Tokenizer, ends: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._ends = frozenset(ends)

    @cached_property
    def word_starts(self) -> frozenset[int]:
        """Ids of tokens that begin a word: a mark for the space, something more, and no such mark at the end."""
        return frozenset(
            token
            for text, token in self._tokenizer.get_vocab().items()
            if text.startswith(WORD_MARKS) and not text.endswith(text[0])
        )

    def first_tokens(self, text: str) -> frozenset[int]:
        """Ids that a text can begin with, behind a space and at the beginning of a line; the end tokens for `<eos>`."""
        if text == END_TOKENS:
            return self._ends
        found = set()
        for before in BEFORE_TEXT:
            encoding = self._tokenizer.encode(before + text, add_special_tokens=False)
            # A space that is a token of its own belongs to every word: biasing it would say nothing of this text.
            own = (i for i, (_, end) in zip(encoding.ids, encoding.offsets, strict=True) if end > len(before))
            found.update(list(own)[:1])
        return frozenset(found)

    def shift(self, request: GenerateRequest) -> Shift | None:
        """A request's shifts before it has written anything, None where it asks for none.

        Raises StageError naming the request whose bias is on a text without tokens, and one with a value that is no
        finite number.
        """
        penalty = request.sampling.ngram_penalty
        if not request.sampling.logit_bias and not weights(penalty):
            return None
        bias = self.bias(request)
        return Shift(bias, penalty, self.word_starts if weights(penalty) and penalty.word_starts_only else None)

    def bias(self, request: GenerateRequest) -> dict[int, float]:
        """What a request's `logit_bias` adds to which token. Raises StageError as `shift` does."""
        _check_finite(request.id, request.sampling)
        bias: dict[int, float] = {}
        for text, value in request.sampling.logit_bias.items():
            tokens = self.first_tokens(text)
            if not tokens:
                raise StageError(
                    f"request '{request.id}': expected texts with at least one token as keys of logit_bias, found "
                    f"{text!r}, which has none here (allowed: any text, or {END_TOKENS!r} where the model has an end token); "
                    "take the key out"
                )
            for token in tokens:
                bias[token] = bias.get(token, 0.0) + value
        return bias


def shifted(logits: torch.Tensor, shifts: Sequence[Shift | None]) -> torch.Tensor:
    """Float32 logits `[batch, vocab]` with every row's shifts added; the given ones stay as they are."""
    import torch

    found = [(row, token, value) for row, one in enumerate(shifts) if one for token, value in one.values().items()]
    if not found:
        return logits
    rows, tokens, values = zip(*found, strict=True)
    at = torch.tensor([rows, tokens], device=logits.device)
    changed = logits.clone()
    # No place comes twice, so that the order of writing does not matter.
    changed[at[0], at[1]] += torch.tensor(values, dtype=logits.dtype, device=logits.device)
    return changed


class Shift:
    """One request's bias, and how often each n-gram was written that may cost something."""

    def __init__(self, bias: dict[int, float], penalty: NgramPenalty, starts: frozenset[int] | None) -> None:
        self._bias = bias
        self._weights = weights(penalty)
        self._first_id = penalty.first_id
        self._starts = starts
        self._followers: dict[tuple[int, ...], dict[int, int]] = {}
        # Tokens of the prompt are not told apart: no n-gram that reaches into it can have been written before.
        self._last = (NOTHING, NOTHING, NOTHING)

    def values(self) -> dict[int, float]:
        """What is added to the next logits, by token; the others stay as they are."""
        shift = dict(self._bias)
        for size, weight in self._weights.items():
            for token, times in self._followers.get(self._before(size), {}).items():
                shift[token] = shift.get(token, 0.0) - weight * times
        return shift

    def add(self, token: int) -> None:
        """Count the n-grams that end in a token just drawn, unless the token is exempt."""
        if not self._weights:
            return
        if token > self._first_id and (self._starts is None or token in self._starts):
            for size in self._weights:
                followers = self._followers.setdefault(self._before(size), {})
                followers[token] = followers.get(token, 0) + 1
        self._last = (*self._last[1:], token)

    def _before(self, size: int) -> tuple[int, ...]:
        """The newest tokens, to which the next one is the last of an n-gram of this size."""
        return self._last[len(self._last) + 1 - size :]


def weights(penalty: NgramPenalty) -> dict[int, float]:
    """The penalties that are not 0, by the size of the n-gram."""
    sizes = {1: penalty.unigram, 2: penalty.bigram, 3: penalty.trigram, 4: penalty.quadgram}
    return {size: weight for size, weight in sizes.items() if weight}


def _check_finite(request: str, sampling: Sampling) -> None:
    """Raise StageError where a bias or a penalty is no finite number: a whole row of logits could become NaN."""
    values = {f"logit_bias[{text!r}]": value for text, value in sampling.logit_bias.items()}
    values |= {f"ngram_penalty of size {size}": weight for size, weight in weights(sampling.ngram_penalty).items()}
    for name, value in values.items():
        if not math.isfinite(value):
            raise StageError(
                f"request '{request}': expected finite numbers as bias and penalties, found {name} = {value}; "
                "take -100 to ban a token"
            )
