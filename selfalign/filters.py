"""Filters as small functions: a text in, a reason code out where it must go, an empty string where it may stay.

Thresholds are arguments; their published values are the defaults of the stages that call them. Sources: IBM/Dromedary,
branch dromedary_v1, `generate_vanilla_instruction.py` (instructions) and `merge_and_fileter_self_align_with_dummy.py`
(responses), with changes stated at each function. What shortens a text instead of dropping it is in `cuts.py`.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from functools import cache

from selfalign.similarity import ngrams, rouge_tokens

# ----------------------------------------------------------------------------------------------------- instructions


def word_count(text: str, min_words: int, max_words: int) -> str:
    """`too_few_words` or `too_many_words` (split at white space)."""
    count = len(text.split())
    return "too_few_words" if count < min_words else "too_many_words" if count > max_words else ""


@cache
def _whole_words(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(r"\b(?:" + "|".join(map(re.escape, words)) + r")\b", re.IGNORECASE)


def forbidden_word(text: str, words: Iterable[str]) -> str:
    """`forbidden_word` where one of `words` occurs as a whole word, in any case (things a text model cannot do)."""
    chosen = tuple(words)
    return "forbidden_word" if chosen and _whole_words(chosen).search(text) else ""


def first_character(text: str) -> str:
    """`starts_with_punctuation` (ASCII punctuation) or `starts_non_ascii`."""
    if text[:1] in string.punctuation:
        return "starts_with_punctuation" if text else "empty"
    return "" if text[0].isascii() else "starts_non_ascii"


# -------------------------------------------------------------------------------------------------------- responses


def wrong_start(text: str, start: str) -> str:
    """`wrong_start` where the text, after its leading white space, does not begin with `start`."""
    return "" if text.lstrip().startswith(start) else "wrong_start"


def too_short(text: str, min_characters: int) -> str:
    """`empty` or `too_short` (characters)."""
    return "empty" if not text.strip() else "too_short" if len(text) < min_characters else ""


def contains_marker(text: str, markers: Iterable[str]) -> str:
    """`contains_marker` where the answer holds a piece of the prompt's layout: the model ran on into another turn."""
    return "contains_marker" if any(marker.strip() in text for marker in markers if marker.strip()) else ""


def forbidden_text(text: str, forbidden: Iterable[str]) -> str:
    """`forbidden_text` where one of `forbidden` occurs in the text, to the letter."""
    return "forbidden_text" if any(piece in text for piece in forbidden) else ""


def forbidden_start(text: str, starts: Iterable[str]) -> str:
    """`forbidden_start` where the text begins with one of `starts`, to the letter."""
    return "forbidden_start" if text.startswith(tuple(starts)) else ""


def question_copy(text: str, parts: Iterable[str], longer_than: int) -> str:
    """`question_copy` where a part of the question of more than `longer_than` characters stands in the text to the letter;
    0 switches the check off (Dromedary-2: 16, for instruction and input)."""
    return "question_copy" if longer_than and any(len(p) > longer_than and p in text for p in parts) else ""


def repetition(text: str, max_repeats: int) -> str:
    """`repetition` where the text runs in a circle: some stretch of 3 to 24 words stands more than `max_repeats`
    times in a row; 0 switches the check off.

    Only immediate repeats count, so code, refrains and numbered lists pass (`cuts.before_repeat`, as in the reference, cuts
    a text at any clause that occurs twice).
    """
    if not max_repeats:
        return ""
    words = text.split()
    for size in range(3, 25):
        run = 0
        for index in range(size, len(words)):
            run = run + 1 if words[index] == words[index - size] else 0
            if run >= size * max_repeats:
                return "repetition"
    return ""


class ExemplarCopies:
    """Finds answers copied from the worked exemplars: stands for the reference's list of words from its own
    exemplars."""

    def __init__(self, exemplar_answers: Iterable[str], ngram_words: int) -> None:
        self.size = ngram_words
        self._grams = {gram for answer in exemplar_answers for gram in self._ngrams(answer)}

    def _ngrams(self, text: str) -> list[tuple[str, ...]]:
        return ngrams(rouge_tokens(text), self.size)

    def reason(self, text: str, question: str) -> str:
        """`exemplar_copy` where the answer shares an n-gram with an exemplar's answer that is not in its own
        question."""
        own = set(self._ngrams(question))
        return "exemplar_copy" if any(gram in self._grams and gram not in own for gram in self._ngrams(text)) else ""


def first_reason(reasons: Iterable[str]) -> str:
    """The first reason that is not empty, or an empty string."""
    return next((reason for reason in reasons if reason), "")
