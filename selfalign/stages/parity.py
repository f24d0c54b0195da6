"""Yield parity: the prompts whose answers every arm of a sweep keeps, so that arms differ in what was ablated and not in how
much they train on.

Without it an arm that loses more answers to the filters also trains on fewer, and its effect mixes with that of less data.

Source: none; the ablation of the principles is the paper's future work (section 5), and so is what makes it fair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from selfalign import jsonl
from selfalign.artifacts import Artifact, Outcome
from selfalign.errors import StageError
from selfalign.records import Prompt, to_row
from selfalign.stages.base import Context, count, read_prompts, read_responses

NOT_IN_EVERY_ARM = "not_in_every_arm"
"""Reason of a prompt, or of an answer, that another arm of the sweep has no kept answer to."""


@dataclass(frozen=True)
class Parity:
    """The cut of a sweep's arms to their common prompts; it has no settings."""

    VERSION: ClassVar[str] = "1"
    READS: ClassVar[tuple[str, ...]] = ("prompts", "arm_*")
    """The prompts that all arms were asked, and each arm's answers, this run's own among them."""
    OPTIONAL: ClassVar[tuple[str, ...]] = ()
    GENERATES: ClassVar[bool] = False

    def identity(self, context: Context) -> Mapping[str, Any]:
        """Nothing of its own: the inputs say it all."""
        return {}

    def problems(self, context: Context) -> list[str]:
        """Nothing: the sweep sets the arms."""
        return []

    def unfit(self, context: Context) -> str:
        """Nothing: no model takes part."""
        return ""

    def run(self, inputs: Mapping[str, Artifact], out: Path, context: Context) -> Outcome:
        """Write `prompts.jsonl` (kept where every arm keeps its answer) and `arms.jsonl` (what each arm keeps by itself).

        An arm that keeps no answer at all cannot be trained, and takes nothing from the others. Raises StageError where no
        prompt is left.
        """
        asked = read_prompts(inputs["prompts"])
        by_arm = [inputs[role] for role in sorted(inputs) if role != "prompts"]
        answered = [{response.prompt_id for response in read_responses(arm)} for arm in by_arm]
        common = set.intersection(*(kept for kept in answered if kept)) if any(answered) else set[str]()
        rows = [_row(prompt, is_common=prompt.id in common) for prompt in asked]
        jsonl.write(out / "prompts.jsonl", map(to_row, rows))
        arms = [
            {"artifact": arm.name, "asked": len(asked), "kept": len(kept), "cut": len(kept - common)}
            for arm, kept in zip(by_arm, answered, strict=True)
        ]
        jsonl.write(out / "arms.jsonl", arms)
        if not common:
            fewest = min((arm for arm in arms if arm["kept"]), key=lambda arm: arm["kept"], default=arms[0])
            raise StageError(
                f"expected at least one prompt whose answer every arm of the sweep keeps, found none of {len(asked)} (the arm "
                f"with fewest, {fewest['artifact']}, keeps {fewest['kept']}); look at its answers, leave that arm out, or "
                "let arms train on different prompts with parity=false"
            )
        outcome = count(rows)
        kept = [arm["kept"] for arm in arms]
        outcome.metrics = {"arms": len(arms), "fewest_kept": min(kept), "most_kept": max(kept)}
        return outcome


def _row(prompt: Prompt, *, is_common: bool) -> Prompt:
    return prompt if is_common else replace(prompt, kept=False, reason=NOT_IN_EVERY_ARM)


def common_prompts(parity: Artifact) -> frozenset[str]:
    """Ids of the prompts whose answers every arm keeps."""
    return frozenset(prompt.id for prompt in read_prompts(parity))
