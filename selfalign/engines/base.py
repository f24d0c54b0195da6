"""The Engine protocol: requests in, completions and log-probabilities out.

Engines know token sequences and nothing of principles, prompts or stages. Every request carries its own seed, so a
completion depends on its request and on the model, not on its neighbours in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from selfalign.errors import StageError

END_TOKENS = "<eos>"
"""The key of `Sampling.logit_bias` that stands for all end tokens of the model."""
BY_TOKENIZER = "tokens by the tokenizer of the model"
"""What `EngineSettings.counted` says of a model whose tokenizer is at hand."""


@dataclass(frozen=True)
class NgramPenalty:
    """What repeating an n-gram costs: the next token's logit falls by penalty times how often the n-gram that it would
    complete stands in the completion already, summed over the four lengths. Nothing is counted in the prompt. A node of
    the configuration.

    Source of the formula, of who is exempt, and of the defaults: IBM/Dromedary, branch dromedary_v1,
    llama_dromedary/generation.py. Its step 4 takes 1 for trigrams and 2 for quadgrams, its other steps no penalty.
    """

    unigram: float = 0.0
    """Cost in logits of each time that the token was written (finite; 0 = none, below 0 rewards repeating)."""
    bigram: float = 0.0
    """The same for two tokens in a row."""
    trigram: float = 0.0
    """The same for three tokens in a row."""
    quadgram: float = 0.0
    """The same for four tokens in a row."""
    word_starts_only: bool = True
    """Only tokens that stand for a space and what follows it are penalised: no inner pieces of words, no punctuation at
    their ends, no line breaks."""
    first_id: int = 1024
    """Only tokens with an id larger than this are penalised (-1 = all): in most vocabularies the first are the commonest.
    The reference's frequency_penalty_min_range."""


@dataclass(frozen=True)
class Sampling:
    """How one completion is drawn. Plain settings: also a node of the configuration."""

    max_new_tokens: int = 256
    """Token budget of one completion (> 0)."""
    temperature: float = 0.5
    """Divides the logits; 0 takes the likeliest token."""
    top_p: float = 1.0
    """Keeps the likeliest tokens whose probabilities add up to this (0 < top_p <= 1)."""
    top_k: int = 0
    """Keeps this many likeliest tokens; 0 keeps all."""
    min_p: float = 0.0
    """Keeps the tokens at least this share as likely as the likeliest one (0 <= min_p <= 1; 0 keeps all)."""
    logit_bias: dict[str, float] = field(default_factory=dict)
    """Text -> what is added to the logit of the text's first token (finite, natural-log units; -100 bans it), behind a
    space and elsewhere: `Sorry: -100` bans all words that begin with that token. `<eos>` means every end token of the
    model. Applies before the temperature, at temperature 0 too; an engine that draws from no logits ignores it."""
    ngram_penalty: NgramPenalty = field(default_factory=NgramPenalty)
    """What repetition costs, taken off after the bias; an engine that draws from no logits ignores it."""


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One text to continue."""

    id: str
    """Unique within a call."""
    prompt: str
    """The whole text before the completion."""
    sampling: Sampling
    """How to draw."""
    stop: tuple[str, ...] = ()
    """Generation ends before the first of these strings; the completion does not contain it."""
    seed: int = 0
    """Seed of this request's own generator (63 bits); ignored at temperature 0."""
    shared: str = ""
    """A leading part of `prompt` that many requests have in common: its keys and values are computed once."""
    until: str = ""
    """At most `until_tokens` tokens may be written before this string has been written; `sampling.max_new_tokens` is
    counted from the token behind its end on. So thoughts and the answer behind a marker have budgets of their own.
    Empty: one budget for all."""
    until_tokens: int = 0
    """Token budget up to the end of `until` (> 0 where `until` is given, else 0)."""

    def most_tokens(self) -> int:
        """The most tokens that the completion may have. Raises StageError where `until` and `until_tokens` disagree."""
        if bool(self.until) != (self.until_tokens > 0) or self.until_tokens < 0:
            raise StageError(
                f"request '{self.id}': expected until and until_tokens together, a text and 1 or more, found "
                f"until={self.until!r}, until_tokens={self.until_tokens}; give both, or neither for one budget"
            )
        return self.until_tokens + self.sampling.max_new_tokens


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model wrote for one request."""

    id: str
    text: str
    """The completion, cut before the stop string."""
    finish: str
    """`stop` (a stop string), `eos` (the model's end token) or `length` (a budget or the context is used up)."""
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One continuation to score after a context."""

    id: str
    context: str
    continuation: str
    shared: str = ""
    """A leading part of `context` that many requests have in common, of later calls too."""


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """log p(continuation | context), natural logarithm, summed over the continuation's tokens."""

    id: str
    logprob: float
    """May be NaN or -inf where the model is broken: the evaluation's validity gate looks at it."""
    is_greedy: bool
    """True where every token of the continuation is the likeliest one."""
    n_tokens: int
    """Tokens of the continuation."""
    truncated_tokens: int = 0
    """Tokens of the context that did not fit the model's context window and were cut from its start."""


@dataclass(frozen=True, slots=True)
class Load:
    """What an engine is doing with the requests of one `generate` call."""

    finished: int
    """Requests whose completion has been handed out."""
    live: int
    """Requests that are being written at this moment."""
    new_tokens: int
    """Tokens written so far, by finished and live requests."""


Watch = Callable[[Load], None]
"""Called every few steps of a `generate` call, for displays."""


class Engine(Protocol):
    """A loaded model. Obtained from an `EngineSettings.open`, which also closes it.

    Results come as they are finished, in any order: `id` says whose they are. What a request's result is depends on the
    request and the model; what stands beside it in a batch can move the last bits of its logits, and so, where two tokens
    tie to within rounding, its text. The same `group_size` requests in one call, in the same order, give the same results
    to the bit on the same machine.
    """

    context_length: int
    """Tokens that prompt and completion may have together."""
    group_size: int
    """Requests that a caller hands over in one call, so that all can be kept busy; a caller that resumes repeats whole
    groups."""

    def generate(self, requests: Iterable[GenerateRequest], watch: Watch | None = None) -> Iterator[Completion]:
        """One completion per request, as they are finished.

        Requests are taken as there is room for them: a lazy iterable is never read far ahead. Ids are unique in a call.
        Raises StageError naming the request whose prompt leaves no room for a single new token.
        """
        ...

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[ScoreResult]:
        """One result per request, as they are finished. Ids are unique in a call."""
        ...

    def swap(self, adapter: Path | None) -> None:
        """Compute with another of the LoRA adapters that the engine was opened with, or with the base alone, from the next
        call on: results are those of an engine opened with it.

        Raises StageError for an adapter that the engine was not opened with, and where results of an earlier call are still
        to be taken.
        """
        ...

    def count_tokens(self, text: str) -> int:
        """Tokens of a text as a prompt, the beginning-of-text token included where the tokenizer adds one."""
        ...


class EngineSettings(Protocol):
    """How to get an engine: a frozen dataclass that is also a Hydra group. Holds the model."""

    def identity(self) -> Mapping[str, Any]:
        """What results depend on: engine family, content digest of the model, precision. Plain values, no paths."""
        ...

    def problems(self) -> list[str]:
        """What is wrong with these settings (missing folder, no tokenizer, ...), found without loading the model."""
        ...

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, by the tokenizer alone: the model is not loaded."""
        ...

    def counted(self) -> str:
        """What `count_tokens` counts, as a user is told: BY_TOKENIZER, or what stands in for tokens where there is no tokenizer."""
        ...

    def context_length(self) -> int:
        """Context window in tokens, from the model's configuration alone."""
        ...

    def open(self, adapter: Path | None = None, more: Sequence[Path] = ()) -> AbstractContextManager[Engine]:
        """Load the model for the length of a `with` block. It computes with the LoRA adapter of a folder, or alone, until
        `swap` is called; `more` are the further adapters that it may then be given.

        Raises DataError for an adapter that says it was trained on another base, where the base's weights are known.
        """
        ...
