"""Runs in, arms out: runs that differ in their seeds alone are one arm, named by what sets it apart from the control."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfalign.identity import differences
from selfalign.report.model import Run
from selfalign.tracking.scrub import scrub

PLACES = ("store", "runs", "tracking", "name", "plan", "arms")
"""Settings that say where a run is kept, how it is told and what else its sweep has, not what was done."""
GROUPS = ("principles", "exemplars")
"""Settings whose entries an ablation leaves out."""
LONGEST_LABEL = 4
"""Settings that an arm's label names; an arm that differs in more is called by its run."""


@dataclass(frozen=True)
class Arm:
    """Runs that differ in their seeds alone."""

    label: str
    """What sets it apart from the control."""
    runs: Mapping[str, Run]
    """Seeds (as text) -> run."""


def arms(runs: Sequence[Run], control: str = "") -> tuple[list[Arm], list[str]]:
    """The arms, the control first, and a sentence for each run that is in none.

    The control is the arm of the run `control` (a run id), else the first arm that leaves out no principle, else the
    first. The others stand in the order of the principles that they leave out, then of the runs.
    """
    grouped: dict[str, dict[str, Run]] = {}
    settings: dict[str, Any] = {}
    notes = []
    for run in runs:
        if not run.config:
            notes.append(f"{run.run_id} is in no comparison: its settings (config.yaml) are missing")
            continue
        seeds = _text(dict(_seeds(run.config)))
        own = _settings(run)
        key = _text(own)
        settings[key] = own
        members = grouped.setdefault(key, {})
        if seeds in members:
            same = members[seeds].run_id
            notes.append(
                f"{run.run_id} is in no comparison: it has the settings and seeds of {same}, which stands for both"
            )
        else:
            members[seeds] = run
    found = list(grouped.values())
    settings_of = {id(members): settings[key] for key, members in grouped.items()}
    if not found:
        return [], notes
    asked = [members for members in found if control and any(run.run_id == control for run in members.values())]
    whole = [members for members in found if not dropped(_first(members).config)]
    first = (asked or whole or found)[0]
    names: list[str] = []
    others = sorted((members for members in found if members is not first), key=lambda one: _rank(_first(one).config))
    for members in others:
        label = _label(settings_of[id(first)], settings_of[id(members)], _first(members))
        names.append(label if label not in names else f"{label} ({_first(members).run_id})")
    return [Arm("control", first), *(Arm(name, one) for name, one in zip(names, others, strict=True))], notes


def _first(members: Mapping[str, Run]) -> Run:
    return next(iter(members.values()))


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def comparable(run: Run) -> dict[str, Any]:
    """The settings of a run without PLACES and secrets."""
    return {key: value for key, value in scrub(dict(run.config)).items() if key not in PLACES}


def _settings(run: Run) -> Any:
    """The settings of a run without its seeds."""

    def without_seeds(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: without_seeds(entry) for key, entry in value.items() if key != "seed"}
        return value

    return without_seeds(comparable(run))


def _seeds(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(config, Mapping):
        for key, value in config.items():
            if key == "seed":
                yield f"{prefix}{key}", value
            elif prefix or key not in PLACES:
                yield from _seeds(value, f"{prefix}{key}.")


def dropped(config: Mapping[str, Any], group: str = "principles") -> list[str]:
    """What a run leaves out of its principles (or exemplars)."""
    chosen = config.get(group)
    return list(map(str, chosen.get("drop") or ())) if isinstance(chosen, Mapping) else []


def _had(config: Mapping[str, Any]) -> tuple[list[str], list[str], list[str]]:
    """The principles of the set, those that a run leaves out, and those that are left."""
    principles = config.get("principles")
    ids = list(map(str, principles.get("ids") or ())) if isinstance(principles, Mapping) else []
    gone = dropped(config)
    return ids, gone, [name for name in ids if name not in gone]


def told(config: Mapping[str, Any]) -> str:
    """Which principles a run has, in the fewer names: `without candor`, `only candor, static`, `no principle`, `all principles`."""
    ids, gone, left = _had(config)
    if not gone:
        return "all principles"
    if not left and ids:
        return "no principle"
    return f"only {', '.join(left)}" if len(left) < len(gone) and ids else f"without {', '.join(gone)}"


def _rank(config: Mapping[str, Any]) -> tuple[bool, list[int]]:
    """Places in the set of the principles that an arm is named by, which orders the arms: those with most of the set come first."""
    ids, gone, left = _had(config)
    is_few = len(left) < len(gone)
    return is_few, [ids.index(name) if name in ids else len(ids) for name in (left if is_few else gone)]


def _label(control: Any, own: Any, run: Run) -> str:
    """What sets an arm apart, from the settings of both without their seeds: dropped principles by name, others as overrides."""
    changed = differences(control, own)
    # A setting that many stages share stands once at the top, and again in each of them.
    shown = [
        (key, new)
        for key, old, new in changed
        if not any(key.endswith(f".{short}") and (old, new) == (was, now) for short, was, now in changed)
    ]
    if not shown or len(shown) > LONGEST_LABEL:
        return run.run_id
    return ", ".join(_named(run, key, new) for key, new in shown)


def _named(run: Run, key: str, value: Any) -> str:
    if key == "principles.drop" and value:
        return told(run.config)
    if key == "exemplars.drop" and value:
        return f"without exemplar {', '.join(map(str, value))}"
    return f"{key}={_shown(value)}"


def _shown(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


def leading_subject(found: Sequence[Arm]) -> str:
    """The model that a comparison of arms is read on first: where they differ in principles or exemplars alone, the engraved one,
    which is trained on what those shape; empty for the last model of each metric."""
    configs = [run.config for arm in found for run in arm.runs.values()]
    return "engraved" if any(alike_but_for(configs, group) for group in GROUPS) else ""


def alike_but_for(configs: Sequence[Mapping[str, Any]], group: str) -> bool:
    """Whether settings differ in nothing but seeds and what their `group` (principles, exemplars) leaves out."""

    def without(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {
            key: without({name: one for name, one in entry.items() if name != "drop"} if key == group and
                         isinstance(entry, Mapping) else entry)
            for key, entry in value.items() if key != "seed"
        }  # fmt: skip

    found = {_text(without({key: value for key, value in config.items() if key not in PLACES})) for config in configs}
    return len(found) <= 1
