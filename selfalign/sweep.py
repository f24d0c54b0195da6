"""The life of a sweep: its jobs, what became of each, and what is left to do. `drive.py` runs them.

A sweep is a folder `<runs>/<name>-sweep-<hash>/` with `sweep.json`: the jobs, what they were told, what they may spend
together, the files that their settings and texts came from. The runs lie beside it, in folders named by the content of
their settings. What became of a job is read from its run folder and its locks, so that it is right whoever was killed:
`sweep.json` says it too, as of the last job that ended.

Two locks for each job, in `<runs>/.locks/`: `<run>.job` is held by the driver that has taken the job, until it has written down
what became of it; `<run>.work` by the process that does the work, which goes on to its end when its driver is killed.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from selfalign import arms, claims, jsonl, resources, runner
from selfalign import experiment as experiments
from selfalign.artifacts import MANIFEST, Store
from selfalign.budget import BudgetSettings, Purse, passed
from selfalign.errors import ConfigError, DataError, SelfAlignError, did_you_mean
from selfalign.experiment import Experiment
from selfalign.identity import differences, digest, file_digest, plain
from selfalign.pipeline import Memo, plan
from selfalign.runner import SWEEP
from selfalign.tracking import scrub_arguments

LONGEST_REASON = 400
"""Characters of a reason that are shown; the whole stands in the run's error.txt."""


class State(StrEnum):
    """What became of a job."""

    pending = "pending"
    """Not begun, or begun and interrupted."""
    running = "running"
    """A process holds one of its locks."""
    done = "done"
    """Its run is complete, and what it names is in the store."""
    failed = "failed"
    """A stage failed, or its process ended before the run did."""
    stale = "stale"
    """Its run is complete, but the same command would compute something else now: a file has changed."""


@dataclass(frozen=True)
class Standing:
    """What became of a job, and why."""

    state: State
    why: str = ""


@dataclass(frozen=True)
class Job:
    """One arm of a sweep."""

    label: str
    """The overrides that set it apart from the others."""
    overrides: tuple[str, ...]
    experiment: Experiment
    artifacts: Mapping[str, str]
    """Node -> name of the artifact that it has by the files as they are; other arms' nodes too."""

    @property
    def id(self) -> str:
        """Name of its run folder: a content hash of its settings."""
        return self.folder.name

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return runner.run_folder(self.experiment)


def jobs(overrides: Sequence[Sequence[str]], checked: Sequence[Experiment], memo: Memo) -> list[Job]:
    """The jobs of a sweep from its override lists and the experiments that they mean; jobs with equal settings are one.

    Raises ConfigError for jobs that are to be computed in shards (a sweep is divided by its jobs), and for several budgets.
    """
    if sharded := sorted({one.shard for one in checked if one.shard}):
        raise ConfigError(
            [
                f"shard: expected none in a sweep, found {', '.join(sharded)}; start the same command in several processes "
                "instead: each takes jobs that no other has"
            ]
        )
    if len(bounds := {one.sweep_budget for one in checked}) > 1:
        raise ConfigError(
            [
                f"sweep_budget: expected one that all jobs have alike, found {len(bounds)}; it is what they may spend together "
                "(budget is each job's own)"
            ]
        )
    labels = arms.labels(overrides)
    at_parity = arms.at_parity(dict(zip(labels, checked, strict=True)), memo)
    found: dict[Path, Job] = {}
    for job, label in zip(overrides, labels, strict=True):
        one = at_parity[label]
        nodes, _ = experiments.fitting(one, experiments.pipeline(one), memo)
        planned = plan(nodes, Store(Path(one.store)), experiments.context(one, quiet=True), memo)
        made = Job(label, tuple(job), one, {name: item.artifact for name, item in planned.items()})
        found.setdefault(made.folder, made)
    return list(found.values())


# ------------------------------------------------------------------------------------------------------- the folder


def sweep_folder(members: Sequence[Job]) -> Path:
    """Where a sweep of these jobs is written: beside their runs, named by what they are."""
    first = members[0].experiment
    return Path(first.runs) / f"{first.name}-sweep-{digest(sorted(job.id for job in members))[:8]}"


def begin(members: Sequence[Job], arguments: Sequence[str], config_dir: str = "") -> Path:
    """Write down what a sweep is, before its first job; returns its folder. Raises ConfigError for a header whose tests cannot be
    understood."""
    folder = sweep_folder(members)
    content = {
        "sweep": folder.name,
        "arguments": scrub_arguments(arguments),
        "config_dir": config_dir,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "claims": claims.of_overrides(arguments),
        "files": _files(members),
        "design": plain(members[0].experiment.design, keep_transient=True),
        "sweep_budget": plain(members[0].experiment.sweep_budget),
        "jobs": [{"id": job.id, "label": job.label, "overrides": scrub_arguments(job.overrides)} for job in members],
    }
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder.parent, folder.name):
        jsonl.write_json(folder / SWEEP, content)
    write_states(folder, members)
    return folder


def read(folder: Path) -> dict[str, Any]:
    """What a sweep was begun as. Raises SelfAlignError, naming the nearest sweep beside it, where the folder is none."""
    path = folder / SWEEP
    if not path.is_file():
        known = [str(found.parent) for found in folder.parent.glob(f"*/{SWEEP}")]
        raise SelfAlignError(
            f"expected the folder of a sweep (with {SWEEP}), found none at '{folder}'{did_you_mean(str(folder), known)} (sweeps "
            f"there: {', '.join(sorted(known)) or 'none'}); give the folder that `selfalign run` named"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: expected JSON, found a mistake: {error}; run the sweep's command again") from None


def purse_of(folder: Path, members: Sequence[Job]) -> Purse:
    """What the jobs of a sweep may spend together, as it was last told."""
    plans = {job.folder: job.experiment.plan for job in members}
    prices = {run: one.devices * one.price_per_hour for run, one in plans.items()}
    # A sweep that was begun before there were budgets of sweeps has none.
    return Purse(BudgetSettings(**read(folder).get("sweep_budget", {})), prices)


def bound(folder: Path, members: Sequence[Job], settings: BudgetSettings) -> None:
    """Give a sweep another budget; drivers that are at work keep theirs."""
    with _lock(folder.parent, folder.name):
        jsonl.write_json(folder / SWEEP, read(folder) | {"sweep_budget": plain(settings)})
    write_states(folder, members)


def _files(members: Sequence[Job]) -> dict[str, str]:
    """Every file that settings and texts may come from -> its digest, so that a change can be named."""
    found: dict[str, str] = {}
    # The nearest root is the last, so that its file hides another of the same name, as it does where files are looked for.
    for root in reversed(resources.roots()):
        paths = [path for group in resources.GROUP_FOLDERS for path in sorted((root / group).rglob("*.*"))]
        found |= {path.relative_to(root).as_posix(): file_digest(path) for path in paths if path.is_file()}
    own = [(job.experiment.merge.file, getattr(job.experiment.engine, "script", "")) for job in members]
    named = sorted({name for names in own for name in names if name and Path(name).is_file()})
    return found | {name: file_digest(Path(name)) for name in named}


def changed_files(content: Mapping[str, Any], members: Sequence[Job]) -> list[str]:
    """Files that changed, came or went since a sweep was begun."""
    return [name for name, _, _ in differences(dict(content["files"]), _files(members))]


# --------------------------------------------------------------------------------------------------- what became of it


def standing(job: Job) -> Standing:
    """What became of a job, by its run folder, its locks and the files as they are."""
    manifest = manifest_of(job)
    stale = _stale(job, manifest) if manifest.get("status") == "done" else ""
    # Before the locks: another driver takes a finished job too, to see that it is. Who runs it anew says so in the manifest first.
    if manifest.get("status") == "done" and not stale:
        return Standing(State.done)
    if _is_held(job, "job") or _is_held(job, "work"):
        return Standing(State.running)
    match manifest.get("status"):
        case "done":
            return Standing(State.stale, stale)
        case "failed":
            return Standing(State.failed, _failure(manifest))
        case "running" | "interrupted":
            return Standing(State.pending, "interrupted")
        case _:
            return Standing(State.pending)


def manifest_of(job: Job) -> dict[str, Any]:
    """The manifest of its run folder; empty where there is none that can be read."""
    try:
        return json.loads((job.folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _stale(job: Job, manifest: Mapping[str, Any]) -> str:
    """What makes a finished run another than its settings would give now; empty where nothing does."""
    there = {name: entry for part in (manifest["nodes"], *manifest["arms"].values()) for name, entry in part.items()}
    store = Store(Path(job.experiment.store))
    changed = [name for name, artifact in job.artifacts.items() if there.get(name, {}).get("artifact") != artifact]
    if changed:
        return f"{', '.join(changed[:3])}{', ...' if len(changed) > 3 else ''} would be another result now"
    gone = [name for name, artifact in job.artifacts.items() if not store.is_published(artifact)]
    return f"{', '.join(gone[:3])} is no longer in {store.root}" if gone else ""


def _failure(manifest: Mapping[str, Any]) -> str:
    if manifest.get("error"):
        return str(manifest["error"])
    failed = [f"{name}: {entry['why']}" for part in (manifest["nodes"], *manifest["arms"].values())
              for name, entry in part.items() if entry["status"] == "failed"]  # fmt: skip
    return "; ".join(failed)


def _has_its_settings(job: Job) -> bool:
    """Whether the run folder was written with these very settings, those that leave results as they are included."""
    path = job.folder / "config.yaml"
    return path.is_file() and yaml.safe_load(path.read_text(encoding="utf-8")) == runner.settings(job.experiment)


def is_finished(job: Job) -> bool:
    """Whether its run is complete, with these settings and the files as they are."""
    manifest = manifest_of(job)
    return manifest.get("status") == "done" and not _stale(job, manifest) and _has_its_settings(job)


def standings(content: Mapping[str, Any], members: Sequence[Job]) -> list[Standing]:
    """What became of each job of a sweep; `members` are what its override lists mean now.

    A job whose settings have changed is stale, whatever it was, and a stale one names the files that changed.
    """
    changed = changed_files(content, members)
    blame = (
        f"changed since the sweep began: {', '.join(changed[:5])}{', ...' if len(changed) > 5 else ''}"
        if changed
        else ""
    )
    now = {job.id: job for job in members}
    found = []
    for entry in content["jobs"]:
        job = now.get(entry["id"])
        one = standing(job) if job else Standing(State.stale, "its settings are others now")
        if one.state is State.stale:
            one = Standing(State.stale, "; ".join(text for text in (one.why, blame) if text))
        found.append(one)
    return found


def write_states(folder: Path, members: Sequence[Job]) -> None:
    """Bring the states in `sweep.json` up to date, what was spent, and why no further job is begun."""
    with _lock(folder.parent, folder.name):
        content, purse = read(folder), purse_of(folder, members)
        by_id = {job.id: standing(job) for job in members}
        for entry in content["jobs"]:
            if entry["id"] in by_id:
                one = by_id[entry["id"]]
                entry |= {"state": one.state.value, "why": one.why}
        is_done = all(one.state is State.done for one in by_id.values())
        content |= {"spent": plain(purse.spent()), "stopped": "" if is_done else purse.excess()}
        jsonl.write_json(folder / SWEEP, content)


# -------------------------------------------------------------------------------------------------------------- locks


def _lock(runs: Path, name: str) -> FileLock:
    (runs / ".locks").mkdir(parents=True, exist_ok=True)
    return FileLock(runs / ".locks" / f"{name}.lock")


def job_lock(job: Job, kind: str) -> FileLock:
    """One of its two locks: `job`, its driver's, or `work`, of the process that does the work."""
    return _lock(job.folder.parent, f"{job.id}.{kind}")


def _is_held(job: Job, kind: str) -> bool:
    lock = job_lock(job, kind)
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True


@contextlib.contextmanager
def taken(job: Job, *, wait: bool) -> Iterator[bool]:
    """Take a job for this driver; gives False where another has it and `wait` is off."""
    lock = job_lock(job, "job")
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


# ------------------------------------------------------------------------------------------------------ what was done


def say(text: str) -> None:
    """Tell the user, beside what standard output is for."""
    print(text, file=sys.stderr, flush=True)


def tell(folder: Path, members: Sequence[Job]) -> int:
    """What became of each job, and the comparison of those that are done; returns the exit code."""
    from selfalign import report

    found = [standing(job) for job in members]
    for job, one in zip(members, found, strict=True):
        say(line(job.id, job.label, one))
    done = [job.folder for job, one in zip(members, found, strict=True) if one.state is State.done]
    for told in dict.fromkeys(told for run in done for told in runner.parity_lines(run)):
        say(told)
    if done:
        report.print_scores(done, nodes=False)
        report.write(done, folder / "report.html")
        say(f"report: {folder / 'report.html'}")
    counts = Counter(one.state for one in found)
    purse = purse_of(folder, members)
    say(purse.told())
    if counts[State.done] < len(found):
        verb = "retry" if counts[State.failed] else "resume"
        more = ""
        if why := purse.excess():
            say(why)
            more = f" sweep_budget.{passed(purse.settings, purse.spent())}=..."
        say(f"go on with: selfalign sweep {verb} {folder}{more}")
    return 0 if counts[State.done] == len(found) else 1


def line(name: str, label: str, one: Standing) -> str:
    """What became of a job: state, run and label, and below them the reason."""
    why = one.why.split("\n", 1)[0]
    return f"  {one.state.value:<8} {name}  {label}" + (f"\n  {'':<8} {why[:LONGEST_REASON]}" if why else "")
