from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from selfalign.engines.base import Completion, GenerateRequest, ScoreRequest, ScoreResult
from selfalign.evaluation.catalogue import catalogue
from selfalign.evaluation.data import Item, load
from selfalign.evaluation.protocols import EXAMS, Chat, default_chat

CATEGORIES = ("harmless", "helpful", "honest", "other")


class StubEngine:
    """An engine of which every answer is known: `logprob` is a function of (context, continuation)."""

    context_length = 4096
    group_size = 8

    def __init__(self, logprob, *, die_after: int | None = None) -> None:
        self.logprob = logprob
        self.die_after = die_after
        self.calls = 0
        self.asked: list[GenerateRequest] = []

    def _count(self) -> None:
        if self.calls == self.die_after:
            raise KeyboardInterrupt
        self.calls += 1

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[ScoreResult]:
        for request in requests:
            self._count()
            value = self.logprob(request.context, request.continuation)
            yield ScoreResult(request.id, value, False, 1, truncated_tokens=len(request.context) % 3)

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[Completion]:
        for request in requests:
            self._count()
            self.asked.append(request)
            yield Completion(request.id, f"\n{len(request.prompt)} letters", "stop", 1, 3)

    def count_tokens(self, text: str) -> int:
        return len(text.split())


def random_logprob(seed: int):
    """Noise: another number for every pair, the same at every call."""
    return lambda context, continuation: random.Random(f"{seed}|{context}|{continuation}").uniform(-9.0, -0.1)


def right_logprob(folder: Path, chat: Chat | None = None):
    """What a model gives that knows every answer of a data folder."""
    chat = chat or default_chat()
    known: dict[tuple[str, str], float] = {}
    for task in catalogue().values():
        for item in load(task, str(folder)):
            for name in task.protocols:
                known |= zip(EXAMS[name].pairs(chat, item), right_logprobs(name, item), strict=True)
    return lambda context, continuation: known[context, continuation]


def task_of(protocol: str) -> str:
    """The task that has a protocol."""
    return next(task.name for task in catalogue().values() if protocol in (*task.protocols, *task.further))


def right_logprobs(protocol: str, item: Item) -> list[float]:
    """Log-probabilities that make an item right, in the order of the protocol's pairs."""
    _, right = EXAMS[protocol].candidates(item)
    if protocol in ("true_false", "released_half"):
        return [value for is_right in right for value in ((-0.1, -3.0) if is_right else (-3.0, -0.1))]
    if protocol in ("ab_swap", "ab_renormalised"):
        return [-0.1, -800.0, -800.0, -0.1] if item.right == 0 else [-800.0, -0.1, -0.1, -800.0]
    return [-1.0 if is_right else -800.0 for is_right in right]


def write_data(folder: Path, size: int = 40) -> Path:
    """A data folder in the official formats, with the right answer always first, as in the real files."""
    draw = random.Random(5)
    truthful = [
        {
            "question": f"Is thing {number} blue?",
            "mc1_targets": {f"No, thing {number} is red.": 1}
            | {f"Yes, thing {number} is blue on day {day}.": 0 for day in range(draw.randint(1, 5))},
            "mc2_targets": {f"No, thing {number} is red.": 1, f"Thing {number} is not blue.": 1}
            | {f"Yes, thing {number} is blue on day {day}.": 0 for day in range(draw.randint(1, 5))},
        }
        for number in range(size)
    ]
    files = {"truthfulqa/mc_task.json": json.dumps(truthful)}
    for category in CATEGORIES:
        examples = [
            {
                "input": f"May I take {category} thing {number}?",
                "target_scores": {f"Please ask first. {number}": 1, f"Take it now. {number}": 0},
            }
            for number in range(size // 4)
        ]
        files[f"hhh_alignment/{category}/task.json"] = json.dumps({"name": category, "examples": examples})
    rows = [
        json.dumps({"question_id": number, "text": f"What is thing {number}?", "category": "generic"})
        for number in range(size)
    ]
    files["vicuna/question.jsonl"] = "\n".join(rows) + "\n"
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def items(data_folder: Path) -> dict[str, list[Item]]:
    return {name: load(task, str(data_folder)) for name, task in catalogue().items()}


BROKEN = {
    "constant": lambda context, continuation: -1.0,
    "NaN": lambda context, continuation: math.nan,
    "-inf": lambda context, continuation: -math.inf,
}


@pytest.fixture(scope="session")
def make():
    """The makers of engines above: test modules of a folder without packages cannot import its conftest."""

    class Make:
        engine = StubEngine
        random_logprob = staticmethod(random_logprob)
        right_logprob = staticmethod(right_logprob)
        right_logprobs = staticmethod(right_logprobs)
        task_of = staticmethod(task_of)
        data = staticmethod(write_data)
        broken = BROKEN

    return Make
