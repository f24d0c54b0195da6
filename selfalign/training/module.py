"""The LightningModule: batches of an optimiser step in, loss per label token and gradient norm out.

Imported by the worker alone: a LightningModule needs Lightning when its class is made. Optimisation is manual, since
the loss is the mean over the label tokens of the whole step: a mean of micro batches' means weighs short answers more.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ModelParallelStrategy

from selfalign import devices
from selfalign.errors import StageError
from selfalign.identity import seed_of
from selfalign.training import attention, head, lora
from selfalign.training.batches import Micro, StepPlan, collate, labels_by_source, split
from selfalign.training.encode import IGNORE_INDEX, Row
from selfalign.training.schedules import learning_rate
from selfalign.training.settings import Batching, Optimizer, Precision, TrainerSettings, Training
from selfalign.training.sharding import shard

BF16_SHARE = 0.05
"""How far logits may move by rounding to bfloat16, as a share of the largest; with another row in sight they move by more."""


class Finetuning(pl.LightningModule):
    """LoRA fine-tuning of a causal language model on the targets of token rows."""

    place: torch.device | None = None
    in_pieces = False

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
            self.place = self.trainer.strategy.root_device
            shard(model, whole, self.device_mesh["data_parallel"], self.place, bf16, self.settings.cpu_offload)
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
            self.in_pieces = head.weight_of(base) is not None
        # transformers loads in evaluation mode: without this, a base with dropout of its own would train without it.
        model.train()

    def _loaded(self) -> Any:
        base = lora.load_base(self.model_folder, self.settings, self.trainer.local_rank)
        model = lora.add_lora(base, self.training_settings, self.settings)
        if self.initial_adapter:
            lora.load_initial(model, self.initial_adapter, self.base_name)
        return model

    @property
    def device(self) -> torch.device:
        """Where batches are computed on: not where the parameters are, if FSDP keeps those in the main memory."""
        return self.place or super().device

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
        paged = chosen.optimizer is Optimizer.paged_adamw
        kind: Any = (
            lora.bitsandbytes("training.optimizer=paged_adamw").optim.PagedAdamW32bit if paged else torch.optim.AdamW
        )
        return kind(
            list(self.trainable().values()),
            lr=chosen.learning_rate,
            betas=(chosen.beta1, chosen.beta2),
            eps=1e-8,
            weight_decay=chosen.weight_decay,
        )

    def losses(self, micro: Micro) -> torch.Tensor:
        """Sum of -log p over the label tokens of each row of a micro batch: `[rows]`, float32, natural logarithm.

        No attention mask is passed: padding is to the right of every token that counts, and packed rows are kept apart by
        `attention`.
        """
        if "rows" in micro:
            labels = micro["labels"][0, micro["at"] + 1]
            if self.in_pieces:
                each = head.Loss.apply(self._hidden(micro), head.weight_of(self.model.get_base_model()), labels)
            else:
                logits = self._logits(micro, micro["at"])[0].float()
                each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
            return torch.stack([part.sum() for part in each.split(micro["counts"])])
        before = micro["first"] - 1
        keep = micro["input_ids"].shape[1] - before
        logits = self._logits(micro, keep)[:, -keep:][:, :-1].float()
        labels = micro["labels"]
        each = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[:, before + 1 :].flatten(), ignore_index=IGNORE_INDEX, reduction="none"
        )
        return each.view(len(labels), -1).sum(1)

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

    def _hidden(self, micro: Micro) -> torch.Tensor:
        """Hidden states `[n, width]` behind the `n` positions of a packed micro batch that predict a label."""
        with head.left_out(self.model.get_base_model()):
            return self._logits(micro, micro["at"])[0]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """One optimiser step: its metrics row and input tokens. Raises StageError for a loss that is not finite."""
        step, world = batch["step"], self.trainer.world_size
        tokens = sum(batch["tokens"].values())
        rate = learning_rate(self.training_settings, step, self.plan.total_steps)
        optimizer: Any = self.optimizers()
        for group in optimizer.param_groups:
            group["lr"] = rate
        # Dropout draws from the global generator: seeded per step, it needs no state in a checkpoint.
        torch.manual_seed(seed_of(self.training_settings.seed, "dropout", step, self.trainer.global_rank))  # noqa: TID251
        by_source = BySource(batch["tokens"], self.device)
        for number, micro in enumerate(batch["micros"], start=1):
            last = number == len(batch["micros"])
            with contextlib.nullcontext() if last else self._without_sync():
                losses = self.losses(micro)
                # Processes average their gradients, hence `world`.
                self.manual_backward(losses.sum() * (world / tokens))
            by_source.add(losses.detach(), micro["sources"])
        limit = self.training_settings.max_grad_norm or float("inf")
        norm: Any = torch.nn.utils.clip_grad_norm_(self.trainable().values(), limit)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        means = by_source.means("loss", self.summed)
        if not (torch.isfinite(norm) and math.isfinite(means["loss"])):
            raise StageError(
                f"expected a finite loss, found loss {means['loss']} and gradient norm {float(norm)} at step {step + 1}; "
                "lower training.learning_rate, or check the base model's weights"
            )
        optimizer.step()
        optimizer.zero_grad()
        epoch = step // self.plan.steps_per_epoch + 1
        row = {
            "step": step + 1,
            "epoch": epoch,
            **means,
            "grad_norm": float(norm),
            "learning_rate": rate,
            "tokens": tokens,
        }
        return {"row": row, "input_tokens": batch["input_tokens"]}

    def _without_sync(self) -> Any:
        """DDP exchanges gradients once a step; other strategies have nothing to hold back."""
        return getattr(self.trainer.strategy, "block_backward_sync", contextlib.nullcontext)()

    def summed(self, values: torch.Tensor) -> torch.Tensor:
        """The sums of a tensor's elements over all processes."""
        total: Any = self.trainer.strategy.reduce(values, reduce_op="sum")
        return total

    def validation_losses(self) -> dict[str, float]:
        """Mean of -log p per label token of the validation rows, without dropout: `validation_loss` over all of them, and
        `validation_loss/<source>` for each source that has a name. Needs validation rows."""
        by_source = BySource(labels_by_source(self.validation), self.device)
        batching, micro_size = self.training_settings.batching, self.settings.micro_batch_size
        self.model.eval()
        with torch.no_grad(), self.trainer.precision_plugin.val_step_context():
            for rows in split(self.validation, micro_size, batching, self.trainer.global_rank, self.trainer.world_size):
                micro = self.transfer_batch_to_device(collate(rows, batching), self.device, 0)
                by_source.add(self.losses(micro), micro["sources"])
        self.model.train()
        return by_source.means("validation_loss", self.summed)

    def check_batching(self) -> None:
        """Refuse a layout in which this model lets a row see another one, and leave the loss to the model where its logits are more
        than its head's product. Raises StageError."""
        batching = self.training_settings.batching
        if batching is Batching.bucket:
            return
        rows = [Row("", array("i", [1, 2, 3, 4, *ends]), 4) for ends in ((1, 2, 3, 4), (4, 3, 2, 1))]
        base = self.model.get_base_model()
        self.model.eval()
        with torch.no_grad():
            together = self._predictions(collate(rows, batching))
            self.in_pieces = self.in_pieces and self._head_is_all(collate(rows, batching), together)
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

    def _head_is_all(self, micro: Micro, logits: torch.Tensor) -> bool:
        """Whether logits are what the head makes of hidden states: some models cap them."""
        hidden = self._hidden(self.transfer_batch_to_device(micro, self.device, 0))
        made = (hidden @ head.weight_of(self.model.get_base_model()).T).float()  # type: ignore[union-attr]
        share = BF16_SHARE if self.settings.precision is Precision.bf16_mixed else 1e-5
        return float((made - logits).abs().max()) <= share * float(logits.abs().max())

    def _predictions(self, micro: Micro) -> torch.Tensor:
        """Logits `[labels, vocab]` of all places that predict a label."""
        micro = self.transfer_batch_to_device(micro, self.device, 0)
        if "rows" in micro:
            return self._logits(micro, micro["at"])[0].float()
        logits = self._logits(micro, micro["input_ids"].shape[1])[:, :-1].float()
        return logits[micro["labels"][:, 1:] != IGNORE_INDEX]


class BySource:
    """Sums of -log p for each source of rows, on one process."""

    def __init__(self, tokens: Mapping[str, int], device: torch.device) -> None:
        self.tokens = tokens
        self.names = list(tokens)
        self.sums = torch.zeros(len(tokens), dtype=torch.float64, device=device)

    def add(self, losses: torch.Tensor, sources: Sequence[str]) -> None:
        """Count in the losses `[rows]` of rows of these sources; an empty micro batch, whose source nobody has, has loss 0."""
        places = [self.names.index(source) if source in self.names else 0 for source in sources]
        self.sums.index_add_(0, torch.tensor(places, device=losses.device), losses.double())

    def means(self, name: str, summed: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """Mean per label token over all processes: `name` over all sources, and `name/<source>` for each that has a name."""
        sums = dict(zip(self.names, summed(self.sums).tolist(), strict=True))
        found = {name: sum(sums.values()) / sum(self.tokens.values())}
        return found | {f"{name}/{source}": sums[source] / self.tokens[source] for source in self.names if source}
