"""The pipeline: named stages and what each reads; planned, run, resumed and reused by content.

A node's artifact is `<Stage>-<version>-<hash>`, the hash covering the stage's identity (settings, texts, model) and the
names of the artifacts it reads. Names are therefore known before anything runs, and a change anywhere renames exactly
what depends on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from selfalign.artifacts import Artifact, Outcome, Store
from selfalign.errors import ConfigError, SelfAlignError, did_you_mean
from selfalign.identity import digest, plain
from selfalign.stages.base import Context, Stage

T = TypeVar("T")


class Memo:
    """What settings that are equal were found to mean, for one command, while which no file changes.

    The arms of a sweep share most of their stages: what a stage sends, and what is wrong with it, is found out once.
    """

    def __init__(self) -> None:
        self._answers: dict[Hashable, Any] = {}
        # The settings stay alive with their digest, so that no other object gets their id.
        self._digests: dict[int, tuple[Any, str]] = {}

    def __call__(self, question: str, settings: tuple[Any, ...], answer: Callable[[], T]) -> T:
        """The answer to a question about some settings (dataclasses or plain values), computed the first time."""
        key = (question, *map(self._digest, settings))
        if key not in self._answers:
            self._answers[key] = answer()
        return self._answers[key]

    def _digest(self, settings: Any) -> str:
        known = self._digests.get(id(settings))
        if known is None:
            try:
                text = digest([type(settings).__name__, plain(settings, keep_transient=True)])
            except TypeError:
                # An engine made of functions, as tests and Python users have: equal to itself alone.
                text = f"{type(settings).__name__} at {id(settings)}"
            known = self._digests[id(settings)] = (settings, text)
        return known[1]


@dataclass(frozen=True)
class Node:
    """One result of the pipeline: the stage that makes it, and which node fills each of the stage's roles."""

    stage: Stage
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Role of the stage -> name of the node it reads."""
    arm: str = ""
    """Arm of the sweep whose result it is, where that is not the run's own."""


@dataclass(frozen=True)
class Planned:
    """A node with the name its artifact has or will have."""

    name: str
    node: Node
    artifact: str
    description: Mapping[str, Any]
    """What goes into the artifact's name: stage, version, identity, inputs."""
    is_published: bool


@dataclass
class NodeResult:
    """What became of a node in one run."""

    stage: str
    artifact: str
    path: str
    status: str
    """`computed`, `reused`, `failed`, or `blocked` by a failed input."""
    why: str = ""
    """The error of a failed node, or the input that blocked it."""
    seconds: float = 0.0
    """Time this run spent on it."""
    counts: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)


def as_nodes(pipeline: Mapping[str, Stage | Node]) -> dict[str, Node]:
    """The pipeline with every bare stage wired to the nodes that bear its roles' names.

    Raises ConfigError, with all problems at once, for an input that is no node, a role that is not filled, or a cycle.
    """
    nodes: dict[str, Node] = {}
    problems: list[str] = []
    for name, item in pipeline.items():
        if not isinstance(item, Node):
            roles = [role for role in (*item.READS, *item.OPTIONAL) if role in pipeline or role in item.READS]
            item = Node(item, {role: role for role in roles})
        nodes[name] = item
        for role, source in item.inputs.items():
            if not any(fnmatchcase(role, known) for known in (*item.stage.READS, *item.stage.OPTIONAL)):
                allowed = ", ".join((*item.stage.READS, *item.stage.OPTIONAL)) or "nothing"
                problems.append(
                    f"node '{name}' fills the role '{role}', which its stage does not read (it reads {allowed})"
                )
            if source not in pipeline:
                near = did_you_mean(source, pipeline)
                problems.append(
                    f"node '{name}' reads '{source}', which is no node{near} (nodes: {', '.join(pipeline)})"
                )
        for role in item.stage.READS:
            if not any(fnmatchcase(filled, role) for filled in item.inputs):
                problems.append(f"node '{name}' needs an input for the role '{role}', and no node fills it")
    ordered: dict[str, Node] = {}
    while not problems and len(ordered) < len(nodes):
        # The first node, in the order given, whose inputs are all there: people read a run from top to bottom.
        ready = (n for n, node in nodes.items() if n not in ordered and all(s in ordered for s in node.inputs.values()))
        name = next(ready, None)
        if name is None:
            problems.append(f"nodes read one another in a circle: {', '.join(n for n in nodes if n not in ordered)}")
        else:
            ordered[name] = nodes[name]
    if problems:
        raise ConfigError(problems)
    return ordered


def plan(
    pipeline: Mapping[str, Stage | Node], store: Store, context: Context, memo: Memo | None = None
) -> dict[str, Planned]:
    """Every node with its artifact's name, in an order in which they can run; computes nothing.

    `memo`, where engine, trainer and stages are settings, is the command's.
    """
    planned: dict[str, Planned] = {}
    for name, node in as_nodes(pipeline).items():
        kind = type(node.stage).__name__
        stage = node.stage
        identity = (
            memo("identity", (stage, context.engine, context.trainer), partial(stage.identity, context))
            if memo is not None
            else stage.identity(context)
        )
        inputs = {role: planned[source].artifact for role, source in sorted(node.inputs.items())}
        description = {
            "stage": kind,
            "version": node.stage.VERSION,
            "identity": identity,
            "inputs": inputs,
        }
        artifact = f"{kind}-{node.stage.VERSION}-{digest(description)[:12]}"
        planned[name] = Planned(name, node, artifact, description, store.is_published(artifact))
    return planned


def run(
    pipeline: Mapping[str, Stage | Node],
    store: Store,
    context: Context,
    on_node: Callable[[str, NodeResult | None], None] = lambda name, result: None,
) -> dict[str, NodeResult]:
    """Run every node that is not in the store yet; what does not depend on a failed node still runs.

    `on_node(name, None)` is called before a node, `on_node(name, result)` after it. Only errors that selfalign raises on
    purpose become a failed node; anything else is a mistake in the code and propagates, as does KeyboardInterrupt.
    """
    results: dict[str, NodeResult] = {}
    artifacts: dict[str, Artifact] = {}
    planned = plan(pipeline, store, context)
    left = list(planned)
    while left:
        # What another process is computing is left for later while there is anything else to do, so that processes
        # that need the same results divide them among themselves. Shards wait for one another in every stage: all of
        # them have to go through the stages in one order.
        wait = context.shard is not None
        if not any(_step(planned[name], results, artifacts, store, context, on_node, wait=wait) for name in left):
            first = next(name for name in left if _is_ready(planned[name], results))
            _step(planned[first], results, artifacts, store, context, on_node, wait=True)
        left = [name for name in left if name not in results]
    return {name: results[name] for name in planned}


def _is_ready(item: Planned, results: Mapping[str, NodeResult]) -> bool:
    return all(source in results for source in item.node.inputs.values())


def _step(
    item: Planned,
    results: dict[str, NodeResult],
    artifacts: dict[str, Artifact],
    store: Store,
    context: Context,
    on_node: Callable[[str, NodeResult | None], None],
    *,
    wait: bool,
) -> bool:
    """Bring one node about and note what became of it; False where its inputs are not there yet, or, without `wait`, where
    another process is computing it."""
    if not _is_ready(item, results):
        return False
    result = NodeResult(type(item.node.stage).__name__, item.artifact, str(store.path(item.artifact)), "blocked")
    missing = [source for source in item.node.inputs.values() if source not in artifacts]
    if not wait and not missing and store.is_busy(item.artifact):
        return False
    on_node(item.name, None)
    started = time.monotonic()
    if missing:
        result.why = f"reads {', '.join(missing)}, which did not come about"
    else:
        try:
            artifact, computed = _artifact(item, artifacts, store, context)
        except SelfAlignError as error:
            result.status, result.why = "failed", str(error)
        else:
            artifacts[item.name] = artifact
            result.status = "computed" if computed else "reused"
            result.counts, result.metrics = artifact.manifest["counts"], artifact.manifest["metrics"]
    result.seconds = round(time.monotonic() - started, 3)
    results[item.name] = result
    on_node(item.name, result)
    return True


def _artifact(
    item: Planned, artifacts: Mapping[str, Artifact], store: Store, context: Context
) -> tuple[Artifact, bool]:
    shard = context.shard if context.shard is not None and item.node.stage.GENERATES else None
    if shard is not None:
        shard = shard.at(store.exchange(item.artifact))
        context = replace(context, shard=shard)
    if (found := store.find(item.artifact)) is None:
        found, computed = _computed(item, artifacts, store, context, str(shard) if shard else "")
    else:
        computed = False
    if shard is not None:
        shard.leave()
    return found, computed


def _computed(
    item: Planned, artifacts: Mapping[str, Artifact], store: Store, context: Context, part: str
) -> tuple[Artifact, bool]:
    inputs = {role: artifacts[source] for role, source in item.node.inputs.items()}

    def work(out: Path) -> Outcome:
        return item.node.stage.run(inputs, out, context)

    def on_wait() -> None:
        with context.progress(f"{item.name}: another process is computing it; waiting", 0, "") as progress:
            progress(0)

    return store.compute(item.artifact, item.description, work, on_wait, part)
