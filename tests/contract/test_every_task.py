"""What every file in `evaluation/tasks/` keeps to: a new YAML file there is covered without a new test."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from selfalign.engines.base import Completion, GenerateRequest, ScoreRequest, ScoreResult
from selfalign.evaluation.catalogue import TaskFile, catalogue, tasks_folder
from selfalign.evaluation.checks import LETTERS
from selfalign.evaluation.data import READERS, Item, load
from selfalign.evaluation.harness import evaluate
from selfalign.evaluation.protocols import EXAMS, Exam, Outcome, Pair, default_chat
from selfalign.evaluation.scores import exam_scores, mean
from selfalign.evaluation.settings import EvaluationSettings, problems

TASKS = catalogue()
AT_BIRTH = 4
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


def is_good(exam: Exam, item: Item, pair: Pair) -> bool:
    """Whether a model that knows the item would continue the context so."""
    context, continuation = pair
    right = [text for text, is_right in zip(*exam.candidates(item), strict=True) if is_right]
    if continuation in (" true", " false"):
        return (continuation == " true") == any(f"Answer: {text}\n" in context for text in right)
    if continuation in (" A", " B"):
        return any(f"{continuation.strip()}) {text}\n" in context for text in right)
    return continuation.strip() in right


def every_protocol(task: TaskFile) -> list[str]:
    return [*task.protocols, *task.further]


def answers(task: TaskFile, folder: Path, *, right: bool) -> dict[Pair, float]:
    """Log-probabilities that make every item right, or wrong, under each protocol of the task."""
    return {
        pair: -0.5 if is_good(EXAMS[name], item, pair) == right else -900.0
        for item in load(task, str(folder))
        for name in every_protocol(task)
        for pair in EXAMS[name].pairs(default_chat(), item)
    }


def many(task: TaskFile, folder: Path, count: int = 40) -> Path:
    """A data folder with that many items like the sample, each with words of its own; the right answer first, as in the files."""
    for name in task.files:
        rows = [json.loads(json.dumps(task.sample).replace("?", f" {number}?").replace('."', f' {number}."'))
                for number in range(count // len(task.files))]  # fmt: skip
        texts = {
            "truthfulqa": lambda rows: json.dumps(rows),
            "hhh": lambda rows: json.dumps({"examples": rows}),
            "questions": lambda rows: "".join(json.dumps(row) + "\n" for row in rows),
        }
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(texts[task.format](rows), encoding="utf-8")
    return folder


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
    assert set(every_protocol(task)) <= set(EXAMS) and not set(task.protocols) & set(task.further)
    assert task.protocols or not task.further
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
    settings = EvaluationSettings(tasks=[name], data=str(folder), protocols=every_protocol(task))
    scores = evaluate(engine, settings, default_chat(), tmp_path / "out", subject="base")
    assert {score.protocol for score in scores} == set(every_protocol(task) or ["generate"])
    for score in scores:
        assert score.valid and score.value is not None and math.isfinite(score.value)
        if score.chance is not None:
            assert score.value == float(right)
    if not task.protocols:
        assert scores[0].value == 4.0


EXAMINED = [(name, protocol) for name, task in TASKS.items() for protocol in every_protocol(task)]


@pytest.fixture(scope="module")
def forty(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Item]]:
    """Forty items of each task."""
    return {name: load(task, str(many(task, tmp_path_factory.mktemp(name)))) for name, task in TASKS.items()}


def outcomes(items: Sequence[Item], protocol: str, logprobs: Callable[[Item, int], list[float]]) -> list[Outcome]:
    """What the protocol makes of each item; `logprobs` is told the item and how many numbers to give."""
    exam = EXAMS[protocol]
    return [exam.outcome(item, logprobs(item, len(exam.pairs(default_chat(), item)))) for item in items]


BROKEN = {
    "NaN": lambda item, count: [math.nan] * count,
    "-inf": lambda item, count: [-math.inf] * count,
    "one -inf": lambda item, count: [-math.inf] + [-1.0] * (count - 1),
    "constant": lambda item, count: [-3.0] * count,
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize(("name", "protocol"), EXAMINED)
def test_a_broken_model_gets_no_number_under_any_protocol(name, protocol, kind, forty):
    found = outcomes(forty[name], protocol, BROKEN[kind])
    assert all(not score.valid and score.value is None for score in exam_scores("base", name, found))


def by_position(protocol: str, at: int, count: int) -> list[float]:
    """A model that likes the candidate at one shown position, 0 or -1, whatever it says; of two letters, that letter."""
    if protocol in LETTERS:
        return [-1.0, -5.0] * 2 if at == 0 else [-5.0, -1.0] * 2
    if protocol in ("true_false", "released_half"):
        liked = 0 if at == 0 else count // 2 - 1
        return [value for i in range(count // 2) for value in ((-1.0, -5.0) if i == liked else (-5.0, -1.0))]
    liked = range(count)[at]
    return [-1.0 if i == liked else -5.0 for i in range(count)]


@pytest.mark.parametrize("at", [0, -1], ids=["first", "last"])
@pytest.mark.parametrize(("name", "protocol"), EXAMINED)
def test_a_model_that_goes_by_position_gets_no_number_or_chance(name, protocol, at, forty):
    found = outcomes(forty[name], protocol, lambda item, count: by_position(protocol, at, count))
    for outcome in found:
        expected = range(len(outcome.shown)) if protocol in LETTERS else [range(len(outcome.shown))[at]]
        assert outcome.best == tuple(expected)
    for score in exam_scores("base", name, found):
        if score.valid:
            assert score.value is not None and score.stderr is not None and score.chance is not None
            assert abs(score.value - score.chance) < 3 * max(score.stderr, 1e-12) or score.value == score.chance


SEEDS = 1000
FAR = 25
"""Of a thousand models of noise, those that may be further from chance than three of their own standard errors: with 40 items these
are known to a tenth only, and about five are expected."""


def off_chance(exam: Exam, items: Sequence[Item], noise: Callable[[random.Random, Item, int], list[float]]) -> str:
    """What is wrong with the scores of a thousand models of noise, in words; empty where they are at chance."""
    counts = [len(exam.pairs(default_chat(), item)) for item in items]
    misses, far = [], 0
    for seed in range(SEEDS):
        draw = random.Random(f"{exam.name}{seed}")
        found = [exam.outcome(item, noise(draw, item, count)) for item, count in zip(items, counts, strict=True)]
        score = exam_scores("base", "t", found)[0]
        if score.value is None or score.stderr is None or score.chance is None:
            return f"model {seed} is refused: {score.reason}"
        misses.append(score.value - score.chance)
        far += abs(misses[-1]) > 3 * score.stderr
    average, stderr = mean(misses)
    assert stderr is not None and len(misses) == SEEDS
    if abs(average) > 3 * stderr:
        return f"on average {average:+.4f} off chance, standard error {stderr:.4f}"
    return f"{far} of {SEEDS} models further off than three standard errors" if far > FAR else ""


def pure_noise(draw: random.Random, item: Item, count: int) -> list[float]:
    return [draw.uniform(-9.0, -0.1) for _ in range(count)]


@pytest.mark.parametrize(("name", "protocol"), EXAMINED)
def test_a_thousand_models_of_noise_score_at_chance_within_three_standard_errors(name, protocol, forty):
    assert off_chance(EXAMS[protocol], forty[name], pure_noise) == ""


@pytest.mark.parametrize(("name", "protocol"), EXAMINED)
def test_noise_that_leans_towards_the_right_answer_is_noticed(name, protocol, forty):
    exam = EXAMS[protocol]

    def leaning(draw: random.Random, item: Item, count: int) -> list[float]:
        values = pure_noise(draw, item, count)
        pairs = exam.pairs(default_chat(), item)
        return [value + 0.3 * is_good(exam, item, pair) for value, pair in zip(values, pairs, strict=True)]

    assert "off chance" in off_chance(exam, forty[name], leaning)


def test_ranking_half_of_the_candidates_against_the_chance_of_all_is_noticed(forty, monkeypatch):
    # What lm-eval's users and the released script's readers would compare.
    monkeypatch.setattr(Outcome, "chance", property(lambda self: 1 / 3))
    assert "off chance" in off_chance(EXAMS["released_half"], forty["truthfulqa_mc"], pure_noise)
