"""The child process of a training run: `python -m selfalign.training.worker out/job.json`.

In: the job file. Out: adapter/, metrics.jsonl and result.json in its folder; JSON lines on standard output; exit
status 0, 1 (an error, told in an `error` line) or 143 (stopped by SIGTERM with a checkpoint to go on from). It stops by
itself when its standard input is a pipe whose other end closes, that is, when its parent dies.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selfalign import jsonl
from selfalign.errors import SelfAlignError
from selfalign.threads import torch_threads
from selfalign.training import job as jobs
from selfalign.training.job import Job
from selfalign.training.settings import Accelerator, Precision, Strategy, TrainerSettings

STOPPED = 143
"""Exit status after SIGTERM, as a shell reports it."""

ORPHAN_GRACE_S = 60.0
"""Seconds that a worker without a parent may take to finish its step and save a checkpoint."""

Report = Callable[[dict[str, Any]], None]


def private_stdout() -> Report:
    """Keep standard output for our own lines: whatever else a library prints goes to standard error."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)

    def report(line: dict[str, Any]) -> None:
        try:
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")
            stream.flush()
        except BrokenPipeError:
            # The parent is gone: the watcher of standard input ends this process in an orderly way.
            return

    return report


def stop_with_parent() -> None:
    """Send this process SIGTERM when the parent's end of standard input closes; end it for good a while later."""
    if not stat.S_ISFIFO(os.fstat(0).st_mode):
        return

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_GRACE_S)
        os._exit(STOPPED)

    threading.Thread(target=watch, daemon=True).start()


def run(job: Job, report: Report) -> int:
    """Train and return the exit status. Raises SelfAlignError for rows, a model or settings that cannot work."""
    import filelock
    import torch
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    if threads := torch_threads(job.trainer.threads, job.model_folder):
        torch.set_num_threads(threads)
    first = getattr(rank_zero_only, "rank", 0) == 0
    lock = filelock.FileLock(job.out / "worker.lock")
    if first:
        lock.acquire()
    try:
        return train(job, report if first else lambda line: None, first)
    finally:
        lock.release()


def train(job: Job, report: Report, first: bool) -> int:
    """The run itself, in one of its processes; `first` writes the result."""
    from transformers.utils.logging import disable_progress_bar

    from selfalign.training import checkpoints, encode
    from selfalign.training.data import Rows
    from selfalign.training.module import Finetuning
    from selfalign.training.progress import Progress

    disable_progress_bar()
    found = checkpoints.latest(job.out / "checkpoints")
    start = found[1] if found else 0
    rows = Rows(job, start)
    lost = rows.encoded.untrainable
    if first and lost:
        dropped = ({"id": name, "kept": False, "reason": encode.UNTRAINABLE} for name in lost)
        jsonl.write(job.out / "untrainable.jsonl", dropped)
    module = Finetuning(
        job.model_folder,
        job.training,
        job.trainer,
        rows.plan,
        rows.validation,
        start,
        job.initial_adapter,
        job.base_name,
    )
    progress = Progress(job.out, job.base_name, job.trainer.checkpoint_every_steps, report)
    make_trainer(job, progress).fit(module, datamodule=rows)
    if progress.stopped:
        return STOPPED
    if first:
        metrics = {
            "examples": len(rows.encoded.rows) + len(lost),
            "train_examples": len(rows.plan.rows),
            "validation_examples": len(rows.validation),
            "truncated_rows": rows.encoded.truncated,
            "cut_prompts": rows.encoded.cut_prompts,
            "untrainable_rows": len(lost),
            "stopped_early": progress.stalled,
            "trainable_parameters": sum(parameter.numel() for parameter in module.trainable().values()),
            **summary(job.out / "metrics.jsonl"),
        }
        jsonl.write_json(job.out / "result.json", {"digest": job.digest, "metrics": metrics})
        shutil.rmtree(job.out / "checkpoints", ignore_errors=True)
    return 0


def make_trainer(job: Job, callback: Any) -> Any:
    """Lightning's Trainer for a job: it runs the loop, devices and precision; recording is ours."""
    import pytorch_lightning as pl
    import torch

    settings = job.trainer
    cuda = settings.accelerator is not Accelerator.cpu and torch.cuda.is_available()
    return pl.Trainer(
        accelerator="cuda" if cuda or settings.accelerator is Accelerator.cuda else "cpu",
        devices=settings.devices,
        num_nodes=settings.num_nodes,
        strategy=make_strategy(settings, cuda),
        precision="bf16-mixed" if settings.precision is Precision.bf16_mixed else "32-true",
        plugins=environment(settings),
        max_epochs=1,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        use_distributed_sampler=False,
        deterministic="warn" if cuda else None,
        default_root_dir=job.out,
    )


def environment(settings: TrainerSettings) -> list[Any] | None:
    """Who numbers the processes, for Lightning; None lets it look."""
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    if not settings.launcher:
        # A surrounding Slurm job is none of its business.
        return [LightningEnvironment()]
    if not TorchElasticEnvironment.detect() and SLURMEnvironment.detect():
        # At a signal it would save the whole model and requeue the job, which is for the user to decide.
        return [SLURMEnvironment(auto_requeue=False)]
    return None


def make_strategy(settings: TrainerSettings, cuda: bool) -> Any:
    """Lightning's strategy."""
    from pytorch_lightning.strategies import DDPStrategy

    if settings.strategy is Strategy.fsdp:
        from selfalign.training.sharding import Sharded

        return Sharded(settings, cuda)
    if settings.strategy is Strategy.ddp or settings.devices * settings.num_nodes > 1:
        return DDPStrategy()
    return "auto"


def summary(metrics: Path) -> dict[str, Any]:
    """What the metrics file says in short; `train_loss` is the mean per token over the last tenth of the steps."""
    rows = jsonl.read(metrics)
    steps = [row for row in rows if "loss" in row]
    scored = [row["validation_loss"] for row in rows if "validation_loss" in row]
    last = steps[-max(1, len(steps) // 10) :]
    return {
        "steps": len(steps),
        "tokens": sum(row["tokens"] for row in steps),
        "train_loss": sum(row["loss"] * row["tokens"] for row in last) / sum(row["tokens"] for row in last),
        "validation_loss_before": scored[0] if scored else None,
        "validation_loss_after": scored[-1] if scored else None,
        **{
            key.replace("loss/", "loss_after/"): value
            for row in rows
            for key, value in row.items()
            if key.startswith("validation_loss/")
        },
    }


def main(path: str) -> int:
    """Run the job of a job file and return the exit status."""
    report = private_stdout()
    stop_with_parent()
    try:
        return run(jobs.read(Path(path)), report)
    except SelfAlignError as error:
        print(error, file=sys.stderr)
        report({"error": str(error)})
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
