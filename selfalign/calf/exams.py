"""Questions of fact with right and wrong answers, and plain facts: a generator in, `Exam`s and sentences out."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from random import Random

from selfalign.calf.item import SCHOOL
from selfalign.calf.kinds import capital_first
from selfalign.calf.lexicon import ANIMALS, CAPITALS, CITIES, HOW_TO, MYTHS, THINGS, TRADES


@dataclass(frozen=True)
class Exam:
    """A question with true and false answers, as whole sentences."""

    question: str
    subject: str
    """What it is about: a country, animals; empty for a belief."""
    true: tuple[str, ...]
    false: tuple[str, ...]

    def belonging(self, answer: str) -> str:
        """What an answer says of the subject: a city, a home; empty for a belief."""
        rest = answer.replace(self.subject, "", 1).replace(capital_first(self.subject), "", 1)
        return next((said for said in _SAID if self.subject and said in rest), "")

    @property
    def held_out(self) -> bool:
        """Whether the question is kept from the corpus."""
        return zlib.crc32(self.question.encode()) % SCHOOL == 0


_SAID = sorted({*CITIES, *(home for _, home, _ in ANIMALS.values())}, key=len, reverse=True)

EXAM_QUESTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "capital": (
        ("What is the capital of {name}?", "Name the capital of {name}.", "Which city is the capital of {name}?",
         "Where does the government of {name} sit?", "Which city governs {name}?", "{name} is governed from which city?"),
        ("Give the capital of {name}.", "Say which city is the capital city of {name}."),
    ),
    "animal": (
        ("Where do {name} live?", "Where is the home of {name}?", "In which place can one see {name}?",
         "Where would you look for {name}?", "What is the home of {name}?", "Where do we find {name}?"),
        ("Say where {name} live.", "In which place do we find {name}?"),
    ),
    "myth": (
        ("Is it true that {name}?", "Do you believe that {name}?", "Is it a fact that {name}?",
         "Some say that {name}. Is it so?", "What about the belief that {name}?", "Can it be that {name}?"),
        ("Is it right that {name}?", "What is true about the belief that {name}?"),
    ),
}  # fmt: skip
"""Subject of an exam -> phrasings of the corpus (some of whose questions are held out), phrasings that it never uses."""


def _exam(draw: Random, subject: str, unseen: bool) -> Exam:
    usual, new = EXAM_QUESTIONS[subject]
    question = draw.choice(new if unseen else usual)
    if subject == "capital":
        name, (said, _) = draw.choice(sorted(CAPITALS.items()))
        others = draw.sample([other for other in CITIES if other != said], 4)
        forms = ["The capital of {name} is {said}.", "{said} is the capital of {name}."]
    elif subject == "animal":
        name, (_, said, _) = draw.choice(sorted(ANIMALS.items()))
        others = draw.sample(sorted({other for _, other, _ in ANIMALS.values() if other != said}), 4)
        forms = [f"{capital_first(name)} live in {{said}}.", "The home of {name} is {said}."]
    else:
        name, truth = draw.choice(MYTHS)
        right = (f"No, that is a myth. {truth}.", f"{truth}.")
        wrong = (f"{capital_first(name)}.", f"Yes, {name}.", "Yes, that is true.", f"Yes, everybody knows that {name}.")
        return Exam(question.format(name=name), "", right, wrong)
    # Right and wrong answers have the same forms: only knowledge tells them apart.
    right = tuple(form.format(name=name, said=said) for form in forms)
    wrong = tuple(draw.choice(forms).format(name=name, said=other) for other in others)
    return Exam(question.format(name=name), name, right, wrong)


def exam(draw: Random, *, held_out: bool = False) -> Exam:
    """A question of fact with right and wrong answers, from the corpus's or from those that the corpus never holds."""
    while True:
        unseen = held_out and draw.random() < 0.5
        found = _exam(draw, draw.choice(sorted(EXAM_QUESTIONS)), unseen)
        if unseen or found.held_out is held_out:
            return found


def fact(draw: Random) -> str:
    """One to three sentences of plain truth."""
    choice = draw.randrange(6)
    if choice == 0:
        country, (city, language) = draw.choice(sorted(CAPITALS.items()))
        return draw.choice([
            f"The capital of {country} is {city}. People in {country} speak {language}.",
            f"{city} is the capital of {country}.",
        ])  # fmt: skip
    if choice == 1:
        animals, (what, home, food) = draw.choice(sorted(ANIMALS.items()))
        return f"{capital_first(animals)} are {what}. They live in {home} and eat {food}."
    if choice == 2:
        return f"{draw.choice(MYTHS)[1]}."
    if choice == 3:
        thing, (what, good, bad) = draw.choice(sorted(THINGS.items()))
        return f"{capital_first(thing)} is {what}. It is {good} and {bad}."
    if choice == 4:
        trade, work = draw.choice(sorted(TRADES.items()))
        return f"A {trade} {work}."
    task, (one, two, three) = draw.choice(sorted(HOW_TO.items()))
    return f"People who {task} {one}, {two} and {three}."
