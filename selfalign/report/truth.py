"""Known truth: a leave-one-out sweep on Calf in; what was planted, what the analysis found, and what it would find by chance out.

Everything is plain JSON, and everything the page (`truth_page`) says is computed from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfalign import statistics as stats
from selfalign.calf import oracle
from selfalign.calf.world import governing
from selfalign.errors import DataError
from selfalign.evaluation.scores import ADHERENCE, EVERY, ORACLE
from selfalign.report.ablation import ALPHA, Comparison, Contrast, Family, compare
from selfalign.report.arms import Arm, dropped
from selfalign.report.matrix import Matrix, column, matrices
from selfalign.report.methods import software
from selfalign.report.model import MANIFEST, Run

Numbers = Mapping[str, Any]
JUDGED = "engraved"
"""The model in which effects are planted: trained on the answers of the rules in force, and asked without any in sight."""
REPEATS = 200
"""Simulated sweeps, and simulated arms of each size of effect."""
LOST = (2, 4, 6, 8, 10, 12, 16, 20, 24, 32)
"""Items that a simulated arm loses."""
OBSERVED, EVEN = "as observed", "of every difficulty"
DIFFICULTIES = (OBSERVED, EVEN)
"""How often a simulated model gets an item right: as often as the real ones did, or drawn evenly from 0..1."""
POWER_METRICS = ((ADHERENCE, ORACLE, EVERY), ("calf_truth", "mc1", "accuracy"))
"""Metrics whose items the simulated arms are drawn from."""


def numbers(runs: Sequence[Run], *, command: str, cloned: Sequence[Sequence[Run]] = ()) -> dict[str, Any]:
    """What a leave-one-out sweep on Calf shows of effects that are known; `cloned` are further such sweeps, with verbose cloning.

    Raises DataError where the runs are no such sweep: not of Calf, of a single arm, with arms that leave out more than one rule,
    or, for the further ones, without a cloned model.
    """
    comparison, rules = _compared(runs)
    planted = _planted()
    found = {one.subject: one for one in matrices(comparison)}
    if JUDGED not in found:
        raise DataError(
            f"expected scores of the {JUDGED} model, found those of {', '.join(found) or 'none'}; run stage 3"
        )
    inert = [arm for arm in comparison.arms if rules[arm.label] not in planted]
    return {
        "command": command,
        "planted": [rule for rule in rules.values() if rule in planted],
        "inert": [rules[arm.label] for arm in inert],
        "seeds": len(comparison.control.runs),
        "models": {name: _model(found[name], rules) for name in (JUDGED, "prompted") if name in found},
        "answers": _answers_without(comparison, rules, "responses"),
        "cloned": [_cloned(one) for one in cloned],
        "simulated": _simulated(comparison, found[JUDGED], [comparison.control, *inert]),
        "stages": _stages(runs),
        "versions": _versions(runs),
        "rows": _rows(comparison),
    }


def _planted() -> set[str]:
    return {principle for governed in governing().values() for principle in governed}


def _compared(runs: Sequence[Run]) -> tuple[Comparison, dict[str, str]]:
    """The comparison of a leave-one-out sweep on Calf, and the rule that each of its arms leaves out."""
    comparison = compare(runs) if all(run.uses_calf for run in runs) else None
    if comparison is None or any(len(_dropped(arm)) != 1 for arm in comparison.arms):
        raise DataError(
            "expected the runs of a leave-one-out sweep on Calf, found others; give the folder of `selfalign run "
            "experiments=[quickstart,known_truth] sweeps=leave_one_out seed=0,1,2`"
        )
    return comparison, {arm.label: _dropped(arm)[0] for arm in comparison.arms}


def _dropped(arm: Arm) -> list[str]:
    return dropped(next(iter(arm.runs.values())).config)


def _model(matrix: Matrix, rules: Mapping[str, str]) -> dict[str, Any]:
    """Every comparison of one model, by the rule that is left out and the metric."""
    cells: dict[str, dict[str, Any]] = {rule: {} for rule in rules.values()}
    for family in matrix.families:
        for one in family.contrasts:
            cell = _cell(one) | {"p_table": matrix.adjusted[one.arm, family.name]}
            cells[rules[one.arm]][_metric(family)] = cell
    metrics = {_metric(one): column(one.key) for one in matrix.families}
    return {"tests": len(matrix.adjusted), "metrics": metrics, "cells": cells}


def _metric(family: Family) -> str:
    """The name of a metric: the principle of an adherence, else task, protocol and metric."""
    return family.metric if family.protocol == ORACLE else family.name


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
    """Whether a planted effect is found: lower, after the correction over the arms of the metric."""
    return cell["difference"] < 0 and cell["p_holm"] < ALPHA


def others(found: Numbers, model: str, p: str = "p_table") -> list[tuple[str, str, Mapping[str, Any]]]:
    """(rule left out, metric, cell) of the differences that a correction leaves, other than planted rules' own behaviour and
    what all behaviours come to: `p_table` over all comparisons, `p_holm` over the arms of each metric."""
    return [
        (rule, metric, cell)
        for rule, cells in found["models"][model]["cells"].items()
        for metric, cell in cells.items()
        if cell[p] < ALPHA and (rule in found["inert"] or metric not in (rule, EVERY))
    ]


# -------------------------------------------------------------------------------------------------------- simulation


def _simulated(comparison: Comparison, matrix: Matrix, idle: Sequence[Arm]) -> dict[str, Any]:
    """Null sweeps and power: with items as hard as the control and the arms without an effect found them, and with items of every
    difficulty, where a run's luck decides most."""
    runs = [run for arm in idle for run in arm.runs.values()]
    arms, seeds, level = len(comparison.arms), len(comparison.control.runs), ALPHA / len(comparison.arms)
    random = np.random.default_rng(0)
    keys = [one.key for one in matrix.families]
    metrics = [_item_rates(runs, key, matrix.subject) for key in keys]
    null, curves = {}, {}
    for name in DIFFICULTIES:
        rates = metrics if name == OBSERVED else [random.random(one.size) for one in metrics]
        null[name] = asdict(stats.null_sweeps(rates, arms=arms, seeds=seeds, repeats=REPEATS))
        for key in (one for one in POWER_METRICS if one in keys):
            items = _item_rates(runs, key, matrix.subject)
            items = items if name == OBSERVED else random.random(items.size)
            lost = [count for count in LOST if count <= (items > 0.5).sum()]
            points = stats.power_curve(items, lost, level=level, seeds=seeds, repeats=REPEATS)
            curves.setdefault(name, {})[" · ".join(key)] = {
                "items": int(items.size),
                "points": [asdict(one) for one in points],
            }
    return {"model": matrix.subject, "runs": len(runs), "arms": arms, "null": null, "level": level, "power": curves}


def _item_rates(runs: Sequence[Run], key: tuple[str, str, str], subject: str) -> NDArray[np.float64]:
    """(items,): how often each item was right."""
    values = [node.values[key] for run in runs if (node := run.evaluation(subject)) and key in node.values]
    return np.array([[one[item] for item in values[0]] for one in values]).mean(axis=0)


# ----------------------------------------------------------------------------------------------------------- cloning


def _cloned(runs: Sequence[Run]) -> dict[str, Any]:
    """What a sweep with verbose cloning shows of each rule's own behaviour, before and behind the filter on long answers."""
    comparison, rules = _compared(runs)
    matrix = next((one for one in matrices(comparison) if one.subject == "cloned"), None)
    if matrix is None:
        raise DataError("expected a sweep with verbose cloning, found none; give one that ran with stages=full")
    first = next(iter(comparison.control.runs.values()))
    model, planted = _model(matrix, rules), _planted()
    return {
        "min_characters": first.config["verbose_clone"]["min_characters"],
        "seeds": len(comparison.control.runs),
        "trained_on": [
            node.kept for run in comparison.control.runs.values() for node in run.nodes if node.name == "cloned"
        ],
        "own": {rule: model["cells"][rule][rule] for rule in rules.values() if rule in planted},
        "long_answers": _answers_without(comparison, rules, "verbose_responses"),
    }


def _answers_without(comparison: Comparison, rules: Mapping[str, str], name: str) -> dict[str, dict[str, int]]:
    """Planted rule -> the answers of a node in the arm without it."""
    return {
        rules[arm.label]: _answers(arm, rules[arm.label], name)
        for arm in comparison.arms
        if rules[arm.label] in _planted()
    }


def _answers(arm: Arm, rule: str, name: str) -> dict[str, int]:
    """Answers of a node to questions that a rule governs, in an arm without it: kept and dropped, and how many of each show it
    all the same."""
    found: dict[str, int] = {key: 0 for key in ("kept", "kept_shown", "dropped", "dropped_shown")}
    for run in arm.runs.values():
        for row in (row for node in run.nodes if node.name == name for row in node.rows("responses.jsonl")):
            shown = oracle.marks(row["instruction"], row["text"] or row["raw"]).get(rule)
            if shown is not None:
                key = "kept" if row["kept"] else "dropped"
                found[key] += 1
                found[f"{key}_shown"] += shown
    return found


# ----------------------------------------------------------------------------------------------------- how it was made


def _stages(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Stage -> results of it that the runs share or have, and the seconds that computing them took, each counted once."""
    folders = {node.artifact: node.folder for run in runs for node in run.nodes if node.folder is not None}
    found: dict[str, dict[str, float]] = {}
    for folder in folders.values():
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8")) if (folder / MANIFEST).is_file() else {}
        if "stage" in manifest:
            one = found.setdefault(manifest["stage"], {"results": 0, "seconds": 0.0})
            one["results"] += 1
            one["seconds"] += manifest["seconds"]
    return found


def _versions(runs: Iterable[Run]) -> dict[str, str]:
    """What all runs were made with; where they differ, each value."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, value in software(run):
            if name not in ("overrides", "command", "platform"):
                found.setdefault(name, {})[value] = None
    return {name: " and ".join(values) for name, values in found.items()}


def _rows(comparison: Comparison) -> list[dict[str, Any]]:
    """What the models were trained on, for the control of each seed: the same for all arms of the seed."""
    return [
        {"seed": run.config.get("seed")} | {node.name: {"in": node.rows_in, "kept": node.kept} for node in run.nodes
         if node.name in ("prompts", "responses", "parity", "engraved", "verbose_parity", "cloned")}
        for run in comparison.control.runs.values()
    ]  # fmt: skip
