"""Principles and exemplars: data files in, the rules and worked examples of one ablation arm out.

A principle is a file `principles/<id>.yaml`; an exemplar is a file `principles/exemplars/<id>.yaml` that cites
principles by id. Numbers exist only once a set is resolved, so that removing a rule renumbers everything that cites
it. Sets and their order are Hydra choices (`conf/principles/`, `conf/exemplars/`). Rules and exemplars follow
Sun et al. 2023 (arXiv:2305.03047), section 3.2 and appendix; the wording is ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

from selfalign import resources
from selfalign.errors import ConfigError, DataError, unknown

REST = "..."
"""What stands in `PrincipleSettings.order` for all principles that are not named there."""


class Scope(StrEnum):
    """What leaves the prompt together with a dropped principle."""

    rule = "rule"
    """Only its line: exemplars go on citing it by the number it had (the naive ablation, confounded)."""
    citations = "citations"
    """Its line and its citations in the exemplars' thoughts."""
    exemplars = "exemplars"
    """Its line, and every exemplar that cites it."""
    placebo = "placebo"
    """Its line is replaced by a neutral one, and its citations go. What a model is shown has lines that keep the prompt's length in
    tokens (`prompts.placebo`)."""


class Numbering(StrEnum):
    """How the rules that stay are numbered."""

    renumber = "renumber"
    """1, 2, 3, ... without a gap."""
    keep = "keep"
    """Each keeps the number it has in the whole set, wherever it is shown; a dropped one leaves a gap."""


@dataclass(frozen=True)
class PrincipleSettings:
    """Which principles the model is shown, in which order, and what goes with a dropped one."""

    ids: list[str] = field(default_factory=list)
    """The whole set, in order: ids of files in `principles/`."""
    folder: str = ""
    """Folder below `principles/` that the files are in; empty for selfalign's own."""
    drop: list[str] = field(default_factory=list)
    """Principles of the set to leave out: the ablation."""
    add: list[str] = field(default_factory=list)
    """Principles to put behind the set."""
    order: list[str] = field(default_factory=list)
    """Order in which they are shown: ids, with `...` standing for all that are not named, in the set's order; without it
    these follow behind. `[candor]` shows candor first, `['...', candor]` last; empty for the set's order."""
    scope: Scope = Scope.citations
    """What leaves the prompt together with a dropped principle."""
    numbering: Numbering = Numbering.renumber
    """How the remaining rules are numbered."""


@dataclass(frozen=True)
class ExemplarSettings:
    """Which worked exemplars the model is shown, in which order."""

    ids: list[str] = field(default_factory=list)
    """Ids of files in `principles/exemplars/`, in order."""
    folder: str = ""
    """Folder below `principles/` whose `exemplars/` holds the files; empty for selfalign's own."""
    drop: list[str] = field(default_factory=list)
    """Exemplars of the set to leave out."""


@dataclass(frozen=True)
class Principle:
    """One principle as its file states it."""

    id: str
    number: int
    """Its number in the reference; a rendered number comes from the set, not from here."""
    name: str
    """Short name that thoughts cite."""
    text: str
    """The rule, with {assistant} for the assistant's name and {cutoff} for the end of its knowledge."""
    source: str
    rubric: str = ""
    """How a judge tells whether an answer follows it, and where it does not apply; empty where nobody wrote that down. No model
    that is trained or scored sees it."""


@dataclass(frozen=True)
class Rule:
    """One numbered line of a resolved set."""

    id: str
    number: int
    name: str
    text: str
    is_placebo: bool = False


@dataclass(frozen=True)
class Turn:
    """One question of an exemplar, with thoughts and answer."""

    user: str
    remark: str
    """What the thoughts say about the question, before the citations."""
    cites: tuple[str, ...]
    """Ids of the principles that the thoughts cite, in order."""
    answer: str
    thoughts_format: str = ""
    """Overrides the layout's format of the thoughts; empty for the layout's."""


@dataclass(frozen=True)
class Exemplar:
    """One worked conversation."""

    id: str
    turns: tuple[Turn, ...]
    source: str
    closing: str = ""
    """Overrides the layout's line that ends a conversation; empty for the layout's."""


@dataclass(frozen=True)
class RuleSet:
    """A resolved arm: the rules as shown, and the numbers that dropped ones would have had."""

    rules: tuple[Rule, ...]
    dropped: tuple[Rule, ...]
    scope: Scope

    def by_id(self) -> dict[str, Rule]:
        """Rules that are really there (no placebo), by id."""
        return {rule.id: rule for rule in self.rules if not rule.is_placebo}


def slug(name: str) -> str:
    """`Multi-aspect` -> `multi_aspect`: how ids are written, and how a misspelt one is compared."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _load(relative: str) -> dict[str, Any]:
    """The fields of a file; do not change them. A file is read once per process for as long as its size and time stay."""
    path = resources.find(relative)
    state = path.stat()
    return _parsed(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=512)
def _parsed(path: Path, size: int, mtime_ns: int) -> dict[str, Any]:
    """The fields of one state of a file."""
    content = resources.read_yaml(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a mapping of fields, found {type(content).__name__}")
    return content


def _checked(relative: str, content: dict[str, Any], allowed: Iterable[str], needed: Iterable[str]) -> None:
    problems = [unknown("field", key, allowed) for key in content if key not in allowed]
    problems += [f"field '{key}' is missing" for key in needed if content.get(key) in (None, "")]
    if problems:
        raise DataError(f"{relative}: " + "; ".join(problems))


def below(folder: str) -> str:
    """The resource path of a principles folder: `principles` or `principles/<folder>`."""
    return f"principles/{folder}" if folder else "principles"


def load_principle(principle_id: str, folder: str = "") -> Principle:
    """One principle from its file. Raises ConfigError for an unknown id, DataError for a bad file."""
    relative = f"{below(folder)}/{principle_id}.yaml"
    content = _load(relative)
    fields = ("id", "number", "name", "text", "source")
    _checked(relative, content, (*fields, "rubric"), fields)
    if content["id"] != principle_id:
        raise DataError(f"{relative}: expected id '{principle_id}' as in the file's name, found '{content['id']}'")
    return Principle(**{key: content[key] for key in fields}, rubric=content.get("rubric") or "")


def load_exemplar(exemplar_id: str, folder: str = "") -> Exemplar:
    """One exemplar from its file. Raises ConfigError for an unknown id, DataError for a bad file."""
    relative = f"{below(folder)}/exemplars/{exemplar_id}.yaml"
    content = _load(relative)
    _checked(relative, content, ("id", "turns", "source", "closing"), ("id", "turns", "source"))
    turns = []
    for number, turn in enumerate(content["turns"], start=1):
        allowed = ("user", "remark", "cites", "answer", "thoughts_format")
        _checked(f"{relative} turn {number}", turn, allowed, ("user", "remark", "answer"))
        turns.append(Turn(**{**turn, "cites": tuple(turn.get("cites") or ())}))
    return Exemplar(content["id"], tuple(turns), content["source"], content.get("closing") or "")


def available(folder: str = "") -> list[str]:
    """Ids of all principles in a folder, over all roots."""
    return resources.names(below(folder), ".yaml")


def available_exemplars(folder: str = "") -> list[str]:
    """Ids of all exemplars in a folder, over all roots."""
    return resources.names(f"{below(folder)}/exemplars", ".yaml")


def _match(found: str, allowed: Iterable[str]) -> str | None:
    """The id that a user meant by `multi-aspect` or `Step by step`; None where none matches."""
    return next((name for name in allowed if slug(name) == slug(found)), None)


def problems(settings: PrincipleSettings) -> list[str]:
    """What is wrong with a choice of principles: unknown, doubled, or dropped without being there."""
    found: list[str] = []
    existing = available(settings.folder)
    for key in ("ids", "add"):
        found += [
            f"principles.{key}: {unknown('principle', name, existing)}"
            for name in getattr(settings, key)
            if _match(name, existing) is None
        ]
    whole = [_match(name, existing) or name for name in (*settings.ids, *settings.add)]
    found += [
        f"principles.ids: expected each principle once, found '{name}' twice; remove one"
        for name in sorted({name for name in whole if whole.count(name) > 1})
    ]
    named = [name for name in settings.order if name != REST]
    for key, names in (("drop", settings.drop), ("order", named)):
        for name in names:
            if _match(name, whole) is None:
                allowed = whole if _match(name, existing) is None else None
                detail = (
                    unknown("principle", name, allowed)
                    if allowed
                    else f"'{name}' is not in the chosen set (it has: {', '.join(whole) or 'no principle'})"
                )
                found.append(f"principles.{key}: {detail}")
    order = [_match(name, whole) or name for name in settings.order]
    found += [
        f"principles.order: expected each entry once, found '{name}' {order.count(name)} times; remove the repeats"
        for name in dict.fromkeys(order)
        if order.count(name) > 1
    ]
    return found


def exemplar_problems(settings: ExemplarSettings) -> list[str]:
    """What is wrong with a choice of exemplars."""
    existing = available_exemplars(settings.folder)
    found = [
        f"exemplars.ids: {unknown('exemplar', name, existing)}"
        for name in settings.ids
        if _match(name, existing) is None
    ]
    found += [
        f"exemplars.drop: {unknown('exemplar', name, settings.ids)}"
        for name in settings.drop
        if _match(name, settings.ids) is None
    ]
    return found


NEUTRAL = (
    "{assistant} and the user [both ][often ]write| [their notes ]to each other| [only ]in turns[ here][ every day]|, and every "
    "[new ]message is [mostly ]made of [usual ]words|, sentences and sometimes [other ]lines| that stand one below the other| on "
    "the [same ]page| that both of them [can ]read"
)
"""What a neutral line says: it asks for nothing, and says nothing of long or short. It may end at a `|`; words in brackets are
spare."""


def _placebo(text: str) -> str:
    """A neutral line of as many words as `text`: Calf was pretrained behind these."""
    neutral = (re.sub(r"\[.*?\]|\|", "", NEUTRAL) + ".").split()
    words = [neutral[index % len(neutral)] for index in range(len(text.split()))]
    return " ".join(words).rstrip(".,") + "."


def _arranged(whole: Sequence[str], order: Sequence[str]) -> list[str]:
    """The ids of a set as they are shown."""
    named = [_match(name, whole) or name for name in order]
    rest = [name for name in whole if name not in named]
    at = named.index(REST) if REST in named else len(named)
    return [*named[:at], *rest, *named[at + 1 :]]


def resolve(settings: PrincipleSettings) -> RuleSet:
    """The numbered rules of an arm, under scope `placebo` with neutral lines of as many words as the dropped rules.

    Raises ConfigError with every problem of the choice at once.
    """
    if found := problems(settings):
        raise ConfigError(found)
    existing = available(settings.folder)
    whole = [_match(name, existing) or name for name in (*settings.ids, *settings.add)]
    dropped_ids = {_match(name, whole) for name in settings.drop}
    rules: list[Rule] = []
    dropped: list[Rule] = []
    for principle_id in _arranged(whole, settings.order):
        original = whole.index(principle_id) + 1
        principle = load_principle(principle_id, settings.folder)
        number = original if settings.numbering is Numbering.keep else len(rules) + 1
        if principle_id not in dropped_ids:
            rules.append(Rule(principle_id, number, principle.name, principle.text))
            continue
        dropped.append(Rule(principle_id, original, principle.name, principle.text))
        if settings.scope is Scope.placebo:
            rules.append(Rule(principle_id, number, "note", _placebo(principle.text), is_placebo=True))
    return RuleSet(tuple(rules), tuple(dropped), settings.scope)


def resolve_exemplars(settings: ExemplarSettings, rule_set: RuleSet) -> tuple[Exemplar, ...]:
    """The exemplars of an arm: under scope `exemplars`, those that cite a dropped principle are left out.

    Raises ConfigError with every problem of the choice at once.
    """
    if found := exemplar_problems(settings):
        raise ConfigError(found)
    existing = available_exemplars(settings.folder)
    dropped = {_match(name, settings.ids) for name in settings.drop}
    chosen = [
        load_exemplar(_match(name, existing) or name, settings.folder) for name in settings.ids if name not in dropped
    ]
    if rule_set.scope is not Scope.exemplars:
        return tuple(chosen)
    gone = {rule.id for rule in rule_set.dropped}
    return tuple(e for e in chosen if not any(gone.intersection(turn.cites) for turn in e.turns))


def shown_citations(rule_set: RuleSet, cites: Iterable[str]) -> list[Rule]:
    """The rules that a thought cites in this arm: those that are shown, and under scope `rule` the dropped ones too."""
    shown = rule_set.by_id()
    if rule_set.scope is Scope.rule:
        shown |= {rule.id: rule for rule in rule_set.dropped}
    return [shown[name] for name in cites if name in shown]
