"""How alike two texts are: words in, ROUGE-L and n-grams out, and a pool that answers whether a text is new to it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from rapidfuzz import process
from rapidfuzz.distance import Indel

ROUNDING = 1e-9
"""Below every difference between two ROUGE-L values of texts of fewer than 20,000 words, above what floats add to one."""

CUTOFF_MARGIN = 1e-4
"""rapidfuzz (3.14) gives 0 also for a similarity that is not below the cutoff, but within 1e-7 of it."""


def rouge_tokens(text: str) -> list[str]:
    """Tokens of rouge_score's default tokenizer without stemming: lower case, runs of a-z and 0-9."""
    return re.findall(r"[a-z0-9]+", text.lower())


def rouge_l(left: Sequence[str], right: Sequence[str]) -> float:
    """ROUGE-L F (beta 1) of two token sequences, 0..1; equal to rouge_score's up to rounding."""
    return Indel.normalized_similarity(left, right) if left and right else 0.0


def ngrams(words: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """Every run of `size` words, in order; none where there are fewer words."""
    return [tuple(words[start : start + size]) for start in range(len(words) - size + 1)]


class Alphabet:
    """Texts as strings in which each distinct token is one character, so that ROUGE-L F of two texts is the normalised Indel
    similarity of their strings, which a compiled library computes."""

    def __init__(self) -> None:
        self._characters: dict[str, str] = {}

    def encode(self, text: str) -> str:
        """The text's tokens as characters, in order of first sight from U+10000 on; empty where it has none."""
        # Above the surrogates, with room for a million distinct tokens.
        return "".join(
            self._characters.setdefault(token, chr(0x10000 + len(self._characters))) for token in rouge_tokens(text)
        )


class Novelty:
    """A growing pool of texts that a new one must not resemble: decides as `max(rouge_score) > threshold` over all pairs would.

    The compiled library compares a text with many in one call. Compared is only what can be similar: two texts whose common part
    is long enough share a token among the newest ones of each (prefix filtering, Chaudhuri, Ganti and Kaushik 2006: with n
    tokens of which at least m must be common, one of those stands among the first n - m + 1 of any fixed order of all tokens).
    The order is that of first sight, newest first: words that came up late are mostly rare.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._encode = Alphabet().encode
        self._pool: list[str] = []
        self._holding: dict[tuple[str, int], list[int]] = {}
        """(character, its how-manieth occurrence) -> texts that have it among their newest."""
        self._without_tokens: set[str] = set()

    def _newest(self, encoded: str) -> list[tuple[str, int]]:
        # A text of any length that is similar enough has at least so many of these tokens in common with this one.
        common = max(1, math.ceil(self.threshold * len(encoded) / (2 - self.threshold) - ROUNDING))
        chosen, counted = [], 0
        for character in sorted(encoded, reverse=True)[: len(encoded) - common + 1]:
            counted = counted + 1 if chosen and chosen[-1][0] == character else 1
            chosen.append((character, counted))
        return chosen

    def add(self, text: str) -> None:
        """Put a text into the pool."""
        encoded = self._encode(text)
        if not encoded:
            self._without_tokens.add(text)
            return
        for held in self._newest(encoded):
            self._holding.setdefault(held, []).append(len(self._pool))
        self._pool.append(encoded)

    def reason(self, text: str) -> str:
        """`too_similar` where ROUGE-L F with any text of the pool is above the threshold.

        ROUGE's tokens are a-z and 0-9: for it, texts of other scripts have nothing in common. They are compared whole.
        """
        encoded = self._encode(text)
        if not encoded:
            return "too_similar" if text in self._without_tokens else ""
        found: set[int] = set()
        for held in self._newest(encoded):
            found.update(self._holding.get(held, ()))
        near = [self._pool[index] for index in found]
        least = self.threshold - CUTOFF_MARGIN
        nearest = process.extractOne(encoded, near, scorer=Indel.normalized_similarity, score_cutoff=least)
        if nearest is None or nearest[1] < self.threshold - ROUNDING:
            return ""
        if nearest[1] > self.threshold + ROUNDING:
            return "too_similar"
        # On the threshold itself, how rouge_score rounds decides.
        equal = process.extract(encoded, near, scorer=Indel.normalized_similarity, score_cutoff=least, limit=None)
        return "too_similar" if any(_rouge_score(encoded, other) > self.threshold for other, *_ in equal) else ""


def _rouge_score(left: str, right: str) -> float:
    """ROUGE-L F by the operations of rouge_score, in their order, so that it rounds alike."""
    common = (len(left) + len(right) - Indel.distance(left, right)) // 2
    precision, recall = common / len(left), common / len(right)
    return 2 * precision * recall / (precision + recall) if common else 0.0
