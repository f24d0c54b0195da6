"""`plan`: what runs would do, send and cost, before they do; and what one was reckoned to do, beside what it did."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

from selfalign import arms, budget, cost
from selfalign import experiment as experiments
from selfalign.artifacts import Store
from selfalign.commands import linting
from selfalign.commands.arguments import add_overrides, new_parser, read_manifest
from selfalign.devices import DEVICES
from selfalign.disk import CHARACTERS_PER_TOKEN
from selfalign.engines.base import BY_TOKENIZER
from selfalign.engines.model import ModelSettings
from selfalign.experiment import Experiment
from selfalign.pipeline import Memo, Planned
from selfalign.pipeline import plan as plan_pipeline
from selfalign.records import Prompt
from selfalign.runner import resolve_run, run_folder
from selfalign.stages.base import read_prompts


def plan(arguments: list[str]) -> int:
    """What runs would do and cost: each node, whether its result is there, what it would send, write and train on."""
    parser = new_parser(
        "plan", "What would run, what is there already, and what the rest would cost. Computes nothing."
    )
    add_overrides(parser)
    parser.add_argument("-m", "--multirun", action="store_true", help="expand comma-separated values into many runs")
    parser.add_argument("--pilot", default="", metavar="RUN", help="reckon with what this finished run kept and wrote")
    parser.add_argument(
        "--actual", default="", metavar="RUN", help="instead: what this run was reckoned to do, and what it did"
    )
    parser.add_argument("--runs", default="runs", help="folder of the run folders")
    given = parser.parse_intermixed_args(arguments)
    if given.actual:
        return _print_actual(resolve_run(given.actual, Path(given.runs)))
    from selfalign import groups

    groups.register()
    pilot = cost.measured(resolve_run(given.pilot, Path(given.runs))) if given.pilot else {}
    jobs, multirun = groups.jobs(given.overrides, multirun=given.multirun)
    memo = Memo()
    runs = groups.checked(jobs, allowed=_is_gap, memo=memo)
    missing = list(dict.fromkeys(gap for one in runs for gap in _gaps(one)))
    if missing:
        runs = [_filled(one) for one in runs]
    elif multirun:
        runs = list(arms.at_parity(dict(zip(arms.labels(jobs), runs, strict=True)), memo).values())
    # Another device or price is another reckoning: only what was reckoned with the same counts as shared.
    planned: set[tuple[cost.PlanSettings, str]] = set()
    # Arms send mostly the same texts: each is counted once.
    counted: dict[ModelSettings, _Counted] = {}
    totals: dict[tuple[cost.PlanSettings, float, int], _Reckoned] = defaultdict(_Reckoned)
    over: list[str] = []
    of_all = budget.Spent()
    for job, one in zip(jobs, runs, strict=True):
        print(" ".join(job) or one.name, end="\n" if missing else f": {run_folder(one)}\n")
        count = _tokens if missing else functools.cache(one.engine.count_tokens)
        by = counted.setdefault(one.model, _Counted(count, Memo()))
        of_run = _print_run(one, planned, by, pilot, memo, is_whole=not missing)
        totals[one.plan, cost.parameters_of(one.plan, one.model), cost.BYTES[one.model.dtype]] += of_run
        over += _over("budget", one.budget, of_run.spent(one.plan))
        of_all += of_run.spent(one.plan)
    over += _over("sweep_budget", runs[0].sweep_budget, of_all) if multirun else []
    for line in [] if missing else linting.lines(dict(zip(arms.labels(jobs), runs, strict=True)), memo):
        print(line)
    for (settings, parameters, size), reckoned in totals.items():
        for line in _total(reckoned, settings, parameters, size):
            print(line)
    for line in dict.fromkeys(over):
        print(line)
    for counted in [] if missing else sorted({one.engine.counted() for one in runs} - {BY_TOKENIZER}):
        print(f"prompts are counted in {counted}")
    for gap in missing:
        print(f"not there yet: {gap}")
    return 0


def _gaps(one: Experiment) -> list[str]:
    """The settings that a run needs and a reckoning does not: what they would name is not there yet."""
    found = []
    if not one.model.path and one.plan.parameters:
        found.append(
            f"model.path; prompts are counted at {CHARACTERS_PER_TOKEN} characters a token, neutral lines of "
            "principles.scope=placebo too, and nothing can be reused"
        )
    if not one.evaluation.data and found:
        found.append("evaluation.data; scores are not counted")
    if not one.merge.file and one.plan.prompts and found:
        found.append(f"merge.file; plan.prompts={one.plan.prompts} rows are reckoned with")
    return found


_GAPS = (
    "model: model.path",
    "evaluation: evaluation.data",
    "merge.file",
    "stages: self_align and verbose_clone read prompts",
    # What this machine lacks, the one that will run it may have.
    "trainer.strategy",
    "trainer.devices=",
    "training.optimizer=paged_adamw",
)
"""How the problems begin that a run without a model may have and be reckoned all the same."""


def _is_gap(one: Experiment, problem: str) -> bool:
    return problem.startswith(_GAPS) and bool(_gaps(one))


def _filled(one: Experiment) -> Experiment:
    """The experiment with a name in the place of a file of prompts that is not there."""
    return replace(one, merge=replace(one.merge, file=one.merge.file or "prompts.jsonl")) if one.plan.prompts else one


@dataclass(frozen=True)
class _Counted:
    """How a model's tokens are counted, and what was."""

    count: Callable[[str], int]
    memo: Memo


@dataclass(frozen=True)
class _Reckoned:
    """What is to be computed comes to."""

    seconds: float = 0.0
    """Of one device."""
    tokens: int = 0
    """Read and written by stages that write."""
    bytes: int = 0
    """Left on the disk."""
    checkpoint_bytes: int = 0
    """On the disk until the largest training ends."""

    def __add__(self, other: _Reckoned) -> _Reckoned:
        """Both, one after the other."""
        checkpoints = max(self.checkpoint_bytes, other.checkpoint_bytes)
        return _Reckoned(
            self.seconds + other.seconds, self.tokens + other.tokens, self.bytes + other.bytes, checkpoints
        )

    def spent(self, settings: cost.PlanSettings) -> budget.Spent:
        """In the units of a budget."""
        hours = self.seconds / settings.devices / 3600
        return budget.Spent(hours, self.tokens, hours * settings.devices * settings.price_per_hour)


def _print_run(
    one: Experiment,
    planned: set[tuple[cost.PlanSettings, str]],
    by: _Counted,
    pilot: Mapping[str, cost.Measured],
    memo: Memo,
    *,
    is_whole: bool,
) -> _Reckoned:
    """Print the nodes of a run; returns what those come to that are to be computed."""
    store = Store(Path(one.store))
    nodes, left_out = experiments.pipeline(one), {}
    items: dict[str, Planned] = {}
    if is_whole:
        nodes, left_out = experiments.fitting(one, nodes, memo)
        items = plan_pipeline(nodes, store, experiments.context(one, quiet=True), memo)
    for name, why in left_out.items():
        print(f"  {name:<18} left out   {why}")
    costs = cost.costs(
        nodes, one.plan, by.count, recompute=one.trainer.gradient_checkpointing, pilot=pilot, memo=by.memo,
        given=_given(items, store, by.memo), adapter_parameters=cost.adapter_parameters_of(one.plan, one.model),
    )  # fmt: skip
    total = _Reckoned()
    for name in items or nodes:
        # What another arm of the sweep makes stands, and is reckoned, with that arm.
        if nodes[name].arm:
            continue
        item = items.get(name)
        status = "compute"
        if item is not None:
            key = (one.plan, item.artifact)
            status = "reuse" if item.is_published else "shared" if key in planned else "compute"
            planned.add(key)
        artifact = item.artifact if item else ""
        print(f"  {name:<18} {status:<9}  {artifact}  {_prompt_tokens(nodes[name].stage, by)}".rstrip())
        seconds = costs[name].device_seconds(
            one.plan, cost.parameters_of(one.plan, one.model), cost.BYTES[one.model.dtype]
        )
        if status == "compute":
            tokens = costs[name].read_tokens + costs[name].new_tokens if costs[name].new_tokens else 0
            total += _Reckoned(seconds, tokens, costs[name].bytes, costs[name].checkpoint_bytes)
            if told := _line(costs[name], seconds):
                print(f"  {'':<18} {told}")
    return total


def _given(items: Mapping[str, Planned], store: Store, memo: Memo) -> dict[str, list[Prompt]]:
    """The prompts that are there already, by node."""
    found = {}
    for source in {item.node.inputs.get("prompts", "") for item in items.values()} & items.keys():
        artifact = items[source].artifact
        if items[source].is_published and (there := store.find(artifact)) is not None:
            found[source] = memo("prompts", (artifact,), lambda there=there: read_prompts(there))
    return found


def _print_actual(run: Path) -> int:
    """Print what each node of a run was reckoned to do and did, over all attempts at it."""
    manifest = read_manifest(run)
    seconds: dict[str, float] = defaultdict(float)
    for row in budget.spent(run):
        seconds[row["node"]] += row["seconds"]
    print(
        f"{'':<18} {'kept':>17} {'tokens read':>23} {'tokens written':>21} {'seconds':>17} {'disk':>21}   (reckoned / actual)"
    )
    for name, reckoned in manifest.get("reckoned", {}).items():
        entry = manifest["nodes"].get(name, {"status": "not run", "path": "", "counts": {}})
        read, written = budget.tokens_of(Path(entry["path"])) if entry["path"] else (0, 0)
        took = f"{seconds[name]:,.1f}" if name in seconds else entry["status"]
        pairs = [
            (f"{reckoned['kept']:,}", f"{entry['counts'].get('kept', 0):,}", 17),
            (f"{reckoned['read_tokens']:,}", _counted(reckoned["read_tokens"], read), 23),
            (f"{reckoned['new_tokens']:,}", _counted(reckoned["new_tokens"], written), 21),
            ("?" if reckoned["seconds"] is None else f"{reckoned['seconds']:,.1f}", took, 17),
            (_size(reckoned["bytes"]) if "bytes" in reckoned else "?", _size(_bytes_of(entry["path"])), 21),
        ]
        print(f"{name:<18} " + " ".join(f"{f'{before} / {after}':>{width}}" for before, after, width in pairs))
    return 0


def _counted(reckoned: int, done: int) -> str:
    """What a node did, by the engine's own count; scores are not counted when they are asked for."""
    return f"{done:,}" if done or not reckoned else "not counted"


def _bytes_of(path: str) -> int:
    """Bytes of the files of an artifact; 0 where there is none."""
    files = Path(path).rglob("*") if path else ()
    return sum(one.stat().st_size for one in files if one.is_file())


def _tokens(text: str) -> int:
    return -(-len(text) // CHARACTERS_PER_TOKEN)


def _prompt_tokens(stage: Any, by: _Counted) -> str:
    if not hasattr(stage, "preview"):
        return ""
    return by.memo(
        "prompt",
        (stage,),
        lambda: f"prompt of {', '.join(f'{by.count(text):,}' for text in stage.preview('', by.count).values())} tokens",
    )


# ------------------------------------------------------------------------------------------------------------ as text


def _line(one: cost.Cost, seconds: float) -> str:
    """A node's cost in a line; empty where it costs nothing worth saying."""
    parts = []
    if one.requests:
        parts.append(f"{one.requests:,} requests")
    if one.prompt_tokens:
        parts.append(f"{_short(one.prompt_tokens)} tokens read behind {one.shared_tokens:,} shared ones")
    if one.new_tokens:
        parts.append(f"{_short(one.new_tokens)} written")
    if one.trained_tokens:
        parts.append(f"{_short(one.trained_tokens)} tokens trained on, in {one.kept:,} rows")
    if parts:
        parts.append(f"{_time(seconds)} of a device")
        parts.append(f"{_size(one.bytes)} on the disk")
    return ", ".join([*parts, *([one.note] if one.note else [])])


def _over(key: str, bounds: budget.BudgetSettings, reckoned: budget.Spent) -> list[str]:
    """What is reckoned to be more than a budget, in a line."""
    if not (name := budget.passed(bounds, reckoned)):
        return []
    return [
        f"{key}.{name}={getattr(bounds, name):g} would not do: {getattr(reckoned, name):,.3g} are reckoned, and it would stop "
        "before its end; what is done by then is kept"
    ]


def _total(reckoned: _Reckoned, settings: cost.PlanSettings, parameters: float, bytes_per_parameter: int) -> list[str]:
    """Time, money, memory and disk of everything, in lines."""
    device, seconds = DEVICES[settings.device], reckoned.seconds
    weights = parameters * bytes_per_parameter / 2**30
    # What stands beside the weights: keys and values, activations; a fifth of the memory is little.
    least = ceil(weights / (0.8 * device.memory_gib))
    found = [
        f"{_time(seconds)} of one {settings.device} at {settings.utilisation:.0%} of its peak; "
        f"{_time(seconds / settings.devices)} of {settings.devices}",
        f"{_short(parameters)} parameters, {weights:,.1f} GiB: at least {least} of them to hold the weights",
        f"{_size(reckoned.bytes)} on the disk"
        + (f", and {_size(reckoned.checkpoint_bytes)} more while a training runs" if reckoned.checkpoint_bytes else ""),
    ]
    if settings.price_per_hour:
        found.insert(
            1, f"{seconds / 3600 * settings.price_per_hour:,.2f} at {settings.price_per_hour:,.2f} an hour of a device"
        )
    return found


def _short(number: float) -> str:
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if number >= size:
            return f"{number / (1e3 if unit == ' k' else size):,.1f}{unit}"
    return f"{number:,.0f}"


def _size(number: float) -> str:
    for unit in ("KiB", "MiB", "GiB"):
        number /= 1024
        if number < 1024 or unit == "GiB":
            break
    return f"{number:,.1f} {unit}"


def _time(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:,.1f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 3 * 3600 else f"{seconds / 3600:,.1f} h"
