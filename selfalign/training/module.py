"""The LightningModule: batches of an optimiser step in, loss per label token and gradient norm out.

Imported by the worker alone: a LightningModule needs Lightning when its class is made. Optimisation is manual, since
the loss is the mean over the label tokens of the whole step: a mean of micro batches' means weighs short answers more.
"""

from __future__ import annotations

import contextlib
import inspect
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ModelParallelStrategy

from selfalign.errors import StageError
from selfalign.identity import seed_of
from selfalign.training import lora
from selfalign.training.batches import Micro, StepLoader, StepPlan, collate, split
from selfalign.training.encode import IGNORE_INDEX, Row
from selfalign.training.schedules import learning_rate
from selfalign.training.settings import Batching, TrainerSettings, Training


class Finetuning(pl.LightningModule):
    """LoRA fine-tuning of a causal language model on the targets of token rows."""

    def __init__(
        self,
        model_folder: Path,
        training: Training,
        settings: TrainerSettings,
        plan: StepPlan,
        validation: Sequence[Row],
        start: int,
        initial_adapter: Path | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model_folder = model_folder
        self.training_settings = training
        self.settings = settings
        self.plan = plan
        self.validation = validation
        self.start = start
        self.initial_adapter = initial_adapter
        self.model: Any = None

    def configure_model(self) -> None:
        """Load the base, add LoRA, and shard the result where the strategy asks for it."""
        if self.model is not None:
            return
        base = lora.load_base(self.model_folder, self.settings, self.trainer.local_rank)
        self.takes_logits_to_keep = "logits_to_keep" in inspect.signature(base.forward).parameters
        self.model = lora.add_lora(base, self.training_settings, self.settings)
        if self.initial_adapter:
            lora.load_initial(self.model, self.initial_adapter)
        # transformers loads in evaluation mode: without this, a base with dropout of its own would train without it.
        self.model.train()
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            self._shard(base)

    def _shard(self, base: Any) -> None:
        from torch.distributed.fsdp import fully_shard

        assert self.device_mesh is not None
        mesh = self.device_mesh["data_parallel"]
        blocks = set(base._no_split_modules or ())
        # After LoRA: parameters added to a module that is sharded already would stay unsynchronised.
        for module in base.modules():
            if type(module).__name__ in blocks:
                fully_shard(module, mesh=mesh)
        fully_shard(self.model, mesh=mesh)

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """The parameters that are trained, by their name in the PEFT model."""
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over the trainable parameters; the rate is set anew at every step."""
        chosen = self.training_settings
        return torch.optim.AdamW(
            list(self.trainable().values()),
            lr=chosen.learning_rate,
            betas=(chosen.beta1, chosen.beta2),
            eps=1e-8,
            weight_decay=chosen.weight_decay,
        )

    def train_dataloader(self) -> StepLoader:
        """The batches of this process from the first step that is still to do."""
        return StepLoader(
            self.plan,
            self.start,
            self.settings.micro_batch_size,
            self.training_settings.batching,
            self.trainer.global_rank,
            self.trainer.world_size,
        )

    def loss_sum(self, micro: Micro) -> torch.Tensor:
        """Sum of -log p over the label tokens of one micro batch: scalar, float32, natural logarithm.

        No attention mask is passed. Padding is to the right of every token that counts, and packed rows are kept
        apart by `position_ids` only where there is no mask and no cache.
        """
        before = micro["first"] - 1
        keep = micro["input_ids"].shape[1] - before
        logits = self._logits(micro, keep)[:, -keep:][:, :-1].float()
        labels = micro["labels"]
        return torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[:, before + 1 :].flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
        )

    def _logits(self, micro: Micro, keep: int) -> torch.Tensor:
        """Logits `[batch, seq or keep, vocab]` of a micro batch, at least those of the last `keep` positions."""
        inputs = {"position_ids": micro["position_ids"]} if "position_ids" in micro else {}
        some = self.takes_logits_to_keep
        if "prefix" in micro:
            only = {"logits_to_keep": 1} if some else {}
            cache = self.model(input_ids=micro["prefix"], use_cache=True, **only).past_key_values
            cache.batch_repeat_interleave(len(micro["input_ids"]))
            inputs["past_key_values"] = cache
        if some:
            inputs["logits_to_keep"] = keep
        return self.model(input_ids=micro["input_ids"], use_cache="prefix" in micro, **inputs).logits

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """One optimiser step: its metrics row and input tokens. Raises StageError for a loss that is not finite."""
        step, tokens, world = batch["step"], batch["tokens"], self.trainer.world_size
        rate = learning_rate(self.training_settings, step, self.plan.total_steps)
        optimizer: Any = self.optimizers()
        for group in optimizer.param_groups:
            group["lr"] = rate
        # Dropout draws from the global generator: seeded per step, it needs no state in a checkpoint.
        torch.manual_seed(seed_of(self.training_settings.seed, "dropout", step, self.trainer.global_rank))  # noqa: TID251
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for number, micro in enumerate(batch["micros"], start=1):
            last = number == len(batch["micros"])
            with contextlib.nullcontext() if last else self._without_sync():
                part = self.loss_sum(micro)
                # Processes average their gradients, hence `world`.
                self.manual_backward(part * (world / tokens))
            total += part.detach()
        limit = self.training_settings.max_grad_norm or float("inf")
        norm: Any = torch.nn.utils.clip_grad_norm_(self.trainable().values(), limit)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        loss = self.summed(total) / tokens
        if not (torch.isfinite(norm) and torch.isfinite(torch.tensor(loss))):
            raise StageError(
                f"expected a finite loss, found loss {loss} and gradient norm {float(norm)} at step {step + 1}; "
                "lower training.learning_rate, or check the base model's weights"
            )
        optimizer.step()
        optimizer.zero_grad()
        epoch = step // self.plan.steps_per_epoch + 1
        row = {
            "step": step + 1,
            "epoch": epoch,
            "loss": loss,
            "grad_norm": float(norm),
            "learning_rate": rate,
            "tokens": tokens,
        }
        return {"row": row, "input_tokens": batch["input_tokens"]}

    def _without_sync(self) -> Any:
        """DDP exchanges gradients once a step; other strategies have nothing to hold back."""
        return getattr(self.trainer.strategy, "block_backward_sync", contextlib.nullcontext)()

    def summed(self, value: torch.Tensor) -> float:
        """The sum of a scalar over all processes."""
        return float(self.trainer.strategy.reduce(value, reduce_op="sum"))

    def validation_loss(self) -> float:
        """Mean of -log p over the label tokens of all validation rows, without dropout. Needs validation rows."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        batching = self.training_settings.batching
        world, rank = self.trainer.world_size, self.trainer.global_rank
        self.model.eval()
        with torch.no_grad(), self.trainer.precision_plugin.val_step_context():
            for rows in split(self.validation, self.settings.micro_batch_size, batching, rank, world):
                total += self.loss_sum(self.transfer_batch_to_device(collate(rows, batching), self.device, 0))
        self.model.train()
        return self.summed(total) / sum(row.n_labels for row in self.validation)

    def check_batching(self) -> None:
        """Refuse a layout in which this model lets a row see another one. Raises StageError."""
        batching = self.training_settings.batching
        if batching is Batching.bucket:
            return
        rows = [Row("", array("i", [1, 2, 3, 4, *ends]), 4) for ends in ((1, 2, 3, 4), (4, 3, 2, 1))]
        self.model.eval()
        with torch.no_grad():
            together = self._predictions(collate(rows, batching))
            alone = torch.cat([self._predictions(collate([row], Batching.bucket)) for row in rows])
        self.model.train()
        moved = float((together - alone).abs().max())
        if moved > 1e-4:
            raise StageError(
                f"training.batching={batching} needs a model that keeps rows apart by position_ids, or goes on from a cache; in "
                f"this one a row's logits move by {moved:.3g} with the row before it (allowed: 1e-4); use "
                "training.batching=bucket"
            )

    def _predictions(self, micro: Micro) -> torch.Tensor:
        """Logits `[labels, vocab]` of all places that predict a label."""
        micro = self.transfer_batch_to_device(micro, self.device, 0)
        logits = self._logits(micro, micro["input_ids"].shape[1])[:, :-1].float()
        return logits[micro["labels"][:, 1:] != IGNORE_INDEX]
