"""What a run's data look like: its nodes' rows in; funnel, principle use and diversity, counted, out.

The report shows them and the tracker logs them, both from here, so that they cannot differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfalign.report.diversity import Card, Histogram, QuestionType, card, question_types, word_histogram
from selfalign.report.model import Node, Run
from selfalign.report.principle_use import PrincipleUse, principle_use, rules_of

MATCHES_SHOWN = 20
"""Contaminated prompts that are shown; all of them are in the node's matches.jsonl."""

PARITY = "Parity"
"""Stage of the nodes that cut the arms of a sweep to their common prompts."""


@dataclass(frozen=True)
class Contamination:
    """What the comparison of the prompts with the evaluation sets found."""

    node: str
    prompts: int
    """Prompts compared."""
    questions: int
    """Questions they were compared with."""
    is_removed: bool
    """Whether contaminated prompts were taken out."""
    by_task: tuple[tuple[str, int], ...]
    """Task -> prompts that resemble one of its questions most."""
    matches: tuple[Mapping[str, Any], ...]
    """Rows of matches.jsonl, the longest runs of words first."""
    not_compared: str
    """Names of the evaluation sets that were not there to compare with; empty where all were."""


@dataclass(frozen=True)
class ArmYield:
    """What one arm of a sweep keeps by itself."""

    arm: str
    """What its settings have of their own; empty for this run."""
    asked: int
    """Prompts that it answered."""
    kept: int
    """Those whose answers its own filters keep."""
    cut: int
    """Kept ones that it is not trained on, because another arm lost them."""


@dataclass(frozen=True)
class Parity:
    """The cut of the arms of a sweep to their common prompts, by one node."""

    node: str
    common: int
    """Prompts whose answers every arm keeps."""
    arms: tuple[ArmYield, ...]
    """This run first, then the others, those that keep fewest first."""


@dataclass(frozen=True)
class Telemetry:
    """The data of one run, counted."""

    funnels: tuple[Node, ...]
    """Nodes that counted rows; a node's topics, where it has some, stand behind it as one of their own."""
    uncounted: tuple[Node, ...]
    """Generating or training nodes without counts: left out, blocked or failed."""
    notes: tuple[str, ...]
    """Where the rows of an artifact are not what the manifest counts."""
    uses: tuple[tuple[str, PrincipleUse], ...]
    """Node -> principle use of its answers."""
    prompts: Node | None
    """The node whose prompts the card is about."""
    card: Card | None
    novelty: float | None
    """Threshold of the novelty filter of Self-Instruct, ROUGE-L F."""
    answers: tuple[tuple[str, Histogram], ...]
    """Node -> words of its kept answers."""
    red_team: tuple[QuestionType, ...]
    contamination: Contamination | None
    parity: tuple[Parity, ...]
    """One for each cut: of the answers, and of the long answers."""


def collect(runs: Sequence[Run]) -> list[Telemetry]:
    """The telemetry of some runs; a card that several share (the arms of a sweep) is computed once."""
    cards: dict[str, Card] = {}
    return [_collect(run, cards) for run in runs]


def _collect(run: Run, cards: dict[str, Card]) -> Telemetry:
    rules = rules_of(run.config)
    funnels: list[Node] = []
    notes: list[str] = []
    uses: list[tuple[str, PrincipleUse]] = []
    answers: list[tuple[str, Histogram]] = []
    prompts: Node | None = None
    prompt_rows: list[dict[str, Any]] = []
    red_team: tuple[QuestionType, ...] = ()
    for node in run.nodes:
        if node.rows_in is not None and node.stage != "Evaluate":
            funnels.append(node)
        file = _records(node)
        rows = list(node.rows(file)) if file else []
        if file and (note := _recount(node, rows)):
            notes.append(note)
        responses, written = (rows, []) if file == "responses.jsonl" else ([], rows)
        # Revised answers carry the thoughts of the first ones, which are counted where they were thought.
        is_revised = any(node.rows("critiques.jsonl"))
        if not is_revised and (use := principle_use(responses, rules)):
            uses.append((node.name, use))
        kept = (str(row.get("text") or "") for row in responses if row.get("kept", True))
        if words := word_histogram(kept):
            answers.append((node.name, words))
        # The cut of a sweep holds the same prompts again.
        if file == "prompts.jsonl" and node.stage != PARITY:
            prompts, prompt_rows = node, written
        if topics := list(node.rows("topics.jsonl")):
            red_team = question_types(topics, written)
            funnels.append(_topic_funnel(node, topics))
    novelty = run.config.get("self_instruct")
    threshold = novelty.get("novelty") if isinstance(novelty, Mapping) else None
    return Telemetry(
        funnels=tuple(funnels),
        uncounted=tuple(node for node in run.nodes if node.rows_in is None and not _is_score(node)),
        notes=tuple(notes),
        uses=tuple(uses),
        prompts=prompts,
        card=_card(prompts, prompt_rows, cards) if prompts else None,
        novelty=float(threshold) if isinstance(threshold, (int, float)) else None,
        answers=tuple(answers),
        red_team=red_team,
        contamination=next((_contamination(node) for node in run.nodes if _was_compared(node)), None),
        parity=tuple(_parity(run, node) for node in run.nodes if node.stage == PARITY and node.rows_in is not None),
    )


def _parity(run: Run, node: Node) -> Parity:
    arms = run.manifest.get("arms") or {}
    labels = {entry.get("artifact"): arm for arm, nodes in arms.items() for entry in nodes.values()}
    own = {entry.artifact for entry in run.nodes}
    found = [
        ArmYield("" if row["artifact"] in own else labels.get(row["artifact"], row["artifact"]),
                 int(row["asked"]), int(row["kept"]), int(row["cut"]))
        for row in node.rows("arms.jsonl")
    ]  # fmt: skip
    return Parity(node.name, node.kept, tuple(sorted(found, key=lambda one: (one.arm != "", one.kept, one.arm))))


def _was_compared(node: Node) -> bool:
    return node.stage == "Contamination" and node.rows_in is not None


def _contamination(node: Node) -> Contamination:
    per_task = "contaminated/"
    return Contamination(
        node=node.name,
        prompts=node.rows_in or 0,
        questions=int(node.metrics.get("questions") or 0),
        is_removed=node.folder is not None and (node.folder / "prompts.jsonl").is_file(),
        by_task=tuple(
            (name.removeprefix(per_task), int(count))
            for name, count in node.metrics.items()
            if name.startswith(per_task)
        ),
        matches=tuple(sorted(node.rows("matches.jsonl"), key=_match_order)),
        not_compared=str(node.metrics.get("not_compared") or ""),
    )


def _match_order(match: Mapping[str, Any]) -> tuple[int, float, str]:
    return -len(str(match.get("run") or "").split()), -float(match.get("resemblance") or 0), str(match.get("prompt_id"))


def _records(node: Node) -> str:
    """The file that holds a node's answers or prompts; empty where it has none."""
    files = ("responses.jsonl", "prompts.jsonl")
    return next((file for file in files if node.folder is not None and (node.folder / file).is_file()), "")


def _is_score(node: Node) -> bool:
    return node.stage == "Evaluate" or node.name.startswith("scores_")


def _card(node: Node, rows: Sequence[Mapping[str, Any]], cards: dict[str, Card]) -> Card:
    # An artifact is named by its content; one without a name is nobody else's.
    if not node.artifact:
        return card(rows)
    if node.artifact not in cards:
        cards[node.artifact] = card(rows)
    return cards[node.artifact]


def _dropped(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    found = Counter(str(row.get("reason") or "no reason given") for row in rows if not row.get("kept", True))
    return dict(sorted(found.items()))


def _recount(node: Node, rows: Sequence[Mapping[str, Any]]) -> str:
    """How the manifest's counts of a node and its rows differ, in words; empty where they agree or there are none."""
    if node.rows_in is None:
        return ""
    dropped = _dropped(rows)
    kept = len(rows) - sum(dropped.values())
    if (kept, dropped) == (node.kept, {reason: count for reason, count in node.dropped.items() if count}):
        return ""
    return (
        f"{node.name}: the manifest counts {_told(node.kept, node.dropped)}, its rows are {_told(kept, dropped)}; "
        "do not rely on this node before that is explained"
    )


def _told(kept: int, dropped: Mapping[str, int]) -> str:
    return ", ".join([f"{kept:,} kept", *(f"{count:,} {reason}" for reason, count in sorted(dropped.items()) if count)])


def _topic_funnel(node: Node, topics: Sequence[Mapping[str, Any]]) -> Node:
    dropped = _dropped(topics)
    return Node(
        f"{node.name}: topics", node.stage, node.status, rows_in=len(topics),
        kept=len(topics) - sum(dropped.values()), dropped=dropped,
    )  # fmt: skip
