"""Assessing: a judge says of each answer to an open question and each principle whether the answer follows it.

Source: ours, for the claim of Sun et al. 2023 that the principles govern the answers, which the paper shows in examples; the
judge's side as in the stage `judge`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from selfalign import jsonl, prompts
from selfalign.artifacts import Artifact, Outcome
from selfalign.engines.base import GenerateRequest, Sampling
from selfalign.errors import ConfigError, DataError
from selfalign.evaluation import rubric
from selfalign.evaluation.scores import GENERATE
from selfalign.identity import digest, file_digest, plain, seed_of, short_id
from selfalign.principles import Principle, load_principle
from selfalign.stages.base import COMPLETIONS, Context, generate, no_room

VERDICTS = "verdicts.jsonl"


@dataclass(frozen=True)
class Assess:
    """Settings of one assessment. The engine is the judge's."""

    answers: str = ""
    """File of the answers: an evaluation's `items.jsonl`; its content names the result, not its place."""
    task: str = ""
    """Task whose generated answers are judged; empty for those of all tasks."""
    principles: list[str] = field(default_factory=list)
    """Ids of the principles that each answer is held against."""
    folder: str = ""
    """Folder below `principles/` that their files are in; empty for selfalign's own."""
    assistant: prompts.Assistant = field(default_factory=prompts.Assistant)
    """Who gave the answers."""
    prompt: str = ""
    """File with a prompt of one's own, with the slots {question}, {answer}, {name}, {rule} and {rubric}; empty for selfalign's."""
    sampling: Sampling = field(default_factory=lambda: Sampling(max_new_tokens=256, temperature=0.0))
    """How judgements are drawn. Two sentences and a verdict fit well; at temperature 0, so that a second look says the same."""
    seed: int = 0
    """Seeds the judgements."""

    VERSION: ClassVar[str] = "1"
    READS: ClassVar[tuple[str, ...]] = ()
    OPTIONAL: ClassVar[tuple[str, ...]] = ()
    GENERATES: ClassVar[bool] = True

    def rows(self) -> list[jsonl.Row]:
        """The answers. Raises DataError for a file that is none."""
        if not self.answers:
            return []
        rows = jsonl.iterate(Path(self.answers))
        return [row for row in rows if row.get("protocol") == GENERATE and self.task in ("", row["task"])]

    def _principles(self) -> list[Principle]:
        """The principles. Raises ConfigError for one that is not there or has no rubric."""
        found = [load_principle(name, self.folder) for name in self.principles]
        if without := [one.id for one in found if not one.rubric]:
            raise ConfigError(
                [
                    f"principle '{name}': expected a rubric in its file, found none; write under `rubric:` what an answer that "
                    "follows it shows, and where it does not apply"
                    for name in without
                ]
            )
        return found

    def _template(self) -> str:
        return Path(self.prompt).read_text(encoding="utf-8") if self.prompt else prompts.load_text(rubric.RUBRIC)

    def identity(self, context: Context) -> Mapping[str, Any]:
        """Settings, answers, prompt, rules with their rubrics, and the judge."""
        settings = plain(self)
        for key in ("answers", "folder", "assistant", "prompt"):
            del settings[key]
        rules = [[one.name, *self._filled(one)] for one in self._principles()]
        content = {"answers": file_digest(Path(self.answers))} if self.answers else {}
        return {
            "settings": settings,
            "content": {**content, "prompt": digest(self._template()), "rules": digest(rules)},
            "engine": context.engine.identity(),
        }

    def _filled(self, principle: Principle) -> tuple[str, str]:
        """Rule and rubric for this assistant."""
        return prompts.fill(principle.text, self.assistant), prompts.fill(principle.rubric, self.assistant)

    def problems(self, context: Context) -> list[str]:
        """Principles that are missing or have no rubric, a prompt without its slots, a file without answers."""
        found = []
        if not self.principles:
            found.append("rubric: expected one principle or more, found none; name some, or take a run that has some")
        try:
            if not self.rows():
                found.append(
                    f"rubric: expected generated answers{f' of {self.task}' if self.task else ''} in {self.answers}, found none; "
                    "give the items of an evaluation that asks open questions"
                )
            rubric.fill_prompt(self._template(), **dict.fromkeys(rubric.SLOTS, ""))
            self._principles()
        except ConfigError as error:
            found += [f"rubric: {problem}" for problem in error.problems]
        except (DataError, OSError) as error:
            found.append(f"rubric: {error}")
        return found

    def unfit(self, context: Context) -> str:
        """A prompt that leaves no room for the judgement."""
        longest = max((request.prompt for _, _, request in self._asked()), key=len, default="")
        remedy = "take a judge with a longer context, or lower --max-new-tokens"
        return no_room(context, longest, self.sampling.max_new_tokens, remedy, "the longest prompt")

    def _asked(self) -> list[tuple[jsonl.Row, str, GenerateRequest]]:
        """Answer, principle and what the judge is asked; an answer's principles one after another, so that they share it."""
        template, principles, found = self._template(), self._principles(), []
        for row in self.rows():
            for one in principles:
                rule, how = self._filled(one)
                text = rubric.fill_prompt(
                    template, question=row["question"], answer=row["answer"], name=one.name, rule=rule, rubric=how
                )
                name = short_id("verdict", row["task"], row["item"], one.id, text)
                seed = seed_of(self.seed, "assess", text)
                found.append((row, one.id, GenerateRequest(name, text, self.sampling, seed=seed)))
        return found

    def run(self, inputs: Mapping[str, Artifact], out: Path, context: Context) -> Outcome:
        """Write `verdicts.jsonl`, each judgement kept on disk as soon as its group is finished."""
        asked = self._asked()
        with context.engine.open() as engine, context.progress("verdicts", len(asked), "judgements") as progress:
            said = generate(engine, [one for _, _, one in asked], out / COMPLETIONS, progress, context.shard)
        found = []
        for (row, principle, _), one in zip(asked, said, strict=True):
            verdict = rubric.verdict(one.text) or ""
            own = (row["item"], row["category"], row["question"], row["answer"])
            reason = "" if verdict else rubric.NO_VERDICT
            found.append(
                rubric.Judgement(one.id, principle, *own, one.text, str(verdict), one.finish, one.prompt_tokens,
                                 one.new_tokens, bool(verdict), reason)
            )  # fmt: skip
        rows = list(map(asdict, found))
        jsonl.write(out / VERDICTS, rows)
        unread = rubric.count(rows, "")
        dropped = {rubric.NO_VERDICT: unread} if unread else {}
        return Outcome(rows_in=len(rows), kept=len(rows) - unread, dropped=dropped, metrics=rubric.metrics(rows))
