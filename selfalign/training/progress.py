"""The Lightning callback that writes down what happens: metrics rows, checkpoints, the adapter; and stops cleanly.

Imported by the worker alone, as `module` is. Rows go to the metrics file before each checkpoint, which records how many
there are: a restart cuts the file to that number and goes on.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from selfalign import jsonl
from selfalign.training import checkpoints, lora
from selfalign.training.module import Finetuning


class Progress(pl.Callback):
    """Restores, records, saves and stops one training run. `stopped` is true after a SIGTERM that left a checkpoint."""

    def __init__(self, out: Path, base_name: str, every_steps: int, report: Callable[[dict[str, Any]], None]) -> None:
        self.metrics = out / "metrics.jsonl"
        self.checkpoints = out / "checkpoints"
        self.adapter = out / "adapter"
        self.base_name = base_name
        self.every_steps = every_steps
        self.report = report
        self.written = 0
        self.pending: list[dict[str, Any]] = []
        self.stopped = False
        self.asked_to_stop = False
        self.before: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Take over SIGTERM, then go on from the checkpoint, or score the validation rows before the first step."""
        # Lightning's own handler ends with status 0 and can hang in a collective: replace it once it is installed.
        self.before = signal.signal(signal.SIGTERM, self._ask_to_stop)
        pl_module.check_batching()
        if pl_module.start:
            self._restore(trainer, pl_module)
        else:
            if trainer.is_global_zero:
                jsonl.write(self.metrics, [])
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
            jsonl.write(self.metrics, jsonl.recover(self.metrics)[: self.written])

    def _validate(self, trainer: pl.Trainer, module: Finetuning, step: int, epoch: int) -> None:
        if not module.validation:
            return
        row = {"step": step, "epoch": epoch, "validation_loss": module.validation_loss()}
        self.pending.append(row)
        self.report({**row, "total": module.plan.total_steps})

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Record the step; validate at the end of an epoch; checkpoint every so often and before a stop."""
        row = outputs["row"]
        step, total = row["step"], pl_module.plan.total_steps
        now = time.perf_counter()
        self.pending.append(row)
        self.report({**row, "total": total, "tokens_per_s": outputs["input_tokens"] / max(now - self.clock, 1e-9)})
        if step % pl_module.plan.steps_per_epoch == 0:
            self._validate(trainer, pl_module, step, row["epoch"])
        # One process hears the signal, all stop at the same step.
        asked = torch.tensor(float(self.asked_to_stop), device=pl_module.device)
        self.stopped = pl_module.summed(asked) > 0 and step < total
        if self.stopped or (step % self.every_steps == 0 and step < total):
            self._checkpoint(trainer, pl_module, step)
        if self.stopped:
            trainer.should_stop = True
        self.clock = time.perf_counter()

    def _checkpoint(self, trainer: pl.Trainer, module: Finetuning, step: int) -> None:
        tensors = checkpoints.gather(module.trainable(), trainer.optimizers[0])
        self._flush(trainer)
        if trainer.is_global_zero:
            checkpoints.save(self.checkpoints, tensors, step, self.written)

    def _flush(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero:
            jsonl.append(self.metrics, self.pending)
        self.written += len(self.pending)
        self.pending = []

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Write the adapter, unless the run was stopped before its end."""
        signal.signal(signal.SIGTERM, self.before)
        if self.stopped:
            return
        self._flush(trainer)
        weights = {name: checkpoints.whole(parameter) for name, parameter in pl_module.trainable().items()}
        if trainer.is_global_zero:
            lora.save_adapter(pl_module.model, weights, self.base_name, self.adapter)
