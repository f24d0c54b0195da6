"""Requests in, completions and scores out, by a transformers model in this process.

What requests share is computed once and held once (`attention`, `prefix_tree`, `forest`); finished rows leave their slot to
the next (`slots`, `generation`); scores run over the tree of all contexts and continuations (`scoring`). A model whose
attention cannot be shared takes `plain`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from selfalign.engines.adapters import Adapters, not_opened
from selfalign.engines.base import BY_TOKENIZER, Completion, GenerateRequest, ScoreRequest, ScoreResult, Watch
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
from selfalign.engines.tokens import end_tokens, first_token, pair_tokens, token_budget, token_ids
from selfalign.errors import ConfigError, StageError
from selfalign.identity import transient
from selfalign.threads import torch_threads

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from selfalign.engines.rows import Row
    from selfalign.engines.scoring import Item

log = logging.getLogger(__name__)

R = TypeVar("R")

VERSION = 2
"""Raise it when the same requests give other results than before."""
GROUPS = 8
"""Requests per row of a batch that a caller hands over in one call: with fewer, the batch runs empty too often."""
TEXTS = 64
"""Shared texts whose tokens are remembered: those of the arms of a sweep."""
SPANNED = 2
"""Tokens at the end of a shared text that a prompt may have cut otherwise, because a token spans its end."""


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
    """Rows computed together, at most (> 0); more is faster until memory is full."""
    memory_gib: float = transient(0.0)
    """GiB that the rows' own keys and values may take; 0 = what is free when they are needed. Fewer rows are computed
    together where they would take more."""
    device: Device = transient(Device.auto)
    """`cpu`, `cuda`, or `auto`: cuda where there is one."""
    compile: bool = transient(False)
    """Compile the blocks without attention with torch.compile: tens of seconds at first, and a C++ compiler on a CPU, where it
    gains nothing (docs/benchmarks.md)."""
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
        if self.memory_gib < 0:
            problems.append(
                f"engine.memory_gib: expected 0 (what is free) or more, found {self.memory_gib}; set it to 0"
            )
        if self.threads < 0:
            problems.append(f"engine.threads: expected 0 (leave) or more, found {self.threads}; set it to 0")
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
    def open(self, adapter: Path | None = None, more: Sequence[Path] = ()) -> Iterator[HuggingFaceEngine]:
        """Load the model once, and the LoRA adapters on top, unmerged.

        Raises ConfigError listing every problem of the settings, DataError for a folder that holds no adapter and for an adapter
        of another base.
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
            model, folder = load_model(self.model), model_folder(self.model)
            every = [*([adapter] if adapter is not None else []), *more]
            adapters = Adapters(model, every, model_digest(folder)) if every else None
            if adapters is not None:
                adapters.use(adapter)
            if self.compile:
                compile_blocks(model)
            yield HuggingFaceEngine(
                model.to(device),  # type: ignore[arg-type]
                folder,
                context_length=self.context_length(),
                batch_size=self.batch_size,
                memory=int(self.memory_gib * 2**30),
                adapters=adapters,
            )
        finally:
            torch.set_num_threads(threads)


def compile_blocks(model: PreTrainedModel) -> None:
    """Compile what the model's layers do beside attention, whose inputs change their shapes in every step."""
    names = set(model._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    for block in (child for layer in layers for child in layer.children()):
        if not any(hasattr(module, "layer_idx") for module in block.modules()):
            block.compile(dynamic=True)


class HuggingFaceEngine:
    """A loaded model: obtained from `HuggingFace.open`, or made of a model and a folder that has its tokenizer."""

    def __init__(
        self, model: PreTrainedModel, folder: Path, *, context_length: int, batch_size: int = 32, memory: int = 0,
        adapters: Adapters | None = None,
    ) -> None:  # fmt: skip
        from selfalign.engines.attention import share
        from selfalign.engines.forest import Forest
        from selfalign.engines.penalties import Vocabulary

        self.context_length = context_length
        self.group_size = GROUPS * batch_size
        self._model = model
        self._batch_size = batch_size
        self._memory = memory
        self._adapters = adapters
        self._under_way = 0
        self._tokenizer = raw_tokenizer(folder)
        obstacle = share(model)
        self._forest = None if obstacle else Forest(model)
        if obstacle:
            log.info("%s: what requests share is copied to every row, because %s", model.config.model_type, obstacle)
        special = special_tokens(folder)
        self._ends = end_tokens(getattr(model.generation_config, "eos_token_id", None), self._tokenizer, special)
        self._first = first_token(model.config.bos_token_id, self._tokenizer, special, self._ends)
        self._vocabulary = Vocabulary(self._tokenizer, self._ends)
        self._texts: dict[str, list[int]] = {}

    @property
    def computed_tokens(self) -> int:
        """Tokens of prompts and continuations that went through the model so far, drawn ones left out; 0 where nothing is
        shared."""
        return self._forest.computed if self._forest else 0

    def swap(self, adapter: Path | None) -> None:
        """Compute with another adapter that the engine was opened with, or with the base alone; what was kept of earlier
        prompts is forgotten, because its keys and values are those of other weights.

        Raises StageError for an adapter that it was not opened with, and while results of a call are still to be taken.
        """
        if self._under_way:
            raise StageError(
                f"expected all results of earlier calls to be taken before adapters are swapped, found {self._under_way} calls "
                "under way; take their results, or close them, first"
            )
        if self._adapters is not None:
            self._adapters.use(adapter)
        elif adapter is not None:
            raise not_opened(adapter, [])
        if self._forest:
            self._forest.forget()

    def _alone(self, results: Iterable[R]) -> Iterator[R]:
        """The results of a call, which no swap may come between."""
        self._under_way += 1
        try:
            yield from results
        finally:
            self._under_way -= 1

    def count_tokens(self, text: str) -> int:
        """Tokens of a text as a prompt."""
        return len(self._tokenizer.encode(text).ids)

    def generate(self, requests: Iterable[GenerateRequest], watch: Watch | None = None) -> Iterator[Completion]:
        """One completion per request, as they are finished; `new_tokens` counts every token drawn, an end token too.

        Raises StageError for a prompt that leaves no room for one new token, a request that cannot be met, logits that
        are not numbers, and where not even one row fits the memory.
        """
        from selfalign.engines.generation import Generation
        from selfalign.engines.plain import Plain

        rows = (self._row(request) for request in requests)
        if self._forest:
            slots = Generation(self._model, self._forest, self._ends, slots=self._batch_size, memory=self._memory)
            finished = slots.run(rows, watch)
        else:
            finished = Plain(self._model, self._ends, self._batch_size).generate(rows, watch)
        return self._alone(row.completion() for row in finished)

    def _row(self, request: GenerateRequest) -> Row:
        """A request's tokens and budget. Raises StageError where the prompt leaves no room or the request is bad."""
        from selfalign.engines.rows import Row
        from selfalign.engines.sampling import Draw

        prompt = token_ids(self._tokenizer, request.prompt) or [self._first]
        budget = token_budget(request, len(prompt), self.context_length)
        draw = Draw(request, self._vocabulary.shift(request))
        return Row(request, self._tokenizer, prompt, budget, draw, self._shared(request.shared, prompt[:-1]))

    def _shared(self, text: str, tokens: Sequence[int]) -> int:
        """How many of a prompt's tokens are those of a shared text, leaving out those at its end that may differ."""
        if not text:
            return 0
        if text not in self._texts:
            if len(self._texts) >= TEXTS:
                self._texts.clear()
            self._texts[text] = token_ids(self._tokenizer, text)
        own = self._texts[text][:-SPANNED]
        return next(
            (i for i, (a, b) in enumerate(zip(own, tokens, strict=False)) if a != b), min(len(own), len(tokens))
        )

    def score(self, requests: Iterable[ScoreRequest]) -> Iterator[ScoreResult]:
        """One result per request, as they are finished.

        `pair_tokens` says where the continuation begins. Raises StageError for one that is empty or longer than the
        context window.
        """
        from selfalign.engines.plain import Plain
        from selfalign.engines.scoring import score

        items = (self._item(request) for request in requests)
        plain = Plain(self._model, self._ends, self._batch_size)
        scored = score(self._forest, items) if self._forest else plain.score(items)
        return self._alone(item.result() for item in scored)

    def _item(self, request: ScoreRequest) -> Item:
        """A request's tokens, cut from the left to the context window."""
        from selfalign.engines.scoring import Item

        # The last token is only predicted, never read.
        window = self.context_length + 1
        context, continuation, cut = pair_tokens(request, self._tokenizer, self._first, self.context_length, window)
        shared = 0 if cut else self._shared(request.shared, context[:-1])
        return Item(request, context, continuation, cut, shared)
