"""Stage 3, principle engraving: LoRA fine-tuning on the answers alone, rules and thoughts pruned. Stage 4 trains with
it too.

Source: Sun et al. 2023, section 3.3; IBM/Dromedary dromedary_v1 `training/finetune.py` and the scripts of steps 3 and
4."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from selfalign import jsonl, prompts
from selfalign.artifacts import Artifact, Outcome
from selfalign.engines.model import model_digest
from selfalign.errors import ConfigError, StageError
from selfalign.identity import digest, plain, seed_of, short_id
from selfalign.records import Example, to_row
from selfalign.stages.base import Context, CountTokens, need_rows, read_responses
from selfalign.stages.parity import NOT_IN_EVERY_ARM, common_prompts
from selfalign.training.settings import Training, arithmetic
from selfalign.training.settings import identity as trainer_identity
from selfalign.training.settings import problems as training_problems


@dataclass(frozen=True)
class Engrave:
    """Settings of stage 3, and of the training half of stage 4."""

    training: Training = field(default_factory=Training)
    """Optimiser, schedule and LoRA."""
    chat_prompts: list[str] = field(default_factory=lambda: ["standard"])
    """Chat prompt texts that examples alternate between (stage 3: standard; stage 4: concise and standard)."""
    identity_rows: bool = True
    """Whether the questions about who the assistant is are mixed in (reference: 910 such rows)."""
    end_of_turn: bool = True
    """Whether the end-of-turn marker, the next user heading as text, is part of the target (as in the reference)."""
    texts: str = ""
    """Folder below `principles/` with `prompts/` and `identity.jsonl`; empty for selfalign's own."""
    assistant: prompts.Assistant = field(default_factory=prompts.Assistant)
    """Who the assistant is."""

    VERSION: ClassVar[str] = "2"
    READS: ClassVar[tuple[str, ...]] = ("responses",)
    OPTIONAL: ClassVar[tuple[str, ...]] = ("adapter", "parity")
    GENERATES: ClassVar[bool] = False

    def _texts(self) -> tuple[list[str], list[tuple[str, str]]]:
        metas = [prompts.fill(prompts.load_text(name, self.texts), self.assistant) for name in self.chat_prompts]
        identity = prompts.load_identity(self.assistant, self.texts) if self.identity_rows else []
        return metas, identity

    def identity(self, context: Context) -> Mapping[str, Any]:
        """Settings, chat texts, identity rows, base model and precision of training."""
        metas, rows = self._texts()
        settings = plain(self)
        del settings["texts"], settings["assistant"]
        content = {"chat": digest(metas), "identity": digest(rows), "heading": prompts.chat_heading(self.assistant)}
        engine = context.engine.identity()
        # An engine that computes elsewhere knows the tokenizer alone; the weights that are trained on are here.
        base = {} if "model" in engine or context.model_folder is None else {"model": _base_digest(context)}
        return {
            "settings": settings,
            "content": content,
            "engine": engine,
            **base,
            "trainer": trainer_identity(context.trainer),
        }

    def problems(self, context: Context) -> list[str]:
        """Impossible training settings and missing texts."""
        found = list(training_problems(self.training, context.trainer))
        if not self.chat_prompts:
            found.append("engrave.chat_prompts: expected at least one name, found none; the reference uses [standard]")
        try:
            self._texts()
        except ConfigError as error:
            found += [f"engrave: {problem}" for problem in error.problems]
        return found

    def unfit(self, context: Context) -> str:
        """Sequences longer than the model's context."""
        window = context.engine.context_length()
        if self.training.max_seq_length <= window:
            return ""
        return (
            f"expected training.max_seq_length of at most the model's context of {window} tokens, found "
            f"{self.training.max_seq_length}; lower it"
        )

    def preview(self, question: str, count_tokens: CountTokens) -> dict[str, str]:
        """The chat prompts behind which an answer to this question is learned."""
        metas, _ = self._texts()
        return {
            name: prompts.chat_prompt(meta, self.assistant, question)
            for name, meta in zip(self.chat_prompts, metas, strict=True)
        }

    def examples(self, responses: Artifact, parity: Artifact | None = None) -> list[Example]:
        """The training examples of kept responses and identity rows; each picks its chat prompt by its own id.

        With `parity`, only the responses to prompts that every arm of a sweep keeps.
        """
        kept = read_responses(responses)
        need_rows(kept, "responses", responses)
        if parity is not None:
            common = common_prompts(parity)
            kept = [response for response in kept if response.prompt_id in common]
        rows = [(r.id, r.prompt_text, r.text, r.source, r.is_finished) for r in kept]
        metas, identity = self._texts()
        rows += [(short_id("identity", q, a), q, a, "identity", True) for q, a in identity]
        found = []
        for response_id, question, answer, source, finished in rows:
            meta = metas[seed_of("chat prompt", response_id) % len(metas)]
            prompt = prompts.chat_prompt(meta, self.assistant, question)
            target = prompts.chat_target(answer, finished=finished and self.end_of_turn)
            found.append(Example(short_id(prompt, target), response_id, prompt, target, source))
        return found

    def run(self, inputs: Mapping[str, Artifact], out: Path, context: Context) -> Outcome:
        """Write `examples.jsonl`, `adapter/` (loadable by plain peft), `metrics.jsonl` (one row a step), `speed.jsonl`, and
        `training.csv` with both (these two alone depend on the clock), and `untrainable.jsonl` where examples were left out."""
        # Imported here: a stage's settings are read at start-up, its training only when it runs.
        from selfalign.training.encode import UNTRAINABLE
        from selfalign.training.launch import train

        if context.model_folder is None:
            raise StageError(
                "expected a local model to train on, found none in the context; give Context(model_folder=...)"
            )
        examples = self.examples(inputs["responses"], inputs.get("parity"))
        jsonl.write(out / "examples.jsonl", map(to_row, examples))
        start = inputs["adapter"].path / "adapter" if "adapter" in inputs else None
        context.say(f"  training: {arithmetic(self.training, context.trainer)}")
        with context.progress("training", 0, "steps") as progress:
            metrics = train(
                out / "examples.jsonl",
                context.model_folder(),
                out,
                self.training,
                context.trainer,
                on_progress=lambda row: progress(row["step"], _note(row)),
                initial_adapter=start,
                model_digest=_base_digest(context),
            )
        cut = len(self.examples(inputs["responses"])) - len(examples) if "parity" in inputs else 0
        untrainable = metrics["untrainable_rows"]
        reasons = {NOT_IN_EVERY_ARM: cut, UNTRAINABLE: untrainable}
        return Outcome(
            rows_in=len(examples) + cut,
            kept=len(examples) - untrainable,
            dropped={reason: count for reason, count in reasons.items() if count},
            metrics=metrics,
        )


def _base_digest(context: Context) -> str:
    """Content digest of the base model that is trained on: the engine's, else its folder's; empty without a folder."""
    known = context.engine.identity().get("model", "")
    return known or (model_digest(context.model_folder()) if context.model_folder else "")


def _note(row: Mapping[str, Any]) -> str:
    """What a metrics row of training says behind its step."""
    name = "loss" if "loss" in row else "validation_loss"
    return f"of {row['total']}, {name.replace('_', ' ')} {row[name]:.3f}"
