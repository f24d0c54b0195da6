"""Requests in, completions from a script out: a deterministic double that takes every pipeline path without a model.

`Scripted` are the settings of `engine=scripted`. In Python, `ScriptedSettings(ScriptedEngine(respond=...))` goes
wherever engine settings are expected. Tokens are whitespace-separated words. Nothing is drawn from logits, so bias and
penalties of a request's sampling change nothing here.
"""

from __future__ import annotations

import bisect
import contextlib
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfalign import jsonl
from selfalign.engines.base import Completion, GenerateRequest, Load, ScoreRequest, ScoreResult, Watch
from selfalign.errors import ConfigError, DataError, StageError
from selfalign.identity import file_digest, seed_of, transient

Respond = Callable[[GenerateRequest], str]
Score = Callable[[ScoreRequest], float]

WORDS = ["the", "a", "cat", "river", "stone", "seven", "walks", "under", "bright", "because", "often", "new", "green"]
"""What a double without a script says."""
BY_WORDS = "words, which are the tokens of a scripted engine"
KEYS = {"text", "id", "prompt_contains"}


@dataclass(frozen=True)
class Scripted:
    """Completions by a script instead of a model. Hydra group `engine=scripted`."""

    script: str = ""
    """JSONL of {text, id?, prompt_contains?}: the first row whose conditions hold answers; empty for seeded words."""
    context_words: int = 8192
    """Context window in words, which are the tokens here."""
    batch_size: int = transient(32)
    """Requests in a group."""

    def identity(self) -> Mapping[str, Any]:
        """The script's content."""
        content = file_digest(Path(self.script)) if self.script else ""
        return {"engine": "scripted", "script": content, "context_length": self.context_words}

    def problems(self) -> list[str]:
        """A script that is missing or has a row that is no answer; numbers out of range."""
        problems = []
        try:
            _rows(self.script)
        except DataError as error:
            problems.append(f"engine.script: {error}")
        if self.context_words < 2 or self.batch_size < 1:
            problems.append(
                "engine: expected context_words >= 2 and batch_size >= 1, found "
                f"context_words={self.context_words}, batch_size={self.batch_size}; raise them"
            )
        return problems

    def count_tokens(self, text: str) -> int:
        """Words of a text."""
        return len(text.split())

    def counted(self) -> str:
        """Words."""
        return BY_WORDS

    def context_length(self) -> int:
        """Context window in words."""
        return self.context_words

    @contextlib.contextmanager
    def open(self, adapter: Path | None = None, more: Sequence[Path] = ()) -> Iterator[ScriptedEngine]:
        """The engine; an adapter changes nothing. Raises ConfigError listing the problems of the settings."""
        problems = self.problems()
        if problems:
            raise ConfigError(problems)
        respond = _by_script(_rows(self.script)) if self.script else None
        engine = ScriptedEngine(respond, context_length=self.context_words, group_size=self.batch_size)
        engine.swap(adapter)
        yield engine


class ScriptedEngine:
    """An engine whose answers are functions of the requests.

    Without `respond` it says words drawn by the request's seed, without `score` it gives numbers drawn by the texts.
    `generated` and `scored` hold every request it was given, `adapter` the folder that it was told to compute with last, which
    changes nothing unless a function looks at it.
    """

    def __init__(
        self,
        respond: Respond | None = None,
        score: Score | None = None,
        *,
        context_length: int = 8192,
        group_size: int = 32,
        identity_name: str = "scripted",
    ) -> None:
        self.context_length = context_length
        self.group_size = group_size
        self.identity_name = identity_name
        self.generated: list[GenerateRequest] = []
        self.scored: list[ScoreRequest] = []
        self.adapter: Path | None = None
        self._respond = respond or _seeded_words
        self._score = score or _seeded_score

    def swap(self, adapter: Path | None) -> None:
        """Take note of the adapter."""
        self.adapter = adapter

    def count_tokens(self, text: str) -> int:
        """Words of a text."""
        return len(text.split())

    def generate(self, requests: Iterable[GenerateRequest], watch: Watch | None = None) -> Iterator[Completion]:
        """One completion per request: the answer cut at its stop strings and budget, as a model's would be."""
        written = 0
        for number, request in enumerate(requests, start=1):
            self.generated.append(request)
            completion = self._complete(request)
            written += completion.new_tokens
            yield completion
            if watch:
                watch(Load(number, 0, written))

    def _complete(self, request: GenerateRequest) -> Completion:
        """One completion. Raises StageError for a prompt that leaves no room for a word, and for a bad budget."""
        used = self.count_tokens(request.prompt)
        room = min(self.context_length - used, request.most_tokens())
        if room < 1 or request.sampling.max_new_tokens < 1:
            raise StageError(
                f"request '{request.id}': expected a prompt of at most {self.context_length - 1} words and a budget "
                f"of at least 1, found {used} words and a budget of {request.sampling.max_new_tokens}; "
                "shorten the prompt or raise max_new_tokens"
            )
        text, finish = self._respond(request), "eos"
        ends = [match.end() for match in re.finditer(r"\S+", text)]
        budget = min(room, _budget(request, text, ends))
        if len(ends) > budget:
            text, finish = text[: ends[budget - 1]], "length"
        found = [at for at in (text.find(stop) for stop in request.stop) if at >= 0]
        if found:
            text, finish = text[: min(found)], "stop"
        return Completion(request.id, text, finish, used, self.count_tokens(text))

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[ScoreResult]:
        """One score per request; `is_greedy` where it is above log(1/2)."""
        for request in requests:
            self.scored.append(request)
            words = self.count_tokens(request.continuation)
            cut = max(0, self.count_tokens(request.context) + words - self.context_length)
            logprob = self._score(request)
            yield ScoreResult(request.id, logprob, logprob > -0.69, words, cut)


def _budget(request: GenerateRequest, text: str, ends: Sequence[int]) -> int:
    """The words that a request lets this text have, given where its words end."""
    if not request.until:
        return request.sampling.max_new_tokens
    at = text.find(request.until)
    # The word that holds the marker's end, or comes behind the whitespace that it ends in, is the last one before it.
    words = bisect.bisect_left(ends, at + len(request.until)) + 1
    if at < 0 or words > request.until_tokens:
        return request.until_tokens
    return words + request.sampling.max_new_tokens


@dataclass(frozen=True)
class ScriptedSettings:
    """Engine settings around an engine made of functions."""

    engine: ScriptedEngine
    """The engine that `open` gives, every time the same; its `identity_name` tells its results from others'."""

    def identity(self) -> Mapping[str, Any]:
        """The engine's name: functions have no content to hash."""
        length = self.engine.context_length
        return {"engine": "scripted", "name": self.engine.identity_name, "context_length": length}

    def problems(self) -> list[str]:
        """None."""
        return []

    def count_tokens(self, text: str) -> int:
        """Words of a text."""
        return self.engine.count_tokens(text)

    def counted(self) -> str:
        """Words."""
        return BY_WORDS

    def context_length(self) -> int:
        """Context window in words."""
        return self.engine.context_length

    @contextlib.contextmanager
    def open(self, adapter: Path | None = None, more: Sequence[Path] = ()) -> Iterator[ScriptedEngine]:
        """The engine itself, told which adapter it would have."""
        self.engine.swap(adapter)
        yield self.engine


def _rows(script: str) -> list[jsonl.Row]:
    """The script's rows. Raises DataError for a row without text or with keys that are not known."""
    rows = jsonl.read(Path(script)) if script else []
    for number, row in enumerate(rows, start=1):
        if "text" not in row or not row.keys() <= KEYS or not all(isinstance(value, str) for value in row.values()):
            raise DataError(
                f"{script}:{number}: expected {{text, id?, prompt_contains?}} as strings, found {row}; correct the row"
            )
    return rows


def _by_script(rows: list[jsonl.Row]) -> Respond:
    """Answers by the first row whose conditions hold; raises StageError where none does."""

    def respond(request: GenerateRequest) -> str:
        for row in rows:
            if row.get("id", request.id) == request.id and row.get("prompt_contains", "") in request.prompt:
                return row["text"]
        raise StageError(
            f"request '{request.id}': expected a row of the script that fits, found none among {len(rows)}; "
            "add a last row with only a text, which fits everything"
        )

    return respond


def _seeded_words(request: GenerateRequest) -> str:
    """Four to twelve words drawn by prompt and seed; by the prompt alone at temperature 0."""
    seed = request.seed if request.sampling.temperature > 0 else 0
    draw = random.Random(seed_of("words", request.prompt, seed))
    return " ".join(draw.choices(WORDS, k=draw.randint(4, 12)))


def _seeded_score(request: ScoreRequest) -> float:
    """A log-probability between -10 and 0 drawn by both texts."""
    return -10 * random.Random(seed_of("score", request.context, request.continuation)).random()
