"""The Engine protocol: requests in, completions and log-probabilities out.

Engines know token sequences and nothing of principles, prompts or stages. Every request carries its own seed, so a
completion depends on its request and on the model, not on its neighbours in a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


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


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model wrote for one request."""

    id: str
    text: str
    """The completion, cut before the stop string."""
    finish: str
    """`stop` (a stop string), `eos` (the model's end token) or `length` (the budget or the context is used up)."""
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """One continuation to score after a context."""

    id: str
    context: str
    continuation: str


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


class Engine(Protocol):
    """A loaded model. Obtained from an `EngineSettings.open`, which also closes it."""

    context_length: int
    """Tokens that prompt and completion may have together."""
    group_size: int
    """Requests that are computed together; a caller that resumes repeats whole groups, so that results stay identical
    to the bit."""

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[Completion]:
        """One completion per request, in the order of the requests.

        Raises StageError naming the request whose prompt leaves no room for a single new token.
        """
        ...

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[ScoreResult]:
        """One result per request, in the order of the requests."""
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

    def context_length(self) -> int:
        """Context window in tokens, from the model's configuration alone."""
        ...

    def open(self, adapter: Path | None = None) -> AbstractContextManager[Engine]:
        """Load the model (with a LoRA adapter folder on top) for the length of a `with` block."""
        ...
