"""Stage 4, first half: the engraved model answers every prompt again under the verbose prompt; `engrave` then trains
on it.

Source: Sun et al. 2023, section 3.4; IBM/Dromedary dromedary_v1 `generate_verbose_response.py` and
`merge_and_filter_verbose_clone_output.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any, ClassVar

from selfalign import filters, jsonl, prompts
from selfalign.artifacts import Artifact, Outcome
from selfalign.engines.base import Completion, GenerateRequest, Sampling
from selfalign.errors import ConfigError
from selfalign.identity import digest, plain, seed_of, short_id
from selfalign.records import Prompt, Response, to_row
from selfalign.stages.base import (
    COMPLETIONS,
    QUESTION_TOKENS,
    Context,
    count,
    generate,
    need_rows,
    no_room,
    read_prompts,
)


@dataclass(frozen=True)
class VerboseClone:
    """Settings of the generation half of stage 4."""

    chat_prompt: str = "verbose_clone"
    """Name of the text that asks for long answers."""
    sampling: Sampling = field(default_factory=lambda: Sampling(max_new_tokens=512, temperature=0.3, top_p=0.7))
    """How long answers are drawn (reference: 512 tokens, T 0.3, top-p 0.7)."""
    seed: int = 0
    """Seed of sampling."""
    min_characters: int = 32
    """Shortest answer that is kept (reference: 128, unfinished ones only)."""
    keep_unfinished: bool = True
    """Whether an answer that ran out of tokens is kept, without its last word and without an end marker (reference:
    yes)."""
    max_repeats: int = 3
    """How often a stretch of words may follow itself at once before the answer is dropped."""
    texts: str = ""
    """Folder below `principles/` with `prompts/`; empty for selfalign's own."""
    assistant: prompts.Assistant = field(default_factory=prompts.Assistant)
    """Who the assistant is."""

    VERSION: ClassVar[str] = "1"
    READS: ClassVar[tuple[str, ...]] = ("prompts", "adapter")
    OPTIONAL: ClassVar[tuple[str, ...]] = ()

    def _meta(self) -> str:
        return prompts.fill(prompts.load_text(self.chat_prompt, self.texts), self.assistant)

    def identity(self, context: Context) -> Mapping[str, Any]:
        """Settings, prompt text and model."""
        settings = plain(self)
        for key in ("chat_prompt", "texts", "assistant"):
            del settings[key]
        content = {"chat": digest(self._meta()), "heading": prompts.chat_heading(self.assistant, verbose=True)}
        return {"settings": settings, "content": content, "engine": context.engine.identity()}

    def problems(self, context: Context) -> list[str]:
        """A missing text."""
        try:
            self._meta()
        except ConfigError as error:
            return [f"verbose_clone: {problem}" for problem in error.problems]
        return []

    def unfit(self, context: Context) -> str:
        """A verbose prompt that leaves no room for question and answer."""
        remedy = (
            f"lower verbose_clone.sampling.max_new_tokens (now {self.sampling.max_new_tokens}) or use stages=no_cloning"
        )
        return no_room(context, self._meta(), QUESTION_TOKENS + self.sampling.max_new_tokens, remedy)

    def preview(self, question: str) -> dict[str, str]:
        """The prompt in which the engraved model would answer this question at length."""
        return {"verbose_clone": prompts.chat_prompt(self._meta(), self.assistant, question, verbose=True)}

    def _response(self, prompt: Prompt, answer: Completion, heading: str) -> Response:
        text = answer.text.strip()
        if answer.finish == "length":
            text = text.rpartition(" ")[0].strip()
        reason = filters.first_reason(
            check()
            for check in (
                lambda: "unfinished" if answer.finish == "length" and not self.keep_unfinished else "",
                lambda: filters.too_short(text, self.min_characters),
                lambda: filters.contains_marker(text, ["### ", heading.removeprefix("### ")]),
                lambda: filters.repetition(text, self.max_repeats),
            )
        )
        return Response(
            short_id(prompt.id, answer.text), prompt.id, prompt.instruction, prompt.input, prompt.source,
            "", (), text, answer.text, answer.finish, not reason, reason,
        )  # fmt: skip

    def run(self, inputs: Mapping[str, Artifact], out: Path, context: Context) -> Outcome:
        """Write `completions.jsonl` (raw) and `responses.jsonl` (kept and dropped)."""
        rows = read_prompts(inputs["prompts"])
        need_rows(rows, "prompts", inputs["prompts"])
        meta = self._meta()
        requests = [
            GenerateRequest(
                row.id,
                prompts.chat_prompt(meta, self.assistant, row.text, verbose=True),
                self.sampling,
                stop=prompts.CHAT_STOPS,
                seed=seed_of(self.seed, "verbose_clone", row.id),
                shared=meta,
            )
            for row in rows
        ]
        adapter = inputs["adapter"].path / "adapter"
        with (
            context.engine.open(adapter) as engine,
            context.progress("verbose_clone", len(rows), "responses") as progress,
        ):
            answers = generate(engine, requests, out / COMPLETIONS, progress)
        heading = prompts.chat_heading(self.assistant, verbose=True)
        responses = [self._response(row, answer, heading) for row, answer in zip(rows, answers, strict=True)]
        jsonl.write(out / "responses.jsonl", map(to_row, responses))
        outcome = count(responses)
        kept = [len(response.text.split()) for response in responses if response.kept]
        outcome.metrics = {"mean_words": round(mean(kept), 3) if kept else None}
        return outcome
