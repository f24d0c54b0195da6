"""`judge --rubric`: the answers of a run's model held against principles, one by one, by a judge."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfalign import jsonl
from selfalign.commands import asking
from selfalign.commands.arguments import composed
from selfalign.evaluation.catalogue import catalogue

EVERY = "all"
"""The value of --rubric that stands for all principles of the run's set."""


def assess(given: argparse.Namespace, folder: Path, subject: str, answers: Path, task: str) -> int:
    """Have a judge assess the answers, note the result in the run's manifest, write its report anew, and print the table."""
    from selfalign import prompts
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
        sampling=asking.sampling(given, Assess().sampling),
        seed=given.seed,
    )
    asking.check(stage, settings, "rubric")
    print(f"{len(stage.rows())} answers, {len(stage.principles)} principles", file=sys.stderr)
    node = f"rubric_{subject}"
    result = asking.ask(folder, node, stage, settings, answers)
    path = Path(result.path) / VERDICTS
    rows = jsonl.read(path)
    asking.track(folder, node, result, stage, settings, summary(rows), tables(rows, f"{result.artifact}/{VERDICTS}"))
    print(sheet_text(sheet(f"{node} of {run.run_id}", rows)))
    asking.cost(result.metrics["prompt_tokens"], result.metrics["new_tokens"], given.price)
    print(f"verdicts: {path}", file=sys.stderr)
    return 0


def _reported(task: str, config: Mapping[str, Any]) -> str:
    """What a task is called in this run's items."""
    data = str((config.get("evaluation") or {}).get("data") or "")
    return catalogue()[task].reported(data)
