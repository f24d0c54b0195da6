"""`judge --rubric`: the answers of a run's model held against principles, one by one, by a judge."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from selfalign import jsonl
from selfalign.artifacts import MANIFEST, Store
from selfalign.commands.arguments import composed, read_manifest
from selfalign.commands.tracked import track
from selfalign.errors import ConfigError, SelfAlignError
from selfalign.evaluation.catalogue import catalogue

EVERY = "all"
"""The value of --rubric that stands for all principles of the run's set."""


def assess(given: argparse.Namespace, folder: Path, subject: str, answers: Path, task: str) -> int:
    """Have a judge assess the answers, note the result in the run's manifest, write its report anew, and print the table."""
    from selfalign import experiment, pipeline, prompts, tracking
    from selfalign import report as reports
    from selfalign.engines.base import Sampling
    from selfalign.report import load_run
    from selfalign.report.adherence import sheet, summary, tables
    from selfalign.report.terminal import sheet_text
    from selfalign.stages.assess import VERDICTS, Assess

    run = load_run(folder)
    chosen = run.config.get("principles") or {}
    # What the run dropped is judged too: it is what an ablation asks about.
    whole = [*(chosen.get("ids") or []), *(chosen.get("add") or [])]
    settings = composed(given.overrides)
    stage = Assess(
        answers=str(answers),
        task=_reported(task, run.config),
        principles=whole if given.rubric == EVERY else [name for name in given.rubric.split(",") if name],
        folder=str(chosen.get("folder") or ""),
        assistant=prompts.Assistant(**run.config.get("assistant", {})),
        prompt=given.prompt,
        sampling=Sampling(
            max_new_tokens=given.max_new_tokens or Assess().sampling.max_new_tokens,
            temperature=Assess().sampling.temperature if given.temperature is None else given.temperature,
        ),
        seed=given.seed,
    )
    context = experiment.context(settings)
    wrong = [f"engine: {problem}" for problem in settings.engine.problems()] + stage.problems(context)
    wrong += [f"tracking: {problem}" for problem in tracking.problems(settings.tracking)]
    if not wrong and (unfit := stage.unfit(context)):
        wrong.append(f"rubric: {unfit}")
    if wrong:
        raise ConfigError(wrong)
    print(f"{len(stage.rows())} answers, {len(stage.principles)} principles", file=sys.stderr)
    node = f"rubric_{subject}"
    # Beside the answers that it is about: the store of the run.
    result = pipeline.run({node: stage}, Store(answers.resolve().parent.parent), context)[node]
    if result.status == "failed":
        raise SelfAlignError(f"{node}: {result.why}")
    manifest = read_manifest(folder)
    manifest["nodes"][node] = asdict(result)
    jsonl.write_json(folder / MANIFEST, manifest)
    reports.write([folder], folder / "report.html")
    path = Path(result.path) / VERDICTS
    rows = jsonl.read(path)
    track(folder, node, result, stage, settings, summary(rows), tables(rows, f"{result.artifact}/{VERDICTS}"))
    print(sheet_text(sheet(f"{node} of {run.run_id}", rows)))
    cost(result.metrics["prompt_tokens"], result.metrics["new_tokens"], given.price)
    print(f"verdicts: {path}", file=sys.stderr)
    return 0


def _reported(task: str, config: Mapping[str, Any]) -> str:
    """What a task is called in this run's items."""
    data = str((config.get("evaluation") or {}).get("data") or "")
    return catalogue()[task].reported(data)


def cost(read: int, written: int, price: list[float] | None) -> None:
    """Print what tokens cost at a price for a million read and written; nothing without a price."""
    if price:
        total = (read * price[0] + written * price[1]) / 1e6
        print(f"cost: {total:.2f} at {price[0]:g} and {price[1]:g} for a million tokens read and written")
