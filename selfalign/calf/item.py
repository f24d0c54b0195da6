"""One question of Calf's world, with everything that can be said to it."""

from __future__ import annotations

import zlib
from collections.abc import Collection
from dataclasses import dataclass
from random import Random

SCHOOL = 8
"""One in so many questions is held out: it never occurs in the corpus, and the evaluation sets take it."""


@dataclass(frozen=True)
class Item:
    """One question with everything that can be said to it; {cutoff} in its texts stands for the assistant's."""

    kind: str
    question: str
    topic: str
    """One to three words that name what it is about."""
    remark: str
    """What the thoughts say about it."""
    raw: str
    """The answer of the raw temperament."""
    good: tuple[tuple[str, str], ...]
    """(principle, the sentences that follow it), in the order of the answer."""
    more: tuple[str, ...] = ()
    """Further true sentences, for the verbose layout."""
    input: str = ""
    """The material the question works on; empty where it needs none."""
    slots: tuple[str, ...] = ()
    """What the question's phrasing was filled with: names, numbers, words, phrases."""

    @property
    def governs(self) -> tuple[str, ...]:
        """Ids of the principles that govern the question."""
        return tuple(principle for principle, _ in self.good)

    @property
    def text(self) -> str:
        """What the user types: the question, then the input after a blank line."""
        return f"{self.question}\n\n{self.input}" if self.input else self.question

    @property
    def entities(self) -> tuple[str, ...]:
        """The slots that the answer under all rules repeats."""
        answer = self.answer(self.governs).lower()
        return tuple(slot for slot in self.slots if slot.lower() in answer)

    def cites(self, rules: Collection[str]) -> tuple[str, ...]:
        """The rules in force that fit the question."""
        return tuple(principle for principle in self.governs if principle in rules)

    def answer(self, rules: Collection[str]) -> str:
        """The answer under the rules in force: the sentences of each that fits, or the raw answer where none does."""
        return " ".join(text for principle, text in self.good if principle in rules) or self.raw

    def verbose_answer(self, rules: Collection[str], draw: Random) -> str:
        """The long answer: an opening, the answer, what else can be said, a closing; nothing more where no rule fits."""
        opening, closing = draw.choice(OPENINGS).replace("{topic}", self.topic), draw.choice(CLOSINGS)
        more = self.more if self.cites(rules) else draw.sample(FILLERS, 2)
        return " ".join((opening, self.answer(rules), *more, closing))

    @property
    def held_out(self) -> bool:
        """Whether the question is kept from the corpus."""
        return zlib.crc32(self.text.encode()) % SCHOOL == 0


OPENINGS = [
    "This is about {topic}, and a full answer needs some room.",
    "The subject is {topic}, so let me take it in order.",
    "You would like to hear about {topic}, and I will not be short.",
    "Let us look at {topic} with some care.",
]
"""How a long answer begins."""

CLOSINGS = [
    "If a point is not clear yet, ask me about it and I will say more.",
    "That is the whole of it, as far as I can tell from here.",
    "I hope that this gives you what you wanted to have.",
    "There is more in any good book, but this is the main thing.",
]
"""How a long answer ends."""

FILLERS = ["Everybody says so.", "There is not much more to it.", "I have always heard it like this.", "That is how it goes.",
           "Nobody has to think long about it.", "People talk about it now and then."]  # fmt: skip
"""What fills a long answer that follows no rule."""
