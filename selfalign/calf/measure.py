"""What Calf is measured with: held-out questions and headers in; answers read by the oracle, and shares of them, out.

Pure functions of texts: which model answers is `selfalign.card`'s part. An answer is judged by the marks that
`oracle.shown` finds in it, its thoughts by the citations in them. Source: ours; the reference has no known truth.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random

from selfalign import prompts
from selfalign.calf import oracle, world
from selfalign.calf.item import Item
from selfalign.errors import ConfigError
from selfalign.identity import seed_of
from selfalign.principles import PrincipleSettings, RuleSet, resolve, slug

FRAME_AFTER = 400
"""Draws in a row without a new question, after which a kind's plain held-out questions are taken to be used up."""

Citation = tuple[int, str]
"""A rule's number and the id that its name makes."""


# --------------------------------------------------------------------------------------------------------- questions


def questions(kind: str, count: int, assistant: prompts.Assistant, seed: int = 0) -> tuple[list[Item], int]:
    """`count` distinct held-out questions of a kind, and how many of them stand behind a frame.

    A kind with fewer held-out questions goes on with questions behind a sentence that changes nothing
    (`world.FRAMES`). The questions of a smaller count are the first of a larger one. Raises ConfigError for more than there are.
    """
    draw = Random(seed_of(seed, "calf card", kind))
    found: dict[str, Item] = {}
    frame, idle, framed = 0.0, 0, 0
    while len(found) < count:
        item = world.make(kind, draw, held_out=True, frame=frame)
        if item.text in found:
            idle += 1
            if idle > 20 * FRAME_AFTER:
                raise ConfigError(
                    [
                        f"questions: expected at most about {len(found)} of the kind '{kind}', which is all that its held-out "
                        f"questions and the frames before them give, found {count}; ask for fewer"
                    ]
                )
            frame = 1.0 if idle >= FRAME_AFTER else frame
            continue
        idle = 0
        framed += frame > 0
        found[item.text] = _filled(item, assistant)
    return list(found.values()), framed


def _filled(item: Item, assistant: prompts.Assistant) -> Item:
    good = tuple((principle, prompts.fill(text, assistant)) for principle, text in item.good)
    return replace(item, raw=prompts.fill(item.raw, assistant), good=good)


# ----------------------------------------------------------------------------------------------------------- headers


@dataclass(frozen=True)
class Header:
    """One list of rules that questions are put behind."""

    name: str
    family: str
    """`all`, `without`, `subset` (6 to 14 rules, numbered 1..n), `order` (all, shuffled and numbered by position) or
    `numbers` (all in their order, under shuffled numbers)."""
    rule_set: RuleSet


def leave_one_out(settings: PrincipleSettings) -> list[Header]:
    """The whole set, then the set without each rule: its line and its citations are gone."""
    found = [Header("all", "all", resolve(settings))]
    for name in settings.ids:
        rest = resolve(replace(settings, drop=[*settings.drop, name]))
        found.append(Header(f"without_{name}", "without", rest))
    return found


def varied(settings: PrincipleSettings, *, each: int, seed: int = 0) -> list[Header]:
    """`each` random subsets, orders and numberings of the set."""
    found: list[Header] = []
    for index in range(each):
        draw = Random(seed_of(seed, "calf headers", index))
        ids = list(settings.ids)
        gone = draw.sample(ids, max(0, len(ids) - draw.randint(6, 14)))
        found.append(Header(f"subset_{index}", "subset", resolve(replace(settings, drop=gone))))
        shuffled = draw.sample(ids, len(ids))
        found.append(Header(f"order_{index}", "order", resolve(replace(settings, ids=shuffled))))
        whole = resolve(settings)
        numbers = draw.sample(range(1, len(whole.rules) + 1), len(whole.rules))
        rules = tuple(replace(rule, number=number) for rule, number in zip(whole.rules, numbers, strict=True))
        found.append(Header(f"numbers_{index}", "numbers", replace(whole, rules=rules)))
    return found


# ---------------------------------------------------------------------------------------------------------- readings


@dataclass(frozen=True)
class Reading:
    """What one answer came to."""

    kind: str
    governs: tuple[str, ...]
    """The principles that govern the question."""
    listed: frozenset[str]
    """Those of them that are in force."""
    shown: frozenset[str]
    """Those of them whose mark the answer shows."""
    copied: bool | None
    """Whether it repeats every word of the question that the right answer repeats; None where there is none."""
    exact: bool
    """Whether it is the world's answer word for word."""
    tokens: int
    """Tokens of the answer."""
    cited: frozenset[Citation] = frozenset()
    """Number and name of every rule that the thoughts cite."""
    fitting: frozenset[Citation] = frozenset()
    """Number and name of every rule that is listed and governs the question."""

    @property
    def is_governed(self) -> bool:
        """Whether the answer shows exactly the governing rules in force; where none is, whether it shows any."""
        return self.shown == self.listed if self.listed else bool(self.shown)


def read_answer(item: Item, rules: Collection[str], answer: str, tokens: int) -> Reading:
    """An answer to a question under the rules in force (none for a raw base model)."""
    listed = item.cites(rules)
    lower = answer.lower()
    entities = item.entities
    return Reading(
        kind=item.kind,
        governs=item.governs,
        listed=frozenset(listed),
        shown=oracle.shown(item.kind, answer),
        copied=all(entity.lower() in lower for entity in entities) if entities else None,
        exact=answer == item.answer(rules),
        tokens=tokens,
    )


def citations(layout: prompts.SelfAlignLayout, thoughts: str) -> frozenset[Citation]:
    """Every citation in some thoughts, as the layout writes them."""
    number, name = re.escape("{number}"), re.escape("{name}")
    pattern = re.escape(layout.citation).replace(number, r"(?P<number>\d{1,3})")
    pattern = pattern.replace(name, r"(?P<name>[^()\n]{1,60})")
    found = re.finditer(rf"(?<![\w.]){pattern}", thoughts)
    return frozenset((int(match["number"]), slug(match["name"])) for match in found)


def read_completion(
    item: Item,
    layout: prompts.SelfAlignLayout,
    rule_set: RuleSet,
    assistant: prompts.Assistant,
    text: str,
    count_tokens: Callable[[str], int],
) -> Reading:
    """A completion of the self-align prompt: thoughts, then an answer; one that never comes to an answer shows nothing."""
    parsed = prompts.parse_response(layout, rule_set, assistant, text)
    answer = parsed.answer or ""
    listed = rule_set.by_id()
    reading = read_answer(item, listed, answer, count_tokens(answer))
    fitting = frozenset((listed[name].number, slug(listed[name].name)) for name in item.cites(listed))
    return replace(reading, cited=citations(layout, parsed.thoughts), fitting=fitting)


# ------------------------------------------------------------------------------------------------------------ shares


def share(hits: Iterable[bool]) -> float | None:
    """The share of hits; None where there is nothing to count."""
    found = list(hits)
    return sum(found) / len(found) if found else None


def behaviour(readings: Iterable[Reading], principle: str) -> float | None:
    """The share of answers, to the questions that a principle governs, which show its behaviour.

    In force, it must show exactly the governing rules in force; else its mark alone counts.
    """
    return share(
        reading.is_governed if principle in reading.listed else principle in reading.shown
        for reading in readings
        if principle in reading.governs
    )


def marked(readings: Iterable[Reading], principle: str) -> float | None:
    """The share of answers, to the questions that a principle governs, which show its mark, whatever else they show.

    What leaving out one rule does to another is told by this: a rule that shares questions with the one left out is not
    blamed where that one's mark stays.
    """
    return share(principle in reading.shown for reading in readings if principle in reading.governs)


@dataclass(frozen=True)
class Agreement:
    """How cited rules agree with those that are listed and fit."""

    cited: int
    fitting: int
    both: int

    @property
    def precision(self) -> float | None:
        """Share of the cited rules that fit; None where none is cited."""
        return self.both / self.cited if self.cited else None

    @property
    def recall(self) -> float | None:
        """Share of the fitting rules that are cited; None where none fits."""
        return self.both / self.fitting if self.fitting else None

    @property
    def worse(self) -> float:
        """The smaller of precision and recall; where nothing is cited though something fits, 0."""
        return min((value for value in (self.precision, self.recall) if value is not None), default=1.0)


def agreement(readings: Iterable[Reading], *, numbers: bool) -> Agreement:
    """Citations against fitting rules, counted over all answers; with `numbers`, number and name must both be right."""
    cited = fitting = both = 0
    for reading in readings:
        left, right = set(reading.cited), set(reading.fitting)
        if not numbers:
            left, right = {name for _, name in left}, {name for _, name in right}
        cited, fitting, both = cited + len(left), fitting + len(right), both + len(left & right)
    return Agreement(cited, fitting, both)


def of_kind(readings: Sequence[Reading], kind: str) -> list[Reading]:
    """The readings of one kind of question."""
    return [reading for reading in readings if reading.kind == kind]
