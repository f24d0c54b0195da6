"""How completely engraving put the prompted behaviour into the weights: stage 2's responses scored under every model of a run.

A response was drawn behind rules, exemplars, the question and the thoughts that its writer had just written, so that is what it is
scored behind for the writer; the students and the bare base see the chat prompt with the question alone, as in training. What
ends an answer is in neither: the two layouts end it in different ways. Thoughts tell a good part of the answer, and no student
has them: a gap of 0 is out of reach where an answer hangs on what only the thoughts decided.

Responses that the engraved model was trained on are kept apart from its validation rows, because the former would measure memory
too. All models are one loaded base, its adapters swapped. Source: Sun et al. 2023, section 3.3; the measure is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from selfalign import jsonl, prompts
from selfalign.artifacts import Artifact, Outcome
from selfalign.engines.base import ScoreRequest
from selfalign.evaluation import gap
from selfalign.evaluation.scores import plain_number
from selfalign.identity import plain, seed_of
from selfalign.progress import Progress
from selfalign.records import Example, Response, from_row
from selfalign.stages.base import Context, CountTokens, need_rows, read_prompts, read_responses, score
from selfalign.stages.self_align import SelfAlign
from selfalign.training.batches import hold_out

GAPS = "gaps.jsonl"
STUDENTS = ("engraved", "cloned")
"""The roles of adapters that are scored."""


@dataclass(frozen=True)
class GapSettings:
    """Which responses are scored."""

    samples: int = 64
    """Responses of each split, trained on and held out (> 0), that are scored: those with the smallest seeded hash of their prompt,
    so that arms which answer the same prompts take the same ones. Ours: a standard error of about an eighth of the spread."""
    seed: int = 0
    """Seeds their choice."""


@dataclass(frozen=True)
class EngravingGap:
    """Settings of the measurement."""

    settings: GapSettings = field(default_factory=GapSettings)
    """Which responses."""
    writer: SelfAlign = field(default_factory=SelfAlign)
    """The stage that wrote the responses: its rules, exemplars and layout."""

    VERSION: ClassVar[str] = "1"
    READS: ClassVar[tuple[str, ...]] = ("prompts", "responses", "engraved")
    OPTIONAL: ClassVar[tuple[str, ...]] = ("cloned",)
    GENERATES: ClassVar[bool] = False

    def identity(self, context: Context) -> Mapping[str, Any]:
        """Settings, what the writer was shown, and the model."""
        return {"settings": plain(self.settings), "writer": self.writer.identity(context)}

    def problems(self, context: Context) -> list[str]:
        """A sample without a response."""
        if self.settings.samples > 0:
            return []
        return [
            f"engraving_gap.samples: expected 1 or more, found {self.settings.samples}; raise it, or set stages.engraving_gap=false"
        ]

    def unfit(self, context: Context) -> str:
        """Nothing: what is scored fitted when it was written."""
        return ""

    def run(self, inputs: Mapping[str, Artifact], out: Path, context: Context) -> Outcome:
        """Write `scores_<model>.jsonl` (raw) and `gaps.jsonl` (a row a response, kept or dropped)."""
        chosen = self._chosen(inputs["responses"], inputs["engraved"])
        need_rows(chosen, "responses", inputs["responses"])
        marker = prompts.self_align_marker(prompts.load_layout(self.writer.texts), self.writer.speaker())
        rows = [_row(response, split, marker) for response, _, split in chosen]
        asked = [
            (row, response, example) for row, (response, example, _) in zip(rows, chosen, strict=True) if row["kept"]
        ]
        adapters = {name: inputs[name].path / "adapter" for name in STUDENTS if name in inputs}
        questions = {prompt.id: prompt.text for prompt in read_prompts(inputs["prompts"])}
        behind_rules = self._of_writer(
            [(response, questions[response.prompt_id]) for _, response, _ in asked], context.engine.count_tokens
        )
        bare = [ScoreRequest(response.id, example.prompt_text, f"\n{response.text}") for _, response, example in asked]
        found = {}
        with (
            context.engine.open(None, list(adapters.values())) as engine,
            context.progress("engraving_gap", len(asked) * (2 + len(adapters)), "log-probabilities") as progress,
        ):
            for number, (name, folder) in enumerate({gap.WRITER: None, gap.BASE: None, **adapters}.items()):
                engine.swap(folder)
                requests = behind_rules if name == gap.WRITER else bare
                before = number * len(asked)
                found[name] = score(engine, requests, out / f"scores_{name}.jsonl", _behind(progress, before))
        for place, (row, _, _) in enumerate(asked):
            scored = {name: results[place] for name, results in found.items()}
            row["n_tokens"] = scored[gap.BASE].n_tokens
            row["logprobs"] = {name: plain_number(one.logprob) for name, one in scored.items()}
            if any(one.truncated_tokens for one in scored.values()):
                row |= {"kept": False, "reason": "no_room"}
        jsonl.write(out / GAPS, rows)
        outcome = Outcome(rows_in=len(rows), kept=sum(row["kept"] for row in rows), metrics=gap.metrics(rows))
        for reason in (row["reason"] for row in rows if row["reason"]):
            outcome.dropped[reason] = outcome.dropped.get(reason, 0) + 1
        return outcome

    def _chosen(self, responses: Artifact, engraved: Artifact) -> list[tuple[Response, Example, str]]:
        """The responses to score, each with the example it was made into and its split: the first of each split by their hash."""
        by_id = {response.id: response for response in read_responses(responses)}
        found = []
        for split, examples in splits(engraved).items():
            own = [(by_id[one.response_id], one, split) for one in examples if one.response_id in by_id]
            own.sort(key=lambda one: (seed_of(self.settings.seed, "gap", one[0].prompt_id), one[0].id))
            found += own[: self.settings.samples]
        return found

    def _of_writer(self, responses: Sequence[tuple[Response, str]], count_tokens: CountTokens) -> list[ScoreRequest]:
        """The responses behind all that their writer saw: rules, exemplars, question, and thoughts up to the answer's marker."""
        layout, _, _, stem = self.writer.arm(count_tokens)
        speaker = self.writer.speaker()
        marker, found = prompts.self_align_marker(layout, speaker), []
        for response, question in responses:
            thoughts, _, answer = response.raw.partition(marker)
            # It wrote under its codename, which was replaced behind it.
            text = (
                response.text.replace(self.writer.assistant.name, speaker.name)
                if self.writer.codename
                else response.text
            )
            space = answer[: len(answer) - len(answer.lstrip())]
            prompt = prompts.self_align_prompt(stem, layout, speaker, question)
            found.append(ScoreRequest(response.id, f"{prompt}{thoughts}{marker}", space + text, shared=stem))
        return found


def _row(response: Response, split: str, marker: str) -> dict[str, Any]:
    """One row of gaps.jsonl before it is scored; dropped where its text is not the writer's own."""
    # What self_critique revised was drawn behind a critique.
    reason = "revised" if marker not in response.raw else "" if response.text.strip() else "empty"
    return {
        "id": response.id,
        "prompt_id": response.prompt_id,
        "source": response.source,
        "cited": list(response.cited),
        "split": split,
        "n_tokens": 0,
        "logprobs": {},
        "kept": not reason,
        "reason": reason,
    }


def _behind(progress: Progress, before: int) -> Progress:
    """Progress of a part that begins when `before` units are done."""

    def part(done: int, note: str = "") -> None:
        progress(before + done, note)

    return part


def splits(engraved: Artifact) -> dict[str, list[Example]]:
    """The examples of a training, by whether they were trained on or held out, as its own settings drew them.

    Identity rows, which no model wrote, and rows that were too long to train on are in neither.
    """
    examples = [from_row(Example, row) for row in jsonl.iterate(engraved.file("examples.jsonl"))]
    lost = engraved.path / "untrainable.jsonl"
    untrainable = {row["id"] for row in jsonl.iterate(lost)} if lost.is_file() else set()
    training = engraved.manifest["identity"]["settings"]["training"]
    trainable = [one for one in examples if one.id not in untrainable]
    trained, held_out = hold_out(trainable, training["validation_fraction"], training["seed"])
    return {gap.TRAINED: trained, gap.HELD_OUT: held_out}
