"""The Stage protocol, what a stage may use, and how generation survives a crash.

A stage is a function of its settings and inputs: no globals, no clock, no environment. Its output folder survives a
crash: a stage skips what is already there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

from selfalign import jsonl
from selfalign.artifacts import Artifact, Outcome
from selfalign.engines.base import (
    Completion,
    Engine,
    EngineSettings,
    GenerateRequest,
    ScoreRequest,
    ScoreResult,
)
from selfalign.errors import DataError, StageError
from selfalign.evaluation.scores import plain_number
from selfalign.progress import Progress, silent
from selfalign.records import Prompt, Response, from_row
from selfalign.shards import Shard
from selfalign.training.settings import TrainerSettings


@dataclass(frozen=True)
class Context:
    """What stages share: the model behind an engine, and how training runs."""

    engine: EngineSettings
    """Gives engines over the base model, with or without an adapter."""
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    """Devices, strategy and precision of training."""
    model_folder: Callable[[], Path] | None = None
    """The base model's local folder, for training; None where no stage trains."""
    shard: Shard | None = None
    """Which of several processes this is that generate together; None for a process alone."""
    progress: Callable[[str, int, str], AbstractContextManager[Progress]] = lambda label, total, unit: nullcontext(
        silent
    )
    """Opens a progress display: label, total (0 = unknown), unit."""
    say: Callable[[str], None] = lambda text: None
    """Tells the user something in a line."""


CountTokens = Callable[[str], int]
"""Tokens of a text, by the tokenizer of the model that reads it or what stands in for one: `EngineSettings.count_tokens`."""


class Stage(Protocol):
    """Settings that can run. Fields marked transient stay out of the artifact's name."""

    VERSION: ClassVar[str]
    """Raised when the code changes what the same settings produce."""
    READS: ClassVar[tuple[str, ...]]
    """Roles of the inputs that must be there; `name_*` stands for one or more roles that begin with `name_`."""
    OPTIONAL: ClassVar[tuple[str, ...]]
    """Roles of the inputs that may be there."""
    GENERATES: ClassVar[bool]
    """Whether `run` is completions by `generate` and pure functions of them: shards run it all at once, each with a part of
    the requests. Other stages are computed by one process alone."""

    def identity(self, context: Context) -> Mapping[str, Any]:
        """Everything the result depends on besides the inputs: settings, texts, model. Plain values, no paths."""
        ...

    def problems(self, context: Context) -> list[str]:
        """What is wrong with the settings whatever the model is, found without loading it."""
        ...

    def unfit(self, context: Context) -> str:
        """Why this stage cannot run with this model, its settings being right; empty where it can."""
        ...

    def run(self, inputs: Mapping[str, Artifact], out: Path, context: Context) -> Outcome:
        """Do the work in `out` (which survives a crash). Raises StageError where the inputs cannot be worked with."""
        ...


COMPLETIONS = "completions.jsonl"
QUESTION_TOKENS = 32
"""Room that a prompt must leave for a question; longer ones are met when they come."""


def generate(
    engine: Engine,
    requests: Sequence[GenerateRequest],
    path: Path,
    progress: Progress = silent,
    shard: Shard | None = None,
) -> list[Completion]:
    """One completion per request, in order; those already in `path` are not computed again.

    Rows are appended group by group, in the order of the requests. A group that a crash tore is computed again as a
    whole, because what stands beside a request in a batch can move its last bits; the result is then the same to the
    byte as without the crash. A shard computes its groups alone and takes the others' from them: `path` is then written at the
    end, with the same bytes. Raises DataError where `path` holds completions of other requests.
    """
    size = max(1, engine.group_size)
    groups = [requests[start : start + size] for start in range(0, len(requests), size)]
    if shard is None:
        done = _finished(engine.generate, groups, path, progress)
    elif path.exists():
        done = {row["id"]: row for row in jsonl.read(path)}
    else:
        own, ids = groups[shard.number - 1 :: shard.of], [[request.id for request in group] for group in groups]
        done = shard.exchange(path.stem, ids, lambda part: _finished(engine.generate, own, part, progress))
        jsonl.write(path, (done[request.id] for request in requests))
        progress(len(requests))
    return [Completion(**done[request.id]) for request in requests]


def score(
    engine: Engine, requests: Sequence[ScoreRequest], path: Path, progress: Progress = silent
) -> list[ScoreResult]:
    """One score per request, in order; those already in `path` are not computed again. As `generate`, group by group."""
    size = max(1, engine.group_size)
    groups = [requests[start : start + size] for start in range(0, len(requests), size)]

    def compute(group: Sequence[ScoreRequest]) -> Iterator[ScoreResult]:
        # A broken model's NaN is no JSON; its name is.
        return (replace(one, logprob=plain_number(one.logprob)) for one in engine.score(group))  # type: ignore[arg-type]

    done = _finished(compute, groups, path, progress)
    found = [ScoreResult(**done[request.id]) for request in requests]
    return [replace(one, logprob=float(one.logprob)) for one in found]


def _finished(
    compute: Callable[[Sequence[Any]], Iterable[Any]], groups: Sequence[Sequence[Any]], path: Path, progress: Progress
) -> dict[str, jsonl.Row]:
    """The rows of all requests of some groups, by id, those that were missing appended to `path`."""
    done = {row["id"]: row for row in jsonl.recover(path)}
    foreign = set(done) - {request.id for group in groups for request in group}
    if foreign:
        raise DataError(f"{path} holds results of other requests ({sorted(foreign)[:3]}...); delete that file")
    finished = len(done)
    progress(finished)
    for group in groups:
        missing = {request.id for request in group} - set(done)
        if not missing:
            continue
        rows: dict[str, jsonl.Row] = {}
        for result in compute(group):
            rows[result.id] = asdict(result)
            progress(finished + len(missing & rows.keys()))
        jsonl.append(path, [rows[request.id] for request in group if request.id in missing])
        done |= rows
        finished += len(missing)
    return done


def read_prompts(artifact: Artifact) -> list[Prompt]:
    """The kept prompts of an artifact, in order."""
    prompts = [from_row(Prompt, row) for row in jsonl.iterate(artifact.file("prompts.jsonl"))]
    return [prompt for prompt in prompts if prompt.kept]


def read_responses(artifact: Artifact) -> list[Response]:
    """The kept responses of an artifact, in order."""
    responses = [from_row(Response, row) for row in jsonl.iterate(artifact.file("responses.jsonl"))]
    return [response for response in responses if response.kept]


def count(rows: Iterable[Prompt | Response]) -> Outcome:
    """The funnel of some rows: in, kept, dropped by reason."""
    outcome = Outcome()
    for row in rows:
        outcome.rows_in += 1
        if row.kept:
            outcome.kept += 1
        else:
            outcome.dropped[row.reason] = outcome.dropped.get(row.reason, 0) + 1
    return outcome


def cut_counts(responses: Iterable[Response]) -> dict[str, float | int | str | None]:
    """`cut/<rule>`: the kept responses that a shortening rule took something from, by rule."""
    cuts = Counter(rule for response in responses if response.kept for rule in response.cut)
    return {f"cut/{rule}": number for rule, number in sorted(cuts.items())}


def filter_problems(stage: str, settings: Any, numbers: Sequence[str], texts: Sequence[str]) -> list[str]:
    """What is wrong with the filters of a stage: a number below 0, and an empty text, which every answer contains."""
    lengths = ("min_characters", "min_characters_unfinished", *numbers)
    found = [
        f"{stage}.{name}: expected a number, 0 or more, found {value}; raise it"
        for name in lengths
        if (value := getattr(settings, name)) is not None and value < 0
    ]
    return found + [
        f"{stage}.{name}: expected texts of at least one character, found an empty one, which stands in every answer; remove it"
        for name in texts
        if "" in getattr(settings, name)
    ]


def no_room(
    context: Context, prompt: str, needed: int, remedy: str, what: str = "the shared part of its prompt"
) -> str:
    """Why a prompt does not leave `needed` tokens of the model's context, and what to do; empty where it does."""
    tokens, window = context.engine.count_tokens(prompt), context.engine.context_length()
    if tokens + needed <= window:
        return ""
    return (
        f"expected {needed} of the model's {window} tokens of context to be free for question and answer, found "
        f"{max(window - tokens, 0)}: {what} takes {tokens}; {remedy}"
    )


def need_rows(rows: Sequence[Any], what: str, artifact: Artifact) -> None:
    """Raise StageError, with the reasons for which rows were dropped, where there is no row to work with."""
    if rows:
        return
    dropped = artifact.manifest["counts"]["dropped"]
    reasons = ", ".join(f"{reason} {number}" for reason, number in sorted(dropped.items(), key=lambda item: -item[1]))
    sources = artifact.manifest["metrics"].get("sources")
    raise StageError(
        f"expected at least one kept row of {what}, found none in {artifact.name} (dropped: {reasons or 'nothing'}"
        f"{f'; {sources}' if sources else ''}); look at the rows with `selfalign show RUN STAGE --dropped`, then change "
        "the filters or the model"
    )
