"""Arms of a sweep in; the single questions and answers that came out otherwise than the control's, out.

Evaluation items are paired by seed and item, the answers of the data stages by seed and prompt id: every prompt draws the same
random numbers in every arm, so that a text which changed was changed by the setting. Cloned is shown beside engraved too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from selfalign.evaluation.scores import GENERATE, ORACLE
from selfalign.identity import short_id
from selfalign.report.arms import Arm, arms, dropped
from selfalign.report.model import Node, Run
from selfalign.report.telemetry import PARITY
from selfalign.statistics.outcomes import RIGHT

MOST = 2_000
"""Changes of one report that are shown. Where there are more, every kind of change (an arm, a task, a direction) has the same share
of the room, and its changes are drawn by a hash of their ids."""

LOST, GAINED, MOVED, TEXT, DROPPED, KEPT = "lost", "gained", "moved", "text", "dropped", "kept"
DIRECTIONS = {
    LOST: "right → wrong",
    GAINED: "wrong → right",
    MOVED: "another wrong choice",
    TEXT: "another text",
    DROPPED: "kept → dropped",
    KEPT: "dropped → kept",
}
"""Ways in which an item can change, as readers see them."""


@dataclass(frozen=True)
class Side:
    """What one of the two models made of an item."""

    text: str = ""
    """The answer; empty where a choice was made."""
    choices: tuple[int, ...] = ()
    """Positions of the chosen candidates: several in a tie."""
    note: str = ""
    """Why the answer was dropped, and which principles its thoughts cite."""


@dataclass(frozen=True)
class Question:
    """What was asked."""

    text: str
    candidates: tuple[str, ...] = ()
    """What could be chosen; empty for an open question."""
    right: tuple[int, ...] = ()
    """Positions of the right ones."""


@dataclass(frozen=True)
class Change:
    """One item that came out otherwise."""

    arm: str
    seed: str
    place: str
    """The node, or model, task and protocol."""
    item: str
    direction: str
    question: Question
    before: Side
    """The control's."""
    after: Side
    """The arm's."""


@dataclass(frozen=True)
class Tally:
    """How many items of one place changed in one arm, over all seeds."""

    arm: str
    place: str
    compared: int
    counts: Mapping[str, int]
    """Direction -> items."""


@dataclass(frozen=True)
class Flips:
    """Everything that changed."""

    tallies: tuple[Tally, ...]
    changes: tuple[Change, ...]
    """Those that are shown."""
    total: int
    """All that there are."""
    principles: Mapping[str, tuple[str, ...]]
    """Arm -> the principles that it has and the control has not, or the other way round."""


@dataclass(frozen=True)
class _Pair:
    """Two models, or two arms, that are laid side by side."""

    arm: str
    seed: str
    place: str
    compared: int
    changes: Iterator[Change]


def flips(runs: Sequence[Run], control: str = "") -> Flips | None:
    """What changed between the arms of some runs and the control, and from engraved to cloned in the control's own runs.

    `control` is as in `arms.arms`. None where nothing can be laid side by side.
    """
    found, _ = arms(runs, control)
    if not found:
        return None
    first, *others = found
    tallies: dict[tuple[str, str], Tally] = {}
    kinds: dict[tuple[str, str, str], list[Change]] = {}
    for pair in _pairs(first, others):
        counts: Counter[str] = Counter()
        for change in pair.changes:
            counts[change.direction] += 1
            kinds.setdefault((pair.arm, pair.place, change.direction), []).append(change)
        old = tallies.get((pair.arm, pair.place), Tally(pair.arm, pair.place, 0, {}))
        tallies[pair.arm, pair.place] = replace(
            old, compared=old.compared + pair.compared, counts=Counter(old.counts) + counts
        )
    if not tallies:
        return None
    own = set(dropped(next(iter(first.runs.values())).config))
    principles = {arm.label: tuple(sorted(own ^ set(dropped(next(iter(arm.runs.values())).config)))) for arm in others}
    total = sum(sum(one.counts.values()) for one in tallies.values())
    return Flips(tuple(tallies.values()), tuple(_shown(kinds)), total, principles)


def _shown(kinds: Mapping[tuple[str, str, str], Sequence[Change]]) -> Iterator[Change]:
    """The changes that have room: the same number of every kind, as large as fits."""
    share, room = MOST, MOST
    sizes = sorted(map(len, kinds.values()))
    for index, size in enumerate(sizes):
        share = room // (len(sizes) - index)
        room -= min(size, share)
    for changes in kinds.values():
        yield from sorted(changes, key=lambda one: short_id(one.item))[: max(share, 1)]


# ------------------------------------------------------------------------------------------------------------- pairs


def _pairs(control: Arm, others: Sequence[Arm]) -> Iterator[_Pair]:
    for arm in others:
        for seed in (seed for seed in control.runs if seed in arm.runs):
            yield from _two_runs(arm.label, seed, control.runs[seed], arm.runs[seed])
    for seed, run in control.runs.items():
        engraved, cloned = run.evaluation("engraved"), run.evaluation("cloned")
        if engraved and cloned:
            label = "cloned beside engraved" + (", control" if others else "")
            yield from _two_evaluations(label, seed, "cloned", engraved, cloned)


def _two_runs(label: str, seed: str, control: Run, arm: Run) -> Iterator[_Pair]:
    others = {node.name: node for node in arm.nodes}
    for node in control.nodes:
        other = others.get(node.name)
        if other is None or (node.artifact and node.artifact == other.artifact) or node.stage == PARITY:
            continue
        if node.name.startswith("scores_"):
            yield from _two_evaluations(label, seed, node.name.removeprefix("scores_"), node, other)
        else:
            yield from _two_data_sets(label, seed, node, other)


def _two_data_sets(label: str, seed: str, node: Node, other: Node) -> Iterator[_Pair]:
    before, after = ({str(row.get("prompt_id")): row for row in one.rows("responses.jsonl")} for one in (node, other))
    common = [key for key in before if key in after]
    if common:
        changes = _changed(label, seed, node.name, common, before, after, _answer_change)
        yield _Pair(label, seed, node.name, len(common), changes)


def _two_evaluations(label: str, seed: str, subject: str, node: Node, other: Node) -> Iterator[_Pair]:
    sides = [
        {(row["task"], row["protocol"], row["item"]): row for row in one.rows("items.jsonl")} for one in (node, other)
    ]
    before, after = sides
    places: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
    for key in before:
        if key in after:
            places.setdefault(key[:2], []).append(key)
    for (task, protocol), common in places.items():
        place = f"{subject}: {task}" + ("" if protocol == GENERATE else f" · {protocol}")
        made = {GENERATE: _text_change, ORACLE: _mark_change}.get(protocol, _choice_change)
        yield _Pair(label, seed, place, len(common), _changed(label, seed, place, common, before, after, made))


Row = Mapping[str, Any]
Found = tuple[str, Question, Side, Side]


def _changed(
    label: str,
    seed: str,
    place: str,
    keys: Iterable[Any],
    before: Mapping[Any, Row],
    after: Mapping[Any, Row],
    compare: Callable[[Row, Row], Found | None],
) -> Iterator[Change]:
    for key in keys:
        if found := compare(before[key], after[key]):
            yield Change(label, seed, place, key if isinstance(key, str) else str(key[-1]), *found)


def _choice_change(before: Row, after: Row) -> Found | None:
    # An outcome that is broken is neither right nor wrong.
    if before["correct"] is None or after["correct"] is None:
        return None
    was, now = (row["correct"] > RIGHT for row in (before, after))
    choices = [tuple(row["choice"]) for row in (before, after)]
    if was == now and (was or choices[0] == choices[1]):
        return None
    right = tuple(index for index, is_right in enumerate(before["right"]) if is_right)
    question = Question(before["question"], tuple(before["choices"]), right)
    direction = MOVED if was == now else LOST if was else GAINED
    return direction, question, Side(choices=choices[0]), Side(choices=choices[1])


def _text_change(before: Row, after: Row) -> Found | None:
    if before["answer"] == after["answer"]:
        return None
    return TEXT, Question(before["question"]), Side(before["answer"]), Side(after["answer"])


def _mark_change(before: Row, after: Row) -> Found | None:
    """Between two answers that an oracle read: whether all that governs the question is shown."""
    was, now = (all(row["marks"].values()) for row in (before, after))
    if was == now:
        return None
    sides = [Side(row["answer"], note=_marks(row["marks"])) for row in (before, after)]
    return LOST if was else GAINED, Question(before["question"]), sides[0], sides[1]


def _marks(marks: Mapping[str, int]) -> str:
    shown, missing = ([name for name, mark in marks.items() if bool(mark) is wanted] for wanted in (True, False))
    parts = (f"{word} {', '.join(names)}" for word, names in (("shows", shown), ("lacks", missing)) if names)
    return "; ".join(parts)


def _answer_change(before: Row, after: Row) -> Found | None:
    """Between two answers to a prompt: the text, or whether it is kept."""
    is_kept = [bool(row.get("kept", True)) for row in (before, after)]
    texts = [str(row.get("text") or row.get("raw") or "") for row in (before, after)]
    if texts[0] == texts[1] and is_kept[0] == is_kept[1]:
        return None
    direction = TEXT if is_kept[0] == is_kept[1] else DROPPED if is_kept[0] else KEPT
    question = "\n\n".join(str(before[key]) for key in ("instruction", "input") if before.get(key))
    sides = [Side(text, note=_note(row)) for text, row in zip(texts, (before, after), strict=True)]
    return direction, Question(question), sides[0], sides[1]


def _note(row: Row) -> str:
    reason = "" if row.get("kept", True) else f"dropped: {row.get('reason') or 'no reason given'}"
    cited = f"cites {', '.join(map(str, row['cited']))}" if row.get("cited") else ""
    return "; ".join(text for text in (reason, cited) if text)
