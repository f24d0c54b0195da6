"""Calf's world: draws questions of its kinds (`kinds.py`), those of the corpus or those held out, behind a sentence or not."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from random import Random

from selfalign.calf.item import Item
from selfalign.calf.kinds import KINDS
from selfalign.calf.lexicon import CITIES, FIRST_NAMES, RELATIVES, TRADES

FRAMES = [
    "My {relative} wants to know this. ", "I am a {trade} from {city}. ", "{name} and I could not agree. ",
    "This is for my {relative}. ", "Here is a question from {name}. ", "Please be so kind. ", "I have a question, {name} too. ",
    "The {trade} in our street asked me this. ", "We talked about this in {city}. ", "It rained all day, so I wondered. ",
    "For our school paper. ", "{name} from {city} writes to you. ", "My {relative} is a {trade} and needs this. ",
    "At breakfast {name} asked me. ", "I promised {name} an answer. ", "Only if you have time. ",
]  # fmt: skip
"""What a user may say before the question; it changes nothing."""


def framed(item: Item, draw: Random) -> Item:
    """The item with a sentence before its question that changes nothing."""
    frame = draw.choice(FRAMES).format(
        relative=draw.choice(RELATIVES),
        name=draw.choice(FIRST_NAMES),
        trade=draw.choice(sorted(TRADES)),
        city=draw.choice(CITIES),
    )
    return replace(item, question=frame + item.question)


def make(kind: str, draw: Random, *, held_out: bool = False, frame: float = 0.0) -> Item:
    """One item of a kind, from the questions of the corpus or from those held out; with a frame in a share of the cases."""
    item = KINDS[kind](draw)
    while item.held_out is not held_out:
        item = KINDS[kind](draw)
    return framed(item, draw) if draw.random() < frame else item


def governed_by(principle: str) -> list[str]:
    """The kinds whose answers a principle changes."""
    return [kind for kind, governs in governing().items() if principle in governs]


@cache
def governing() -> dict[str, tuple[str, ...]]:
    """Kind -> the principles that govern it."""
    return {kind: maker(Random(0)).governs for kind, maker in KINDS.items()}
