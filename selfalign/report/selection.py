"""Whether the filters of the data stages depend on what a sweep varies: rows that one arm keeps and the control drops.

A filter whose reason hangs on the treatment selects by it: what an arm is trained on then differs in more than its principles,
and cutting all arms to their common prompts (parity) makes their data equal in number, not in kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from selfalign import statistics as stats
from selfalign.report.ablation import ALPHA, Comparison
from selfalign.report.ablation_view import p_text
from selfalign.report.arms import Arm
from selfalign.report.model import Run
from selfalign.report.sheet import Sheet
from selfalign.report.telemetry import PARITY

TITLE = "What filters keep in one arm only"
ABOUT = (
    "Prompts that both arms answered, of which one answer was kept and the other dropped, and why. p: exact McNemar test over "
    "prompts, corrected by Holm over arms and stages. Below 0.05, a filter depends on what the arm changes: it is part of the "
    "treatment, and what is left for training was selected by it. The test sees how many rows go, not which."
)
HEAD = ("stage", "arm", "prompts", "dropped in the arm only", "kept in the arm only", "p, Holm")


@dataclass(frozen=True)
class Selection:
    """One arm beside the control at one stage, over all seeds that both have."""

    node: str
    arm: str
    prompts: int
    """Those that both answered."""
    dropped: Counter[str]
    """Reason -> prompts whose answer the arm drops and the control keeps."""
    kept: Counter[str]
    """Reason -> prompts whose answer the control drops, for that reason, and the arm keeps."""
    adjusted: float = 1.0
    """p after Holm over all selections of a comparison."""

    @property
    def p(self) -> float:
        """Of the exact McNemar test: rows that changed did so either way with probability 1/2."""
        pair = [0] * self.kept.total() + [1] * self.dropped.total()
        return stats.mcnemar(pair, [1 - one for one in pair]).p

    @property
    def is_shown(self) -> bool:
        """Whether the filters keep another number of rows than the control's, after the correction."""
        return self.adjusted < ALPHA


Reasons = dict[str, tuple[str, dict[str, str]]]
"""Node with answers -> its artifact, and prompt id -> why the answer was dropped; empty where it was kept."""


def selections(comparison: Comparison) -> list[Selection]:
    """One for each stage and arm whose answers are not the control's own, in the order of the pipeline and the arms."""
    found: dict[tuple[str, str], Selection] = {}
    control = {seed: _reasons(run) for seed, run in comparison.control.runs.items()}
    for arm in comparison.arms:
        for one in _of_arm(control, arm):
            old = found.get((one.node, one.arm), Selection(one.node, one.arm, 0, Counter(), Counter()))
            found[one.node, one.arm] = replace(
                old, prompts=old.prompts + one.prompts, dropped=old.dropped + one.dropped, kept=old.kept + one.kept
            )
    adjusted = stats.holm([one.p for one in found.values()])
    nodes = list(dict.fromkeys(node for node, _ in found))
    every = [replace(one, adjusted=float(p)) for one, p in zip(found.values(), adjusted, strict=True)]
    return sorted(every, key=lambda one: nodes.index(one.node))


def _of_arm(control: Mapping[str, Reasons], arm: Arm) -> Iterator[Selection]:
    for seed in (seed for seed in control if seed in arm.runs):
        own, others = _reasons(arm.runs[seed]), control[seed]
        for node in (node for node in others if node in own):
            (artifact, after), (other, before) = own[node], others[node]
            if artifact and artifact == other:
                continue
            common = [prompt for prompt in before if prompt in after]
            dropped = Counter(after[prompt] for prompt in common if after[prompt] and not before[prompt])
            kept = Counter(before[prompt] for prompt in common if before[prompt] and not after[prompt])
            yield Selection(node, arm.label, len(common), dropped, kept)


def _reasons(run: Run) -> Reasons:
    found: Reasons = {}
    for node in (node for node in run.nodes if node.stage != PARITY):
        rows = node.rows("responses.jsonl")
        reasons = {
            str(row.get("prompt_id")): "" if row.get("kept", True) else str(row.get("reason") or "no reason given")
            for row in rows
        }
        if reasons:
            found[node.name] = (node.artifact, reasons)
    return found


def sheet(found: list[Selection], *, shown_only: bool = False) -> Sheet | None:
    """The stages and arms in which a row is kept by one side only (`shown_only`: those with p below 0.05); None for none."""
    chosen = [one for one in found if (one.is_shown if shown_only else one.dropped or one.kept)]
    rows = tuple(
        (one.node, one.arm, f"{one.prompts:,}", _told(one.dropped), _told(one.kept), p_text(one.adjusted))
        for one in chosen
    )
    return Sheet(TITLE, ABOUT, HEAD, rows) if rows else None


def _told(reasons: Counter[str]) -> str:
    parts = ", ".join(f"{reason} {count:,}" for reason, count in reasons.most_common())
    return f"{reasons.total():,} ({parts})" if parts else "0"
