"""Stage 2, principle-driven self-alignment: each prompt is answered behind rules and worked exemplars, thoughts first.

Source: Sun et al. 2023, section 3.2; IBM/Dromedary dromedary_v1 `generate_self_align_response.py` and
`merge_and_fileter_self_align_with_dummy.py`. Thoughts and cited principles are kept (the reference throws them away),
and question, thoughts and answer do not share one token budget. The reference's own filters are settings, most of them off:
`experiments/dromedary.yaml` sets them as published.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from selfalign import cuts, filters, jsonl, prompts
from selfalign.artifacts import Artifact, Outcome
from selfalign.cuts import Dedup
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
    """How thoughts and answer are drawn; the tokens are the answer's own (script: 256 for question, thoughts and answer
    together, T 0.5, top-p 0.95)."""
    thoughts_tokens: int = 128
    """Token budget of the thoughts, up to the answer's marker; 0 lets them share the answer's (reference: shared)."""
    seed: int = 0
    """Seed of sampling: the same prompt draws the same random numbers in every arm."""
    required_start: str = ""
    """What thoughts must begin with, white space aside; empty for anything (reference: the sentence that begins every
    exemplar's thoughts)."""
    dedup: Dedup = Dedup.none
    """Whether an answer is cut before its first repeated clause, and then counts as unfinished (reference: yes). It
    truncates code, poems, lists and decimals: for reproduction only."""
    min_characters: int = 16
    """Shortest finished answer that is kept (reference: 149, which is 160 with the 11 of its end marker)."""
    min_characters_unfinished: int | None = None
    """Shortest unfinished answer that is kept (reference: 0, which keeps any that is not empty); null: `min_characters`."""
    keep_unfinished: bool = False
    """Whether an answer that ran out of tokens or was cut is kept, without its last word and to be trained on without an
    end-of-turn marker (reference: yes)."""
    copies_question: int = 0
    """An answer is dropped where an instruction or input longer than this many characters stands in it word for word; 0
    switches the check off (Dromedary-2: 16)."""
    drop_markers: bool = True
    """Whether an answer is dropped that holds a marker of the prompt's layout (reference: some phrases only, which
    `forbidden_texts` takes)."""
    forbidden_texts: list[str] = field(default_factory=list)
    """Texts that drop an answer in which they occur to the letter; {assistant} is the name in the exemplars (reference:
    12 phrases and words of its exemplars, so that answers about presidents, weather and alpacas are lost)."""
    forbidden_starts: list[str] = field(default_factory=list)
    """Texts that drop an answer which begins with them to the letter (reference: "I'm sorry", "I am sorry"; Dromedary-2:
    none)."""
    max_repeats: int = 3
    """How often a stretch of words may follow itself at once before the answer is dropped; 0 switches the check off."""
    copy_ngram_words: int = 12
    """Words in a row that an answer may not share with an exemplar's answer; 0 switches the check off."""
    rewrites: dict[str, str] = field(default_factory=dict)
    """Leading phrases of kept answers, each with what replaces it (reference: "According to my knowledge from Wikipedia,
    here" becomes "Here")."""
    input_replaces_instruction: int = 0
    """An input longer than this many characters takes the instruction's place in the row that is trained on; 0 switches it
    off (Dromedary-2: 16)."""

    VERSION: ClassVar[str] = "2"
    READS: ClassVar[tuple[str, ...]] = ("prompts",)
    OPTIONAL: ClassVar[tuple[str, ...]] = ()
    GENERATES: ClassVar[bool] = True

    def speaker(self) -> prompts.Assistant:
        """The assistant under the name that rules and exemplars use."""
        return replace(self.assistant, name=self.codename) if self.codename else self.assistant

    def _chosen(self) -> tuple[prompts.SelfAlignLayout, RuleSet, tuple[Exemplar, ...]]:
        """Layout, rules and exemplars, neutral lines as they are before a model is known. Raises ConfigError for a wrong choice."""
        rule_set = resolve(self.principles)
        return prompts.load_layout(self.texts), rule_set, resolve_exemplars(self.exemplars, rule_set)

    def arm(self, count_tokens: CountTokens) -> tuple[prompts.SelfAlignLayout, RuleSet, tuple[Exemplar, ...], str]:
        """Layout, rules, exemplars and the stem that all requests share, for the model whose tokens are counted.

        Raises ConfigError for a wrong choice; only under scope `placebo`, what `count_tokens` raises.
        """
        layout, rule_set, exemplars = self._chosen()
        if any(rule.is_placebo for rule in rule_set.rules):
            rule_set = prompts.with_neutral_lines(layout, rule_set, exemplars, self.speaker(), count_tokens)
        return layout, rule_set, exemplars, prompts.self_align_stem(layout, rule_set, exemplars, self.speaker())

    def identity(self, context: Context) -> Mapping[str, Any]:
        """Settings and model; rules and exemplars enter as the text they make, not as the way they were chosen."""
        layout, rule_set, _, stem = self.arm(context.engine.count_tokens)
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
        """A wrong choice of rules or exemplars, a bad file of texts, and filters that would drop everything."""
        lengths = (
            "thoughts_tokens",
            "copies_question",
            "max_repeats",
            "copy_ngram_words",
            "input_replaces_instruction",
        )
        found = filter_problems("self_align", self, lengths, ("forbidden_texts", "forbidden_starts", "rewrites"))
        chosen = [*problems(self.principles), *exemplar_problems(self.exemplars)]
        if chosen:
            return found + chosen
        try:
            layout, rule_set, exemplars = self._chosen()
        except (ConfigError, DataError) as error:
            return [*found, f"self_align.texts: {error}"]
        thoughts = [
            prompts.fill(prompts.thoughts_text(layout, rule_set, turn), self.speaker())
            for exemplar in exemplars
            for turn in exemplar.turns
        ]
        start = prompts.fill(self.required_start, self.speaker())
        if thoughts and all(filters.wrong_start(text, start) for text in thoughts):
            found.append(
                f"self_align.required_start: expected what the exemplars' thoughts begin with, found '{start}'; "
                f"they begin like '{thoughts[0][:60]}', so every answer would be dropped; change it, or choose the "
                "exemplars that it was written for"
            )
        return found

    def unfit(self, context: Context) -> str:
        """Rules and exemplars that leave no room for question, thoughts and answer."""
        remedy = (
            f"use exemplars.drop or principles.drop, a smaller self_align.thoughts_tokens (now {self.thoughts_tokens}) or "
            f"self_align.sampling.max_new_tokens (now {self.sampling.max_new_tokens}), or a model with a longer context"
        )
        needed = QUESTION_TOKENS + self.thoughts_tokens + self.sampling.max_new_tokens
        return no_room(context, self.arm(context.engine.count_tokens)[3], needed, remedy)

    def preview(self, question: str, count_tokens: CountTokens) -> dict[str, str]:
        """The prompt in which this question would be answered; without a question, the prompt file itself."""
        layout, _, _, stem = self.arm(count_tokens)
        prompt = prompts.self_align_prompt(stem, layout, self.speaker(), question) if question else stem + layout.tail
        return {"self_align": prompt}

    def requests(self, rows: Sequence[Prompt], count_tokens: CountTokens) -> list[GenerateRequest]:
        """What is asked about some prompts, in their order. Raises ConfigError for a wrong choice of rules or exemplars."""
        layout, _, _, stem = self.arm(count_tokens)
        stops = prompts.self_align_stops(layout, self.speaker())
        marker = prompts.self_align_marker(layout, self.speaker()) if self.thoughts_tokens else ""
        return [
            GenerateRequest(
                row.id,
                prompts.self_align_prompt(stem, layout, self.speaker(), row.text),
                self.sampling,
                stop=stops,
                seed=seed_of(self.seed, "self_align", row.id),
                shared=stem,
                until=marker,
                until_tokens=self.thoughts_tokens,
            )
            for row in rows
        ]

    def _response(
        self, prompt: Prompt, answer: Completion, layout: prompts.SelfAlignLayout, rule_set: RuleSet,
        copies: filters.ExemplarCopies | None,
    ) -> Response:  # fmt: skip
        parsed = prompts.parse_response(layout, rule_set, self.speaker(), answer.text)
        text, cut = self._shortened(parsed.answer or "", ran_out=answer.finish == "length")
        is_finished = answer.finish != "length" and not cut
        unfinished = self.min_characters if self.min_characters_unfinished is None else self.min_characters_unfinished
        parts = (layout.user, layout.thoughts, layout.answer, layout.closing) if self.drop_markers else ()
        markers = [prompts.fill(part, self.speaker()) for part in parts]
        forbidden = [prompts.fill(piece, self.speaker()) for piece in self.forbidden_texts]
        reason = filters.first_reason(
            check()
            for check in (
                lambda: filters.wrong_start(answer.text, prompts.fill(self.required_start, self.speaker())),
                lambda: "no_answer" if parsed.answer is None else "",
                lambda: "" if is_finished or self.keep_unfinished else "unfinished",
                lambda: filters.too_short(text, self.min_characters if is_finished else unfinished),
                lambda: filters.question_copy(text, (prompt.instruction, prompt.input), self.copies_question),
                lambda: filters.contains_marker(text, markers),
                lambda: filters.forbidden_text(text, forbidden),
                lambda: filters.forbidden_start(text, self.forbidden_starts),
                lambda: filters.repetition(text, self.max_repeats),
                lambda: copies.reason(text, prompt.text) if copies else "",
            )
        )
        if self.codename:
            text = text.replace(self.codename, self.assistant.name)
        if not reason:
            text = cuts.reworded(text, self.rewrites)
        question = (prompt.instruction, prompt.input)
        if self.input_replaces_instruction and len(prompt.input) > self.input_replaces_instruction:
            question = (prompt.input, "")
        return Response(
            short_id(prompt.id, answer.text), prompt.id, *question, prompt.source, parsed.thoughts, parsed.cited, text,
            answer.text, answer.finish, not reason, reason, cut,
        )  # fmt: skip

    def _shortened(self, text: str, *, ran_out: bool) -> tuple[str, tuple[str, ...]]:
        """An answer as the shortening rules leave it, and their codes in `Response.cut`."""
        found = cuts.before_repeat(text, self.dedup, is_finished=not ran_out)
        cut = (cuts.REPEATED_CLAUSE,) if found != text else ()
        if self.keep_unfinished and (ran_out or cut):
            found, cut = cuts.without_last_word(found), (*cut, cuts.LAST_WORD)
        return found, cut

    def run(self, inputs: Mapping[str, Artifact], out: Path, context: Context) -> Outcome:
        """Write `stem.txt` (the shared prompt), `completions.jsonl` (raw) and `responses.jsonl` (kept and dropped)."""
        rows = read_prompts(inputs["prompts"])
        need_rows(rows, "prompts", inputs["prompts"])
        count_tokens = context.engine.count_tokens
        layout, rule_set, exemplars, stem = self.arm(count_tokens)
        (out / "stem.txt").write_text(stem, encoding="utf-8")
        with context.engine.open() as engine, context.progress("self_align", len(rows), "responses") as progress:
            answers = generate(engine, self.requests(rows, count_tokens), out / COMPLETIONS, progress, context.shard)
        shown = [turn.answer for exemplar in exemplars for turn in exemplar.turns]
        copies = filters.ExemplarCopies(shown, self.copy_ngram_words) if self.copy_ngram_words else None
        responses = [
            self._response(row, answer, layout, rule_set, copies) for row, answer in zip(rows, answers, strict=True)
        ]
        jsonl.write(out / "responses.jsonl", map(to_row, responses))
        outcome = count(responses)
        cited = Counter(name for response in responses if response.kept for name in response.cited)
        outcome.metrics = {
            "stem_tokens": count_tokens(stem),
            "rules": len(rule_set.by_id()),
            **{f"cited/{name}": number for name, number in sorted(cited.items())},
            **cut_counts(responses),
        }
        return outcome
