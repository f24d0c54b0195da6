"""Answers to open questions compared by a judge: prompts for it, its reviews read back, and read from files.

Format of answers, reviews and scores: lm-sys/FastChat, fastchat/eval/table/ and eval_gpt_review.py (two marks on a line of
their own, each pair of answers shown in both orders here); the wording of the prompts is ours. Pure functions of texts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfalign import jsonl
from selfalign.errors import ConfigError, DataError
from selfalign.evaluation.scores import GENERATE
from selfalign.identity import short_id

if TYPE_CHECKING:
    pass

LOWEST, HIGHEST = 1.0, 10.0
"""The marks that a judge may give."""
PROMPTS = {"coding": "judge_coding", "math": "judge_math"}
"""Category of a question -> the text of `principles/prompts/` in which its answers are judged; `judge` for all others. FastChat has
reviewers of their own for the same two categories."""
SLOTS = ("question", "answer_1", "answer_2")
NO_MARKS = "no_marks"
"""Reason code of a review without two marks."""


@dataclass(frozen=True, slots=True)
class Question:
    """One open question."""

    id: Any
    """Its number in the file."""
    text: str
    category: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to a question."""

    id: str
    """The file's, or a content hash."""
    text: str

    @property
    def words(self) -> int:
        """Its length."""
        return len(self.text.split())


@dataclass(frozen=True, slots=True)
class Contest:
    """One question with the answers of the two sides."""

    question: Question
    ours: Answer
    theirs: Answer

    def shown(self, swapped: bool) -> tuple[Answer, Answer]:
        """The answers in the order shown."""
        return (self.theirs, self.ours) if swapped else (self.ours, self.theirs)


@dataclass(frozen=True, slots=True)
class Review:
    """What a judge said of two answers: FastChat's row, with what ours know besides in `metadata`."""

    review_id: str
    question_id: Any
    answer1_id: str
    """The answer shown first."""
    answer2_id: str
    text: str
    """The review as the judge wrote it."""
    score: tuple[float, ...]
    """The marks of the first and the second answer shown; empty where the text has none."""
    reviewer_id: str
    metadata: dict[str, Any] = field(default_factory=dict)
    """`category`; `swapped`: the other side's answer was shown first; `words` of both answers; `prompt_tokens`, `new_tokens`."""
    kept: bool = True
    reason: str = ""

    @property
    def is_swapped(self) -> bool:
        """Whether the first answer is the other side's."""
        return bool(self.metadata.get("swapped"))

    def by_side(self, pair: Sequence[float]) -> tuple[float, float]:
        """Two numbers in the order shown, as (ours, theirs)."""
        return (pair[1], pair[0]) if self.is_swapped else (pair[0], pair[1])

    @property
    def sign(self) -> int:
        """1 where our answer has the higher mark, -1 where theirs has, 0 for a tie; of reviews with marks."""
        ours, theirs = self.by_side(self.score)
        return (ours > theirs) - (ours < theirs)

    @property
    def winner(self) -> str:
        """`ours`, `theirs` or `tie`; empty without marks."""
        return {1: "ours", -1: "theirs", 0: "tie"}[self.sign] if self.kept else ""


def read_questions(path: Path) -> list[Question]:
    """The rows of a `question.jsonl`. Raises DataError for a row without question_id, text and category."""
    try:
        return [Question(row["question_id"], row["text"], row["category"]) for row in jsonl.iterate(path)]
    except KeyError as error:
        raise DataError(f"{path}: expected rows with question_id, text and category, missing {error}; add it") from None


def read_answers(path: Path, questions: Sequence[Question]) -> dict[Any, Answer]:
    """Question id -> answer, of FastChat's answers ({question_id, text}) or of the `items.jsonl` of an evaluation.

    Answers to other questions are passed over. Raises DataError for a row that is neither.
    """
    by_text = {question.text: question.id for question in questions}
    known = {question.id for question in questions}
    found: dict[Any, Answer] = {}
    for number, row in enumerate(jsonl.iterate(path), start=1):
        if "protocol" in row:
            if row["protocol"] == GENERATE and row["question"] in by_text:
                found[by_text[row["question"]]] = Answer(short_id(row["answer"]), row["answer"])
        elif "question_id" in row and isinstance(row.get("text"), str):
            if row["question_id"] in known:
                found[row["question_id"]] = Answer(str(row.get("answer_id") or short_id(row["text"])), row["text"])
        else:
            raise DataError(
                f"{path}:{number}: expected an answer as {{question_id, text}} or a row of items.jsonl, found the keys "
                f"{', '.join(row)}; give a file of answers"
            )
    return found


def contests(questions: Sequence[Question], ours: Mapping[Any, Answer], theirs: Mapping[Any, Answer]) -> list[Contest]:
    """The questions that both sides answered, in their order."""
    return [Contest(one, ours[one.id], theirs[one.id]) for one in questions if one.id in ours and one.id in theirs]


def fill_prompt(template: str, question: str, first: str, second: str) -> str:
    """A judge's prompt; what stands in an answer is never taken for a slot. Raises ConfigError where a slot is missing."""
    values: dict[str, str] = dict(zip(SLOTS, (question, first, second), strict=True))
    if missing := [name for name in SLOTS if f"{{{name}}}" not in template]:
        raise ConfigError(
            [f"judge prompt: expected the slots {{{'}, {'.join(SLOTS)}}}, missing {{{'}, {'.join(missing)}}}; add them"]
        )
    return re.sub(r"\{(question|answer_1|answer_2)\}", lambda slot: values[slot[1]], template)


def marks(text: str) -> tuple[float, ...]:
    """The first line that holds two numbers from 1 to 10 and nothing else, as FastChat reads the first line; else empty.

    Later lines count because a judge of mathematics works the problem out first.
    """
    for line in text.splitlines():
        parts = line.replace(",", " ").split()
        if len(parts) == 2 and all(re.fullmatch(r"\d+(\.\d+)?", part) for part in parts):
            found = tuple(map(float, parts))
            return found if all(LOWEST <= mark <= HIGHEST for mark in found) else ()
    return ()


def review_of(row: Mapping[str, Any]) -> Review:
    """A review from a row of ours or of FastChat's, whose failures are the marks -1. Raises DataError for anything else."""
    try:
        score = tuple(map(float, row["score"]))
        readable = len(score) == 2 and all(LOWEST <= mark <= HIGHEST for mark in score)
        return Review(
            str(row["review_id"]), row["question_id"], str(row["answer1_id"]), str(row["answer2_id"]), row["text"],
            score if readable else (), str(row.get("reviewer_id", "")), dict(row.get("metadata") or {}),
            readable, "" if readable else NO_MARKS,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"expected a review with review_id, question_id, answer1_id, answer2_id, text and score, found the keys "
            f"{', '.join(row)} ({error!r}); give a file of reviews"
        ) from None


def read_reviews(
    path: Path, questions: Sequence[Question] = (), answers: Sequence[Mapping[Any, Answer]] = ()
) -> list[Review]:
    """The reviews of a file, ours or published; categories and lengths come from questions and answers where those are given.

    `answers` are those shown first and those shown second. Raises DataError for a row that is no review.
    """
    category = {question.id: question.category for question in questions}
    found = []
    for row in jsonl.iterate(path):
        try:
            review = review_of(row)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        if review.question_id in category:
            review.metadata.setdefault("category", category[review.question_id])
        shown = [side[review.question_id].words for side in answers if review.question_id in side]
        if len(shown) == 2:
            review.metadata.setdefault("words", shown)
        found.append(review)
    return found
