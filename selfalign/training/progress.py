"""The Lightning callback that writes down what happens: metrics rows, checkpoints, the adapter; and stops cleanly when asked to.

Imported by the worker alone, as `module` is. Rows go to the metrics file before each checkpoint, which records how many
there are: a restart cuts the file to that number and goes on. What depends on the clock goes to a file of its own, so that the
metrics of a resumed run are those of a whole one to the byte.
"""

from __future__ import annotations

import csv
import io
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from selfalign import jsonl
from selfalign.training import checkpoints, lora
from selfalign.training.module import Finetuning

OPERATIONS_PER_TOKEN = 4
"""Floating-point operations per parameter and token of LoRA training: 2 forward, 2 back through frozen weights (as in
`selfalign.cost`); what gradient checkpointing computes again does not count."""


STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that end the step, leave a checkpoint and stop: what Slurm, and programs on it, send before they take a node away."""


def no_better(losses: Sequence[float], patience: int) -> bool:
    """Whether the last `patience` losses (0: never) brought no new minimum."""
    return 0 < patience < len(losses) and min(losses[-patience:]) >= min(losses[:-patience])


class Progress(pl.Callback):
    """Restores, records, saves and stops one training run. `stopped` is true after a signal to stop that left a checkpoint,
    `stalled` after an early stop, which leaves a result."""

    def __init__(self, out: Path, base_name: str, every_steps: int, report: Callable[[dict[str, Any]], None]) -> None:
        self.metrics = out / "metrics.jsonl"
        self.speed = out / "speed.jsonl"
        self.sheet = out / "training.csv"
        self.checkpoints = out / "checkpoints"
        self.adapter = out / "adapter"
        self.base_name = base_name
        self.every_steps = every_steps
        self.report = report
        self.written = 0
        self.pending: list[dict[str, Any]] = []
        self.speeds: list[dict[str, Any]] = []
        self.scored: list[float] = []
        self.stopped = False
        self.stalled = False
        self.asked_to_stop = False
        self.before: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Take over the signals, then go on from the checkpoint, or score the validation rows before the first step."""
        # Lightning's own handler ends with status 0 and can hang in a collective: replace it once it is installed.
        self.before = {number: signal.signal(number, self._ask_to_stop) for number in STOP_SIGNALS}
        pl_module.check_batching()
        if pl_module.start:
            self._restore(trainer, pl_module)
        else:
            if trainer.is_global_zero:
                jsonl.write(self.metrics, [])
                jsonl.write(self.speed, [])
            self._validate(trainer, pl_module, step=0, epoch=0)
        self.clock = time.perf_counter()

    def _ask_to_stop(self, *_: Any) -> None:
        self.asked_to_stop = True

    def _restore(self, trainer: pl.Trainer, module: Finetuning) -> None:
        found = checkpoints.latest(self.checkpoints)
        assert found is not None and found[1] == module.start
        path, step, self.written = found
        checkpoints.restore(checkpoints.load(path), step, module.trainable(), trainer.optimizers[0])
        if trainer.is_global_zero:
            rows = jsonl.recover(self.metrics)[: self.written]
            jsonl.write(self.metrics, rows)
            jsonl.write(self.speed, [row for row in jsonl.recover(self.speed) if row["step"] <= step])
            self.scored = [row["validation_loss"] for row in rows if "validation_loss" in row]
        # One process reads the file, and all must stop at the same step.
        self.scored = trainer.strategy.broadcast(self.scored)

    def _validate(self, trainer: pl.Trainer, module: Finetuning, step: int, epoch: int) -> None:
        if not module.validation:
            return
        row = {"step": step, "epoch": epoch, **module.validation_losses()}
        self.pending.append(row)
        self.scored.append(row["validation_loss"])
        self.stalled = no_better(self.scored, module.training_settings.early_stopping_patience)
        self.report({**row, "total": module.plan.total_steps})

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Record the step; validate at the end of an epoch and every so often; checkpoint every so often and before a stop."""
        row = outputs["row"]
        step, total = row["step"], pl_module.plan.total_steps
        now = time.perf_counter()
        self.pending.append(row)
        speed = self._speed(pl_module, outputs["input_tokens"], max(now - self.clock, 1e-9))
        self.speeds.append({"step": step, **speed})
        self.report({**row, "total": total, **speed})
        every = pl_module.training_settings.validate_every_steps
        if step % pl_module.plan.steps_per_epoch == 0 or (every and step % every == 0):
            self._validate(trainer, pl_module, step, row["epoch"])
        # One process hears the signal, all stop at the same step.
        asked = torch.tensor(float(self.asked_to_stop), device=pl_module.device)
        goes_on = step < total and not self.stalled
        self.stopped = float(pl_module.summed(asked)) > 0 and goes_on
        if self.stopped or (step % self.every_steps == 0 and goes_on):
            self._checkpoint(trainer, pl_module, step)
        if self.stopped or self.stalled:
            trainer.should_stop = True
        self.clock = time.perf_counter()

    @staticmethod
    def _speed(module: Finetuning, tokens: int, seconds: float) -> dict[str, float]:
        """Tokens of real text a second over all processes; `mfu` where the peak of the devices is known."""
        found = {"tokens_per_s": round(tokens / seconds, 1)}
        peak = module.peak_flops()
        if peak:
            operations = OPERATIONS_PER_TOKEN * module.parameters_in_all * tokens
            found["mfu"] = round(operations / (seconds * peak * module.trainer.world_size), 4)
        return found

    def _checkpoint(self, trainer: pl.Trainer, module: Finetuning, step: int) -> None:
        tensors = checkpoints.gather(module.trainable(), trainer.optimizers[0])
        self._flush(trainer)
        if trainer.is_global_zero:
            checkpoints.save(self.checkpoints, tensors, step, self.written)

    def _flush(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero:
            jsonl.append(self.metrics, self.pending)
            jsonl.append(self.speed, self.speeds)
        self.written += len(self.pending)
        self.pending, self.speeds = [], []

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Write the adapter and the table of all steps, unless the run was stopped before its end."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.stopped:
            return
        self._flush(trainer)
        weights = {name: checkpoints.whole(parameter) for name, parameter in pl_module.trainable().items()}
        if trainer.is_global_zero:
            write_sheet(self.sheet, jsonl.read(self.metrics), jsonl.read(self.speed))
            lora.save_adapter(pl_module.model, weights, self.base_name, self.adapter)


def write_sheet(path: Path, metrics: Sequence[dict[str, Any]], speeds: Sequence[dict[str, Any]]) -> None:
    """Write metrics and speeds as one CSV table, a line for each step; a cell is empty where nothing was measured."""
    lines: dict[int, dict[str, Any]] = {}
    for row in (*metrics, *speeds):
        lines.setdefault(row["step"], {}).update(row)
    columns = list(dict.fromkeys(name for line in lines.values() for name in line))
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(lines[step] for step in sorted(lines))
    path.write_text(text.getvalue(), encoding="utf-8")
