"""Runs of a designed sweep in; main effects, interactions of two, and Shapley values of its factors out.

Which design a sweep has is recognised by which factors its arms leave out: they are the jobs that `designs.drops` makes of
the settings in its `sweep.json`. Outcomes are averaged over the seeds that all arms have, and items are the unit
(`statistics/designs.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from selfalign import designs
from selfalign import statistics as stats
from selfalign.designs import DesignSettings
from selfalign.errors import ConfigError, DataError
from selfalign.evaluation.scores import EVERY, GENERATE, ORACLE, Key
from selfalign.report.ablation import ALPHA, REACH, compared_keys, values
from selfalign.report.arms import GROUPS, Arm, alike_but_for, arms, dropped, leading_subject
from selfalign.report.model import Run, sweep_of

MAIN, PAIR, SHAPLEY = "main effects", "interactions of two", "Shapley values"


@dataclass(frozen=True)
class Line:
    """What one factor, or two together, do."""

    factors: tuple[str, ...]
    estimate: stats.Estimate
    p: float | None = None
    """Two-sided; None for a Shapley value, whose interval speaks of the permutations that were drawn."""
    adjusted: float | None = None
    """p after Holm over the lines of the table."""
    p_of_runs: float | None = None
    """Over items and runs: whether the same settings would show it again, trained anew. None where no run is left over to tell."""
    adjusted_of_runs: float | None = None
    """The same after Holm over the lines of the table."""


@dataclass(frozen=True)
class Analysis:
    """One metric of one model under one way of looking at the factors."""

    kind: str
    """MAIN, PAIR or SHAPLEY."""
    key: Key
    subject: str
    lines: tuple[Line, ...]
    items: int
    seeds: int
    total: float | None = None
    """Of Shapley values: the score with all factors minus the score with none, which they add up to."""

    @property
    def name(self) -> str:
        """`calf_truth · mc1 · accuracy`."""
        return " · ".join(self.key)

    @property
    def is_overall(self) -> bool:
        """False for what single principles of many do: their adherence."""
        _, protocol, metric = self.key
        return protocol != ORACLE or metric == EVERY


@dataclass(frozen=True)
class Designed:
    """A designed sweep and what it shows."""

    design: str
    """A name of `designs.DESIGNS`; empty where the arms are those of none."""
    group: str
    """What is varied: principles or exemplars."""
    factors: tuple[str, ...]
    arms: int
    missing: int
    """Jobs of the design that are not among the runs."""
    aliased: float
    """The largest part of an interaction of two factors that the main effect of a third one holds; 0 where none is mixed."""
    analyses: tuple[Analysis, ...]
    refusals: tuple[str, ...]
    """What was not computed, and why."""
    leading: str
    """The model to read first (`arms.leading_subject`); empty for the last of each metric."""


@dataclass(frozen=True)
class _Layout:
    """Which arm leaves out what."""

    design: str
    settings: DesignSettings
    group: str
    factors: tuple[str, ...]
    by_set: Mapping[frozenset[str], Arm]
    """Factors left out -> arm."""
    missing: int

    @property
    def levels(self) -> np.ndarray:
        """(arms, factors): +1 where the factor is there, -1 where it is not."""
        return np.array([[-1 if factor in gone else 1 for factor in self.factors] for gone in self.by_set])


def designed(runs: Sequence[Run]) -> Designed | None:
    """What the design of a sweep shows beyond each arm beside the control; None where the arms differ in other things, or
    where every effect is a difference of two arms, as in leave_one_out and add_one: those stand among the effects of the arms."""
    layout = _layout(runs)
    if layout is None:
        return None
    found_arms = list(layout.by_set.values())
    analyses, refusals, failed = [], [], []
    for key, subject in compared_keys(found_arms):
        outcomes = _outcomes(found_arms, key, subject)
        where = f"{' · '.join(key)}, {subject}"
        if isinstance(outcomes, str):
            refusals.append(f"{where}: {outcomes}")
            continue
        for kind, compute in (MAIN, _main), (PAIR, _pairs), (SHAPLEY, _shapley):
            try:
                lines, total = compute(layout, outcomes, REACH if key[1] != GENERATE else 0.0)
            except DataError as error:
                failed.append(f"{where}, {kind}: {error}")
                continue
            if lines:
                seeds = len(_seeds(found_arms))
                analyses.append(Analysis(kind, key, subject, _adjusted(lines), outcomes.shape[1], seeds, total))
    if not analyses and not failed:
        return None
    has_main = any(one.kind == MAIN for one in analyses)
    aliased = round(float(np.abs(stats.aliases(layout.levels)).max(initial=0.0)), 9) if has_main else 0.0
    return Designed(layout.design, layout.group, layout.factors, len(found_arms), layout.missing, aliased, tuple(analyses),
                    (*failed, *refusals), leading_subject(found_arms))  # fmt: skip


# ------------------------------------------------------------------------------------------------------------ layout


def _layout(runs: Sequence[Run]) -> _Layout | None:
    found_arms, _ = arms(runs)
    for group in GROUPS:
        sets = [frozenset(dropped(_config(arm), group)) for arm in found_arms]
        ids = [str(name) for name in (_config(found_arms[0]).get(group) or {}).get("ids") or ()] if found_arms else []
        varied = [name for name in ids if any(name in gone for gone in sets)]
        is_plain = len(set(sets)) == len(sets) > 2 and frozenset().union(*sets) == set(varied)
        if not is_plain or not alike_but_for([_config(arm) for arm in found_arms], group):
            continue
        stored = sweep_of(runs).get("design")
        for settings in ([DesignSettings(**stored)] if stored else []) + [DesignSettings(of=varied)]:
            if recognised := _recognised(set(sets), ids, settings):
                name, jobs = recognised
                break
        else:
            settings, name, jobs = DesignSettings(of=varied), "", set(sets)
        factors = tuple(name for name in ids if any(name in gone for gone in jobs))
        return _Layout(name, settings, group, factors, dict(zip(sets, found_arms, strict=True)), len(jobs - set(sets)))
    return None


def _config(arm: Arm) -> Mapping[str, Any]:
    return next(iter(arm.runs.values())).config


def _recognised(
    sets: set[frozenset[str]], ids: Sequence[str], settings: DesignSettings
) -> tuple[str, set[frozenset[str]]] | None:
    """The smallest design that has all of these sets as jobs, and its jobs."""
    found = []
    for name in designs.DESIGNS:
        try:
            jobs = {frozenset(gone) for gone in designs.drops(name, ids, settings)}
        except ConfigError:
            continue
        if sets <= jobs:
            found.append((len(jobs), name, jobs))
    return min(found)[1:] if found else None


def _seeds(found_arms: Sequence[Arm]) -> list[str]:
    first, *others = found_arms
    return [seed for seed in first.runs if all(seed in arm.runs for arm in others)]


def _outcomes(found_arms: Sequence[Arm], key: Key, subject: str) -> np.ndarray | str:
    """(arms, items): means over the seeds that all arms have, of the items that all have; or why there are none."""
    seeds = _seeds(found_arms)
    if not seeds:
        return "the arms have no seed in common"
    nodes = [[arm.runs[seed].evaluation(subject) for seed in seeds] for arm in found_arms]
    names = {tuple(node.artifact if node else "" for node in one) for one in nodes}
    if len(names) == 1 and all(next(iter(names))):
        return "every arm has the same result: the factors do not reach this model"
    found = [[values(arm.runs[seed], key, subject) for seed in seeds] for arm in found_arms]
    if reasons := dict.fromkeys(one for by_seed in found for one in by_seed if isinstance(one, str)):
        return "; ".join(list(reasons)[:3]) + ("; ..." if len(reasons) > 3 else "")
    every = [one for by_seed in found for one in by_seed if not isinstance(one, str)]
    items = [item for item in every[0] if all(item in one for one in every)]
    if not items:
        return "no item was scored in all arms"
    table = np.array([[one[item] for item in items] for one in every]).reshape(len(found_arms), len(seeds), len(items))
    return table.mean(axis=1)


# ---------------------------------------------------------------------------------------------------------- analyses

Found = tuple[list[Line], float | None]


def _main(layout: _Layout, outcomes: np.ndarray, reach: float) -> Found:
    """Main effects of the factors: of designs whose arms leave out several at a time."""
    if layout.design not in ("", "plackett_burman", "random_subsets") or all(len(gone) < 2 for gone in layout.by_set):
        return [], None
    found = stats.effects(layout.levels, outcomes, reach=reach, confidence=1 - ALPHA)
    return [Line((layout.factors[one.factors[0]],), one.effect, one.p, p_of_runs=one.p_of_runs) for one in found], None


def _pairs(layout: _Layout, outcomes: np.ndarray, reach: float) -> Found:
    """What two factors do beyond the sum of each: wherever all, all but each and all but both were run."""
    rows = {gone: outcomes[index] for index, gone in enumerate(layout.by_set)}
    lines = []
    for a, b in combinations(layout.factors, 2):
        four = (frozenset[str](), frozenset({a}), frozenset({b}), frozenset({a, b}))
        if all(gone in rows for gone in four):
            beyond = stats.pair_interaction(*(rows[gone] for gone in four))
            # Each of four outcomes moves it by as much as an outcome can differ.
            interval = stats.bootstrap(beyond, reach=2 * reach, confidence=1 - ALPHA)
            lines.append(Line((a, b), interval, stats.sign_flips(beyond).p))
    return lines, None


def _shapley(layout: _Layout, outcomes: np.ndarray, reach: float) -> Found:
    """Shapley values along the permutations that the design drew."""
    if layout.design != "shapley":
        return [], None
    orders = designs.shapley_orders(list(layout.factors), layout.settings)
    means = {gone: float(outcomes[index].mean()) for index, gone in enumerate(layout.by_set)}
    paths = [[frozenset(order[there:]) for there in range(len(order) + 1)] for order in orders]
    if missing := {gone for path in paths for gone in path if gone not in means}:
        raise DataError(
            f"expected every set of factors on the way from none to all, found {len(missing)} of "
            f"{len({gone for path in paths for gone in path})} missing; finish the sweep: selfalign sweep resume DIR"
        )
    places = [[layout.factors.index(name) for name in order] for order in orders]
    found = stats.shapley(
        places, [[means[gone] for gone in path] for path in paths], antithetic=True, confidence=1 - ALPHA
    )
    return [Line((name,), one) for name, one in zip(layout.factors, found.values, strict=True)], found.total


def _adjusted(lines: Sequence[Line]) -> tuple[Line, ...]:
    over_items, over_both = holm([line.p for line in lines]), holm([line.p_of_runs for line in lines])
    return tuple(
        replace(line, adjusted=one, adjusted_of_runs=other)
        for line, one, other in zip(lines, over_items, over_both, strict=True)
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values after Holm; none of them where one is missing, for a line that has none belongs to a table without tests."""
    found = [p for p in p_values if p is not None]
    return list(map(float, stats.holm(found))) if len(found) == len(p_values) else [None] * len(p_values)
