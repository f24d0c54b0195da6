"""How varied the kept prompts are: rows of `prompts.jsonl` in; openings, lengths, nearest neighbours and topics out.

After the figures of Self-Instruct (Wang et al. 2022: root verbs with their objects, lengths, ROUGE-L to the nearest
instruction) and of Sun et al. 2023, section 4 (topics by question type). Their verbs come from a parser; here a word list
finds them, so that nothing has to be downloaded: `opening` says how. The order of the rows changes nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Indel

from selfalign.report.principle_use import in_source_order
from selfalign.similarity import Alphabet, rouge_tokens

Row = Mapping[str, Any]

NEAREST_SAMPLE = 2000
"""Prompts that are compared with each other at most; of more, those with the lowest ids (content hashes) are taken."""
NEAREST_BINS = 20
LENGTH_BINS = 20
"""Bars of a length histogram, about."""
_BLOCK = 256
"""Prompts compared with all others in one call: bounds the memory of the comparison."""


# --------------------------------------------------------------------------------------------------------- openings

QUESTION_WORDS = frozenset("what which who whom whose when where why how".split())
YES_NO_WORDS = frozenset(
    "is are am was were do does did can could will would should shall may might must has have had isn aren don doesn "
    "didn won wouldn shouldn couldn".split()
)
IMPERATIVES = frozenset(
    "accept act add address adjust advise analyse analyze answer apply argue arrange ask assess assign assist assume "
    "brainstorm break brief bring build calculate categorise categorize change check choose cite clarify classify clean "
    "combine come comment compare complete compose compute conduct consider construct continue contrast convert correct "
    "count create criticise criticize debate decide decode define demonstrate derive describe design detect determine "
    "develop devise differentiate discuss distinguish divide draft draw edit elaborate eliminate encode enter enumerate "
    "estimate evaluate examine expand explain explore express extend extract figure fill filter find finish fix follow "
    "form formulate generate get give go group guess guide help highlight identify illustrate imagine implement improve "
    "include infer insert interpret introduce invent investigate join judge justify keep label let list locate look make "
    "map mark match measure mention modify multiply name note offer optimise optimize order organise organize outline "
    "paraphrase parse perform pick plan predict prepare present print produce proofread propose prove provide put quote "
    "rank rate read rearrange recall recommend reduce rephrase remove repeat replace report research resolve respond "
    "restate retell reverse review revise rewrite say search select send separate share shorten show simplify simulate "
    "sketch solve sort specify spell split start state subtract suggest sum summarise summarize take talk teach tell test "
    "think transform translate try turn update use validate verify visualise visualize write".split()
)
"""First words that are taken for a request. A verb that is missing here makes its prompt `other`, and nothing worse."""
_PASSED_OVER = frozenset(
    "a an the this these those my your his her its our their some any all each every no both several many much more most "
    "one two three four five six seven eight nine ten me us him them it you about of for on in into from with at by as "
    "up out please just also short brief simple good great new different following given possible common main best long "
    "small single complete detailed very".split()
)
"""Determiners, pronouns, prepositions, numbers and frequent adjectives: passed over on the way to the noun."""
_NO_OBJECT = QUESTION_WORDS | frozenset("to that whether if and or but because so then while".split())
"""Words with which another clause begins: no object comes any more."""
_POLITE = frozenset("please kindly now then next first finally also so and but".split())
_SENTENCE = re.compile(r"[^.!?:;\n]+[.!?:;\n]*")
_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*|[^\w\s]")


@dataclass(frozen=True)
class Opening:
    """What a prompt asks for, by its words."""

    kind: str
    """`request`, `question` or `other`."""
    first: str
    """The verb, the question word, `yes or no`, or empty."""
    second: str
    """The verb's object, or the word behind the question word; empty where there is none."""


OTHER = Opening("other", "", "")


def opening(text: str) -> Opening:
    """Verb and object, or question word and the next word, of the first sentence that has either.

    A sentence is a request where its first word (after `please` and the like) is one of IMPERATIVES; its object is the
    first word that is no determiner, pronoun, preposition, number or frequent adjective, unless a comma or another
    clause comes before it. A sentence with a question mark that is no request is a question: by its first word where that
    one asks for yes or no, else by its first question word. Nothing is reduced to its stem. English only.
    """
    for sentence in _SENTENCE.findall(text):
        words = _WORD.findall(sentence.casefold())
        while words and (words[0] in _POLITE or not words[0][0].isalnum()):
            words.pop(0)
        if not words:
            continue
        if words[0] in IMPERATIVES:
            return Opening("request", words[0], _object(words[1:]))
        if sentence.rstrip().endswith("?"):
            return _question(words)
        if words[0] in QUESTION_WORDS:
            return Opening("question", words[0], words[1] if words[1:] and words[1][0].isalnum() else "")
    return OTHER


def _object(words: Sequence[str]) -> str:
    for word in words:
        if word in _NO_OBJECT or not word[0].isalnum():
            return ""
        if word not in _PASSED_OVER and not word.isdecimal():
            return word
    return ""


def _question(words: Sequence[str]) -> Opening:
    if words[0] in YES_NO_WORDS:
        return Opening("question", "yes or no", words[0])
    for index, word in enumerate(words):
        if word in QUESTION_WORDS:
            behind = words[index + 1] if index + 1 < len(words) else ""
            return Opening("question", word, behind if behind[:1].isalnum() else "")
    return OTHER


@dataclass(frozen=True)
class Openings:
    """Prompts that begin with the same verb or question word."""

    kind: str
    first: str
    count: int
    seconds: tuple[tuple[str, int], ...]
    """Object or next word -> prompts, the most frequent first; those without one under the empty text."""


def openings(texts: Iterable[str]) -> tuple[Openings, ...]:
    """All openings, the most frequent first; the counts add up to the number of texts."""
    found = Counter(map(opening, texts))
    groups: dict[tuple[str, str], Counter[str]] = {}
    for one, count in found.items():
        groups.setdefault((one.kind, one.first), Counter())[one.second] += count
    return tuple(
        sorted(
            (
                Openings(
                    kind, first, sum(seconds.values()), tuple(sorted(seconds.items(), key=lambda s: (-s[1], s[0])))
                )
                for (kind, first), seconds in groups.items()
            ),
            key=lambda group: (-group.count, group.kind, group.first),
        )
    )


# ---------------------------------------------------------------------------------------------------------- lengths


@dataclass(frozen=True)
class Histogram:
    """Counts of values in bins of equal width."""

    low: float
    """Lower edge of the first bin."""
    width: float
    counts: tuple[int, ...]
    """A value on an edge lies in the bin above it; the highest edge is inside the last bin."""
    beyond: int
    """Values above the last bin."""
    total: int
    mean: float
    median: float
    largest: float

    @property
    def high(self) -> float:
        """Upper edge of the last bin."""
        return self.low + self.width * len(self.counts)


def word_histogram(texts: Iterable[str]) -> Histogram | None:
    """Lengths in words (split at white space) of the texts that are not empty; None where all are.

    Bins are whole numbers wide. The longest 2 % lie beyond the last bin where they would squeeze all others.
    """
    lengths = sorted(len(text.split()) for text in texts if text.strip())
    if not lengths:
        return None
    most = lengths[-1]
    usual = lengths[min(len(lengths) - 1, int(0.98 * len(lengths)))]
    end = most if most <= 1.5 * usual else usual
    width = next(w for w in _widths() if (end + 1) / w <= LENGTH_BINS)
    counts = Counter(length // width for length in lengths)
    bins = end // width + 1
    shown = tuple(counts[index] for index in range(bins))
    return Histogram(
        0.0, float(width), shown, len(lengths) - sum(shown), len(lengths), fmean(lengths), median(lengths), most
    )


def _widths() -> Iterable[int]:
    """1, 2, 5, 10, 20, 50, ..."""
    scale = 1
    while True:
        yield from (scale, 2 * scale, 5 * scale)
        scale *= 10


# ------------------------------------------------------------------------------------------------ nearest neighbours


@dataclass(frozen=True)
class Nearest:
    """How alike each instruction and the one nearest to it are: ROUGE-L F, 0..1."""

    histogram: Histogram
    compared: int
    """Instructions compared with each other."""
    total: int
    without_tokens: int
    """Instructions without a token of a-z and 0-9, for which ROUGE-L means nothing."""

    @property
    def is_sample(self) -> bool:
        """Whether only some were compared; the nearest of all is then as near or nearer."""
        return self.compared + self.without_tokens < self.total


def nearest_similarities(texts: Sequence[str]) -> list[float]:
    """ROUGE-L F (beta 1, rouge_score's tokens, no stemming) of each text with the nearest other one, in order.

    Raises ValueError for fewer than two texts, or a text without any token.
    """
    alphabet = Alphabet()
    encoded = [alphabet.encode(text) for text in texts]
    if len(texts) < 2 or not all(encoded):
        raise ValueError("expected two texts or more, each with a token of a-z or 0-9; leave the others out")
    found: list[float] = []
    for start in range(0, len(encoded), _BLOCK):
        block = encoded[start : start + _BLOCK]
        scores = process.cdist(block, encoded, scorer=Indel.normalized_similarity, dtype=np.float64)
        own = np.arange(len(block))
        scores[own, start + own] = -1.0
        found += scores.max(axis=1).tolist()
    return found


def nearest(rows: Iterable[Row], sample: int = NEAREST_SAMPLE) -> Nearest | None:
    """Similarity of each instruction to its nearest other one; None where fewer than two can be compared.

    Inputs are left out, as in the novelty filter. Of more than `sample` rows, those with the lowest ids are compared.
    """
    texts = sorted((str(row.get("id", "")), str(row.get("instruction") or "")) for row in rows)
    usable = [text for _, text in texts if rouge_tokens(text)]
    chosen = usable[:sample]
    if len(chosen) < 2:
        return None
    values = nearest_similarities(chosen)
    # The last bin holds 1.0; rounding keeps a value that stands on an edge from falling below it.
    bins = Counter(min(int(round(value * NEAREST_BINS, 9)), NEAREST_BINS - 1) for value in values)
    histogram = Histogram(
        0.0, 1 / NEAREST_BINS, tuple(bins[index] for index in range(NEAREST_BINS)), 0, len(values), fmean(values),
        median(values), max(values),
    )  # fmt: skip
    return Nearest(histogram, len(chosen), len(texts), len(texts) - len(usable))


# ------------------------------------------------------------------------------------------------------------- card


@dataclass(frozen=True)
class Card:
    """The diversity of the kept prompts of one node."""

    prompts: int
    sources: tuple[tuple[str, int], ...]
    openings: tuple[Openings, ...]
    instructions: Histogram | None
    """Words of the instructions."""
    inputs: Histogram | None
    """Words of the inputs, of prompts that have one."""
    nearest: Nearest | None

    def of_kind(self, kind: str) -> int:
        """Prompts that open as `request`, `question` or `other`."""
        return sum(group.count for group in self.openings if group.kind == kind)

    @property
    def pairs(self) -> int:
        """Distinct pairs of verb and object."""
        return sum(1 for group in self.openings if group.kind == "request" for second, _ in group.seconds if second)


def card(rows: Iterable[Row]) -> Card:
    """The diversity card of the kept rows of a node."""
    kept = [row for row in rows if row.get("kept", True)]
    instructions = [str(row.get("instruction") or "") for row in kept]
    return Card(
        prompts=len(kept),
        sources=in_source_order(Counter(str(row.get("source") or "unknown") for row in kept)),
        openings=openings(instructions),
        instructions=word_histogram(instructions),
        inputs=word_histogram(str(row.get("input") or "") for row in kept),
        nearest=nearest(kept),
    )


# ----------------------------------------------------------------------------------------------------------- topics


NO_TYPE = "no question type"
"""Where a row has none: such as a question that was written without being asked for."""


@dataclass(frozen=True)
class QuestionType:
    """One question type of red-teaming: its topics, and the questions that were asked about them."""

    name: str
    topics_kept: int
    """Lines of brainstorming that became a topic; the human seed's own is none of them."""
    topics_dropped: tuple[tuple[str, int], ...]
    """Reason -> lines that became none."""
    questions_kept: int
    questions_dropped: tuple[tuple[str, int], ...]
    """Reason -> questions."""
    topics: tuple[str, ...]
    """Kept topics, those with the most kept questions first."""


def question_types(topics: Iterable[Row], questions: Iterable[Row]) -> tuple[QuestionType, ...]:
    """Topics and questions by question type, types in the order of their names."""
    lines: dict[str, list[Row]] = {}
    asked: dict[str, list[Row]] = {}
    for found, rows in ((lines, topics), (asked, questions)):
        for row in rows:
            found.setdefault(str(row.get("question_type") or NO_TYPE), []).append(row)
    types = []
    for name in sorted({*lines, *asked}):
        kept = [row for row in lines.get(name, []) if row.get("kept", True)]
        questions_kept = [row for row in asked.get(name, []) if row.get("kept", True)]
        uses = Counter(str(row.get("topic") or "") for row in questions_kept)
        names = {str(row.get("topic") or "") for row in kept}
        types.append(
            QuestionType(
                name,
                len(kept),
                _reasons(lines.get(name, [])),
                len(questions_kept),
                _reasons(asked.get(name, [])),
                tuple(sorted(names, key=lambda topic: (-uses[topic], topic))),
            )  # fmt: skip
        )
    return tuple(types)


def _reasons(rows: Iterable[Row]) -> tuple[tuple[str, int], ...]:
    """Reason -> dropped rows, the most frequent first."""
    dropped = Counter(str(row.get("reason") or "no reason given") for row in rows if not row.get("kept", True))
    return tuple(sorted(dropped.items(), key=lambda item: (-item[1], item[0])))
