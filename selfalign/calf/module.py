"""The LightningModule of Calf's pretraining: batches of the corpus in, two optimisers stepped, metrics and checkpoints out.

Imported by `pretrain.pretrain` alone: a LightningModule needs Lightning when its class is made. Optimisation is manual,
since hidden matrices are trained with Muon and everything else with AdamW.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from selfalign import jsonl
from selfalign.calf import checkpoint
from selfalign.calf.checkpoint import State
from selfalign.calf.guides import Guides
from selfalign.calf.muon import Muon
from selfalign.calf.rows import Batch, shard
from selfalign.calf.settings import Pretraining, Shape
from selfalign.errors import StageError

METRICS_EVERY = 20
"""Steps between two rows of metrics."""


def rate(progress: float, warmup: float, decay: float) -> float:
    """The learning rate as a share of its peak: a linear rise, a plateau, and a linear fall to a hundredth."""
    if progress < warmup:
        return max(progress / warmup, 0.02)
    return max(min((1 - progress) / decay, 1.0), 0.01) if decay else 1.0


def new_model(shape: Shape, tokenizer: Any, seed: int) -> LlamaForCausalLM:
    """A Llama with random weights, a function of shape and seed."""
    end, pad = int(tokenizer.eos_token_id), int(tokenizer.pad_token_id)
    config = LlamaConfig(
        **asdict(shape), tie_word_embeddings=True, bos_token_id=None, eos_token_id=end, pad_token_id=pad
    )
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                last = name.endswith(("o_proj.weight", "down_proj.weight"))
                shrink = (2 * shape.num_hidden_layers) ** -0.5 if last else 1.0
                parameter.normal_(0.0, 0.02 * shrink, generator=generator)
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=pad, do_sample=False)
    return model


class Feed:
    """The batches from a state on to the end of the plan, each with the state that it leads to.

    The states travel with the batches because Lightning fetches a batch before the one before it is done.
    """

    def __init__(self, settings: Pretraining, tokenizer: Any, state: State) -> None:
        self.settings, self.tokenizer, self.state = settings, tokenizer, state

    def __iter__(self) -> Iterator[tuple[Batch, State]]:
        """Endless shards, cut off where the planned tokens are read."""
        chosen, state = self.settings, self.state
        while state.tokens < chosen.tokens:
            batches = shard(
                self.tokenizer,
                chosen.seed,
                state.shard,
                documents=chosen.shard_documents,
                batch_tokens=chosen.batch_tokens,
                max_tokens=chosen.row_tokens,
                progress=state.shard_tokens / chosen.tokens,
            )
            for number in range(state.batch, len(batches)):
                if state.tokens >= chosen.tokens:
                    return
                batch = batches[number]
                state = replace(
                    state,
                    batch=number + 1,
                    step=state.step + 1,
                    tokens=state.tokens + batch.ids.numel(),
                    trained_tokens=state.trained_tokens + int((batch.weights[:, 1:] > 0).sum()),
                    rows=state.rows + len(batch.ids),
                )
                yield batch, state
            state = replace(state, shard=state.shard + 1, batch=0, shard_tokens=state.tokens)


class Pretrainer(pl.LightningModule):
    """Pretraining of one Llama from nothing. `report(tokens, note)` is called now and then."""

    def __init__(
        self, settings: Pretraining, out: Path, tokenizer: Any, digest: str, report: Callable[[int, str], None]
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.settings, self.out, self.digest, self.report = settings, out, digest, report
        self.model = new_model(settings.shape, tokenizer, settings.seed)
        self.guides = Guides(self.model) if settings.guidance else None
        self.state, self.restored = checkpoint.load(out / checkpoint.FILE, digest)
        # Also where no step is left to do, and no optimiser is made.
        if self.restored:
            checkpoint.restore(self.restored, self.model, [])
        self.share = 0.0
        self.losses: list[torch.Tensor] = []
        self.attention_losses: list[torch.Tensor] = []
        self.sigterm = signal.getsignal(signal.SIGTERM)

    # ------------------------------------------------------------------------------------------------ Lightning's hooks

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """AdamW for embeddings and norms, Muon for the matrices between; the rates are set anew at every step."""
        chosen = self.settings
        matrices = [p for name, p in self.model.named_parameters() if p.dim() == 2 and "embed" not in name]
        ids = {id(p) for p in matrices}
        self.others = [p for p in self.model.parameters() if id(p) not in ids]
        adamw = torch.optim.AdamW(
            self.others, lr=chosen.lr, betas=(0.9, 0.98), weight_decay=chosen.weight_decay, fused=True
        )
        return [adamw, Muon(matrices, chosen.muon_lr, chosen.weight_decay)]

    def transfer_batch_to_device(
        self, batch: tuple[Batch, State], device: torch.device, dataloader_idx: int
    ) -> tuple[Batch, State]:
        """The tensors of a batch where the model is."""
        tensors, state = batch
        moved = {name: getattr(tensors, name).to(device) for name in ("ids", "weights", "looks")}
        return replace(tensors, **moved), state

    def on_train_start(self) -> None:
        """Go on from the checkpoint."""
        # Lightning's handler would end a stopped process with status 0; stopping at once loses no more than a kill does.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.sigterm)
        if self.restored:
            checkpoint.restore(self.restored, self.model, self.trainer.optimizers)
        self.restored = {}
        self.losses = [torch.tensor(value) for value in self.state.losses]
        self.attention_losses = [torch.tensor(value) for value in self.state.attention_losses]
        # Rows that were written after the checkpoint are written again.
        rows = jsonl.recover(self.out / "metrics.jsonl")
        jsonl.write(self.out / "metrics.jsonl", [row for row in rows if row["step"] <= self.state.step])
        jsonl.recover(self.out / "speed.jsonl")
        self.model.train()
        self.saved = self.clock = time.monotonic()
        self.clock_tokens = self.state.tokens
        self.report(self.state.tokens, f"of {self.settings.tokens:,}, step {self.state.step}")

    def training_step(self, batch: tuple[Batch, State], batch_idx: int) -> None:
        """One step of both optimisers."""
        tensors, after = batch
        self.share = rate(self.state.tokens / self.settings.tokens, self.settings.warmup, self.settings.decay)
        value, attention = self.loss(tensors)
        self.manual_backward(value if attention is None else value + self.settings.guidance * attention)
        torch.nn.utils.clip_grad_norm_(self.others, self.settings.max_grad_norm)
        optimizers: Any = self.optimizers()
        for optimizer, peak in zip(optimizers, (self.settings.lr, self.settings.muon_lr), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * self.share
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.losses.append(value.detach())
        if attention is not None:
            self.attention_losses.append(attention.detach())
        self.state = after
        if after.step % METRICS_EVERY == 0:
            self._record()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Checkpoint every few minutes."""
        if time.monotonic() - self.saved >= self.settings.checkpoint_minutes * 60:
            self.save()
            self.saved = time.monotonic()

    def on_train_end(self) -> None:
        """The last row of metrics and the last checkpoint."""
        if self.losses:
            self._record()
        self.save()

    # --------------------------------------------------------------------------------------------------------- the work

    def loss(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weighted mean loss of the text (positions of weight 0 cost no logits), and that of the guided heads."""
        weights = batch.weights[:, 1:]
        chosen = weights > 0
        if self.guides is not None:
            self.guides.looks = batch.looks
        hidden = self.model.model(input_ids=batch.ids, use_cache=False).last_hidden_state[:, :-1]
        logits = torch.nn.functional.linear(hidden[chosen], self.model.lm_head.weight)
        each = torch.nn.functional.cross_entropy(logits.float(), batch.ids[:, 1:][chosen], reduction="none")
        value = (each * weights[chosen]).sum() / weights.sum()
        return value, self.guides.loss() if self.guides is not None else None

    def save(self) -> None:
        """Write a checkpoint, and the model as it is now."""
        self.state = replace(self.state, losses=_floats(self.losses), attention_losses=_floats(self.attention_losses))
        checkpoint.save(self.out / checkpoint.FILE, self.state, self.digest, self.model, self.trainer.optimizers)
        checkpoint.export(self.model, self.out / "tokenizer", self.out / "model")

    def _record(self) -> None:
        losses, guided = _floats(self.losses), _floats(self.attention_losses)
        self.losses, self.attention_losses = [], []
        loss = sum(losses) / len(losses)
        if not torch.isfinite(torch.tensor(loss)):
            raise StageError(
                f"expected a finite loss, found {loss} in the steps up to {self.state.step}; "
                "lower pretrain.lr and pretrain.muon_lr"
            )
        state = self.state
        row = {
            "step": state.step,
            "tokens": state.tokens,
            "trained_tokens": state.trained_tokens,
            "loss": round(loss, 5),
            "attention_loss": round(sum(guided) / len(guided), 5) if guided else None,
            "rate": round(self.share, 5),
        }
        jsonl.append(self.out / "metrics.jsonl", [row])
        now = time.monotonic()
        speed = (state.tokens - self.clock_tokens) / max(now - self.clock, 1e-9)
        self.clock, self.clock_tokens = now, state.tokens
        jsonl.append(self.out / "speed.jsonl", [{"step": state.step, "tokens_per_s": round(speed, 1)}])
        note = f"of {self.settings.tokens:,}, step {state.step}, loss {loss:.3f}"
        self.report(state.tokens, note + (f", attention {row['attention_loss']:.3f}" if guided else ""))


def _floats(values: list[torch.Tensor]) -> list[float]:
    return torch.stack([value.float().cpu() for value in values]).tolist() if values else []
