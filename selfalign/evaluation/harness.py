"""The evaluation itself: a loaded model and settings in, `scores.jsonl` and `items.jsonl` out, run by lm-eval.

lm-eval builds the requests and gives back the responses; log-probabilities are turned into numbers by `protocols`, from
the rows of `items.jsonl` alone. No network, no global random state, no clock: the same model gives the same bytes.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfalign import jsonl
from selfalign.engines.base import Engine
from selfalign.errors import ConfigError
from selfalign.evaluation.catalogue import catalogue, tasks_folder
from selfalign.evaluation.data import item_of
from selfalign.evaluation.lm import EngineLM, Progress
from selfalign.evaluation.protocols import EXAMS, Chat
from selfalign.evaluation.scores import ANSWER_METRICS, Oracle, adherence_rows, scores_of
from selfalign.evaluation.settings import EvaluationSettings, problems
from selfalign.records import Score, to_row

SCORES = "scores.jsonl"
ITEMS = "items.jsonl"


def evaluate(
    engine: Engine,
    settings: EvaluationSettings,
    chat: Chat,
    out: Path,
    *,
    subject: str,
    progress: Progress | None = None,
    oracle: Oracle | None = None,
) -> list[Score]:
    """Score one model on the tasks of the settings; writes `scores.jsonl` and `items.jsonl`, and returns the scores.

    `oracle`, where the questions are of a world that is known, tells which principles the generated answers follow.
    `subject` names the model in the scores. `out` also holds what was computed so far: after a crash, call again with
    the same arguments and the finished part is not computed again. Another model needs another folder.

    Raises ConfigError where `problems` finds any, StageError where a question does not fit the model's context.
    """
    wrong = problems(settings)
    if wrong:
        raise ConfigError(wrong)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[jsonl.Row] = []
    if settings.tasks:
        lm = EngineLM(engine, out, subject=subject, seed=settings.seed, progress=progress)
        with _lm_eval_contained():
            for name in settings.tasks:
                rows += _task_rows(lm, settings, chat, name)
    if oracle is not None:
        rows += adherence_rows(rows, oracle)
    scores = scores_of(subject, rows)
    jsonl.write(out / ITEMS, rows)
    jsonl.write(out / SCORES, [to_row(score) for score in scores])
    return scores


def rescore(out: Path, subject: str) -> list[Score]:
    """The scores of an evaluation computed anew from its `items.jsonl`: what `scores.jsonl` must hold.

    Raises DataError where the file is missing or has a bad line.
    """
    return scores_of(subject, jsonl.iterate(out / ITEMS))


def _task_rows(lm: EngineLM, settings: EvaluationSettings, chat: Chat, name: str) -> list[jsonl.Row]:
    """Run one task and return its rows for `items.jsonl`, protocol by protocol, items in the order of the file."""
    from lm_eval.evaluator import evaluate as run_tasks
    from lm_eval.tasks import TaskManager

    protocols = catalogue()[name].scored(settings.protocols)
    metadata: dict[str, Any] = {
        "data": settings.data,
        "limit": settings.limit,
        "seed": settings.seed,
        "protocols": list(protocols),
    }
    # The defaults are thousands of files that are not ours: reading them takes longer than a small evaluation.
    manager = TaskManager(include_path=str(tasks_folder()), include_defaults=False, metadata=metadata)
    reported = catalogue()[name].reported(settings.data)
    task: Any = manager.load([name])["tasks"][name]
    task.chat = chat
    generates = task.OUTPUT_TYPE == "generate_until"
    if generates:
        task.set_config(
            "generation_kwargs",
            {
                "until": list(chat.stops),
                "max_gen_toks": settings.max_new_tokens,
                "do_sample": settings.temperature > 0,
                "temperature": settings.temperature,
            },
        )
    lm.task = reported
    # One call for each task: what an item's neighbours in a batch are does not depend on the other tasks.
    results: Any = run_tasks(lm=lm, task_dict={"tasks": {name: task}}, bootstrap_iters=0, log_samples=True)  # type: ignore[arg-type]
    samples = results["samples"][name]
    if generates:
        return [_answer(lm, reported, sample) for sample in samples]
    return [_exam(lm, reported, sample, protocol, chat) for protocol in protocols for sample in samples]


def _exam(lm: EngineLM, task: str, sample: dict[str, Any], protocol: str, chat: Chat) -> jsonl.Row:
    exam = EXAMS[protocol]
    cut = [lm.scored(*pair)["truncated_tokens"] for pair in exam.pairs(chat, item_of(sample["doc"]))]
    return {**sample[f"{protocol}_{exam.metric}"], "task": task, "truncated_tokens": max(cut)}


def _answer(lm: EngineLM, task: str, sample: dict[str, Any]) -> jsonl.Row:
    made = lm.generated(*sample["arguments"][0])
    row = sample[next(iter(ANSWER_METRICS))]
    return {**row, "task": task, "finish": made["finish"], "new_tokens": made["new_tokens"]}


@contextmanager
def _lm_eval_contained() -> Iterator[None]:
    """Keep inside what lm-eval does to the process: hints for its own command line, draws from the global generator."""
    logger = logging.getLogger("lm_eval")
    level, state = logger.level, random.getstate()
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        random.setstate(state)
