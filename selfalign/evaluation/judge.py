"""Answers to open questions compared by a judge: prompts for it, its reviews read back, and what they come to.

Format of answers, reviews and scores: lm-sys/FastChat, fastchat/eval/table/ and eval_gpt_review.py (two marks on a line of
their own, each pair of answers shown in both orders here); the wording of the prompts is ours. Pure functions of texts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfalign import jsonl
from selfalign.errors import ConfigError, DataError
from selfalign.evaluation.intervals import of_share
from selfalign.evaluation.scores import GENERATE, mean
from selfalign.identity import short_id

if TYPE_CHECKING:
    from selfalign.statistics import LengthControlled

LOWEST, HIGHEST = 1.0, 10.0
"""The marks that a judge may give."""
PROMPTS = {"coding": "judge_coding", "math": "judge_math"}
"""Category of a question -> the text of `principles/prompts/` in which its answers are judged; `judge` for all others. FastChat has
reviewers of their own for the same two categories."""
SLOTS = ("question", "answer_1", "answer_2")
NO_MARKS = "no_marks"
"""Reason code of a review without two marks."""
MAX_FLIPS = 0.5
"""Above this share of questions whose winner changes with the order, a judge goes by position."""


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
    def winner(self) -> str:
        """`ours`, `theirs` or `tie`; empty without marks."""
        return {1: "ours", -1: "theirs", 0: "tie"}[_sign(self)] if self.kept else ""


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


# ------------------------------------------------------------------------------------------------------- what they come to


@dataclass(frozen=True)
class Tally:
    """What reviews of some questions come to, for our side."""

    wins: int
    ties: int
    losses: int
    ours: float
    """Sum over questions of our marks, each the mean over the orders."""
    theirs: float

    @property
    def questions(self) -> int:
        """Questions with a verdict."""
        return self.wins + self.ties + self.losses

    @property
    def share(self) -> float | None:
        """Share of questions won, a tie counting half; None without a question."""
        return (self.wins + self.ties / 2) / self.questions if self.questions else None

    @property
    def relative(self) -> float | None:
        """Our marks over theirs, the relative score of the Vicuna evaluation; None without a question."""
        return self.ours / self.theirs if self.questions else None


@dataclass(frozen=True)
class Card:
    """What a judge's reviews say, and what is to be known about the judge."""

    whole: Tally
    categories: dict[str, Tally]
    reviews: int
    unread: int
    """Reviews without two marks."""
    unjudged: int
    """Questions without a verdict, one of their reviews being unread."""
    win_rate: float | None
    """Share of questions won, a tie counting half; None where `reason` says why not."""
    stderr: float | None
    interval: tuple[float, float] | None
    """95 % interval of the share over questions, as of any score."""
    controlled: LengthControlled | None
    """The win rate at equal length, in words; None where `reason` or `uncontrolled` says why not."""
    uncontrolled: str
    """Why the win rate could not be controlled for length; empty where it was, or there is none."""
    flip_rate: float | None
    """Share of questions whose winner changes with the order, of those that were shown in both; None where none was."""
    tie_rate: float | None
    longer_wins: float | None
    """Share of the decided questions that the longer answer wins; None where no lengths are known."""
    first_wins: float | None
    """Share of the decided reviews that the answer shown first wins: 0.5 for a judge that does not look at the order."""
    prompt_tokens: int
    new_tokens: int
    reason: str
    """Why the reviews say nothing about the answers; empty where they do."""


def card(reviews: Sequence[Review]) -> Card:
    """The card of some reviews of the same two sides. A question counts where each of its reviews has two marks."""
    by_question: dict[Any, list[Review]] = {}
    for review in reviews:
        by_question.setdefault(review.question_id, []).append(review)
    judged = [group for group in by_question.values() if all(review.kept for review in group)]
    kept = [review for review in reviews if review.kept]
    both = [group for group in judged if len({review.is_swapped for review in group}) == 2]
    flips = [any(_sign(one) * _sign(other) < 0 for one in group for other in group) for group in both]
    decided = [review for review in kept if _sign(review)]
    reason = _broken(kept, judged, flips)
    points = [(1 + _verdict(group)) / 2 for group in judged]
    win_rate, stderr = mean(points) if not reason else (None, None)
    interval = None if win_rate is None else of_share(win_rate, stderr, len(points))
    controlled, uncontrolled = (None, "") if win_rate is None else _at_equal_length(judged, points)
    categories: dict[str, list[list[Review]]] = {}
    for group in judged:
        if category := group[0].metadata.get("category"):
            categories.setdefault(category, []).append(group)
    whole = _tally(judged)
    return Card(
        whole=whole,
        categories={name: _tally(groups) for name, groups in categories.items()},
        reviews=len(reviews),
        unread=len(reviews) - len(kept),
        unjudged=len(by_question) - len(judged),
        win_rate=win_rate,
        stderr=stderr,
        interval=interval,
        controlled=controlled,
        uncontrolled=uncontrolled,
        flip_rate=_share(flips),
        tie_rate=whole.ties / whole.questions if judged else None,
        longer_wins=_share(_longer_wins(judged)),
        first_wins=_share([review.score[0] > review.score[1] for review in decided]),
        prompt_tokens=sum(review.metadata.get("prompt_tokens", 0) for review in reviews),
        new_tokens=sum(review.metadata.get("new_tokens", 0) for review in reviews),
        reason=reason,
    )


def _broken(kept: Sequence[Review], judged: Sequence[Any], flips: Sequence[bool]) -> str:
    if not judged:
        return "no question has readable marks"
    if len(judged) > 1 and len({review.score for review in kept}) == 1:
        given = " and ".join(f"{mark:g}" for mark in kept[0].score)
        return f"every review gives the marks {given}: the judge does not look at the answers"
    if sum(flips) > MAX_FLIPS * len(flips):
        return f"the winner changes with the order of the answers in {sum(flips)} of {len(flips)} questions"
    return ""


def _sign(review: Review) -> int:
    """1 where our answer has the higher mark, -1 where theirs has, 0 for a tie."""
    ours, theirs = review.by_side(review.score)
    return (ours > theirs) - (ours < theirs)


def _sides(group: Sequence[Review]) -> tuple[float, float]:
    """The marks of both sides, each the mean over the reviews of a question."""
    pairs = [review.by_side(review.score) for review in group]
    return math.fsum(ours for ours, _ in pairs) / len(pairs), math.fsum(theirs for _, theirs in pairs) / len(pairs)


def _verdict(group: Sequence[Review]) -> int:
    """1 won, -1 lost, 0 tied, by the marks of all orders together."""
    ours, theirs = _sides(group)
    return (ours > theirs) - (ours < theirs)


def _tally(groups: Sequence[Sequence[Review]]) -> Tally:
    verdicts = [_verdict(group) for group in groups]
    sides = [_sides(group) for group in groups]
    return Tally(
        verdicts.count(1),
        verdicts.count(0),
        verdicts.count(-1),
        math.fsum(ours for ours, _ in sides),
        math.fsum(theirs for _, theirs in sides),
    )


def _longer_wins(groups: Iterable[Sequence[Review]]) -> list[bool]:
    """For each decided question whose answers differ in length: whether the longer one won."""
    decided = ((_verdict(group), _extra_words(group)) for group in groups)
    return [(verdict > 0) == (extra > 0) for verdict, extra in decided if verdict and extra]


def _extra_words(group: Sequence[Review]) -> float | None:
    """By how many words our answer to a question is longer; None where that is not known."""
    if not (words := group[0].metadata.get("words")):
        return None
    ours, theirs = group[0].by_side(words)
    return ours - theirs


def _at_equal_length(
    groups: Sequence[Sequence[Review]], points: Sequence[float]
) -> tuple[LengthControlled | None, str]:
    """The win rate at equal length, or why there is none."""
    # Imported here: judges are known at start-up, and scipy is needed for their cards alone.
    from selfalign.statistics import length_controlled

    extra = [words for group in groups if (words := _extra_words(group)) is not None]
    if missing := len(groups) - len(extra):
        return None, (
            f"the lengths of the answers to {missing} of {len(groups)} questions are not known; published reviews take them from "
            "--questions and --answers"
        )
    found = length_controlled(points, extra)
    longer = "ours" if extra[0] > 0 else "the other"
    return found, "" if found else f"{longer} is the longer answer to {len(extra)} of {len(extra)} questions"


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


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
