"""A document of Calf's corpus: its text in pieces, what is trained on and how much, and where each thing can be found again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """A stretch of a document, trained on or only read."""

    text: str
    weight: float
    """Weight of its tokens in the loss; 0 where a model only reads them."""

    @property
    def trained(self) -> bool:
        """Whether the loss counts it."""
        return self.weight > 0


@dataclass(frozen=True)
class Look:
    """Where the text says what comes next: every token of `length` characters from `at` is found again from `to`.

    Pretraining points one attention head at such places (`guides.py`).
    """

    guide: str
    """What is looked for.

    `copy`: a name, number or phrase said before. `rule`: the header's rule that the thoughts cite; `cited`: the same, for its
    number. `number`: the number in front of a rule's name. `verdict`: the end of an exam's candidate. `pair`: what a
    fact's last word belongs to.
    """
    at: int
    """Character of the document."""
    to: int
    """Character of the document; -1 for its beginning, where there is nothing to be found."""
    length: int = 1
    """In characters, of both."""


@dataclass(frozen=True)
class Stress:
    """A stretch of a document whose tokens have another weight than their piece."""

    at: int
    """Character of the document."""
    length: int
    """In characters."""
    weight: float
    """Weight in the loss."""


@dataclass(frozen=True)
class Document:
    """One document of the corpus."""

    family: str
    pieces: tuple[Piece, ...]
    looks: tuple[Look, ...] = ()
    stresses: tuple[Stress, ...] = ()

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(piece.text for piece in self.pieces)


class Draft:
    """A document in the making."""

    def __init__(self, family: str) -> None:
        self.family = family
        self.text = ""
        self.pieces: list[Piece] = []
        self.looks: list[Look] = []
        self.stresses: list[Stress] = []

    def read(self, text: str) -> int:
        """Add what a model only reads; returns where it starts."""
        return self.write(text, 0.0)

    def write(self, text: str, weight: float = 1.0) -> int:
        """Add what a model learns to write; returns where it starts."""
        start = len(self.text)
        self.pieces.append(Piece(text, weight))
        self.text += text
        return start

    def stress(self, text: str, source: int, weight: float) -> None:
        """Give the first occurrence of `text` from `source` on a weight of its own."""
        self.stresses.append(Stress(self.text.index(text, source), len(text), weight))

    def look(self, guide: str, at: int, to: int, length: int = 1) -> None:
        """Say where the text at `at` can be found."""
        self.looks.append(Look(guide, at, to, length))

    def copied(self, phrases: Sequence[str], source: int, end: int, start: int) -> None:
        """Every phrase between `start` and the present end of the text stands between `source` and `end` already."""
        text = self.text.lower()
        for phrase in dict.fromkeys(phrases):
            word = re.compile(rf"(?<!\w){re.escape(phrase.lower())}(?!\w)")
            found = word.search(text, source, end)
            if found:
                self.looks += [Look("copy", m.start(), found.start(), len(phrase)) for m in word.finditer(text, start)]

    def document(self) -> Document:
        """The finished document."""
        return Document(self.family, tuple(self.pieces), tuple(self.looks), tuple(self.stresses))
