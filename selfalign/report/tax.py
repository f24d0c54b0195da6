"""The verbose tax: a run's cloned model beside its engraved one, item by item, and for each 100 tokens of longer answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selfalign import statistics as stats
from selfalign.evaluation.scores import GENERATE
from selfalign.report.ablation import ALPHA, Contrast, Family, compared_keys, family, side_by_side, values
from selfalign.report.arms import Arm, arms
from selfalign.report.model import Run


@dataclass(frozen=True)
class Lengths:
    """How long the answers of a model are before and after verbose cloning, over open questions."""

    engraved: float
    """Mean tokens of an answer."""
    cloned: float
    stderr: float
    """Of the difference, over questions."""
    answers: int
    """Questions, the same for both."""
    cut: int
    """Answers, over all seeds and both models, that ended at the limit of tokens: they would have been longer."""

    @property
    def difference(self) -> float:
        """Cloned minus engraved, in tokens."""
        return self.cloned - self.engraved


@dataclass(frozen=True)
class Tax:
    """The verbose tax of some runs."""

    families: tuple[Family, ...]
    """One a metric, with one contrast or refusal an arm: cloned minus engraved."""
    lengths: Mapping[str, Lengths]
    """Arm -> length of its answers, where that is known."""

    def per_100(self, one: Contrast) -> stats.Estimate | None:
        """Difference of a score for each 100 tokens that answers became longer, with its interval; None where lengths are
        not known or not clearly different. The two are of different questions, and so independent."""
        found = self.lengths.get(one.arm)
        if found is None or not (math.isfinite(one.stderr) and math.isfinite(found.stderr)):
            return None
        hundreds, error = found.difference / 100, found.stderr / 100
        return stats.ratio(one.difference.value, one.stderr, hundreds, error, confidence=1 - ALPHA)


def tax_arms(runs: Sequence[Run]) -> list[Arm]:
    """The arms whose runs are compared with themselves; a single one has nothing to be told apart from."""
    found, _ = arms(runs)
    return [Arm("all runs", found[0].runs)] if len(found) == 1 else found


def verbose_tax(runs: Sequence[Run]) -> Tax | None:
    """Cloned minus engraved in the same runs, arm by arm; None where no arm has both scored on stored items."""
    found_arms = tax_arms(runs)
    families = []
    for key in dict.fromkeys(key for key, _ in compared_keys(found_arms)):
        found = [
            side_by_side(
                arm.label,
                [(values(run, key, "engraved"), values(run, key, "cloned")) for run in arm.runs.values()],
                is_exam=key[1] != GENERATE,
            )
            for arm in found_arms
        ]
        families.append(family(key, "cloned", found))
    lengths = {arm.label: known for arm in found_arms if (known := _lengths(list(arm.runs.values()))) is not None}
    return Tax(tuple(families), lengths) if any(one.contrasts for one in families) else None


def _lengths(runs: Sequence[Run]) -> Lengths | None:
    engraved, cloned = ([_tokens(run, subject) for run in runs] for subject in ("engraved", "cloned"))
    every = [found for found, _ in (*engraved, *cloned)]
    if not set.intersection(*(set(found) for found in every)):
        return None
    pairs = stats.align([found for found, _ in engraved], [found for found, _ in cloned], common=True)
    found = stats.units(pairs.differences)
    return Lengths(
        float(pairs.control.mean()),
        float(pairs.arm.mean()),
        float(found.std(ddof=1)) / math.sqrt(found.size) if found.size > 1 else math.nan,
        found.size,
        sum(cut for _, cut in (*engraved, *cloned)),
    )


def _tokens(run: Run, subject: str) -> tuple[dict[str, float], int]:
    """Question -> tokens of the answer of a model, and how many answers ended at the limit."""
    node = run.evaluation(subject)
    rows = [row for row in node.rows("items.jsonl") if "new_tokens" in row] if node else []
    tokens = {f"{row['task']}/{row['item']}": float(row["new_tokens"]) for row in rows}
    return tokens, sum(row.get("finish") == "length" for row in rows)
