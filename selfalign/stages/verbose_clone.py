"""Stage 4, first half: the engraved model answers every prompt again under the verbose prompt; `engrave` then trains
on it.

Source: Sun et al. 2023, section 3.4; IBM/Dromedary dromedary_v1 `generate_verbose_response.py` and
`merge_and_filter_verbose_clone_output.py`. The reference's own filters are settings, most of them off:
`experiments/dromedary.yaml` sets them as published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any, ClassVar

from selfalign import cuts, filters, jsonl, prompts
from selfalign.artifacts import Artifact, Outcome
from selfalign.cuts import Dedup
from selfalign.engines.base import Completion, GenerateRequest, Sampling
from selfalign.errors import ConfigError
from selfalign.identity import digest, plain, seed_of, short_id
from selfalign.records import Prompt, Response, to_row
from selfalign.stages.base import (
    COMPLETIONS,
    QUESTION_TOKENS,
    Context,
    CountTokens,
    count,
    cut_counts,
    filter_problems,
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
    stops: list[str] = field(default_factory=lambda: list(prompts.CHAT_STOPS))
    """Texts before which an answer ends: the next heading (reference: `### User` and a line break, so that an answer may
    have headings of its own)."""
    dedup: Dedup = Dedup.none
    """Whether an answer is cut before its first repeated clause, and then counts as unfinished (reference: yes). It
    truncates code, poems, lists and decimals: for reproduction only."""
    max_list_items: int = 0
    """An answer is cut before the line that begins with the number after this one, and then counts as unfinished; 0 leaves
    lists whole (reference: 12)."""
    min_characters: int = 32
    """Shortest finished answer that is kept (reference: 0, which keeps any that is not empty)."""
    min_characters_unfinished: int | None = None
    """Shortest unfinished answer that is kept (reference: 128); null: `min_characters`."""
    keep_unfinished: bool = True
    """Whether an answer that ran out of tokens or was cut is kept, to be trained on without an end-of-turn marker
    (reference: yes). One that ran out of tokens loses its last word."""
    drop_markers: bool = True
    """Whether an answer is dropped that holds a heading of the prompt's layout (reference: the assistant's name with
    `(extensive)` alone, which `forbidden_texts` takes)."""
    forbidden_texts: list[str] = field(default_factory=list)
    """Texts that drop an answer in which they occur to the letter; {assistant} is the assistant's name (reference: two
    headings of Wikipedia, the name with `(extensive)`, and two sentences of its self-introduction)."""
    fixed_answers: dict[str, str] = field(default_factory=dict)
    """Answers that stand for what the model wrote wherever their key occurs in the question (reference: one, for the
    person of its second exemplar). One counts as unfinished where the model ran out of tokens (reference: always)."""
    max_repeats: int = 3
    """How often a stretch of words may follow itself at once before the answer is dropped; 0 switches the check off."""
    texts: str = ""
    """Folder below `principles/` with `prompts/`; empty for selfalign's own."""
    assistant: prompts.Assistant = field(default_factory=prompts.Assistant)
    """Who the assistant is."""

    VERSION: ClassVar[str] = "2"
    READS: ClassVar[tuple[str, ...]] = ("prompts", "adapter")
    OPTIONAL: ClassVar[tuple[str, ...]] = ()
    GENERATES: ClassVar[bool] = True

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
        """A missing text, and filters that would drop everything."""
        lengths = ("max_list_items", "max_repeats")
        found = filter_problems("verbose_clone", self, lengths, ("stops", "forbidden_texts", "fixed_answers"))
        try:
            self._meta()
        except ConfigError as error:
            found += [f"verbose_clone: {problem}" for problem in error.problems]
        return found

    def unfit(self, context: Context) -> str:
        """A verbose prompt that leaves no room for question and answer."""
        remedy = (
            f"lower verbose_clone.sampling.max_new_tokens (now {self.sampling.max_new_tokens}) or use stages=no_cloning"
        )
        return no_room(context, self._meta(), QUESTION_TOKENS + self.sampling.max_new_tokens, remedy)

    def preview(self, question: str, count_tokens: CountTokens) -> dict[str, str]:
        """The prompt in which the engraved model would answer this question at length."""
        return {"verbose_clone": prompts.chat_prompt(self._meta(), self.assistant, question, verbose=True)}

    def _response(self, prompt: Prompt, answer: Completion, heading: str) -> Response:
        text, cut = self._shortened(answer.text.strip(), ran_out=answer.finish == "length")
        fixed = cuts.fixed_answer(prompt.text, self.fixed_answers)
        if fixed is not None:
            text, cut = fixed, ()
        is_finished = answer.finish != "length" and not cut
        unfinished = self.min_characters if self.min_characters_unfinished is None else self.min_characters_unfinished
        markers = ["### ", heading.removeprefix("### ")] if self.drop_markers else []
        forbidden = [prompts.fill(piece, self.assistant) for piece in self.forbidden_texts]
        reason = filters.first_reason(
            check()
            for check in (
                lambda: "" if is_finished or self.keep_unfinished else "unfinished",
                lambda: filters.too_short(text, self.min_characters if is_finished else unfinished),
                lambda: filters.contains_marker(text, markers),
                lambda: filters.forbidden_text(text, forbidden),
                lambda: filters.repetition(text, self.max_repeats),
            )
        )
        return Response(
            short_id(prompt.id, answer.text), prompt.id, prompt.instruction, prompt.input, prompt.source,
            "", (), text, answer.text, answer.finish, not reason, reason, cut,
        )  # fmt: skip

    def _shortened(self, text: str, *, ran_out: bool) -> tuple[str, tuple[str, ...]]:
        """An answer as the shortening rules leave it, and their codes in `Response.cut`."""
        steps = (
            (cuts.LAST_WORD, lambda text: cuts.without_last_word(text) if ran_out else text),
            (cuts.REPEATED_CLAUSE, lambda text: cuts.before_repeat(text, self.dedup, is_finished=not ran_out)),
            (cuts.LIST_ITEMS, lambda text: cuts.before_item(text, self.max_list_items)),
        )
        cut: tuple[str, ...] = ()
        for rule, step in steps:
            found = step(text)
            cut += (rule,) if found != text else ()
            text = found
        return text, cut

    def requests(self, rows: Sequence[Prompt], count_tokens: CountTokens) -> list[GenerateRequest]:
        """What is asked about some prompts, in their order."""
        meta = self._meta()
        return [
            GenerateRequest(
                row.id,
                prompts.chat_prompt(meta, self.assistant, row.text, verbose=True),
                self.sampling,
                stop=tuple(self.stops),
                seed=seed_of(self.seed, "verbose_clone", row.id),
                shared=meta,
            )
            for row in rows
        ]

    def run(self, inputs: Mapping[str, Artifact], out: Path, context: Context) -> Outcome:
        """Write `completions.jsonl` (raw) and `responses.jsonl` (kept and dropped)."""
        rows = read_prompts(inputs["prompts"])
        need_rows(rows, "prompts", inputs["prompts"])
        adapter = inputs["adapter"].path / "adapter"
        with (
            context.engine.open(adapter) as engine,
            context.progress("verbose_clone", len(rows), "responses") as progress,
        ):
            answers = generate(
                engine, self.requests(rows, context.engine.count_tokens), out / COMPLETIONS, progress, context.shard
            )
        heading = prompts.chat_heading(self.assistant, verbose=True)
        responses = [self._response(row, answer, heading) for row, answer in zip(rows, answers, strict=True)]
        jsonl.write(out / "responses.jsonl", map(to_row, responses))
        outcome = count(responses)
        kept = [len(response.text.split()) for response in responses if response.kept]
        outcome.metrics = {"mean_words": round(mean(kept), 3) if kept else None, **cut_counts(responses)}
        return outcome
