"""What both ways of judging have in common: a stage that asks a judge about a run's answers, run, noted and tracked."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfalign import jsonl
from selfalign.artifacts import MANIFEST, Store
from selfalign.commands.arguments import read_manifest
from selfalign.engines.base import Sampling
from selfalign.errors import ConfigError, SelfAlignError

if TYPE_CHECKING:
    from selfalign.experiment import Experiment
    from selfalign.pipeline import NodeResult
    from selfalign.report.drawings import DataTable


def sampling(given: argparse.Namespace, default: Sampling) -> Sampling:
    """How judgements are drawn: what the command line says, else a stage's own."""
    return Sampling(
        max_new_tokens=given.max_new_tokens or default.max_new_tokens,
        temperature=default.temperature if given.temperature is None else given.temperature,
    )


def check(stage: Any, settings: Experiment, what: str) -> None:
    """Raise ConfigError with everything that is wrong with a judge and what it is asked (`what`, in messages)."""
    from selfalign import experiment, tracking

    context = experiment.context(settings)
    wrong = [f"engine: {problem}" for problem in settings.engine.problems()] + stage.problems(context)
    wrong += [f"tracking: {problem}" for problem in tracking.problems(settings.tracking)]
    if not wrong and (unfit := stage.unfit(context)):
        wrong.append(f"{what}: {unfit}")
    if wrong:
        raise ConfigError(wrong)


def ask(folder: Path, node: str, stage: Any, settings: Experiment, answers: Path) -> NodeResult:
    """Run the stage in the store of the answers (an artifact's file), note it in the run's manifest, write its report anew.

    Raises SelfAlignError where the stage fails.
    """
    from selfalign import experiment, pipeline, report

    store = Store(answers.resolve().parent.parent)
    result = pipeline.run({node: stage}, store, experiment.context(settings))[node]
    if result.status == "failed":
        raise SelfAlignError(f"{node}: {result.why}")
    manifest = read_manifest(folder)
    manifest["nodes"][node] = asdict(result)
    jsonl.write_json(folder / MANIFEST, manifest)
    report.write([folder], folder / "report.html")
    return result


def cost(read: int, written: int, price: list[float] | None) -> None:
    """Print what tokens cost at a price for a million read and written; nothing without a price."""
    if price:
        total = (read * price[0] + written * price[1]) / 1e6
        print(f"cost: {total:.2f} at {price[0]:g} and {price[1]:g} for a million tokens read and written")


def track(
    folder: Path,
    node: str,
    result: NodeResult,
    stage: Any,
    settings: Experiment,
    summary: Mapping[str, float | int | str],
    tables: Sequence[DataTable],
) -> None:
    """Log what came of a judge's node, once, as a W&B run of its own in the group of the run: an offline run that has ended cannot
    be gone on with."""
    from selfalign import tracking
    from selfalign.identity import plain

    manifest = read_manifest(folder)
    run_id = f"{manifest['run_id']}-{result.artifact}"
    if tracking.is_logged(folder, run_id):
        return
    tracker = tracking.open_tracker(
        settings.tracking,
        folder=folder,
        run_id=run_id,
        name=f"{manifest['run_id']} {node}",
        group=manifest["group"],
        job_type="judge",
        config={
            "run_id": manifest["run_id"],
            "judge": plain(stage, keep_transient=True),
            "engine": plain(settings.engine, keep_transient=True),
        },
    )
    code = 1
    try:
        tracker.summary(summary)
        for table in tables:
            tracker.table(table.name, table.columns, table.rows)
        tracker.artifact(node, "evaluation", Path(result.path), {"artifact": result.artifact, "counts": result.counts})
        code = 0
    finally:
        tracker.finish(code)
