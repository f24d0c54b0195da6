"""Requests in, completions and scores out, by a transformers model in this process.

Requests are computed in consecutive groups of `batch_size`; what a group returns depends on the group's requests and
on the model alone. The tokens that a group's prompts share (at most those of `GenerateRequest.shared`) are computed
once and their keys and values are held once (`shared_prefix`); rows that are finished leave the batch when they make
up a quarter of it.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfalign.engines.base import Completion, GenerateRequest, Load, ScoreRequest, ScoreResult, Watch
from selfalign.engines.model import (
    ModelSettings,
    count_tokens,
    load_model,
    model_context_length,
    model_digest,
    model_folder,
    model_problems,
    raw_tokenizer,
    special_tokens,
)
from selfalign.engines.serving import check_adapter
from selfalign.engines.tokens import end_tokens, first_token, pair_tokens, token_budget
from selfalign.errors import ConfigError, StageError
from selfalign.identity import transient
from selfalign.threads import torch_threads

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

    from selfalign.engines.shared_prefix import Batch

log = logging.getLogger(__name__)

Tokens = tuple[int, ...]

VERSION = 1
"""Raise it when the same requests give other results than before."""
MIN_SHARED_CONTEXT = 16
"""Contexts to score share a prefix only from this many tokens on: a shorter one costs more than it saves."""
DECODE_WINDOW = 6
"""Tokens of the prompt's end that are decoded together with the first new ones: some decoders strip a leading space."""


class Device(StrEnum):
    """Where the model computes."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@dataclass(frozen=True)
class HuggingFace:
    """A transformers model in this process. Hydra group `engine=huggingface`."""

    model: ModelSettings = field(default_factory=ModelSettings)
    """The base model."""
    batch_size: int = transient(32)
    """Rows computed together (> 0); more is faster until memory is full."""
    device: Device = transient(Device.auto)
    """`cpu`, `cuda`, or `auto`: cuda where there is one."""
    threads: int = transient(0)
    """CPU threads of torch while the engine is open; 0 = one for a small model, else torch's own choice."""

    def identity(self) -> Mapping[str, Any]:
        """Engine family and version, content of the model, context window, precision."""
        return {
            "engine": "huggingface",
            "version": VERSION,
            "model": model_digest(model_folder(self.model)),
            "context_length": self.context_length(),
            "dtype": self.model.dtype.value,
        }

    def problems(self) -> list[str]:
        """What is wrong with the model folder and the numbers, found without loading the model."""
        problems = model_problems(self.model)
        if self.batch_size < 1:
            problems.append(f"engine.batch_size: expected 1 or more, found {self.batch_size}; set it to 32")
        if self.threads < 0:
            problems.append(f"engine.threads: expected 0 (leave) or more, found {self.threads}; set it to 0")
        return problems

    def count_tokens(self, text: str) -> int:
        """Tokens of a text as a prompt, by the tokenizer alone."""
        return count_tokens(self.model, text)

    def context_length(self) -> int:
        """Context window in tokens, by the model's configuration alone."""
        return model_context_length(self.model)

    @contextlib.contextmanager
    def open(self, adapter: Path | None = None) -> Iterator[HuggingFaceEngine]:
        """Load the model, and the LoRA adapter of a folder on top, unmerged.

        Raises ConfigError listing every problem of the settings, DataError for a folder that holds no adapter.
        """
        problems = self.problems()
        if problems:
            raise ConfigError(problems)
        import torch

        device = self.device.value
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        elif device == "cuda" and not torch.cuda.is_available():
            raise ConfigError(["engine.device: expected a CUDA device, found none; set engine.device=cpu"])
        threads = torch.get_num_threads()
        torch.set_num_threads(torch_threads(self.threads, model_folder(self.model)) or threads)
        try:
            model = load_model(self.model)
            if adapter is not None:
                model = with_adapter(model, adapter)
            yield HuggingFaceEngine(
                model.to(device),  # type: ignore[arg-type]
                model_folder(self.model),
                context_length=self.context_length(),
                group_size=self.batch_size,
            )
        finally:
            torch.set_num_threads(threads)


def with_adapter(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """The model with a LoRA adapter's layers put in, for inference. Raises DataError where the folder holds none."""
    check_adapter(adapter)
    from peft import PeftModel

    with warnings.catch_warnings():
        # peft asks transformers for a name that the next version drops: nothing that a user could act on.
        warnings.simplefilter("ignore", FutureWarning)
        return PeftModel.from_pretrained(model, str(adapter), is_trainable=False).eval().get_base_model()  # type: ignore


class HuggingFaceEngine:
    """A loaded model: obtained from `HuggingFace.open`, or made of a model and a folder that has its tokenizer."""

    def __init__(self, model: PreTrainedModel, folder: Path, *, context_length: int, group_size: int = 32) -> None:
        from selfalign.engines.penalties import Vocabulary
        from selfalign.engines.shared_prefix import Batches

        self.context_length = context_length
        self.group_size = group_size
        self._model = model
        self._tokenizer = raw_tokenizer(folder)
        self._batches = Batches(model)
        if not self._batches.shares:
            log.info("%s: prefixes are copied into every row, not shared", model.config.model_type)
        special = special_tokens(folder)
        self._ends = end_tokens(getattr(model.generation_config, "eos_token_id", None), self._tokenizer, special)
        self._first = first_token(model.config.bos_token_id, self._tokenizer, special, self._ends)
        self._vocabulary = Vocabulary(self._tokenizer, self._ends)

    def count_tokens(self, text: str) -> int:
        """Tokens of a text as a prompt."""
        return len(self._tokenizer.encode(text).ids)

    def generate(self, requests: Iterable[GenerateRequest], watch: Watch | None = None) -> Iterator[Completion]:
        """One completion per request, in their order; `new_tokens` counts every token drawn, an end token too.

        Raises StageError for a prompt that leaves no room for one new token, a request that cannot be met, and logits
        that are not numbers.
        """
        source, finished, written = iter(requests), 0, 0
        while group := list(itertools.islice(source, self.group_size)):
            for completion in self._generate_group(group):
                finished, written = finished + 1, written + completion.new_tokens
                yield completion
            if watch:
                watch(Load(finished, 0, written))

    def _generate_group(self, requests: Sequence[GenerateRequest]) -> list[Completion]:
        """The completions of one group."""
        import torch

        from selfalign.engines.sampling import Sampler

        with torch.inference_mode():
            rows = [self._row(request) for request in requests]
            sampler = Sampler(requests, self._model.device, self._vocabulary.shifts(requests))
            prefix = self._shared_tokens(requests, [row.prompt for row in rows])
            batch, logits = self._start(prefix, [row.prompt[len(prefix) :] for row in rows])
            live = rows
            while True:
                self._check_numbers(logits[:, -1], live)
                for row, token in zip(live, sampler(logits[:, -1]), strict=True):
                    row.add(token, self._ends)
                open_rows = [i for i, row in enumerate(live) if not row.finish]
                if not open_rows:
                    return [row.completion() for row in rows]
                if len(open_rows) <= 0.75 * len(live):
                    batch = batch.select(torch.tensor(open_rows, device=self._model.device))
                    sampler.select(open_rows)
                    live = [live[i] for i in open_rows]
                tokens = torch.tensor([[row.tokens[-1]] for row in live], device=self._model.device)
                logits = batch.forward(tokens, torch.ones_like(tokens, dtype=torch.bool), last=True)

    def _row(self, request: GenerateRequest) -> _Row:
        """A request's tokens and budget. Raises StageError where the prompt leaves no room or the request is bad."""
        prompt = self._tokenizer.encode(request.prompt).ids or [self._first]
        return _Row(request, self._tokenizer, prompt, token_budget(request, len(prompt), self.context_length))

    def _check_numbers(self, logits: torch.Tensor, rows: list[_Row]) -> None:
        """Raise StageError naming the first unfinished row whose logits hold NaN: nothing can be drawn from them."""
        broken = logits.isnan().any(dim=-1).tolist()
        for row, bad in zip(rows, broken, strict=True):
            if bad and not row.finish:
                raise StageError(
                    f"request '{row.request.id}': expected numbers as logits, found NaN after "
                    f"{len(row.tokens) - row.start} new tokens; the model or its adapter is broken, train it again"
                )

    def _shared_tokens(self, requests: Sequence[GenerateRequest], prompts: list[list[int]]) -> Tokens:
        """The leading tokens that all prompts and all `shared` texts have in common; every prompt keeps one beyond."""
        shared = {request.shared for request in requests}
        if not self._batches.takes_prefix or "" in shared:
            return ()
        texts = [self._tokenizer.encode(text).ids for text in sorted(shared)]
        size = min(_common(prompts + texts), min(map(len, prompts)) - 1)
        return tuple(prompts[0][:size])

    def _start(self, prefix: Tokens, rows: list[list[int]]) -> tuple[Batch, torch.Tensor]:
        """A batch with these rows behind the prefix, and the logits `[batch, 1, vocab]` after their last tokens."""
        batch = self._batches.start(prefix)
        tokens, real = self._padded(rows, left=True)
        return batch, batch.forward(tokens, real, last=True)

    def _padded(self, rows: Sequence[Sequence[int]], *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens int64 and reality bool, both `[batch, longest]`; padding repeats a token and is never attended to."""
        import torch

        width = max(map(len, rows))
        filled = [[*[r[0]] * (width - len(r)), *r] if left else [*r, *[r[-1]] * (width - len(r))] for r in rows]
        lengths = torch.tensor([[len(row)] for row in rows])
        column = torch.arange(width)
        real = column >= width - lengths if left else column < lengths
        return torch.tensor(filled, device=self._model.device), real.to(self._model.device)

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[ScoreResult]:
        """One result per request, in their order, all computed when the first one is asked for.

        `pair_tokens` says where the continuation begins. Raises StageError for one that is empty or longer than the
        context window.
        """
        items = [self._item(request) for request in requests]
        contexts: dict[Tokens, list[_Item]] = {}
        for item in items:
            contexts.setdefault(item.context, []).append(item)
        for prefix, batch in self._score_batches(list(contexts)):
            self._score_batch(prefix, batch, contexts)
        yield from (item.result() for item in items)

    def _item(self, request: ScoreRequest) -> _Item:
        """A request's tokens, cut from the left to the context window."""
        # The last token is only predicted, never read.
        window = self.context_length + 1
        return _Item(request, *pair_tokens(request, self._tokenizer, self._first, self.context_length, window))

    def _score_batches(self, contexts: list[Tokens]) -> Iterator[tuple[Tokens, list[Tokens]]]:
        """Prefix and contexts of every batch: families that start alike share a prefix, long contexts come first."""
        families: dict[Tokens, list[Tokens]] = {}
        for context in contexts:
            families.setdefault(context[:MIN_SHARED_CONTEXT] if self._batches.takes_prefix else (), []).append(context)
        # A family that fills no batch would rather fill up a batch with others.
        few = min(8, self.group_size)
        rest = [context for start, family in families.items() if not start or len(family) < few for context in family]
        large = [family for start, family in families.items() if start and len(family) >= few]
        for family in [*large, rest]:
            size = 0
            if family is not rest or (rest and self._batches.takes_prefix):
                size = min(_common(family), min(map(len, family)) - 1)
            prefix = family[0][:size] if size >= MIN_SHARED_CONTEXT else ()
            ordered = sorted(family, key=len, reverse=True)
            for start in range(0, len(ordered), self.group_size):
                yield prefix, ordered[start : start + self.group_size]

    def _score_batch(
        self,
        prefix: Tokens,
        contexts: list[Tokens],
        items: Mapping[Tokens, list[_Item]],
    ) -> None:
        """Score all continuations of some contexts: the contexts in one pass, then the continuations behind copies."""
        import torch

        with torch.inference_mode():
            batch, logits = self._start(prefix, [list(context[len(prefix) :]) for context in contexts])
            first = torch.log_softmax(logits[:, -1], dim=-1)
            longer: list[tuple[int, _Item]] = []
            for row, context in enumerate(contexts):
                for item in items[context]:
                    item.add(first[row : row + 1])
                    if len(item.continuation) > 1:
                        longer.append((row, item))
            longer.sort(key=lambda pair: len(pair[1].continuation), reverse=True)
            for start in range(0, len(longer), self.group_size):
                part = longer[start : start + self.group_size]
                chosen = batch.select(torch.tensor([row for row, _ in part], device=self._model.device))
                tokens, real = self._padded([item.continuation[:-1] for _, item in part], left=False)
                later = torch.log_softmax(chosen.forward(tokens, real, last=False), dim=-1)
                for row, (_, item) in enumerate(part):
                    item.add(later[row, : len(item.continuation) - 1])


class _Row:
    """One request while it is generated: its tokens, its text so far and why it ended."""

    def __init__(self, request: GenerateRequest, tokenizer: Tokenizer, prompt: list[int], budget: int) -> None:
        self.request = request
        self.prompt = prompt
        self.tokens = list(prompt)
        self.start = len(prompt)
        self.text = ""
        self.finish = ""
        self._tokenizer = tokenizer
        self._most = budget
        self._waits = bool(request.until)
        self._budget = min(budget, request.until_tokens) if self._waits else budget
        self._window = max(0, len(prompt) - DECODE_WINDOW)
        self._read = len(prompt)
        self._reach = max(1, len(request.until), *map(len, request.stop)) - 1

    def add(self, token: int, ends: frozenset[int]) -> None:
        """Take in one drawn token; a finished row stays as it is."""
        if self.finish:
            return
        self.tokens.append(token)
        if token in ends:
            self.finish = "eos"
            return
        self._decode()
        if not self.finish and len(self.tokens) - self.start == self._budget:
            self.finish = "length"

    def _decode(self) -> None:
        """Append what the newest tokens say, once they make whole characters, and stop at a stop string."""
        before = self._tokenizer.decode(self.tokens[self._window : self._read])
        after = self._tokenizer.decode(self.tokens[self._window :])
        # A replacement character at the end is a character whose last bytes are still to come.
        if len(after) <= len(before) or after.endswith("\ufffd"):
            return
        searched = max(0, len(self.text) - self._reach)
        self.text += after[len(before) :]
        self._window, self._read = self._read, len(self.tokens)
        found = [at for at in (self.text.find(stop, searched) for stop in self.request.stop) if at >= 0]
        if found:
            self.text = self.text[: min(found)]
            self.finish = "stop"
        if self._waits and self.text.find(self.request.until, searched) >= 0:
            self._waits = False
            self._budget = min(self._most, self._read - self.start + self.request.sampling.max_new_tokens)

    def completion(self) -> Completion:
        """The finished completion."""
        return Completion(self.request.id, self.text, self.finish, self.start, len(self.tokens) - self.start)


class _Item:
    """One request while it is scored."""

    def __init__(self, request: ScoreRequest, context: Tokens, continuation: Tokens, truncated: int) -> None:
        self.request = request
        self.context = context
        self.continuation = continuation
        self._truncated = truncated
        self._logprob = 0.0
        self._greedy = True
        self._done = 0

    def add(self, logprobs: torch.Tensor) -> None:
        """Take in the log-probabilities `[n, vocab]` at the next n tokens of the continuation."""
        import torch

        tokens = self.continuation[self._done : self._done + logprobs.shape[0]]
        self._done += len(tokens)
        targets = torch.tensor(tokens, device=logprobs.device)[:, None]
        self._logprob += sum(logprobs.gather(1, targets)[:, 0].tolist())
        self._greedy = self._greedy and bool((logprobs.argmax(dim=-1, keepdim=True) == targets).all())

    def result(self) -> ScoreResult:
        """The finished score."""
        return ScoreResult(self.request.id, self._logprob, self._greedy, len(self.continuation), self._truncated)


def _common(rows: Sequence[list[int]] | Sequence[tuple[int, ...]]) -> int:
    """Length of the longest start that all rows have in common."""
    # Between the smallest and the largest row in lexical order lie all others, with at least their common start.
    first, last = min(rows), max(rows)
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
