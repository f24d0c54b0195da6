"""Stage 2, principle-driven self-alignment: each prompt is answered behind rules and worked exemplars, thoughts first.

Source: Sun et al. 2023, section 3.2; IBM/Dromedary dromedary_v1 `generate_self_align_response.py` and
`merge_and_fileter_self_align_with_dummy.py`. Thoughts and cited principles are kept (the reference throws them away),
and question, thoughts and answer do not share one token budget.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from selfalign import filters, jsonl, prompts
from selfalign.artifacts import Artifact, Outcome
from selfalign.engines.base import Completion, GenerateRequest, Sampling
from selfalign.errors import ConfigError, DataError
from selfalign.identity import digest, plain, seed_of, short_id
from selfalign.principles import (
    Exemplar,
    ExemplarSettings,
    PrincipleSettings,
    RuleSet,
    exemplar_problems,
    problems,
    resolve,
    resolve_exemplars,
)
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
class SelfAlign:
    """Settings of stage 2."""

    principles: PrincipleSettings = field(default_factory=PrincipleSettings)
    """The rules in the prompt."""
    exemplars: ExemplarSettings = field(default_factory=ExemplarSettings)
    """The worked exemplars in the prompt."""
    texts: str = ""
    """Folder below `principles/` with `prompts/self_align.yaml`; empty for selfalign's own."""
    assistant: prompts.Assistant = field(default_factory=prompts.Assistant)
    """Who the assistant is."""
    codename: str = ""
    """Name in rules, exemplars and markers where it is another than the assistant's (reference: Watson); answers are
    renamed."""
    sampling: Sampling = field(default_factory=lambda: Sampling(max_new_tokens=256, temperature=0.5, top_p=0.95))
    """How thoughts and answer are drawn (script: 256 tokens for question, thoughts and answer together, T 0.5, top-p
    0.95)."""
    seed: int = 0
    """Seed of sampling: the same prompt draws the same random numbers in every arm."""
    min_characters: int = 16
    """Shortest answer that is kept (reference: 147 for complete answers)."""
    keep_unfinished: bool = False
    """Whether an answer that ran out of tokens is kept (reference: yes, without its last word)."""
    max_repeats: int = 3
    """How often a stretch of words may follow itself at once before the answer is dropped."""
    copy_ngram_words: int = 12
    """Words in a row that an answer may not share with an exemplar's answer; 0 switches the check off."""

    VERSION: ClassVar[str] = "1"
    READS: ClassVar[tuple[str, ...]] = ("prompts",)
    OPTIONAL: ClassVar[tuple[str, ...]] = ()

    def speaker(self) -> prompts.Assistant:
        """The assistant under the name that rules and exemplars use."""
        return replace(self.assistant, name=self.codename) if self.codename else self.assistant

    def arm(self) -> tuple[prompts.SelfAlignLayout, RuleSet, tuple[Exemplar, ...], str]:
        """Layout, rules, exemplars and the stem that all requests share. Raises ConfigError for a wrong choice."""
        rule_set = resolve(self.principles)
        exemplars = resolve_exemplars(self.exemplars, rule_set)
        layout = prompts.load_layout(self.texts)
        return layout, rule_set, exemplars, prompts.self_align_stem(layout, rule_set, exemplars, self.speaker())

    def identity(self, context: Context) -> Mapping[str, Any]:
        """Settings and model; rules and exemplars enter as the text they make, not as the way they were chosen."""
        layout, rule_set, _, stem = self.arm()
        settings = plain(self)
        for key in ("principles", "exemplars", "texts", "assistant", "codename"):
            del settings[key]
        names = [[rule.id, rule.number, rule.name] for rule in rule_set.rules if not rule.is_placebo]
        markers = [prompts.fill(text, self.speaker()) for text in (layout.thoughts, layout.answer, layout.closing)]
        content = {
            "stem": digest(stem),
            "rules": digest(names),
            "markers": digest(markers),
            "rename": self.assistant.name if self.codename else "",
        }
        return {"settings": settings, "content": content, "engine": context.engine.identity()}

    def problems(self, context: Context) -> list[str]:
        """A wrong choice of rules or exemplars, and a bad file of texts."""
        found = [*problems(self.principles), *exemplar_problems(self.exemplars)]
        if found:
            return found
        try:
            self.arm()
        except (ConfigError, DataError) as error:
            return [f"self_align.texts: {error}"]
        return []

    def unfit(self, context: Context) -> str:
        """Rules and exemplars that leave no room for question, thoughts and answer."""
        remedy = (
            "use exemplars.drop or principles.drop, a smaller self_align.sampling.max_new_tokens "
            f"(now {self.sampling.max_new_tokens}) or a model with a longer context"
        )
        return no_room(context, self.arm()[3], QUESTION_TOKENS + self.sampling.max_new_tokens, remedy)

    def preview(self, question: str) -> dict[str, str]:
        """The prompt in which this question would be answered; without a question, the prompt file itself."""
        layout, _, _, stem = self.arm()
        prompt = prompts.self_align_prompt(stem, layout, self.speaker(), question) if question else stem + layout.tail
        return {"self_align": prompt}

    def _requests(self, rows: list[Prompt], layout: prompts.SelfAlignLayout, stem: str) -> list[GenerateRequest]:
        stops = prompts.self_align_stops(layout, self.speaker())
        return [
            GenerateRequest(
                row.id,
                prompts.self_align_prompt(stem, layout, self.speaker(), row.text),
                self.sampling,
                stop=stops,
                seed=seed_of(self.seed, "self_align", row.id),
                shared=stem,
            )
            for row in rows
        ]

    def _response(
        self, prompt: Prompt, answer: Completion, layout: prompts.SelfAlignLayout, rule_set: RuleSet,
        copies: filters.ExemplarCopies | None,
    ) -> Response:  # fmt: skip
        parsed = prompts.parse_response(layout, rule_set, self.speaker(), answer.text)
        text = parsed.answer or ""
        parts = (layout.user, layout.thoughts, layout.answer, layout.closing)
        markers = [prompts.fill(part, self.speaker()) for part in parts]
        reason = filters.first_reason(
            check()
            for check in (
                lambda: "no_answer" if parsed.answer is None else "",
                lambda: "unfinished" if answer.finish == "length" and not self.keep_unfinished else "",
                lambda: filters.too_short(text, self.min_characters),
                lambda: filters.contains_marker(text, markers),
                lambda: filters.repetition(text, self.max_repeats),
                lambda: copies.reason(text, prompt.text) if copies else "",
            )
        )
        if self.codename:
            text = text.replace(self.codename, self.assistant.name)
        return Response(
            short_id(prompt.id, answer.text), prompt.id, prompt.instruction, prompt.input, prompt.source,
            parsed.thoughts, parsed.cited, text, answer.text, answer.finish, not reason, reason,
        )  # fmt: skip

    def run(self, inputs: Mapping[str, Artifact], out: Path, context: Context) -> Outcome:
        """Write `stem.txt` (the shared prompt), `completions.jsonl` (raw) and `responses.jsonl` (kept and dropped)."""
        rows = read_prompts(inputs["prompts"])
        need_rows(rows, "prompts", inputs["prompts"])
        layout, rule_set, exemplars, stem = self.arm()
        (out / "stem.txt").write_text(stem, encoding="utf-8")
        with context.engine.open() as engine, context.progress("self_align", len(rows), "responses") as progress:
            answers = generate(engine, self._requests(rows, layout, stem), out / COMPLETIONS, progress)
        shown = [turn.answer for exemplar in exemplars for turn in exemplar.turns]
        copies = filters.ExemplarCopies(shown, self.copy_ngram_words) if self.copy_ngram_words else None
        responses = [
            self._response(row, answer, layout, rule_set, copies) for row, answer in zip(rows, answers, strict=True)
        ]
        jsonl.write(out / "responses.jsonl", map(to_row, responses))
        outcome = count(responses)
        cited = Counter(name for response in responses if response.kept for name in response.cited)
        outcome.metrics = {
            "stem_tokens": context.engine.count_tokens(stem),
            "rules": len(rule_set.by_id()),
            **{f"cited/{name}": number for name, number in sorted(cited.items())},
        }
        return outcome
