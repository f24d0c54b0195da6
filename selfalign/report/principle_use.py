"""Which principles the thoughts of answers cite: rows of `responses.jsonl` and a run's rules in, counts out.

Sun et al. 2023 (section 4, appendix) show how often each principle is used for the prompts of either source. The code
behind those figures was not released, so what counts is stated here: kept answers, each principle once an answer. The
order of the rows changes nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Any

from selfalign.principles import slug

SOURCE_ORDER = ("self_instruct", "red_team", "file", "identity")
"""Sources in the order in which they are shown; others stand behind them."""
SENTENCE_WORDS = 5
"""Words from which on a sentence of the thoughts is long enough to be recognised in an answer."""

Row = Mapping[str, Any]


class Standing(StrEnum):
    """What a cited principle is in this run."""

    rule = "rule"
    """One of the rules that the model was shown."""
    dropped = "dropped"
    """In the set, and left out of this run: the ablation."""
    absent = "absent"
    """Neither: a number that no rule has, such as `#19`, or a name from elsewhere."""


@dataclass(frozen=True)
class Rules:
    """The principles of one run, as its configuration states them."""

    ids: tuple[str, ...] = ()
    """The whole set, in order, added ones behind it; empty where the configuration does not say."""
    dropped: tuple[str, ...] = ()
    """Those of the set that were left out."""

    @property
    def shown(self) -> tuple[str, ...]:
        """Those that the model was shown, in order."""
        return tuple(name for name in self.ids if name not in self.dropped)

    @cached_property
    def spelling(self) -> dict[str, str]:
        """What spellings of a principle have in common -> its spelling in the set."""
        return {_key(name): name for name in self.ids}

    def standing(self, name: str) -> Standing:
        """What a cited id is here. Where the rules are not known, every name is a rule and every number absent."""
        own = self.spelling.get(_key(name))
        if own is None:
            return Standing.absent if self.ids or name.startswith("#") else Standing.rule
        return Standing.dropped if own in self.dropped else Standing.rule


def rules_of(config: Mapping[str, Any]) -> Rules:
    """The rules of stage 2 in a run's configuration: its own where it has some, else those of the whole experiment."""
    own = config.get("self_align")
    settings = own.get("principles") if isinstance(own, Mapping) else None
    if not isinstance(settings, Mapping):
        settings = config.get("principles")
    if not isinstance(settings, Mapping):
        return Rules()
    ids = tuple(str(name) for name in [*(settings.get("ids") or []), *(settings.get("add") or [])])
    gone = {_key(str(name)) for name in settings.get("drop") or []}
    return Rules(ids, tuple(name for name in ids if _key(name) in gone))


@lru_cache(maxsize=4096)
def _key(name: str) -> str:
    """What two spellings of a principle have in common; a number that no rule has stays as it is."""
    return name if name.startswith("#") else slug(name) or name


@dataclass(frozen=True)
class Citation:
    """How often a principle is cited in the thoughts of kept answers."""

    principle: str
    standing: Standing
    count: int
    """Kept answers whose thoughts cite it."""
    share: float
    """Of all kept answers, 0..1."""
    by_source: tuple[int, ...]
    """The same count for each source, in the order of `PrincipleUse.sources`."""


@dataclass(frozen=True)
class Check:
    """Something that thoughts and answer should not show, and how many rows show it."""

    code: str
    says: str
    """What is counted, as a sentence."""
    kept: int
    dropped: int
    example: str
    """Id of one such row; empty where there is none."""


@dataclass(frozen=True)
class PrincipleUse:
    """Principle telemetry of one node: who is cited, together with whom, and what does not fit."""

    answers: int
    """Kept answers."""
    sources: tuple[tuple[str, int], ...]
    """Source of the prompt -> kept answers."""
    citations: tuple[Citation, ...]
    """The whole set in its order, dropped ones in their places, then what is absent. Uncited ones have the count 0."""
    together: tuple[tuple[int, ...], ...]
    """[citations, citations]: kept answers that cite both; on the diagonal, the count of the one."""
    checks: tuple[Check, ...]
    """All of CHECKS and the one over several rows, found or not."""

    @property
    def citing_absent(self) -> int:
        """Kept answers whose thoughts cite a principle that is not among the rules shown."""
        return next(check.kept for check in self.checks if check.code == "cites_absent")

    def source_share(self, citation: Citation, index: int) -> float:
        """Of the kept answers to one source's prompts, the share that cites the principle (0..1)."""
        total = self.sources[index][1]
        return citation.by_source[index] / total if total else 0.0


def principle_use(rows: Iterable[Row], rules: Rules) -> PrincipleUse | None:
    """Citations, co-citations and checks of the rows of one node; None where no row has thoughts."""
    answers = [_answer(row, rules) for row in rows]
    if not any(answer.thoughts for answer in answers):
        return None
    kept = [answer for answer in answers if answer.is_kept]
    sources = in_source_order(Counter(answer.source for answer in kept))
    counts = Counter(name for answer in kept for name in answer.cited)
    pairs = Counter((left, right) for answer in kept for left in answer.cited for right in answer.cited)
    by_source = Counter((name, answer.source) for answer in kept for name in answer.cited)
    names = _ordered(rules, counts)
    return PrincipleUse(
        answers=len(kept),
        sources=sources,
        citations=tuple(
            Citation(
                name,
                rules.standing(name),
                counts[name],
                counts[name] / len(kept) if kept else 0.0,
                tuple(by_source[name, source] for source, _ in sources),
            )
            for name in names
        ),
        together=tuple(tuple(pairs[left, right] for right in names) for left in names),
        checks=(*(_check(code, says, test, answers, rules) for code, (says, test) in CHECKS.items()), _shared(answers)),
    )


def in_source_order(counts: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """(source, count), the known sources first and in their order, then the others by name."""
    known = {name: index for index, name in enumerate(SOURCE_ORDER)}
    return tuple(sorted(counts.items(), key=lambda item: (known.get(item[0], len(known)), item[0])))


def _ordered(rules: Rules, counts: Mapping[str, int]) -> list[str]:
    """The set, then everything else that is cited: names before numbers, numbers by size."""

    def place(name: str) -> tuple[bool, int, str]:
        is_number = name[:1] == "#" and name[1:].isdecimal()
        return is_number, int(name[1:]) if is_number else 0, name

    return list(dict.fromkeys([*rules.ids, *sorted(counts, key=place)]))


# ---------------------------------------------------------------------------------------------------------- checks


@dataclass(frozen=True)
class _Answer:
    """One row, as far as telemetry reads it."""

    id: str
    source: str
    is_kept: bool
    thoughts: str
    answer: str
    cited: tuple[str, ...]
    """Each once, spelt as the configuration spells its rules."""


def _answer(row: Row, rules: Rules) -> _Answer:
    cited = [rules.spelling.get(_key(name), name) for name in map(str, row.get("cited") or ())]
    return _Answer(
        id=str(row.get("id", "")),
        source=str(row.get("source") or "unknown"),
        is_kept=bool(row.get("kept", True)),
        thoughts=str(row.get("thoughts") or "").strip(),
        answer=str(row.get("text") or "").strip(),
        cited=tuple(dict.fromkeys(cited)),
    )


# A number with a name in brackets: how thoughts cite a rule (the exemplars' `7 (candor)`).
_NAMED = re.compile(r"\d{1,3}\s*\(([^()\n]{1,60})\)")
_SENTENCE_END = re.compile(r"[.!?\n]+")


def _named(text: str, names: Iterable[str]) -> bool:
    """Whether a text cites one of these principles by name."""
    wanted = {_key(name) for name in names}
    return bool(wanted) and any(_key(name) in wanted for name in _NAMED.findall(text))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _cites_absent(answer: _Answer, rules: Rules) -> bool:
    return any(rules.standing(name) is not Standing.rule for name in answer.cited)


def _repeats_thoughts(answer: _Answer, rules: Rules) -> bool:
    said = f" {' '.join(_words(answer.answer))} "
    sentences = map(_words, _SENTENCE_END.split(answer.thoughts))
    return any(f" {' '.join(words)} " in said for words in sentences if len(words) >= SENTENCE_WORDS)


CHECKS: dict[str, tuple[str, Callable[[_Answer, Rules], bool]]] = {
    "no_thoughts": (
        "There is an answer, but no thoughts.",
        lambda answer, rules: bool(answer.answer and not answer.thoughts),
    ),
    "no_answer": (
        "There are thoughts, but no answer.",
        lambda answer, rules: bool(answer.thoughts and not answer.answer),
    ),
    "cites_nothing": (
        "The thoughts cite no principle.",
        lambda answer, rules: bool(answer.thoughts and not answer.cited),
    ),
    "cites_absent": (
        "The thoughts cite a principle that is not among the rules shown, or a number that no rule has.",
        _cites_absent,
    ),
    "names_dropped": (
        "The thoughts give the name of a principle that this run leaves out, behind whatever number; where another rule "
        "has that number now, the citation counts for that rule.",
        lambda answer, rules: _named(answer.thoughts, rules.dropped),
    ),
    "repeats_thoughts": (
        f"The answer holds a sentence of the thoughts ({SENTENCE_WORDS} words or more) word for word.",
        _repeats_thoughts,
    ),
    "cites_in_answer": (
        "The answer itself cites a principle by number and name.",
        lambda answer, rules: _named(answer.answer, rules.ids),
    ),
}
"""Code -> what it says, and whether a row shows it."""


def _check(
    code: str, says: str, test: Callable[[_Answer, Rules], bool], answers: Sequence[_Answer], rules: Rules
) -> Check:
    return _counted(code, says, [answer for answer in answers if test(answer, rules)])


def _shared(answers: Sequence[_Answer]) -> Check:
    """The same thoughts before answers that differ: seen over rows, not in one."""
    found: dict[str, set[str]] = {}
    whole = [answer for answer in answers if answer.thoughts and answer.answer]
    for answer in whole:
        found.setdefault(answer.thoughts, set()).add(answer.answer)
    says = "Other rows have the same thoughts and another answer. No mistake by itself: the questions may differ."
    return _counted("shared_thoughts", says, [answer for answer in whole if len(found[answer.thoughts]) > 1])


def _counted(code: str, says: str, found: Sequence[_Answer]) -> Check:
    kept = sum(answer.is_kept for answer in found)
    return Check(code, says, kept, len(found) - kept, min((answer.id for answer in found), default=""))


# ---------------------------------------------------------------------------------------------------- several runs


@dataclass(frozen=True)
class Compared:
    """One principle over several runs."""

    principle: str
    cells: tuple[Citation | None, ...]
    """One a run; None where the principle is not in its set, or where no answer has thoughts."""


def compare(uses: Sequence[PrincipleUse | None]) -> list[Compared]:
    """The principles of several runs, one line each: what an ablation did to every citation.

    A principle that any run has among its rules, or left out, has a line; what is absent everywhere has none.
    """
    found = [
        {c.principle: c for c in use.citations if c.standing is not Standing.absent} if use else {} for use in uses
    ]
    names = dict.fromkeys(name for cells in found for name in cells)
    return [Compared(name, tuple(cells.get(name) for cells in found)) for name in names]
