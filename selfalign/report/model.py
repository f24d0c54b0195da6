"""A run folder as the report sees it: manifest.json, config.yaml, scores.jsonl and the artifacts of its nodes.

Only manifest.json must be there; what else is missing becomes a note that every report shows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from selfalign import jsonl
from selfalign.errors import DataError
from selfalign.evaluation.scores import Key, item_values
from selfalign.records import Score, from_row

MANIFEST = "manifest.json"
SWEEP = "sweep.json"
"""The file that makes a folder a sweep's (`selfalign.sweep`)."""
SHAPE = "manifest.json with run_id and nodes, config.yaml, scores.jsonl, stages/<node>/"


@dataclass(frozen=True)
class Node:
    """One node of a run: what became of it, and where its files are."""

    name: str
    stage: str
    status: str
    """`computed`, `reused`, `skipped`, `failed` or `blocked`."""
    why: str = ""
    """The error of a failed node, what blocked it, or why it was skipped."""
    artifact: str = ""
    seconds: float = 0.0
    """Time that the run spent on it."""
    rows_in: int | None = None
    """Rows that went in; None where the node counted nothing."""
    kept: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Rows dropped, by reason."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    """Its artifact; None where it is not there (any more)."""

    @property
    def imbalance(self) -> str:
        """What is wrong with the counts, in words; empty where in = kept + dropped."""
        total = self.kept + sum(self.dropped.values())
        if self.rows_in is None or total == self.rows_in:
            return ""
        return f"{self.name}: {self.rows_in:,} rows went in, but kept and dropped add up to {total:,}"

    def rows(self, file: str) -> Iterator[dict[str, Any]]:
        """The rows of one of its JSONL files, in order; none where the file is not there."""
        if self.folder is not None and (self.folder / file).is_file():
            yield from jsonl.iterate(self.folder / file)

    @cached_property
    def values(self) -> Mapping[Key, Mapping[str, float]]:
        """(task, protocol, metric) -> item id -> value, of an evaluation; empty where its items are not stored."""
        return item_values(self.rows("items.jsonl"))


@dataclass(frozen=True)
class Run:
    """One run, read from its folder."""

    folder: Path
    run_id: str
    name: str
    group: str
    status: str
    created: str
    seconds: float
    manifest: Mapping[str, Any]
    config: Mapping[str, Any]
    """The resolved configuration; empty where config.yaml is missing."""
    nodes: tuple[Node, ...]
    scores: tuple[Score, ...]
    notes: tuple[str, ...]
    """What is missing or does not add up, each in a sentence."""

    @property
    def uses_calf(self) -> bool:
        """Whether the base model is the embedded model organism."""
        model = self.config.get("model")
        values = model.values() if isinstance(model, Mapping) else [model]
        return any(isinstance(value, str) and Path(value).name.lower() == "calf" for value in values)

    def evaluation(self, subject: str) -> Node | None:
        """The node that scored one of the run's models; None where there is none."""
        return next((node for node in self.nodes if node.name == f"scores_{subject}"), None)


def load_run(folder: Path) -> Run:
    """A run from its folder. Raises DataError where it is no run folder, or where a file in it is broken."""
    folder = Path(folder)
    manifest = _manifest(folder)
    notes: list[str] = []
    config = _config(folder, notes)
    nodes = tuple(_node(folder, name, entry) for name, entry in manifest["nodes"].items())
    for node in nodes:
        if node.imbalance:
            notes.append(f"{node.imbalance}; do not rely on this node before that is explained")
        if node.status in ("computed", "reused") and node.folder is None:
            notes.append(
                f"The artifact of node {node.name} is not there any more: no samples or curves of it are shown"
            )
    return Run(
        folder=folder,
        run_id=str(manifest["run_id"]),
        name=str(manifest.get("name", manifest["run_id"])),
        group=str(manifest.get("group", "")),
        status=str(manifest.get("status", "unknown")),
        created=str(manifest.get("created", "")),
        seconds=float(manifest.get("seconds") or 0.0),
        manifest=manifest,
        config=config,
        nodes=nodes,
        scores=_scores(folder, notes),
        notes=tuple(notes),
    )


def sweep_of(runs: Sequence[Run]) -> Mapping[str, Any]:
    """The `sweep.json` beside several runs that names all of them; empty where there is none. Of several the one with the
    fewest jobs, so that a larger sweep, begun later, does not change what is said of a smaller one."""
    wanted, places = {run.run_id for run in runs}, {run.folder.resolve().parent for run in runs}
    found = []
    for path in sorted(path for place in places for path in place.glob(f"*/{SWEEP}")) if len(wanted) > 1 else ():
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path}: expected JSON, found a mistake: {error}; run the sweep's command again") from None
        if wanted <= {job["id"] for job in content.get("jobs") or ()}:
            found.append(content)
    return min(found, key=lambda content: len(content["jobs"]), default={})


def load_runs(folders: Iterable[Path]) -> list[Run]:
    """The runs of these folders, none twice; a folder that is no run but holds some (a sweep) stands for those.

    Raises DataError for a folder that is neither.
    """
    found: dict[Path, Run] = {}
    for folder in map(Path, folders):
        if (folder / MANIFEST).is_file():
            members = [folder]
        else:
            members = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}") if _is_run(path))
        for member in members or [folder]:
            found.setdefault(member.resolve(), load_run(member))
    if not found:
        raise DataError("expected at least one run folder, found none; give the folder of a run, such as runs/<run id>")
    return list(found.values())


def _is_run(manifest: Path) -> bool:
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "run_id" in content and "nodes" in content


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    advice = f"expected a run folder ({SHAPE}); give the folder of a run, such as runs/<run id>"
    if not path.is_file():
        there = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) if folder.is_dir() else "no such folder"
        raise DataError(f"{folder}: no {MANIFEST}, found: {there or 'an empty folder'}; {advice}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: expected JSON, found a mistake: {error}; {advice}") from None
    if not isinstance(content, dict) or "run_id" not in content or not isinstance(content.get("nodes"), dict):
        keys = ", ".join(content) if isinstance(content, dict) else type(content).__name__
        raise DataError(f"{path}: found the keys {keys}; {advice}")
    return content


def _config(folder: Path, notes: list[str]) -> dict[str, Any]:
    path = folder / "config.yaml"
    if not path.is_file():
        notes.append("config.yaml is missing: settings and principles cannot be shown")
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise DataError(
            f"{path}: expected YAML, found a mistake: {error}; run the experiment again to rewrite it"
        ) from None
    return content if isinstance(content, dict) else {}


def _scores(folder: Path, notes: list[str]) -> tuple[Score, ...]:
    path = folder / "scores.jsonl"
    if not path.is_file():
        notes.append("scores.jsonl is missing: this run has no scores (yet)")
        return ()
    scores = tuple(from_row(Score, row) for row in jsonl.iterate(path))
    if not scores:
        notes.append("scores.jsonl is empty: nothing was evaluated")
    seen: set[tuple[str, ...]] = set()
    for score in scores:
        key = (score.task, score.protocol, score.metric, score.subject)
        if key in seen:
            notes.append(f"scores.jsonl holds {' / '.join(key)} more than once: the last one is shown")
        seen.add(key)
    return scores


def _node(run: Path, name: str, entry: Mapping[str, Any]) -> Node:
    counts = entry.get("counts") or {}
    return Node(
        name=name,
        stage=str(entry.get("stage") or ""),
        status=str(entry.get("status") or "unknown"),
        why=str(entry.get("why") or ""),
        artifact=str(entry.get("artifact") or ""),
        seconds=float(entry.get("seconds") or 0.0),
        rows_in=counts.get("in"),
        kept=int(counts.get("kept") or 0),
        dropped=dict(counts.get("dropped") or {}),
        metrics=dict(entry.get("metrics") or {}),
        folder=_node_folder(run, name, entry),
    )


def _node_folder(run: Path, name: str, entry: Mapping[str, Any]) -> Path | None:
    """The artifact: by the link in the run folder, the text file that stands in for it, or the manifest's path."""
    link = run / "stages" / name
    candidates = [link]
    if link.is_file():
        candidates.append(link.parent / link.read_text(encoding="utf-8").strip())
    if entry.get("path"):
        candidates += [run / entry["path"], Path(entry["path"])]
    return next((path for path in candidates if path.is_dir()), None)
