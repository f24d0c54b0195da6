"""What a reader wants to see of a run's rows: some prompts and answers, loss curves.

Rows are chosen by id: ids are content hashes, so the choice is as good as random and the same every time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selfalign.report.figures import Curve
from selfalign.report.model import Node

KEPT_SHOWN = 8
DROPPED_SHOWN = 2
"""Dropped rows shown for each reason."""
LONGEST = 1500
"""Characters of a text that are shown."""


@dataclass(frozen=True)
class Sample:
    """One row as it is shown."""

    id: str
    question: str
    thoughts: str
    cited: tuple[str, ...]
    answer: str
    reason: str
    """Why it was dropped; empty where kept."""
    about: str
    """Source, topic and type of the prompt, as far as the row knows them."""
    original: str = ""
    """The answer before its critique; empty where there was none."""
    critique: str = ""
    """What the model found wrong with it."""
    principle: str = ""
    """Id of the principle under which it was criticised."""


@dataclass(frozen=True)
class SampleSet:
    """The rows of a node that are shown, and how many there are."""

    node: str
    kept: tuple[Sample, ...]
    dropped: tuple[Sample, ...]
    kept_total: int
    dropped_total: int


def cut(text: str) -> str:
    """A text of at most LONGEST characters; says how many were left out."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text) - LONGEST:,} more characters)"


def samples(node: Node) -> SampleSet | None:
    """Some kept rows of a node and some of each reason for dropping; None where it has neither."""
    rows = list(node.rows("responses.jsonl")) or list(node.rows("prompts.jsonl"))
    if not rows:
        return None
    # Dropped duplicates share an id: the rest of the row decides, not the place in the file.
    ordered = sorted(rows, key=lambda row: (str(row.get("id", "")), json.dumps(row, sort_keys=True)))
    kept = [row for row in ordered if row.get("kept", True)]
    dropped = [row for row in ordered if not row.get("kept", True)]
    chosen: list[Mapping[str, Any]] = []
    for reason in sorted({str(row.get("reason")) for row in dropped}):
        chosen += [row for row in dropped if str(row.get("reason")) == reason][:DROPPED_SHOWN]
    critiques = {str(row.get("id", "")): row for row in node.rows("critiques.jsonl")}
    shown, gone = (
        tuple(_sample(row, critiques.get(str(row.get("id", "")), {})) for row in side)
        for side in (kept[:KEPT_SHOWN], chosen)
    )
    return SampleSet(node.name, shown, gone, len(kept), len(dropped))


def _sample(row: Mapping[str, Any], critique: Mapping[str, Any]) -> Sample:
    question = "\n\n".join(str(row[key]) for key in ("instruction", "input") if row.get(key))
    is_kept = bool(row.get("kept", True))
    # The answer of a dropped row may be empty because it could not be parsed: then what the model wrote says more.
    answer = str(row.get("text") or ("" if is_kept else row.get("raw")) or "")
    about = " · ".join(str(row[key]).replace("_", " ") for key in ("source", "topic", "question_type") if row.get(key))
    return Sample(
        id=str(row.get("id", "")),
        question=cut(question),
        thoughts=cut(str(row.get("thoughts") or "")),
        cited=tuple(map(str, row.get("cited") or ())),
        answer=cut(answer),
        reason="" if is_kept else str(row.get("reason") or "no reason given"),
        about=about,
        original=cut(str(critique.get("original") or "")),
        critique=cut(str(critique.get("critique") or "")),
        principle=str(critique.get("principle") or ""),
    )


def loss_curves(node: Node) -> list[Curve]:
    """The losses in a node's metrics.jsonl over its steps: training first, validation after it, by source the latter alone."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in node.rows("metrics.jsonl"):
        if not _is_number(row.get("step")):
            continue
        step = row["step"]
        for key, value in row.items():
            # By source, the few rows of a step are noise around its loss; training.csv has them.
            if "loss" in key and not key.startswith("loss/") and _is_number(value):
                found.setdefault(key, []).append((float(step), float(value)))
    names = sorted(found, key=lambda name: ("valid" in name, name))
    return [
        Curve(name.replace("_", " "), tuple(found[name]), "validation" if "valid" in name else "training")
        for name in names
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
