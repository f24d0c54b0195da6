"""Examples in, adapter out: starts the worker process, relays its progress, and stops it when this process stops.

A child process, so that Lightning, its signal handlers and torch's global generator are gone when training is, and so
that a crash in native code is an error message rather than the end of the run.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selfalign import identity
from selfalign.errors import ConfigError, DataError, StageError
from selfalign.training import job as jobs
from selfalign.training.job import Job
from selfalign.training.settings import TrainerSettings, Training, problems

STOP_GRACE_S = 30.0
"""Seconds that a stopped worker may take to finish its step and save a checkpoint before it is killed."""

ORPHAN_WAIT_S = 120.0
"""Seconds to wait for the worker of a parent that was killed; longer than that worker's own grace."""

LOG_LINES = 15
"""Last lines of the worker's log that an error shows."""

LEFTOVERS = (
    *("adapter", "adapter.tmp", "checkpoints", "metrics.jsonl", "metrics.jsonl.tmp", "speed.jsonl", "speed.jsonl.tmp"),
    *("training.csv", "untrainable.jsonl", "result.json", "worker.log"),
)


def train(
    examples: Path,
    model_folder: Path,
    out: Path,
    training: Training,
    trainer: TrainerSettings,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    initial_adapter: Path | None = None,
    model_digest: str = "",
) -> dict[str, Any]:
    """Train a LoRA adapter on `examples` and return the metrics; goes on where a killed attempt in `out` stopped.

    `out` then holds adapter/, metrics.jsonl and result.json, equal to the byte however often the run was killed; speed.jsonl
    (tokens per second of every step) and training.csv (both in one table), which alone depend on the clock; and untrainable.jsonl
    where rows were left out.
    `on_progress` gets a metrics row with `total` (and `tokens_per_s`) after every step and validation.
    `initial_adapter` is the folder of an adapter to go on training, instead of a fresh one. `model_digest` saves
    hashing the model folder where the caller knows its content digest.
    Raises ConfigError for settings that cannot work, DataError for a missing file, StageError where training fails.
    """
    if found := problems(training, trainer):
        raise ConfigError(found)
    needed = [(examples, "a JSONL file of examples"), (model_folder / "config.json", "a model folder's config.json")]
    if initial_adapter:
        needed.append((initial_adapter / "adapter_config.json", "an adapter folder's adapter_config.json"))
    for path, what in needed:
        if not path.is_file():
            raise DataError(f"expected {what} at {path}, found nothing there; check the path, or run the stage before")
    out = out.resolve()
    job = Job(
        examples.resolve(),
        model_folder.resolve(),
        out,
        model_digest or identity.folder_digest(model_folder),
        identity.file_digest(examples),
        training,
        trainer,
        initial_adapter.resolve() if initial_adapter else None,
        identity.folder_digest(initial_adapter) if initial_adapter else "",
    )
    out.mkdir(parents=True, exist_ok=True)
    prepare(job)
    if jobs.digest_in(out / "result.json") != job.digest:
        run_worker(job, on_progress or (lambda line: None))
    for leftover in ("job.json", "worker.log", "worker.lock"):
        (out / leftover).unlink(missing_ok=True)
    return json.loads((out / "result.json").read_text(encoding="utf-8"))["metrics"]


def prepare(job: Job) -> None:
    """Wait for a worker that outlived its parent, and clear away what belongs to another job. Raises StageError."""
    import filelock

    try:
        with filelock.FileLock(job.out / "worker.lock", timeout=ORPHAN_WAIT_S):
            if job.digest not in (jobs.digest_in(job.out / "job.json"), jobs.digest_in(job.out / "result.json")):
                for name in ("job.json", *LEFTOVERS):
                    path = job.out / name
                    if path.is_dir():
                        shutil.rmtree(path)
                    else:
                        path.unlink(missing_ok=True)
            job.write(job.out / "job.json")
    except filelock.Timeout:
        raise StageError(
            f"expected to be alone in {job.out}, found another training at work there for {ORPHAN_WAIT_S:.0f} s; "
            "wait until it ends, or end it"
        ) from None


def run_worker(job: Job, on_progress: Callable[[dict[str, Any]], None]) -> None:
    """Run the worker to its end. Raises StageError with its own words, or the last lines of its log, where it fails."""
    command = [*job.trainer.launcher, sys.executable, "-m", "selfalign.training.worker", str(job.out / "job.json")]
    log = job.out / "worker.log"
    told = ""
    with (
        open(log, "wb") as stderr,
        # A session of its own: Ctrl-C reaches this process alone, which then stops all of the worker's processes.
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True
        ) as worker,
    ):
        try:
            assert worker.stdout is not None
            for text in worker.stdout:
                line = json.loads(text)
                if "error" in line:
                    told = line["error"]
                else:
                    on_progress(line)
            worker.wait()
        finally:
            stop(worker)
    if worker.returncode:
        lines = collections.deque(log.read_text(encoding="utf-8", errors="replace").splitlines(), maxlen=LOG_LINES)
        raise StageError(
            told
            or f"training ended with status {worker.returncode}; it goes on from its last checkpoint when run again. "
            f"The end of {log}:\n"
            + "\n".join(lines)
        )


def stop(worker: subprocess.Popen[str]) -> None:
    """End a worker and every process it started: first asked, then killed."""
    if worker.poll() is None:
        _signal_all(worker, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):  # it is killed next
            worker.wait(STOP_GRACE_S)
    _signal_all(worker, signal.SIGKILL)


def _signal_all(worker: subprocess.Popen[str], number: int) -> None:
    try:
        os.killpg(worker.pid, number)
    except ProcessLookupError:
        return  # none of them is left
