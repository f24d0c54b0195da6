"""Known truth: a leave-one-out sweep on Calf in; what was planted, what the analysis found, and what it would find by chance out.

Everything is plain JSON, and everything the page (`truth_page`) says is computed from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfalign import statistics as stats
from selfalign.calf.world import governing
from selfalign.errors import DataError
from selfalign.evaluation.scores import ADHERENCE, EVERY, ORACLE
from selfalign.report.ablation import ALPHA, Comparison, Contrast, compare
from selfalign.report.arms import Arm, dropped
from selfalign.report.matrix import Matrix, column, matrices
from selfalign.report.methods import software
from selfalign.report.model import Run

Numbers = Mapping[str, Any]
REPEATS = 200
"""Simulated sweeps, and simulated arms of each size of effect."""
LOST = (2, 4, 6, 8, 10, 12, 16, 20, 24, 32)
"""Items that a simulated arm loses."""
POWER_METRICS = ((ADHERENCE, ORACLE, EVERY), ("calf_truth", "mc1", "accuracy"))
"""Metrics whose items the simulated arms are drawn from."""


def numbers(runs: Sequence[Run], *, command: str) -> dict[str, Any]:
    """What a leave-one-out sweep on Calf shows of effects that are known.

    Raises DataError where the runs are no such sweep: not of Calf, of a single arm, or with arms that leave out more than one
    rule.
    """
    comparison = compare(runs) if all(run.uses_calf for run in runs) else None
    if comparison is None or any(len(_dropped(arm)) != 1 for arm in comparison.arms):
        raise DataError(
            "expected the runs of a leave-one-out sweep on Calf, found others; give the folder of `selfalign run "
            "experiments=[quickstart,known_truth] sweeps=leave_one_out seed=0,1,2`"
        )
    planted = {principle for governed in governing().values() for principle in governed}
    rules = {arm.label: _dropped(arm)[0] for arm in comparison.arms}
    found = matrices(comparison)
    inert = [arm for arm in comparison.arms if rules[arm.label] not in planted]
    return {
        "command": command,
        "planted": [rule for rule in rules.values() if rule in planted],
        "inert": [rules[arm.label] for arm in inert],
        "seeds": len(comparison.control.runs),
        "models": {one.subject: _model(one, rules) for one in found if one.subject != "base"},
        "simulated": _simulated(comparison, found[-1], [comparison.control, *inert]),
        "time": _times(runs),
        "versions": _versions(runs),
        "rows": _rows(comparison),
    }


def _dropped(arm: Arm) -> list[str]:
    return dropped(next(iter(arm.runs.values())).config)


def _model(matrix: Matrix, rules: Mapping[str, str]) -> dict[str, Any]:
    """Every comparison of one model, by the rule that is left out and the metric."""
    cells: dict[str, dict[str, Any]] = {rule: {} for rule in rules.values()}
    for family in matrix.families:
        for one in family.contrasts:
            cell = _cell(one) | {"p_table": matrix.adjusted[one.arm, family.name]}
            cells[rules[one.arm]][_metric(matrix, family.name)] = cell
    metrics = {_metric(matrix, one.name): column(one) for one in matrix.families}
    return {"tests": len(matrix.adjusted), "metrics": metrics, "cells": cells}


def _metric(matrix: Matrix, name: str) -> str:
    """The name of a metric: the principle of an adherence, else task, protocol and metric."""
    family = next(one for one in matrix.families if one.name == name)
    return family.metric if family.protocol == ORACLE else name


def _cell(one: Contrast) -> dict[str, Any]:
    return {
        "items": one.items, "control": one.control, "arm": one.value, "difference": one.difference.value,
        "low": one.difference.low, "high": one.difference.high, "by_seed": list(one.by_seed),
        "p": one.test.p, "p_holm": one.adjusted,
        "p_seeds_holm": one.adjusted_of_seeds, "lost": len(one.flips.lost) if one.flips else None,
        "gained": len(one.flips.gained) if one.flips else None,
    }  # fmt: skip


def own(found: Numbers, model: str, rule: str) -> Mapping[str, Any]:
    """What leaving out a planted rule does to its own behaviour."""
    return found["models"][model]["cells"][rule][rule]


def is_found(cell: Mapping[str, Any]) -> bool:
    """Whether a planted effect is found: lower, after a correction over every comparison of the model."""
    return cell["difference"] < 0 and cell["p_table"] < ALPHA


def others(found: Numbers, model: str) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(rule left out, metric, cell) of the differences that the correction leaves, other than planted rules' own behaviour and
    what all behaviours come to."""
    return [
        (rule, metric, cell)
        for rule, cells in found["models"][model]["cells"].items()
        for metric, cell in cells.items()
        if cell["p_table"] < ALPHA and (rule in found["inert"] or metric not in (rule, EVERY))
    ]


# -------------------------------------------------------------------------------------------------------- simulation


def _simulated(comparison: Comparison, matrix: Matrix, idle: Sequence[Arm]) -> dict[str, Any]:
    """Null sweeps and power, from how often the control and the arms without an effect get each item right."""
    runs = [run for arm in idle for run in arm.runs.values()]
    metrics = [
        (one.task, one.protocol, one.metric)
        for one in matrix.families
        if one.protocol == ORACLE and one.metric != EVERY
    ]
    arms, seeds = len(comparison.arms), len(comparison.control.runs)
    rates = [_item_rates(runs, key, matrix.subject) for key in metrics]
    null = stats.null_sweeps(rates, arms=arms, seeds=seeds, repeats=REPEATS)
    level = ALPHA / arms
    curves = {}
    for key in POWER_METRICS:
        items = _item_rates(runs, key, matrix.subject)
        lost = [count for count in LOST if count <= (items > 0.5).sum()]
        points = stats.power_curve(items, lost, level=level, seeds=seeds, repeats=REPEATS)
        curves[" · ".join(key)] = {
            "items": int(items.size),
            "mean": float(items.mean()),
            "points": [asdict(one) for one in points],
        }
    return {
        "model": matrix.subject,
        "runs": len(runs),
        "arms": arms,
        "null": asdict(null),
        "level": level,
        "power": curves,
    }


def _item_rates(runs: Sequence[Run], key: tuple[str, str, str], subject: str) -> NDArray[np.float64]:
    """(items,): how often each item was right."""
    values = [node.values[key] for run in runs if (node := run.evaluation(subject)) and key in node.values]
    return np.array([[one[item] for item in values[0]] for one in values]).mean(axis=0)


# ----------------------------------------------------------------------------------------------------- how it was made


def _times(runs: Sequence[Run]) -> dict[str, Any]:
    """Jobs, their seconds, and from the first job's begin to the last one's end, seed by seed."""
    by_seed: dict[str, list[Run]] = {}
    for run in runs:
        by_seed.setdefault(str(run.config.get("seed")), []).append(run)
    return {
        seed: {
            "jobs": len(members),
            "job_seconds": sum(run.seconds for run in members),
            "seconds": max(_end(run) for run in members) - min(_begin(run) for run in members),
        }
        for seed, members in sorted(by_seed.items())
    }


def _begin(run: Run) -> float:
    return datetime.fromisoformat(run.created).timestamp()


def _end(run: Run) -> float:
    return _begin(run) + run.seconds


def _versions(runs: Iterable[Run]) -> dict[str, str]:
    """What all runs were made with; where they differ, each value."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, value in software(run):
            if name not in ("overrides", "command"):
                found.setdefault(name, {})[value] = None
    return {name: " and ".join(values) for name, values in found.items()}


def _rows(comparison: Comparison) -> list[dict[str, Any]]:
    """What the models were trained on, for the control of each seed: the same for all arms of the seed."""
    return [
        {"seed": run.config.get("seed")} | {node.name: {"in": node.rows_in, "kept": node.kept} for node in run.nodes
         if node.name in ("prompts", "responses", "parity", "engraved", "verbose_parity", "cloned")}
        for run in comparison.control.runs.values()
    ]  # fmt: skip
