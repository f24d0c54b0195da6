"""The arms of a sweep: which of them answer the same prompts, and so are trained on the same ones (`stages/parity.py`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from selfalign import experiment as experiments
from selfalign.artifacts import Store
from selfalign.experiment import Experiment
from selfalign.identity import digest
from selfalign.pipeline import Memo, Node, plan
from selfalign.training.settings import identity as trainer_identity


def at_parity(arms: Mapping[str, Experiment], memo: Memo | None = None) -> dict[str, Experiment]:
    """The experiments of a sweep, by label, each told which others it must be at parity with.

    Those are the ones that answer the same prompts and have parity on, but whose answers may differ. Arms with prompts of
    their own, such as those of another seed, form groups of their own, for no prompt would be common to all. Loads no
    model. `memo` is the command's.
    """
    memo = memo or Memo()
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    answers: dict[str, tuple[str, ...]] = {}
    for label, one in arms.items():
        made = _answers(one, memo) if one.parity else None
        if made is not None:
            asked, answers[label] = made
            # Another arm's stages run with this run's model and trainer, which must be that arm's too.
            groups[asked, digest(one.engine.identity()), digest(trainer_identity(one.trainer))].append(label)
    found = dict(arms)
    for members in groups.values():
        # Arms whose answers are the same to the byte count as one: a sweep over what is scored has nothing to cut.
        distinct = list({answers[label]: label for label in reversed(members)}.values())[::-1]
        for label in members if len(distinct) > 1 else ():
            others = [other for other in distinct if answers[other] != answers[label]]
            # Each begins with another of them, so that jobs side by side do not all wait for the same one.
            first = members.index(label)
            others.sort(key=lambda other: (members.index(other) < first, members.index(other)))
            found[label] = replace(arms[label], arms={other: _as_peer(arms[other], answers[other]) for other in others})
    return found


def _answers(one: Experiment, memo: Memo) -> tuple[str, tuple[str, ...]] | None:
    """The artifact with the prompts of an arm, and those with the answers it trains on; None where it trains on none,
    or on answers that are given."""
    nodes, _ = experiments.fitting(one, experiments.pipeline(one), memo)
    trained = [name for name in ("engraved", "cloned") if name in nodes]
    if not trained or "prompts" not in nodes["responses"].inputs:
        return None
    planned = plan(nodes, Store(Path(one.store)), experiments.context(one, quiet=True), memo)
    asked = _source(nodes, "responses", "prompts")
    return planned[asked].artifact, tuple(planned[_source(nodes, name, "responses")].artifact for name in trained)


def _as_peer(one: Experiment, answers: Sequence[str]) -> Experiment:
    """An arm as the others see it: without the verbose cloning that its model has no room for."""
    cloned = one.stages.verbose_clone and len(answers) > 1
    return replace(one, stages=replace(one.stages, verbose_clone=cloned))


def _source(nodes: Mapping[str, Node], name: str, role: str) -> str:
    return nodes[name].inputs[role]


def labels(jobs: Sequence[Sequence[str]]) -> list[str]:
    """A name for each job of a sweep: the overrides that not all of them share."""
    shared = set.intersection(*(set(job) for job in jobs)) if jobs else set()
    found = [" ".join(text for text in job if text not in shared) or "as it is" for job in jobs]
    return [label if found.index(label) == at else f"{label} #{at + 1}" for at, label in enumerate(found)]
