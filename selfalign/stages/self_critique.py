"""Between stages 2 and 3, optional: the model criticises each answer under one drawn principle, and revises it.

Source: Bai et al. 2022 (arXiv:2212.08073), sections 3.1 and 3.2; no part of Sun et al. 2023, who leave it to future work.
They draw one of 16 principles at random for each revision, prompt with worked exemplars, and train on the revisions. What
differs here: the principles are the arm's own, so that a dropped one never criticises; one round and not four; and the
answers are those of a base model behind the principles, not of one that was trained to be helpful.

Calf, the embedded model, never saw a critique: on it the stage runs, but its revisions are noise. It is off by default.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from statistics import mean
from typing import Any, ClassVar

from selfalign import cuts, filters, jsonl, prompts
from selfalign.artifacts import Artifact, Outcome
from selfalign.engines.base import Completion, Engine, GenerateRequest, Sampling
from selfalign.errors import ConfigError, DataError
from selfalign.identity import digest, plain, seed_of, short_id
from selfalign.principles import PrincipleSettings, Rule, problems, resolve
from selfalign.records import Critique, Response, to_row
from selfalign.stages.base import (
    QUESTION_TOKENS,
    Context,
    CountTokens,
    count,
    generate,
    need_rows,
    no_room,
    read_responses,
)


class Draw(StrEnum):
    """Which of the arm's principles an answer is held against."""

    uniform = "uniform"
    """Any of them, as in Bai et al. 2022."""
    cited = "cited"
    """One that the thoughts cite; any, where they cite none."""
    uncited = "uncited"
    """One that the thoughts do not cite; any, where they cite all."""


class OnFailure(StrEnum):
    """What becomes of an answer whose revision fails a filter."""

    keep_original = "keep_original"
    """It stays as it was; the reason stands in `critiques.jsonl`."""
    drop = "drop"
    """Its row is dropped with the reason."""


def drawn(rules: Mapping[str, Rule], response: Response, draw: Draw, seed: int, number: int) -> Rule:
    """The rule of `rules` (by id, at least one) that a response is held against in round `number`.

    Every rule has its own hash with the prompt, and the smallest wins. Dropping a rule therefore changes the draw for those
    prompts alone that had drawn it, whatever the arm answers; under `cited` and `uncited`, as far as the thoughts cite alike.
    """
    cited = [rule for name, rule in rules.items() if name in response.cited]
    uncited = [rule for name, rule in rules.items() if name not in response.cited]
    pool = {Draw.uniform: [], Draw.cited: cited, Draw.uncited: uncited}[draw] or list(rules.values())
    return min(pool, key=lambda rule: seed_of(seed, "self_critique", "draw", response.prompt_id, number, rule.id))


@dataclass(frozen=True)
class _Texts:
    """What all requests have in common."""

    layout: prompts.CritiqueLayout
    stem: str
    rules: Mapping[str, Rule]
    """The arm's rules by id, without placeholders in their texts."""


@dataclass(frozen=True)
class _Work:
    """What every round of one run works with."""

    texts: _Texts
    engine: Engine
    out: Path
    context: Context


@dataclass(frozen=True)
class _Attempt:
    """One response on its way through one round."""

    response: Response
    """As it stood before the round."""
    rule: Rule
    prompt: str
    """The prompt to be sent next."""
    critique: Completion | None = None
    revision: Completion | None = None
    reason: str = ""
    """Why it ends here; empty while it goes on."""


@dataclass(frozen=True)
class SelfCritique:
    """Settings of critique and revision."""

    principles: PrincipleSettings = field(default_factory=PrincipleSettings)
    """The rules that are drawn from: those that the arm shows; a placebo is none."""
    rounds: int = 1
    """How often an answer is criticised and revised, each time under a principle drawn anew (>= 1; Bai et al. 2022: 4)."""
    draw: Draw = Draw.uniform
    """Which principle is drawn (Bai et al. 2022: any)."""
    critique_sampling: Sampling = field(
        default_factory=lambda: Sampling(max_new_tokens=256, temperature=0.7, top_p=1.0)
    )
    """How the critique is drawn (Bai et al. 2022: T 1, of a model trained to be helpful; we found
    no budget of tokens there. A base model wanders off more easily: 0.7 is our choice)."""
    revision_sampling: Sampling = field(
        default_factory=lambda: Sampling(max_new_tokens=256, temperature=0.5, top_p=0.95)
    )
    """How the revision is drawn: as self_align draws the first answer, so that the two differ by the critique alone (Bai et
    al. 2022: T 1)."""
    on_failure: OnFailure = OnFailure.keep_original
    """What becomes of an answer whose critique or revision fails a filter (the filters are ours, and so is
    the choice)."""
    seed: int = 0
    """Seed of drawing and sampling: the same prompt draws the same random numbers in every arm."""
    min_characters: int = 16
    """Shortest revision that is taken; self_align's default."""
    keep_unfinished: bool = False
    """Whether a critique or a revision that ran out of tokens is used, as far as it goes; a revision then loses its last word
    and is trained on without an end-of-turn marker."""
    max_repeats: int = 3
    """How often a stretch of words may follow itself at once before the critique or the revision counts as failed."""
    texts: str = ""
    """Folder below `principles/`, whose `prompts/critique.yaml` is taken where it has one; else selfalign's own is."""
    assistant: prompts.Assistant = field(default_factory=prompts.Assistant)
    """Who the assistant is."""

    VERSION: ClassVar[str] = "1"
    READS: ClassVar[tuple[str, ...]] = ("responses",)
    OPTIONAL: ClassVar[tuple[str, ...]] = ()
    GENERATES: ClassVar[bool] = True

    def _texts(self) -> _Texts:
        """Layout, stem and rules. Raises ConfigError for a wrong choice, DataError for a bad file."""
        layout = prompts.load_critique_layout(self.texts)
        shown = resolve(self.principles).by_id()
        rules = {name: replace(rule, text=prompts.fill(rule.text, self.assistant)) for name, rule in shown.items()}
        return _Texts(layout, prompts.critique_stem(layout, self.assistant), rules)

    def identity(self, context: Context) -> Mapping[str, Any]:
        """Settings and model; the rules enter as their texts, whatever their numbers and their order."""
        texts = self._texts()
        settings = plain(self)
        for key in ("principles", "texts", "assistant"):
            del settings[key]
        content = {
            "stem": digest(texts.stem),
            "rules": digest({name: rule.text for name, rule in texts.rules.items()}),
            "markers": digest(list(prompts.critique_markers(texts.layout, self.assistant))),
        }
        return {"settings": settings, "content": content, "engine": context.engine.identity()}

    def problems(self, context: Context) -> list[str]:
        """A wrong choice of rules, none to draw from, a number out of range, and a bad file of texts."""
        found = list(problems(self.principles))
        if self.rounds < 1:
            found.append(f"self_critique.rounds: expected at least 1, found {self.rounds}; raise it")
        if found:
            return found
        try:
            texts = self._texts()
        except (ConfigError, DataError) as error:
            return [f"self_critique.texts: {error}"]
        if not texts.rules:
            return [
                "self_critique.principles: expected at least one principle to hold answers against, found none; choose a set "
                "that has one, or switch stages.self_critique off"
            ]
        return []

    def unfit(self, context: Context) -> str:
        """A prompt that leaves no room for question, answer, critique and revision; the answer counts as long as a
        revision may be."""
        texts = self._texts()
        longest = max((rule.text for rule in texts.rules.values()), key=len, default="")
        prompt = prompts.critique_prompt(texts.stem, texts.layout, self.assistant, longest, "", "")
        critique, revision = self.critique_sampling.max_new_tokens, self.revision_sampling.max_new_tokens
        remedy = (
            f"lower self_critique.critique_sampling.max_new_tokens (now {critique}) and "
            f"self_critique.revision_sampling.max_new_tokens (now {revision}), take a model with a longer context, or "
            "switch stages.self_critique off"
        )
        return no_room(context, prompt, QUESTION_TOKENS + critique + 2 * revision, remedy)

    def preview(self, question: str, count_tokens: CountTokens) -> dict[str, str]:
        """The two prompts for an answer to this question, under the principle that it would draw if its thoughts cited
        none; without a question, what they have in common."""
        texts = self._texts()
        if not question:
            return {"self_critique": texts.stem}
        asked = Response("", short_id(question, ""), question, "", "", "", (), "<first answer>", "", "stop")
        critique = self._attempt(asked, 1, texts).prompt
        return {
            "critique": critique,
            "revision": prompts.revision_prompt(critique, texts.layout, self.assistant, "<critique>"),
        }

    def _attempt(self, response: Response, number: int, texts: _Texts) -> _Attempt:
        rule = drawn(texts.rules, response, self.draw, self.seed, number)
        prompt = prompts.critique_prompt(
            texts.stem, texts.layout, self.assistant, rule.text, response.prompt_text, response.text
        )
        return _Attempt(response, rule, prompt)

    def _failure(self, completion: Completion, min_characters: int, texts: _Texts) -> str:
        """The code of the first filter that a critique or a revision fails; empty where it passes all."""
        text = completion.text.strip()
        # An answer that holds the end of a turn would teach the student to end one in the middle.
        markers = [*prompts.critique_markers(texts.layout, self.assistant), prompts.END_OF_TURN]
        return filters.first_reason(
            check()
            for check in (
                lambda: filters.too_short(text, 1),
                lambda: "unfinished" if completion.finish == "length" and not self.keep_unfinished else "",
                lambda: filters.too_short(text, min_characters),
                lambda: filters.contains_marker(text, markers),
                lambda: filters.repetition(text, self.max_repeats),
            )
        )

    def _criticised(self, attempt: _Attempt, critique: Completion, texts: _Texts) -> _Attempt:
        if failure := self._failure(critique, 1, texts):
            return replace(attempt, critique=critique, reason=f"critique_{failure}")
        prompt = prompts.revision_prompt(attempt.prompt, texts.layout, self.assistant, critique.text.strip())
        return replace(attempt, critique=critique, prompt=prompt)

    def _revised(self, attempt: _Attempt, revision: Completion, texts: _Texts) -> _Attempt:
        return replace(attempt, revision=revision, reason=self._failure(revision, self.min_characters, texts))

    def _closed(self, attempt: _Attempt, number: int) -> tuple[Critique, Response]:
        """The records of an attempt: what was said, and the response as it stands after the round."""
        before, critique, revision = attempt.response, attempt.critique, attempt.revision
        raw = revision.text if revision else ""
        name = short_id(before.id, attempt.rule.id, number, critique.text if critique else "", raw)
        if not attempt.reason and revision is not None:
            text, cut = raw.strip(), ()
            if revision.finish == "length":
                text, cut = cuts.without_last_word(text), (cuts.LAST_WORD,)
            after = replace(before, id=name, text=text, raw=raw, finish=revision.finish, cut=cut)
        elif self.on_failure is OnFailure.drop:
            after = replace(before, id=name, kept=False, reason=attempt.reason)
        else:
            after = replace(before, id=name)
        record = Critique(
            name, before.id, before.prompt_id, before.instruction, before.input, number, attempt.rule.id, before.text,
            critique.text.strip() if critique else "", critique.finish if critique else "",
            raw, revision.finish if revision else "", after.text, not attempt.reason, attempt.reason,
        )  # fmt: skip
        return record, after

    def _ask(self, attempts: Sequence[_Attempt], kind: str, number: int, work: _Work) -> list[Completion | None]:
        """What the model writes for each attempt's prompt; None for an attempt that has ended already."""
        is_critique = kind == "critique"
        requests = [
            GenerateRequest(
                attempt.response.id,
                attempt.prompt,
                self.critique_sampling if is_critique else self.revision_sampling,
                stop=prompts.critique_stops(work.texts.layout, self.assistant),
                seed=seed_of(self.seed, "self_critique", kind, attempt.response.prompt_id, attempt.rule.id, number),
                shared=work.texts.stem,
            )
            for attempt in attempts
            if not attempt.reason
        ]
        # A file for each round: the requests of the second are not known before the first is done.
        path = work.out / f"completions_{number}_{kind}.jsonl"
        with work.context.progress(f"self_critique: {kind}s", len(requests), "responses") as progress:
            answers = generate(work.engine, requests, path, progress, work.context.shard)
            written = {answer.id: answer for answer in answers}
        return [None if attempt.reason else written[attempt.response.id] for attempt in attempts]

    def _round(self, responses: Sequence[Response], number: int, work: _Work) -> list[tuple[Critique, Response]]:
        """One round over kept responses, in order."""
        attempts = [_with_room(self._attempt(response, number, work.texts), work.engine) for response in responses]
        critiques = self._ask(attempts, "critique", number, work)
        attempts = [
            _with_room(self._criticised(attempt, critique, work.texts), work.engine) if critique else attempt
            for attempt, critique in zip(attempts, critiques, strict=True)
        ]
        revisions = self._ask(attempts, "revision", number, work)
        attempts = [
            self._revised(attempt, revision, work.texts) if revision else attempt
            for attempt, revision in zip(attempts, revisions, strict=True)
        ]
        return [self._closed(attempt, number) for attempt in attempts]

    def run(self, inputs: Mapping[str, Artifact], out: Path, context: Context) -> Outcome:
        """Write `stem.txt` (the shared prompt), `completions_<round>_critique.jsonl` and `completions_<round>_revision.jsonl`
        (raw), `critiques.jsonl` (every attempt, kept or not) and `responses.jsonl` (kept and dropped), in which a row has the
        id of its last critique."""
        first = read_responses(inputs["responses"])
        need_rows(first, "responses", inputs["responses"])
        texts = self._texts()
        (out / "stem.txt").write_text(texts.stem, encoding="utf-8")
        responses: list[Response] = first
        critiques: list[Critique] = []
        with context.engine.open() as engine:
            for number in range(1, self.rounds + 1):
                kept = [response for response in responses if response.kept]
                found = self._round(kept, number, _Work(texts, engine, out, context))
                after = {record.response_id: response for record, response in found}
                critiques += [record for record, _ in found]
                responses = [after.get(response.id, response) for response in responses]
        jsonl.write(out / "critiques.jsonl", map(to_row, critiques))
        jsonl.write(out / "responses.jsonl", map(to_row, responses))
        outcome = count(responses)
        outcome.metrics = {
            "stem_tokens": context.engine.count_tokens(texts.stem),
            "rules": len(texts.rules),
            **_shares(critiques),
            **_lengths(first, responses),
            **_tally("revised", (record.principle for record in critiques if record.kept)),
            **_tally("failed", (record.reason for record in critiques if not record.kept)),
        }
        return outcome


def _with_room(attempt: _Attempt, engine: Engine) -> _Attempt:
    """The attempt, ended where its prompt leaves no room for a token: a long answer costs its row, not the stage."""
    if attempt.reason or engine.count_tokens(attempt.prompt) < engine.context_length:
        return attempt
    return replace(attempt, reason="no_room" if attempt.critique else "critique_no_room")


def _shares(critiques: Sequence[Critique]) -> dict[str, float]:
    """Shares (0..1, together 1) of the attempts: other words, the same words again, no revision that could be used."""
    kinds = Counter(
        "failed" if not record.kept else "unchanged" if record.text.split() == record.original.split() else "changed"
        for record in critiques
    )
    return {f"share_{kind}": round(kinds[kind] / len(critiques), 4) for kind in ("changed", "unchanged", "failed")}


def _lengths(first: Sequence[Response], last: Sequence[Response]) -> dict[str, float | None]:
    """Mean length in words, before and after, of the answers that are kept; None where none is."""
    kept = [(before, after) for before, after in zip(first, last, strict=True) if after.kept]
    sides = {"before": [before for before, _ in kept], "after": [after for _, after in kept]}
    return {
        f"mean_words_{side}": round(mean(len(row.text.split()) for row in rows), 3) if rows else None
        for side, rows in sides.items()
    }


def _tally(name: str, values: Iterable[str]) -> dict[str, int]:
    return {f"{name}/{value}": number for value, number in sorted(Counter(values).items())}
