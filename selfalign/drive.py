"""One attempt at the jobs of a sweep: each in a process of its own, whoever is killed, in the workers of any launcher.

`python -m selfalign.drive` is that process: it reads its job from standard input, runs it, and sees to it that the run folder says
what became of it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import pickle  # noqa: TID251 - a message from one process to the next, which no file ever holds
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selfalign import jsonl, runner
from selfalign.artifacts import MANIFEST
from selfalign.budget import Purse, SweepSpent
from selfalign.designs import failure_limit
from selfalign.errors import SelfAlignError
from selfalign.sweep import Job, is_finished, job_lock, manifest_of, purse_of, say, taken, write_states

FAULT = "fault.txt"
"""File of a run folder that Python writes its stack to when a signal such as SIGSEGV ends the process."""
GRACE_S = 5.0
"""Seconds that a job has to stop by itself after Ctrl-C, which reaches the whole terminal, before it is sent to it again."""


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
        with taken(job, wait=wait) as is_ours:
            if not is_ours:
                say(f"{job.id}: another process runs it  ({job.label})")
                return
            if is_finished(job):
                say(f"{job.id}: done already  ({job.label})")
                return
            if self.limit is not None and self._failed() >= self.limit:
                say(f"{job.id}: not begun, for {self._failed()} job(s) failed  ({job.label})")
                return
            if self.purse.excess():
                say(f"{job.id}: not begun, for the sweep has spent its budget  ({job.label})")
                return
            say(f"[{number + 1}/{len(self.chosen)}] {job.label}")
            try:
                _in_a_process(job, self.purse)
            except OSError as error:
                # A full disk or a folder that may not be written: the system's own words name the file and the reason.
                say(f"selfalign: {error}; what is finished is kept: repair this and run the same command again")
        write_states(self.folder, self.members)

    def _failed(self) -> int:
        return sum(manifest_of(job).get("status") == "failed" for job in self.chosen)

    def finish(self) -> None:
        """Wait for the jobs that another driver has, and take over those that it leaves behind."""
        for number, job in enumerate(self.chosen):
            is_full = self.limit is not None and self._failed() >= self.limit
            if not (is_full or self.purse.excess()) and manifest_of(job).get("status") not in ("done", "failed"):
                self.attempt(number, wait=True)


def drive(folder: Path, members: Sequence[Job], chosen: Sequence[Job], on_failure: str) -> Drive:
    """Prepare an attempt at some jobs: those that failed before are as good as not begun.

    Raises ConfigError for an `on_failure` that is none.
    """
    limit = failure_limit(on_failure)
    for job in chosen:
        with taken(job, wait=False) as is_ours:
            if is_ours and (manifest := manifest_of(job)).get("status") == "failed":
                jsonl.write_json(job.folder / MANIFEST, manifest | {"status": "interrupted"})
    return Drive(folder, tuple(members), tuple(chosen), limit, purse_of(folder, members))


def _in_a_process(job: Job, purse: Purse) -> None:
    """Do a job in a process of its own, and see to it that its run folder says what became of it."""
    job.folder.mkdir(parents=True, exist_ok=True)
    # A program of its own, and no fork or pool: it must work in the workers of every launcher, whatever threads they have.
    command = [sys.executable, "-m", "selfalign.drive"]
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
    if manifest_of(job).get("status") not in ("done", "failed", "interrupted"):
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
    with job_lock(job, "work"), open(job.folder / FAULT, "w", encoding="utf-8") as fault:
        # The driver that began this job may have been killed, and its process, which did not notice, have finished it.
        if is_finished(job):
            return 0
        faulthandler.enable(fault)
        try:
            code = runner.execute(job.experiment, arguments=job.overrides, purse=purse)
        except SweepSpent:
            say(f"{job.id}: stopped, for the sweep has spent its budget  ({job.label})")
            code = 130
        except KeyboardInterrupt:
            code = 130
        except BaseException as error:
            if not isinstance(error, OSError):
                runner.note_failure(
                    job.experiment, job.overrides, f"{type(error).__name__}: {error}", traceback.format_exc()
                )
            say(f"selfalign: {error}" if isinstance(error, SelfAlignError) else traceback.format_exc())
        finally:
            faulthandler.disable()
    return code


if __name__ == "__main__":
    sys.exit(_work())
