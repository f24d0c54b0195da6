"""Stage 5, evaluation: one model of the run scored on multiple-choice and open questions through lm-eval.

Source: Sun et al. 2023, section 4 and appendix; IBM/Dromedary `mc_evaluation/`. All models of a run are asked in the
same chat layout; the prompted base, whose row the paper does not print, is asked behind the rules and exemplars.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from selfalign import prompts
from selfalign.artifacts import Artifact, Outcome
from selfalign.calf import oracle
from selfalign.errors import ConfigError, DataError
from selfalign.evaluation.catalogue import CALF
from selfalign.evaluation.protocols import Chat, text_chat
from selfalign.evaluation.settings import EvaluationSettings
from selfalign.identity import digest
from selfalign.stages.base import QUESTION_TOKENS, Context, CountTokens, no_room
from selfalign.stages.self_align import SelfAlign

SUBJECTS = ("base", "prompted", "engraved", "cloned")
"""What a run can score: the base model in the chat layout, the base behind rules and exemplars, and the two
students."""


@dataclass(frozen=True)
class Evaluate:
    """Settings of one evaluation."""

    settings: EvaluationSettings = field(default_factory=EvaluationSettings)
    """Tasks, data and protocols."""
    subject: str = "base"
    """Which model of the run is scored; one of SUBJECTS."""
    prompted: SelfAlign | None = None
    """The arm whose rules and exemplars stand before each question; None for the plain chat layout."""
    texts: str = ""
    """Folder below `principles/` with the chat prompt; empty for selfalign's own."""
    assistant: prompts.Assistant = field(default_factory=prompts.Assistant)
    """Who the assistant is."""

    VERSION: ClassVar[str] = "4"
    READS: ClassVar[tuple[str, ...]] = ()
    OPTIONAL: ClassVar[tuple[str, ...]] = ("adapter",)
    GENERATES: ClassVar[bool] = False

    def _chat(self, count_tokens: CountTokens) -> Chat:
        """How a question becomes a prompt, and where its answer ends."""
        if self.prompted is not None:
            layout, _, _, stem = self.prompted.arm(count_tokens)
            assistant = self.prompted.speaker()
            return Chat(
                wrap=lambda question: prompts.self_align_answer_prompt(stem, layout, assistant, question),
                stops=prompts.self_align_stops(layout, assistant),
                joint=" ",
            )
        meta = prompts.fill(prompts.load_text(self.settings.chat_prompt, self.texts), self.assistant)
        return text_chat(meta, self.assistant)

    def identity(self, context: Context) -> Mapping[str, Any]:
        """Tasks, protocols, content of the data, layout and model."""
        settings = self.settings.identity()
        del settings["chat_prompt"]
        return {
            "settings": settings,
            "subject": self.subject,
            "content": {"layout": digest(self._chat(context.engine.count_tokens).wrap("\0"))},
            "engine": context.engine.identity(),
        }

    def problems(self, context: Context) -> list[str]:
        """A missing or bad text."""
        if self.prompted is not None:
            return self.prompted.problems(context)
        try:
            self._chat(context.engine.count_tokens)
        except (ConfigError, DataError) as error:
            return [f"evaluation ({self.subject}): {error}"]
        return []

    def unfit(self, context: Context) -> str:
        """A chat layout that leaves no room for question and answer."""
        remedy = (
            f"lower evaluation.max_new_tokens (now {self.settings.max_new_tokens}), use evaluation.chat_prompt=concise, or "
            f"leave '{self.subject}' out of subjects"
        )
        return no_room(
            context,
            self._chat(context.engine.count_tokens).wrap(""),
            QUESTION_TOKENS + self.settings.max_new_tokens,
            remedy,
        )

    def preview(self, question: str, count_tokens: CountTokens) -> dict[str, str]:
        """The prompt in which this model is asked."""
        return {self.subject: self._chat(count_tokens).wrap(question)}

    def run(self, inputs: Mapping[str, Artifact], out: Path, context: Context) -> Outcome:
        """Write `scores.jsonl` (one Score a row) and `items.jsonl` (every outcome behind them)."""
        # Imported here: it brings lm-eval in, which start-up must not pay for.
        from selfalign.evaluation.harness import evaluate

        adapter = inputs["adapter"].path / "adapter" if "adapter" in inputs else None
        with context.engine.open(adapter) as engine, context.progress(f"scores_{self.subject}", 0, "requests") as shown:
            scores = evaluate(
                engine,
                self.settings,
                self._chat(context.engine.count_tokens),
                out,
                subject=self.subject,
                oracle=oracle.marks if self.settings.data == CALF else None,
                progress=lambda task, done, total: shown(done, f"of {total} of {task}"),
            )
        metrics: dict[str, float | int | str | None] = {
            f"{score.task}/{score.protocol}/{score.metric}": score.value for score in scores
        }
        valid = sum(score.valid for score in scores)
        dropped = {"invalid": len(scores) - valid} if valid < len(scores) else {}
        return Outcome(rows_in=len(scores), kept=valid, dropped=dropped, metrics=metrics)
