"""`sweep`: what became of a sweep's jobs, and the rest of them; and how `run` begins one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from selfalign import budget
from selfalign import sweep as sweeps
from selfalign.budget import BudgetSettings
from selfalign.commands import linting
from selfalign.commands.arguments import add_overrides, new_parser
from selfalign.drive import drive
from selfalign.errors import ConfigError, SelfAlignError
from selfalign.experiment import Experiment
from selfalign.pipeline import Memo
from selfalign.sweep import Job, Standing, State

AGENTS = """\
# A W&B sweep with the jobs of: selfalign run {command}
# Begin it with `wandb sweep THIS_FILE`, then `wandb agent ...` wherever jobs are to run. Each is a run by itself: the arms are
# not cut to the prompts that all of them keep (parity), and `selfalign sweep` knows nothing of them.
"""


def start(
    overrides: Sequence[str],
    jobs: Sequence[Sequence[str]],
    checked: Sequence[Experiment],
    memo: Memo,
    config_dir: str = "",
) -> int:
    """Begin a sweep whose jobs are known and checked, and see it through; returns the exit code."""
    members = sweeps.jobs(jobs, checked, memo)
    folder = sweeps.begin(members, overrides, config_dir)
    repeated = len(jobs) - len(members)
    print(
        f"{folder}: {len(members)} jobs" + (f", {repeated} of them asked for twice" * (repeated > 0)), file=sys.stderr
    )
    for line in linting.lines({job.label: job.experiment for job in members}, memo):
        print(line, file=sys.stderr)
    return _go(folder, overrides, members, members, members[0].experiment.on_failure)


def _go(folder: Path, overrides: Sequence[str], members: Sequence[Job], chosen: Sequence[Job], on_failure: str) -> int:
    from selfalign import groups

    if chosen:
        attempt = drive(folder, members, chosen, on_failure)
        # No launcher is to queue jobs that would not begin.
        if not attempt.purse.excess():
            groups.launch(overrides, [job.overrides for job in chosen], folder, attempt.attempt)
            attempt.finish()
    return sweeps.tell(folder, members)


def sweep(arguments: list[str]) -> int:
    """What became of a sweep's jobs, the rest of them, and a design as a W&B sweep."""
    parser = new_parser("sweep", "The jobs of a sweep that was begun: what became of them, and the rest of them.")
    commands = parser.add_subparsers(dest="what", required=True, metavar="status|resume|retry|export-wandb")
    told = {
        "status": "a line for each job: pending, running, done, failed or stale",
        "resume": "run the jobs that have not been run to their end",
        "retry": "run every job that is not done: the failed and the stale ones too",
    }
    for name, text in told.items():
        one = commands.add_parser(name, help=text, description=text)
        one.add_argument("folder", type=Path, metavar="DIR", help="folder of the sweep, as `selfalign run` named it")
        if name != "status":
            one.add_argument(
                "overrides",
                nargs="*",
                metavar="KEY=VALUE",
                help="on_failure=..., sweep_budget.hours=..., hydra/launcher=... alone",
            )
    text = "print the jobs of a sweep as the YAML file of a W&B sweep"
    add_overrides(commands.add_parser("export-wandb", help=text, description=text))
    given = parser.parse_args(arguments)
    return {"status": _status, "resume": _resume, "retry": _retry, "export-wandb": _export_wandb}[given.what](given)


def _status(given: argparse.Namespace) -> int:
    content = sweeps.read(given.folder)
    spent = []
    try:
        members = _members(given.folder, content)
        found = sweeps.standings(content, members)
        purse = sweeps.purse_of(given.folder, members)
        is_done = all(one.state is State.done for one in found)
        spent = [purse.told(), *([why] if not is_done and (why := purse.excess()) else [])]
    except ConfigError as error:
        found = [Standing(State.stale, f"its settings are wrong now: {error.problems[0]}")] * len(content["jobs"])
    for entry, one in zip(content["jobs"], found, strict=True):
        print(sweeps.line(entry["id"], entry["label"], one))
    counts = {state: sum(one.state is state for one in found) for state in State}
    print(", ".join(f"{number} {state.value}" for state, number in counts.items() if number))
    for line in spent:
        print(line)
    return 1 if counts[State.failed] or counts[State.stale] else 0


def _resume(given: argparse.Namespace) -> int:
    content, members, found = _opened(given)
    stale = [
        f"{entry['id']}: {one.why}"
        for entry, one in zip(content["jobs"], found, strict=True)
        if one.state is State.stale
    ]
    if stale:
        raise ConfigError(
            [
                *stale,
                "expected finished jobs to be what the files say now, or the sweep would mix two of them; restore the files, "
                f"run all anew with `selfalign sweep retry {given.folder}`, or begin another sweep",
            ]
        )
    chosen = [job for job, one in zip(members, found, strict=True) if one.state in (State.pending, State.running)]
    return _go_on(given, content, members, chosen)


def _retry(given: argparse.Namespace) -> int:
    content, members, found = _opened(given)
    chosen = [job for job, one in zip(members, found, strict=True) if one.state is not State.done]
    return _go_on(given, content, members, chosen)


def _go_on(given: argparse.Namespace, content: Mapping[str, Any], members: Sequence[Job], chosen: Sequence[Job]) -> int:
    if bounds := [text for text in given.overrides if text.startswith("sweep_budget.")]:
        sweeps.bound(given.folder, members, _budget(content, members[0], bounds))
    texts = [text.partition("=")[2] for text in given.overrides if text.startswith("on_failure=")]
    on_failure = texts[-1] if texts else members[0].experiment.on_failure
    return _go(given.folder, [*content["arguments"], *given.overrides], members, chosen, on_failure)


OWN = ("on_failure=", "sweep_budget.")
"""How overrides begin that concern a sweep as a whole, and none of its jobs."""


def _opened(given: argparse.Namespace) -> tuple[dict[str, Any], list[Job], list[Standing]]:
    """A sweep that is to go on. Raises ConfigError where its jobs would have other settings than it was begun with."""
    from selfalign import groups

    other = [text for text in given.overrides if not (text.startswith(OWN) or groups.is_hydras(text))]
    if other:
        raise ConfigError(
            [
                f"{other[0]}: expected on_failure=..., sweep_budget.hours=... (.tokens, .money) or a setting of Hydra's, found one "
                "of the jobs'; begin another sweep with it"
            ]
        )
    content = sweeps.read(given.folder)
    members = _members(given.folder, content)
    known = {entry["id"] for entry in content["jobs"]}
    if {job.id for job in members} != known:
        changed = sweeps.changed_files(content, members)
        raise ConfigError(
            [
                f"{given.folder}: expected jobs with the settings that the sweep was begun with, found others (files that changed: "
                f"{', '.join(changed) or 'none; another version of selfalign?'}); restore them, or begin another sweep: selfalign "
                f"run {' '.join(content['arguments'])}"
            ]
        )
    return content, members, sweeps.standings(content, members)


def _budget(content: Mapping[str, Any], member: Job, told: Sequence[str]) -> BudgetSettings:
    """The budget that a sweep has, changed by some overrides. Raises ConfigError where that is none."""
    from selfalign import groups

    before = [f"sweep_budget.{name}={value}" for name, value in content.get("sweep_budget", {}).items()]
    one = groups.compose([*member.overrides, *before, *told])
    if found := budget.problems(one.sweep_budget, one.plan.price_per_hour, "sweep_budget"):
        raise ConfigError(found)
    return one.sweep_budget


def _members(folder: Path, content: Mapping[str, Any]) -> list[Job]:
    """The jobs of a sweep as its override lists mean them now, in its order."""
    from selfalign import groups

    groups.register(content["config_dir"] or None)
    memo, overrides = Memo(), [entry["overrides"] for entry in content["jobs"]]
    members = sweeps.jobs(overrides, groups.checked(overrides, memo=memo), memo)
    if members[0].folder.parent.resolve() != folder.resolve().parent:
        raise SelfAlignError(
            f"{folder}: expected its runs in {members[0].folder.parent.resolve()}, where these settings put them from here; go to "
            "the folder that the sweep was begun in and give its folder from there"
        )
    return members


def _export_wandb(given: argparse.Namespace) -> int:
    from selfalign import groups

    groups.register()
    groups.checked(groups.jobs(given.overrides, multirun=True)[0])
    constant, grid = groups.grid(given.overrides)
    content = {
        "program": "selfalign",
        "method": "grid",
        "command": ["selfalign", "run", *constant, "${args_no_hyphens}"],
        "parameters": {key: {"values": values} for key, values in grid.items()},
    }
    print(AGENTS.format(command=" ".join(given.overrides)), end="")
    print(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120), end="")
    return 0
