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

from selfalign import devices
from selfalign.errors import StageError
from selfalign.identity import seed_of
from selfalign.training import attention, lora
from selfalign.training.batches import Micro, StepLoader, StepPlan, collate, split
from selfalign.training.encode import IGNORE_INDEX, Row
from selfalign.training.schedules import learning_rate
from selfalign.training.settings import Batching, Precision, TrainerSettings, Training
from selfalign.training.sharding import shard

BF16_SHARE = 0.05
"""How far logits may move by rounding to bfloat16, as a share of the largest; with another row in sight they move by more."""


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
        base_name: str = "",
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
        self.base_name = base_name
        self.model: Any = None

    def configure_model(self) -> None:
        """Load the base, add LoRA, and shard the result where the strategy asks for it."""
        if self.model is not None:
            return
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            assert self.device_mesh is not None
            whole = self._loaded() if self.trainer.global_rank == 0 else None
            with torch.device("meta"):
                model = lora.add_lora(lora.empty_base(self.model_folder), self.training_settings, self.settings)
            bf16 = self.settings.precision is Precision.bf16_mixed
            shard(model, whole, self.device_mesh["data_parallel"], self.trainer.strategy.root_device, bf16)
        else:
            model = self._loaded()
        self.adopt(model)

    def adopt(self, model: Any) -> None:
        """Train this PEFT model, with the attention that the batching needs. Raises StageError where the model refuses it."""
        self.model = model
        base = model.get_base_model()
        self.takes_logits_to_keep = "logits_to_keep" in inspect.signature(base.forward).parameters
        self.own_attention = base.config._attn_implementation
        if self.training_settings.batching is Batching.pack:
            attention.use(base)
        # transformers loads in evaluation mode: without this, a base with dropout of its own would train without it.
        model.train()

    def _loaded(self) -> Any:
        base = lora.load_base(self.model_folder, self.settings, self.trainer.local_rank)
        model = lora.add_lora(base, self.training_settings, self.settings)
        if self.initial_adapter:
            lora.load_initial(model, self.initial_adapter, self.base_name)
        return model

    @property
    def parameters_in_all(self) -> int:
        """Parameters of base and adapter, over all processes."""
        return self.model.get_base_model().num_parameters()

    def peak_flops(self) -> float | None:
        """Operations a second of one device, where its maker's figure for this precision is known."""
        if self.device.type != "cuda" or self.settings.precision is not Precision.bf16_mixed:
            return None
        return devices.peak(torch.cuda.get_device_name(self.device))

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

        No attention mask is passed: padding is to the right of every token that counts, and packed rows are kept apart by
        `attention`.
        """
        if "rows" in micro:
            logits = self._logits(micro, micro["at"])[0].float()
            return torch.nn.functional.cross_entropy(logits, micro["labels"][0, micro["at"] + 1], reduction="sum")
        before = micro["first"] - 1
        keep = micro["input_ids"].shape[1] - before
        logits = self._logits(micro, keep)[:, -keep:][:, :-1].float()
        labels = micro["labels"]
        return torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[:, before + 1 :].flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
        )

    def _logits(self, micro: Micro, keep: int | torch.Tensor) -> torch.Tensor:
        """Logits `[batch, seq or keep, vocab]` of a micro batch: at least those of the last `keep` positions; packed, exactly
        those of the positions `keep` [n]."""
        inputs = {name: micro[name] for name in ("position_ids", "rows") if name in micro}
        some = self.takes_logits_to_keep
        if "prefix" in micro:
            only = {"logits_to_keep": 1} if some else {}
            cache = self.model(input_ids=micro["prefix"], use_cache=True, **only).past_key_values
            cache.batch_repeat_interleave(len(micro["input_ids"]))
            inputs["past_key_values"] = cache
        if some:
            inputs["logits_to_keep"] = keep
        logits = self.model(input_ids=micro["input_ids"], use_cache="prefix" in micro, **inputs).logits
        return logits[:, keep] if "rows" in micro and not some else logits

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

    def validation_losses(self) -> dict[str, float]:
        """Mean of -log p per label token of the validation rows, without dropout: `validation_loss` over all of them, and
        `validation_loss/<source>` for each source that has a name. Needs validation rows."""
        by_source: dict[str, list[Row]] = {}
        for row in self.validation:
            by_source.setdefault(row.source, []).append(row)
        self.model.eval()
        with torch.no_grad(), self.trainer.precision_plugin.val_step_context():
            sums = {source: self._loss_of(rows) for source, rows in sorted(by_source.items())}
        self.model.train()
        tokens = {source: sum(row.n_labels for row in rows) for source, rows in by_source.items()}
        found = {"validation_loss": sum(sums.values()) / sum(tokens.values())}
        return found | {f"validation_loss/{source}": sums[source] / tokens[source] for source in sums if source}

    def _loss_of(self, rows: Sequence[Row]) -> float:
        """Sum of -log p over the label tokens of rows, over all processes."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        batching, micro_size = self.training_settings.batching, self.settings.micro_batch_size
        for micro in split(rows, micro_size, batching, self.trainer.global_rank, self.trainer.world_size):
            total += self.loss_sum(self.transfer_batch_to_device(collate(micro, batching), self.device, 0))
        return self.summed(total)

    def check_batching(self) -> None:
        """Refuse a layout in which this model lets a row see another one. Raises StageError."""
        batching = self.training_settings.batching
        if batching is Batching.bucket:
            return
        rows = [Row("", array("i", [1, 2, 3, 4, *ends]), 4) for ends in ((1, 2, 3, 4), (4, 3, 2, 1))]
        base = self.model.get_base_model()
        self.model.eval()
        with torch.no_grad():
            together = self._predictions(collate(rows, batching))
            base.set_attn_implementation(self.own_attention)
            alone = torch.cat([self._predictions(collate([row], Batching.bucket)) for row in rows])
        if batching is Batching.pack:
            attention.use(base)
        self.model.train()
        moved = float((together - alone).abs().max())
        rounded = self.settings.precision is Precision.bf16_mixed
        allowed = BF16_SHARE * float(alone.abs().max()) if rounded else 1e-4
        if moved > allowed:
            raise StageError(
                f"training.batching={batching} needs a model whose attention can be kept within rows, or that goes on from a "
                f"cache; in this one a row's logits move by {moved:.3g} with the row before it (allowed: {allowed:.3g}); use "
                "training.batching=bucket"
            )

    def _predictions(self, micro: Micro) -> torch.Tensor:
        """Logits `[labels, vocab]` of all places that predict a label."""
        micro = self.transfer_batch_to_device(micro, self.device, 0)
        if "rows" in micro:
            return self._logits(micro, micro["at"])[0].float()
        logits = self._logits(micro, micro["input_ids"].shape[1])[:, :-1].float()
        return logits[micro["labels"][:, 1:] != IGNORE_INDEX]
