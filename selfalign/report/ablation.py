"""Runs of a sweep in; what each arm does beside the control out, item by item: effects, intervals, p-values.

Arms are paired with the control by seed and item: the same seed asks the same prompts, and every model answers the same
evaluation items. What cannot be compared is said, with its reason, and is no number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from selfalign import statistics as stats
from selfalign.errors import DataError, did_you_mean
from selfalign.evaluation.protocols import EXAMS
from selfalign.evaluation.scores import GENERATE, ORACLE, Key
from selfalign.records import Score
from selfalign.report import scores
from selfalign.report.arms import Arm, arms, leading_subject
from selfalign.report.model import Run

ALPHA = 0.05
"""Level of the tests; intervals have confidence 1 - ALPHA."""
REACH = 1.0
"""Largest difference that an item of an exam can have."""
POWER = 0.8
"""Power of the minimum detectable effect."""
LENGTH_METRIC = "mean_words"
"""The metric of generated answers that is compared."""


@dataclass(frozen=True)
class Contrast:
    """One arm beside the control, on one metric of one model."""

    arm: str
    items: int
    left_out: int
    """Items that were not compared, because not every seed of both has them."""
    seeds: int
    seeds_left_out: int
    """Runs of either side without one of the same seed on the other."""
    control: float
    value: float
    difference: stats.Estimate
    """Arm minus control, with its interval over items."""
    stderr: float
    """Of the difference, over items; NaN for a single item."""
    discordance: float
    """Mean square of the items' differences: for one seed of 0/1 outcomes, the share of items that differ."""
    by_seed: tuple[float, ...]
    """The difference in each seed."""
    test: stats.PValue
    """Over items, for the seeds that were run."""
    adjusted: float
    """p after Holm over the arms of the metric."""
    test_of_seeds: stats.PValue | None
    """Over items and seeds; None for a single seed."""
    adjusted_of_seeds: float | None
    detectable: float
    """Minimum detectable effect at power POWER and level ALPHA / arms of the metric; 0 where no item differs."""
    flips: stats.Flips | None
    """Items gained, lost and kept; None where an outcome is not right or wrong."""
    by_item: NDArray[np.float64] = field(compare=False, repr=False)
    """(items,): the differences, each the mean over seeds."""


@dataclass(frozen=True)
class Refusal:
    """A comparison that was not made."""

    arm: str
    reason: str


@dataclass(frozen=True)
class Family:
    """One metric of one model over all arms: what Holm corrects over."""

    task: str
    protocol: str
    metric: str
    subject: str
    contrasts: tuple[Contrast, ...]
    refusals: tuple[Refusal, ...]

    @property
    def key(self) -> Key:
        """Task, protocol and metric."""
        return self.task, self.protocol, self.metric

    @property
    def name(self) -> str:
        """`calf_truth · mc1 · accuracy`."""
        return " · ".join(self.key)


@dataclass(frozen=True)
class Comparison:
    """The arms of some runs beside their control."""

    control: Arm
    arms: tuple[Arm, ...]
    """The others, in the order of the principles that they leave out, then of the runs."""
    families: tuple[Family, ...]
    notes: tuple[str, ...]
    """Runs that are in no arm, and why."""
    first_read: str
    """The model to read first (`arms.leading_subject`); empty for the last of each metric."""

    @property
    def leading(self) -> tuple[Family, ...]:
        """Of each metric the family to read first: of the model `first_read`, else of the last that was compared."""
        found: dict[str, Family] = {}
        for one in (one for one in self.families if one.contrasts):
            if one.name not in found or found[one.name].subject != self.first_read:
                found[one.name] = one
        return tuple(found.values())


def compare(runs: Sequence[Run], control: str = "") -> Comparison | None:
    """Every arm of some runs beside the control; None where the runs have fewer than two arms.

    `control` is as in `arms.arms`. Raises DataError for a run id that is none of these runs'.
    """
    known = [run.run_id for run in runs]
    if control and control not in known:
        raise DataError(
            f"expected one of the compared runs as the control, found '{control}'{did_you_mean(control, known)} (allowed: "
            f"{', '.join(known)}); give one of these"
        )
    found, notes = arms(runs, control)
    if len(found) < 2:
        return None
    first, *others = found
    families = [
        family(key, subject, [_against(first, arm, key, subject) for arm in others])
        for key, subject in compared_keys(found)
    ]
    return Comparison(first, tuple(others), tuple(families), tuple(notes), leading_subject(found))


def compared_keys(found_arms: Sequence[Arm]) -> list[tuple[Key, str]]:
    """The metrics and models to compare, in the order of the control's scores; of a task's scores by category none."""
    found = dict.fromkeys(
        ((score.task, score.protocol, score.metric), score.subject)
        for arm in found_arms
        for run in arm.runs.values()
        for score in run.scores
        if _is_compared(score.protocol, score.metric)
    )
    metrics = list(dict.fromkeys(key for key, _ in found))
    order = [*scores.SUBJECTS, *(subject for _, subject in found)]
    return sorted(found, key=lambda one: (metrics.index(one[0]), order.index(one[1])))


def _is_compared(protocol: str, metric: str) -> bool:
    """Whether a metric is compared: the one of each exam over all its items, each principle's adherence, and the length of
    generated answers."""
    if protocol == ORACLE:
        return True
    return metric == (EXAMS[protocol].metric if protocol in EXAMS else LENGTH_METRIC)


# --------------------------------------------------------------------------------------------------------- contrasts


def _against(control: Arm, arm: Arm, key: Key, subject: str) -> Contrast | Refusal:
    """One arm beside the control on one metric of one model, not adjusted yet."""
    seeds = [seed for seed in control.runs if seed in arm.runs]
    if not seeds:
        return Refusal(arm.label, "it has no seed in common with the control")
    sides = [(control.runs[seed], arm.runs[seed]) for seed in seeds]
    results = {tuple(_artifact(run, subject) for run in pair) for pair in sides}
    if all(left and left == right for left, right in results):
        return Refusal(arm.label, "the same result as the control's: its settings do not reach this model")
    found = side_by_side(
        arm.label,
        [(values(left, key, subject), values(right, key, subject)) for left, right in sides],
        is_exam=key[1] != GENERATE,
    )
    alone = len(control.runs) + len(arm.runs) - 2 * len(seeds)
    return replace(found, seeds_left_out=alone) if isinstance(found, Contrast) else found


def _artifact(run: Run, subject: str) -> str:
    node = run.evaluation(subject)
    return node.artifact if node else ""


def values(run: Run, key: Key, subject: str) -> Mapping[str, float] | str:
    """Item id -> value of a score; or why it cannot be compared."""
    named = {(score.task, score.protocol, score.metric, score.subject): score for score in run.scores}
    score: Score | None = named.get((*key, subject))
    if score is None:
        return f"{run.run_id} has no such score of {subject}"
    if not scores.is_number(score):
        return f"{run.run_id}, {subject}: {scores.invalid(score)}"
    node = run.evaluation(subject)
    found = node.values.get(key, {}) if node else {}
    if not found:
        return f"the items of {run.run_id}, {subject}, are not stored"
    if len(found) != score.n:
        return f"{run.run_id}, {subject}: {score.n:,} items were scored, {len(found):,} are stored"
    return found


def side_by_side(
    label: str, sides: Sequence[tuple[Mapping[str, float] | str, Mapping[str, float] | str]], *, is_exam: bool
) -> Contrast | Refusal:
    """The comparison of two sides, one pair of outcomes (or reasons why there are none) a seed."""
    reasons = dict.fromkeys(side for pair in sides for side in pair if isinstance(side, str))
    if reasons:
        return Refusal(label, "; ".join(reasons))
    left, right = ([side for side in column if not isinstance(side, str)] for column in zip(*sides, strict=True))
    if not set.intersection(*(set(side) for side in (*left, *right))):
        return Refusal(label, "no item was scored in all of its runs and the control's")
    pairs = stats.align(left, right, common=True)
    return contrast(label, pairs, is_exam=is_exam)


def contrast(label: str, pairs: stats.Pairs, *, is_exam: bool) -> Contrast:
    """The statistics of two aligned sides: exact McNemar for one seed of 0/1 outcomes, else sign flips of item means."""
    found = stats.units(pairs.differences)
    seeds, discordance = pairs.control.shape[0], float((found**2).mean())
    is_plain = seeds == 1 and pairs.is_binary
    test = stats.mcnemar(pairs.control[0], pairs.arm[0]) if is_plain else stats.sign_flips(found)
    of_seeds = stats.min_f(pairs.differences)[1] if min(pairs.differences.shape) > 1 else None
    return Contrast(
        arm=label,
        items=found.size,
        left_out=pairs.left_out,
        seeds=seeds,
        seeds_left_out=0,
        control=float(pairs.control.mean()),
        value=float(pairs.arm.mean()),
        difference=stats.bootstrap(found, reach=REACH if is_exam else 0.0, confidence=1 - ALPHA),
        stderr=float(found.std(ddof=1)) / math.sqrt(found.size) if found.size > 1 else math.nan,
        discordance=discordance,
        by_seed=tuple(map(float, stats.units(pairs.differences, stats.Cluster.seed))),
        test=test,
        adjusted=test.p,
        test_of_seeds=of_seeds,
        adjusted_of_seeds=of_seeds.p if of_seeds else None,
        detectable=stats.minimum_detectable_effect(discordance, found.size, alpha=ALPHA, power=POWER),
        flips=stats.flips(pairs) if is_exam else None,
        by_item=found,
    )


def family(key: Key, subject: str, found: Sequence[Contrast | Refusal]) -> Family:
    """The comparisons of one metric, their p-values corrected over them."""
    contrasts = [one for one in found if isinstance(one, Contrast)]
    return Family(*key, subject, _adjusted(contrasts), tuple(one for one in found if isinstance(one, Refusal)))


def _adjusted(contrasts: Sequence[Contrast]) -> tuple[Contrast, ...]:
    """Contrasts of one family with their p-values adjusted by Holm, and what can be found after the correction."""
    adjusted = stats.holm([one.test.p for one in contrasts])
    of_seeds = iter(stats.holm([one.test_of_seeds.p for one in contrasts if one.test_of_seeds]))
    level = ALPHA / max(1, len(contrasts))
    return tuple(
        replace(
            one,
            adjusted=float(p),
            adjusted_of_seeds=float(next(of_seeds)) if one.test_of_seeds else None,
            detectable=stats.minimum_detectable_effect(one.discordance, one.items, alpha=level, power=POWER),
        )
        for one, p in zip(contrasts, adjusted, strict=True)
    )
