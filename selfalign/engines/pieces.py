"""Requests in, texts out, where something else decides when a text ends: a server, or vLLM in this process.

Such a machine knows stop strings and one budget for each call. What is checked before a request is sent, how a text is cut
before its stop strings, and how a budget behind a marker becomes a second call, is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from selfalign.engines.base import Completion, GenerateRequest, ScoreRequest
from selfalign.engines.penalties import Vocabulary, weights
from selfalign.engines.tokens import token_budget
from selfalign.errors import StageError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LARGEST_BIAS = 100.0
"""What is taken as `logit_bias` (OpenAI's reference; vLLM cuts larger ones off)."""
SEED_BITS = 30
"""Bits of a request's seed that are used: llama.cpp keeps 32, and bit 30 tells the second half of a request."""
MARKER = "marker"
"""How a piece ended that has reached `until`."""
UNSAID = "unsaid"
"""How a piece ended that stopped for a reason which is not named."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that can be met."""

    request: GenerateRequest
    prompt: str
    """Its prompt; the text of the first token where that is empty."""
    most: int
    """Tokens that the completion may have in all."""
    bias: dict[int, float]
    """What is added to the logit of which token."""

    @property
    def who(self) -> str:
        """What begins a message about it."""
        return f"request '{self.request.id}'"

    def strings(self, *, to_marker: bool = False) -> list[str]:
        """The stop strings, with `until` behind them where a piece is to end there."""
        stop = list(self.request.stop)
        return [*stop, self.request.until] if to_marker and self.request.until not in stop else stop

    def finish(self, how: str, by: str) -> str:
        """How a piece ended that stopped at the string `by`: at the marker, or `how`."""
        return MARKER if by and by == self.request.until and by not in self.request.stop else how

    def seed(self, *, second: bool = False) -> int:
        """The seed; the second half must not draw the first one's numbers again."""
        return self.request.seed % 2**SEED_BITS + (2**SEED_BITS if second else 0)


@dataclass(frozen=True, slots=True)
class Piece:
    """What one call gave: a completion, or one half of it."""

    text: str
    finish: str
    """`stop`, `eos`, `length`, MARKER or UNSAID."""
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True, slots=True)
class Pair:
    """A request to score, as tokens."""

    request: ScoreRequest
    context: tuple[int, ...]
    continuation: tuple[int, ...]
    truncated: int


class Desk:
    """What a model's tokenizer decides about requests, before and between the calls."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: Vocabulary, first: int, context_length: int) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._first = first
        self._context_length = context_length

    def ids(self, text: str) -> list[int]:
        """A text as a prompt."""
        return self._tokenizer.encode(text).ids

    def count(self, text: str) -> int:
        """Tokens of a text as a prompt."""
        return len(self.ids(text))

    def size(self, text: str) -> int:
        """Tokens of a text behind others."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def check(self, request: GenerateRequest) -> Asked:
        """The request, ready to be sent. Raises StageError for a prompt that leaves no room for one new token and for a
        request that cannot be met: nothing but our own engine computes penalties on n-grams."""
        if weights(request.sampling.ngram_penalty):
            raise StageError(
                f"request '{request.id}': expected no ngram_penalty, which no server computes, found "
                f"{request.sampling.ngram_penalty}; set its penalties to 0 or use engine=huggingface"
            )
        bias = self._vocabulary.bias(request)
        if any(abs(value) > LARGEST_BIAS for value in bias.values()):
            raise StageError(
                f"request '{request.id}': expected values from {-LARGEST_BIAS:.0f} to {LARGEST_BIAS:.0f} in logit_bias, which "
                f"is what servers take, found {request.sampling.logit_bias} (texts that begin alike add up); lower them"
            )
        tokens = self.count(request.prompt)
        # An empty prompt is what the model reads first, as in the other engines.
        prompt = request.prompt if tokens else self._tokenizer.id_to_token(self._first) or ""
        return Asked(request, prompt, token_budget(request, tokens or 1, self._context_length), bias)

    def behind_marker(self, asked: Asked, first: Piece) -> tuple[str, Piece, int]:
        """What is written up to the marker at whose end a piece stopped, that piece, and the budget behind it.

        What the model wrote behind the marker in the marker's own last token is drawn anew. Spaces at the marker's end
        belong to the next word's token in most vocabularies: no prompt ends with them, and the model writes them again.
        """
        request = asked.request
        until = request.until.rstrip(" ") or request.until
        written, again = first.text + until, self.size(request.until[len(until) :])
        first = replace(first, new_tokens=first.new_tokens - again)
        budget = min(
            request.sampling.max_new_tokens + again,
            asked.most - first.new_tokens,
            self._context_length - self.count(asked.prompt + written),
        )
        return written, first, budget


def joined(asked: Asked, written: str, first: Piece, rest: Piece) -> Piece:
    """Both halves as one: a stop string may begin in one and end in the other."""
    text, by = cut(written + rest.text, asked.request.stop)
    return Piece(text, "stop" if by else rest.finish, first.prompt_tokens, first.new_tokens + rest.new_tokens)


def completion(asked: Asked, piece: Piece) -> Completion:
    """The finished completion."""
    # Behind a stop without a reason stands a stop string, where there are any: base models end most texts by one.
    unsaid = "stop" if asked.request.stop else "eos"
    finish = unsaid if piece.finish == UNSAID else piece.finish
    return Completion(asked.request.id, piece.text, finish, piece.prompt_tokens, piece.new_tokens)


def cut(text: str, strings: Sequence[str]) -> tuple[str, str]:
    """A text before the string that is complete in it first, and that string; the whole text and "" where there is none.

    Of strings that are complete at the same character the first given wins.
    """
    found = [(at + len(one), number, at, one) for number, one in enumerate(strings) if (at := text.find(one)) >= 0]
    if not found:
        return text, ""
    _, _, at, one = min(found)
    return text[:at], one
