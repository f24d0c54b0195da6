"""What every file in `evaluation/tasks/` keeps to: a new YAML file there is covered without a new test."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from selfalign.engines.base import Completion, GenerateRequest, ScoreRequest, ScoreResult
from selfalign.evaluation.catalogue import TaskFile, catalogue, tasks_folder
from selfalign.evaluation.data import READERS, load
from selfalign.evaluation.harness import evaluate
from selfalign.evaluation.protocols import EXAMS, Pair, default_chat
from selfalign.evaluation.settings import EvaluationSettings, problems

TASKS = catalogue()
AT_BIRTH = 3
FORMATS: dict[str, Callable[[dict], str]] = {
    "truthfulqa": lambda record: json.dumps([record]),
    "hhh": lambda record: json.dumps({"examples": [record]}),
    "questions": lambda record: json.dumps(record) + "\n",
}


class Scripted:
    """An engine that gives each pair the log-probability it is told, and one answer to every prompt."""

    context_length = 4096
    group_size = 4

    def __init__(self, known: dict[Pair, float]) -> None:
        self.known = known

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[ScoreResult]:
        for request in requests:
            yield ScoreResult(request.id, self.known[request.context, request.continuation], False, 1)

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[Completion]:
        for request in requests:
            yield Completion(request.id, "\nFour words of answer", "stop", 1, 4)

    def count_tokens(self, text: str) -> int:
        return len(text)


def sample_folder(task: TaskFile, folder: Path) -> Path:
    for name in task.files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(FORMATS[task.format](task.sample), encoding="utf-8")
    return folder


def answers(task: TaskFile, folder: Path, *, right: bool) -> dict[Pair, float]:
    """Log-probabilities that make every item right, or wrong, under each protocol of the task."""
    known: dict[Pair, float] = {}
    for item in load(task, str(folder)):
        for name in task.protocols:
            exam = EXAMS[name]
            pairs = exam.pairs(default_chat(), item)
            truths = item.truths if exam.several else [i == item.right for i in range(len(item.choices))]
            if len(pairs) == len(truths):
                good = truths
            else:  # two pairs for each candidate: find those that raise the score of a right one
                good = []
                for index in range(len(pairs)):
                    ranked = exam.rank([float(at == index) for at in range(len(pairs))])
                    good.append(any((score > 0) == truth for score, truth in zip(ranked, truths, strict=True) if score))
            known |= {pair: -0.5 if is_good == right else -900.0 for pair, is_good in zip(pairs, good, strict=True)}
    return known


def test_there_are_at_least_as_many_tasks_as_at_birth():
    assert len(TASKS) >= AT_BIRTH
    assert set(FORMATS) == set(READERS)


def test_lm_eval_finds_exactly_the_tasks_of_the_folder():
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks_folder()), include_defaults=False)
    assert manager.all_subtasks == sorted(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_the_file_says_what_the_task_is(name):
    task = TASKS[name]
    assert task.path.stem == name
    assert isinstance(task.version, int) and task.version >= 1
    assert "arXiv" in task.source or "github" in task.source.lower()
    assert set(task.protocols) <= set(EXAMS)
    assert task.files and len(task.files) == len(task.calf_files)
    assert task.calf_name.startswith("calf_") and task.reported("calf") == task.calf_name
    assert task.path.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("name", TASKS)
def test_the_sample_can_be_read_and_its_identity_computed(name, tmp_path):
    settings = EvaluationSettings(tasks=[name], data=str(sample_folder(TASKS[name], tmp_path)))
    assert problems(settings) == []
    assert str(tmp_path) not in json.dumps(settings.identity())


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("right", [True, False])
def test_a_model_that_is_right_scores_one_and_one_that_is_wrong_zero(name, right, tmp_path):
    task = TASKS[name]
    folder = sample_folder(task, tmp_path / "data")
    engine = Scripted(answers(task, folder, right=right))
    settings = EvaluationSettings(tasks=[name], data=str(folder))
    scores = evaluate(engine, settings, default_chat(), tmp_path / "out", subject="base")
    assert scores
    for score in scores:
        assert score.valid and score.value is not None and math.isfinite(score.value)
        if score.chance is not None:
            assert score.value == float(right)
    if not task.protocols:
        assert scores[0].value == 4.0
