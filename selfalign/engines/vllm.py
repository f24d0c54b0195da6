"""Requests in, completions and scores out, by vLLM in this process: for GPUs, where its pins agree with this environment.

Prompts are token ids of the model's own tokenizer.json. vLLM keeps as many requests at work as its memory allows; what stands
beside a request moves the last bits of its logits, unless VLLM_BATCH_INVARIANT=1 is set. Where the pins do not agree, the same
vLLM in an environment of its own serves `engine=openai_api` (`selfalign serve-command`).
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from selfalign.engines.adapters import not_opened
from selfalign.engines.base import BY_TOKENIZER, Completion, GenerateRequest, Load, ScoreRequest, ScoreResult, Watch
from selfalign.engines.model import (
    ModelSettings,
    count_tokens,
    model_config,
    model_context_length,
    model_digest,
    model_folder,
    model_problems,
    raw_tokenizer,
    special_tokens,
)
from selfalign.engines.penalties import Vocabulary
from selfalign.engines.pieces import MARKER, Asked, Desk, Pair, Piece, completion, cut, joined
from selfalign.engines.serving import adapter_name, check_adapter, check_base, default_name, max_lora_rank
from selfalign.engines.tokens import end_tokens, first_token, named_ends, pair_tokens
from selfalign.errors import ConfigError, StageError
from selfalign.identity import transient

VERSION = 1
"""Raise it when the same requests give other results than before."""
PINNED = ("torch", "transformers", "tokenizers")
"""What vLLM and the rest of selfalign both load: one version of each can be there."""
REMEDY = (
    "put vLLM into an environment of its own, start there what `selfalign serve-command RUN` prints (for a base model "
    "`vllm serve <folder>`), and use engine=openai_api here; or use engine=huggingface"
)


@dataclass(frozen=True)
class VLLM:
    """vLLM in this process. Hydra group `engine=vllm`."""

    model: ModelSettings = field(default_factory=ModelSettings)
    """The base model."""
    batch_size: int = transient(256)
    """Most requests at work at a time (> 0; vLLM's max_num_seqs), and requests in a group."""
    gpu_memory_utilization: float = transient(0.9)
    """Share of a GPU's memory that vLLM takes for weights and keys and values (above 0, at most 1)."""
    tensor_parallel_size: int = transient(1)
    """GPUs that the model is spread over (> 0)."""

    def identity(self) -> Mapping[str, Any]:
        """Engine family and version, content of the model, context window, precision."""
        return {
            "engine": "vllm",
            "version": VERSION,
            "model": model_digest(model_folder(self.model)),
            "context_length": self.context_length(),
            "dtype": self.model.dtype.value,
        }

    def problems(self) -> list[str]:
        """What is wrong with the model folder, the numbers and the environment, found without loading vLLM."""
        problems = [*model_problems(self.model), *_missing()]
        for name in ("batch_size", "tensor_parallel_size"):
            if getattr(self, name) < 1:
                problems.append(f"engine.{name}: expected 1 or more, found {getattr(self, name)}; raise it")
        if not 0 < self.gpu_memory_utilization <= 1:
            problems.append(
                f"engine.gpu_memory_utilization: expected a share above 0 and at most 1, found "
                f"{self.gpu_memory_utilization}; set it to 0.9"
            )
        return problems

    def count_tokens(self, text: str) -> int:
        """Tokens of a text as a prompt, by the tokenizer alone."""
        return count_tokens(self.model, text)

    def counted(self) -> str:
        """Tokens."""
        return BY_TOKENIZER

    def context_length(self) -> int:
        """Context window in tokens, by the model's configuration alone."""
        return model_context_length(self.model)

    @contextlib.contextmanager
    def open(self, adapter: Path | None = None, more: Sequence[Path] = ()) -> Iterator[VLLMEngine]:
        """Load the model, and have it speak with the LoRA adapter of a folder.

        Raises ConfigError listing every problem of the settings, DataError for a folder that holds no adapter and for an adapter
        of another base, StageError for an adapter that vLLM does not take and for a machine on which it does not start.
        """
        if problems := self.problems():
            raise ConfigError(problems)
        lora: dict[str, Any] = {}
        folder = model_folder(self.model)
        every = [one for one in (adapter, *more) if one is not None]
        for one in every:
            check_adapter(one)
            check_base(one, model_digest(folder))
        if every:
            lora = {"enable_lora": True, "max_loras": 1, "max_lora_rank": max_lora_rank(every)}
        # vLLM reports its use to its makers unless it is told not to.
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        try:
            import vllm
            from vllm.lora.request import LoRARequest  # pyright: ignore[reportMissingImports]

            llm = vllm.LLM(  # pyright: ignore[reportAttributeAccessIssue]
                str(folder.resolve()),
                dtype=self.model.dtype.value,
                max_model_len=self.context_length(),
                max_num_seqs=self.batch_size,
                gpu_memory_utilization=self.gpu_memory_utilization,
                tensor_parallel_size=self.tensor_parallel_size,
                enable_prefix_caching=True,
                # Else the model's folder would fill in what a request does not name.
                generation_config="vllm",
                **lora,
            )
        except (ImportError, RuntimeError, ValueError) as error:
            raise StageError(
                f"engine=vllm: expected vLLM to start with {folder}, found {type(error).__name__}: "
                f"{' '.join(str(error).split())[:600]}; correct what it names, or {REMEDY}"
            ) from error
        # The name holds the digest: vLLM caches keys and values by adapter name.
        speakers = {
            one.resolve(): LoRARequest(adapter_name(default_name(self.model), one), number, str(one.resolve()))
            for number, one in enumerate(every, start=1)
        }
        try:
            engine = VLLMEngine(
                llm.llm_engine,
                speakers,
                folder,
                context_length=self.context_length(),
                group_size=self.batch_size,
            )
            engine.swap(adapter)
            yield engine
        finally:
            llm.llm_engine.engine_core.shutdown()


def _missing() -> list[str]:
    """That vLLM is not installed, or what it needs of a package that is here in another version."""
    if find_spec("vllm") is None:
        return [
            "engine: expected the package vllm for engine=vllm, found none (its wheels bring a torch of their own: "
            f"pip install 'selfalign[vllm]' works only in an environment without constraints.txt); {REMEDY}"
        ]
    from packaging.requirements import Requirement

    try:
        needed = [Requirement(text) for text in importlib.metadata.requires("vllm") or []]
    except importlib.metadata.PackageNotFoundError:
        return []
    problems = []
    for one in needed:
        if one.name in PINNED and (one.marker is None or one.marker.evaluate({"extra": ""})):
            found = importlib.metadata.version(one.name)
            if not one.specifier.contains(found, prereleases=True):
                problems.append(
                    f"engine: expected {one.name}{one.specifier} for vllm {importlib.metadata.version('vllm')}, found "
                    f"{one.name} {found}; {REMEDY}"
                )
    return problems


class VLLMEngine:
    """A loaded model: obtained from `VLLM.open`."""

    def __init__(
        self, engine: Any, adapters: Mapping[Path, Any], folder: Path, *, context_length: int, group_size: int = 256
    ) -> None:
        self.context_length = context_length
        self.group_size = group_size
        self._engine = engine
        self._adapters = adapters
        self._adapter: Any = None
        self._tokenizer = raw_tokenizer(folder)
        special = special_tokens(folder)
        self._ends = end_tokens(named_ends(folder), self._tokenizer, special)
        self._first = first_token(model_config(folder).get("bos_token_id"), self._tokenizer, special, self._ends)
        self._desk = Desk(self._tokenizer, Vocabulary(self._tokenizer, self._ends), self._first, context_length)

    def swap(self, adapter: Path | None) -> None:
        """Send further requests to another adapter, or to the base alone. Raises StageError for an adapter that vLLM was not
        started with."""
        place = adapter.resolve() if adapter is not None else None
        if place is not None and place not in self._adapters:
            raise not_opened(place, list(self._adapters))
        self._adapter = self._adapters[place] if place is not None else None

    def count_tokens(self, text: str) -> int:
        """Tokens of a text as a prompt."""
        return self._desk.count(text)

    def generate(self, requests: Iterable[GenerateRequest], watch: Watch | None = None) -> Iterator[Completion]:
        """One completion per request, as they are finished. Tokens of a stop string and the end token count too.

        Raises StageError for a prompt that leaves no room for one new token and for a request that cannot be met: penalties on
        n-grams are nothing that vLLM computes.
        """
        taken = finished = written = 0

        def source() -> Iterator[_Writing]:
            nonlocal taken
            for request in requests:
                asked = self._desk.check(request)
                taken += 1
                yield _Writing(asked, self._desk, self._ends)

        for found in self._each(source()):
            yield found
            finished, written = finished + 1, written + found.new_tokens
            if watch:
                watch(Load(finished, taken - finished, written))

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[ScoreResult]:
        """One result per request, as they are finished.

        `pair_tokens` says where the continuation begins. vLLM has to write one token, so that context and continuation may
        have one token less than the context window. Raises StageError for a continuation that is empty or does not fit.
        """
        most = self.context_length - 2
        return self._each(
            _Scoring(Pair(one, *pair_tokens(one, self._tokenizer, self._first, most, self.context_length - 1)))
            for one in requests
        )

    def _each(self, source: Iterator[Any]) -> Iterator[Any]:
        """What each request ends with. As many are at work as make up a group, and the next one is taken as soon as one
        is finished; those that are still at work when the caller goes away are given up."""
        at_work: dict[str, Any] = {}

        def ask(one: Any, prompt: list[int], options: Mapping[str, Any]) -> None:
            from vllm.inputs import TokensPrompt  # pyright: ignore[reportMissingImports]
            from vllm.sampling_params import SamplingParams  # pyright: ignore[reportMissingImports]

            at_work[one.id] = one
            self._engine.add_request(
                one.id,
                TokensPrompt(prompt_token_ids=prompt),
                SamplingParams(**options),
                lora_request=self._adapter,
            )

        def refill() -> None:
            while len(at_work) < self.group_size and (one := next(source, None)) is not None:
                ask(one, *one.start())

        try:
            refill()
            while at_work:
                results = []
                for output in self._engine.step():
                    if not output.finished:
                        continue
                    one = at_work.pop(output.request_id)
                    if (more := one.take(output)) is not None:
                        ask(one, *more)
                    else:
                        results.append(one.result)
                refill()
                yield from results
        finally:
            if at_work:
                self._engine.abort_request(list(at_work))


class _Writing:
    """A request while it is continued: in one piece, or in two where what stands before a marker has a budget of its own."""

    def __init__(self, asked: Asked, desk: Desk, ends: Iterable[int]) -> None:
        self.id = asked.request.id
        self.result: Completion
        self._asked = asked
        self._desk = desk
        self._ends = sorted(ends)
        self._half: tuple[str, Piece] | None = None

    def start(self) -> tuple[list[int], dict[str, Any]]:
        """Prompt and options of the first call."""
        until_tokens = self._asked.request.until_tokens
        most = min(self._asked.most, until_tokens) if until_tokens else self._asked.most
        return self._desk.ids(self._asked.prompt), self._options(most)

    def _options(self, budget: int) -> dict[str, Any]:
        second = self._half is not None
        sampling = self._asked.request.sampling
        return {
            "max_tokens": budget,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "seed": self._asked.seed(second=second),
            "stop": self._strings(second),
            "stop_token_ids": self._ends,
            "logit_bias": self._asked.bias or None,
        }

    def _strings(self, second: bool) -> list[str]:
        return self._asked.strings(to_marker=bool(self._asked.request.until) and not second)

    def take(self, output: Any) -> tuple[list[int], dict[str, Any]] | None:
        """Take in what a call gave: prompt and options of the second one, or None where `result` is there."""
        piece = self._piece(output)
        if self._half is not None:
            self.result = completion(self._asked, joined(self._asked, *self._half, piece))
            return None
        if piece.finish != MARKER:
            self.result = completion(self._asked, piece)
            return None
        written, first, budget = self._desk.behind_marker(self._asked, piece)
        if budget < 1:
            self.result = completion(self._asked, replace(first, text=written, finish="length"))
            return None
        self._half = written, first
        return self._desk.ids(self._asked.prompt + written), self._options(budget)

    def _piece(self, output: Any) -> Piece:
        """One call's text, cut before the first of its stop strings."""
        (found,) = output.outputs
        second = self._half is not None
        text, by = cut(found.text, self._strings(second))
        if found.finish_reason not in ("stop", "length"):
            raise StageError(
                f"{self._asked.who}: expected `stop` or `length` as vLLM's finish_reason, found {found.finish_reason!r}; run the "
                "same command again: finished groups are kept"
            )
        if not by and isinstance(found.stop_reason, str):
            by = found.stop_reason
        finish = "stop" if by else "eos" if found.finish_reason == "stop" else "length"
        finish = finish if second else self._asked.finish(finish, by)
        return Piece(text, finish, len(output.prompt_token_ids), len(found.token_ids))


class _Scoring:
    """A request while it is scored."""

    def __init__(self, pair: Pair) -> None:
        self.id = pair.request.id
        self.result: ScoreResult
        self._pair = pair

    def start(self) -> tuple[list[int], dict[str, Any]]:
        """Prompt and options: both texts as the prompt, and one token more, which has to be written."""
        options = {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 1, "detokenize": False}
        return [*self._pair.context, *self._pair.continuation], options

    def take(self, output: Any) -> None:
        """Take in the log-probabilities."""
        pair = self._pair
        rows = output.prompt_logprobs[len(pair.context) :]
        own = [row[token] for row, token in zip(rows, pair.continuation, strict=True)]
        logprob, greedy = float(sum(one.logprob for one in own)), all(one.rank == 1 for one in own)
        self.result = ScoreResult(self.id, logprob, greedy, len(own), pair.truncated)
