"""The life of a sweep: each job in a process of its own, what became of it, and what is left to do.

A sweep is a folder `<runs>/<name>-sweep-<hash>/` with `sweep.json`: the jobs, what they were told, what they may spend
together, the files that their settings and texts came from. The runs lie beside it, in folders named by the content of
their settings. What became of a job is read from its run folder and its locks, so that it is right whoever was killed:
`sweep.json` says it too, as of the last job that ended.

Two locks for each job, in `<runs>/.locks/`: `<run>.job` is held by the driver that has taken the job, until it has written down
what became of it; `<run>.work` by the process that does the work, which goes on to its end when its driver is killed.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import pickle  # noqa: TID251 - a message from one process to the next, which no file ever holds
import signal
import subprocess
import sys
import traceback
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
from selfalign.budget import BudgetSettings, Purse, SweepSpent, passed
from selfalign.designs import failure_limit
from selfalign.errors import ConfigError, DataError, SelfAlignError, did_you_mean
from selfalign.experiment import Experiment
from selfalign.identity import differences, digest, file_digest, plain
from selfalign.pipeline import Memo, plan
from selfalign.runner import SWEEP
from selfalign.tracking import scrub_arguments

FAULT = "fault.txt"
"""File of a run folder that Python writes its stack to when a signal such as SIGSEGV ends the process."""
LONGEST_REASON = 400
"""Characters of a reason that are shown; the whole stands in the run's error.txt."""
GRACE_S = 5.0
"""Seconds that a job has to stop by itself after Ctrl-C, which reaches the whole terminal, before it is sent to it again."""


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
    """Write down what a sweep is, before its first job; returns its folder."""
    folder = sweep_folder(members)
    folder.mkdir(parents=True, exist_ok=True)
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
    with _lock(folder.parent, folder.name):
        jsonl.write_json(folder / SWEEP, content)
    _write_states(folder, members)
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
    _write_states(folder, members)


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
    manifest = _manifest(job)
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


def _manifest(job: Job) -> dict[str, Any]:
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


def _is_finished(job: Job) -> bool:
    manifest = _manifest(job)
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


def _write_states(folder: Path, members: Sequence[Job]) -> None:
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


def _job_lock(job: Job, kind: str) -> FileLock:
    return _lock(job.folder.parent, f"{job.id}.{kind}")


def _is_held(job: Job, kind: str) -> bool:
    lock = _job_lock(job, kind)
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True


@contextlib.contextmanager
def _taken(job: Job, *, wait: bool) -> Iterator[bool]:
    """Take a job for this driver; gives False where another has it and `wait` is off."""
    lock = _job_lock(job, "job")
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


# ------------------------------------------------------------------------------------------------------------ one job


@dataclass(frozen=True)
class Drive:
    """One attempt at some jobs of a sweep; sent to every worker of a launcher."""

    folder: Path
    members: tuple[Job, ...]
    """All jobs of the sweep."""
    chosen: tuple[Job, ...]
    """Those to be run."""
    limit: int | None
    """Failed jobs after which no further one is begun."""
    purse: Purse
    """What all jobs may spend together: once they have, no further one is begun, and those at work stop."""

    def attempt(self, number: int, *, wait: bool = False) -> None:
        """Run one of the chosen jobs in a process of its own, unless it is done, another driver has it, too many failed, or the
        sweep has spent its budget.

        Raises no error of the job's: what became of it stands in its run folder. `wait`: for another driver that has it.
        """
        job = self.chosen[number]
        with _taken(job, wait=wait) as is_ours:
            if not is_ours:
                _say(f"{job.id}: another process runs it  ({job.label})")
                return
            if _is_finished(job):
                _say(f"{job.id}: done already  ({job.label})")
                return
            if self.limit is not None and self._failed() >= self.limit:
                _say(f"{job.id}: not begun, for {self._failed()} job(s) failed  ({job.label})")
                return
            if self.purse.excess():
                _say(f"{job.id}: not begun, for the sweep has spent its budget  ({job.label})")
                return
            _say(f"[{number + 1}/{len(self.chosen)}] {job.label}")
            try:
                _in_a_process(job, self.purse)
            except OSError as error:
                # A full disk or a folder that may not be written: the system's own words name the file and the reason.
                _say(f"selfalign: {error}; what is finished is kept: repair this and run the same command again")
        _write_states(self.folder, self.members)

    def _failed(self) -> int:
        return sum(_manifest(job).get("status") == "failed" for job in self.chosen)

    def finish(self) -> None:
        """Wait for the jobs that another driver has, and take over those that it leaves behind."""
        for number, job in enumerate(self.chosen):
            is_full = self.limit is not None and self._failed() >= self.limit
            if not (is_full or self.purse.excess()) and _manifest(job).get("status") not in ("done", "failed"):
                self.attempt(number, wait=True)


def drive(folder: Path, members: Sequence[Job], chosen: Sequence[Job], on_failure: str) -> Drive:
    """Prepare an attempt at some jobs: those that failed before are as good as not begun.

    Raises ConfigError for an `on_failure` that is none.
    """
    limit = failure_limit(on_failure)
    for job in chosen:
        with _taken(job, wait=False) as is_ours:
            if is_ours and (manifest := _manifest(job)).get("status") == "failed":
                jsonl.write_json(job.folder / MANIFEST, manifest | {"status": "interrupted"})
    return Drive(folder, tuple(members), tuple(chosen), limit, purse_of(folder, members))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _in_a_process(job: Job, purse: Purse) -> None:
    """Do a job in a process of its own, and see to it that its run folder says what became of it."""
    job.folder.mkdir(parents=True, exist_ok=True)
    # A program of its own, and no fork or pool: it must work in the workers of every launcher, whatever threads they have.
    command = [sys.executable, "-m", "selfalign.sweep"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once: its exit code says more
            process.stdin.write(pickle.dumps((job, purse)))
            process.stdin.close()
        try:
            code = process.wait()
        except KeyboardInterrupt:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.wait()
            raise
    if _manifest(job).get("status") not in ("done", "failed", "interrupted"):
        _note_death(job, code)
    (job.folder / FAULT).unlink(missing_ok=True)


def _note_death(job: Job, code: int) -> None:
    """Write down, in place of a process that could not, that and how it ended."""
    how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
    why = f"its process ended by {how} before the run did"
    fault = job.folder / FAULT
    stack = fault.read_text(encoding="utf-8", errors="replace") if fault.is_file() else ""
    runner.note_failure(job.experiment, job.overrides, why, stack)


def _work() -> int:
    """The process of a job, which it reads from standard input; returns the run's exit code. Every traceback is in the run
    folder."""
    job: Job
    purse: Purse
    job, purse = pickle.load(sys.stdin.buffer)
    code = 1
    with _job_lock(job, "work"), open(job.folder / FAULT, "w", encoding="utf-8") as fault:
        # The driver that began this job may have been killed, and its process, which did not notice, have finished it.
        if _is_finished(job):
            return 0
        faulthandler.enable(fault)
        try:
            code = runner.execute(job.experiment, arguments=job.overrides, purse=purse)
        except SweepSpent:
            _say(f"{job.id}: stopped, for the sweep has spent its budget  ({job.label})")
            code = 130
        except KeyboardInterrupt:
            code = 130
        except BaseException as error:
            if not isinstance(error, OSError):
                runner.note_failure(
                    job.experiment, job.overrides, f"{type(error).__name__}: {error}", traceback.format_exc()
                )
            _say(f"selfalign: {error}" if isinstance(error, SelfAlignError) else traceback.format_exc())
        finally:
            faulthandler.disable()
    return code


# ------------------------------------------------------------------------------------------------------ what was done


def tell(folder: Path, members: Sequence[Job]) -> int:
    """What became of each job, and the comparison of those that are done; returns the exit code."""
    from selfalign import report

    found = [standing(job) for job in members]
    for job, one in zip(members, found, strict=True):
        _say(line(job.id, job.label, one))
    done = [job.folder for job, one in zip(members, found, strict=True) if one.state is State.done]
    for told in dict.fromkeys(told for run in done for told in runner.parity_lines(run)):
        _say(told)
    if done:
        report.print_scores(done, nodes=False)
        report.write(done, folder / "report.html")
        _say(f"report: {folder / 'report.html'}")
    counts = Counter(one.state for one in found)
    purse = purse_of(folder, members)
    _say(purse.told())
    if counts[State.done] < len(found):
        verb = "retry" if counts[State.failed] else "resume"
        more = ""
        if why := purse.excess():
            _say(why)
            more = f" sweep_budget.{passed(purse.settings, purse.spent())}=..."
        _say(f"go on with: selfalign sweep {verb} {folder}{more}")
    return 0 if counts[State.done] == len(found) else 1


def line(name: str, label: str, one: Standing) -> str:
    """What became of a job: state, run and label, and below them the reason."""
    why = one.why.split("\n", 1)[0]
    return f"  {one.state.value:<8} {name}  {label}" + (f"\n  {'':<8} {why[:LONGEST_REASON]}" if why else "")


if __name__ == "__main__":
    from selfalign import sweep

    # The module under its own name, which is where a job's class is looked for.
    sys.exit(sweep._work())
