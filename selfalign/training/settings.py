"""Settings of a training run: what is learned (`Training`) and what it runs on (`TrainerSettings`).

In: nothing. Out: two frozen dataclasses, their problems in words, and what of the second one results depend on.
Defaults of the reference are those of its stage 3 (IBM/Dromedary, branch dromedary_v1, training/finetune.py and
training/step3_principle_engraving/scripts/finetune_dromedary_65b_non_verbose.sh).
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from selfalign import identity as identities
from selfalign.identity import transient


class Schedule(StrEnum):
    """How the learning rate moves over the optimiser steps."""

    warmup_decay = "warmup_decay"
    """Logarithmic warm-up, then linear to 0: DeepSpeed's WarmupDecayLR, as in the reference."""
    cosine = "cosine"
    """Linear warm-up, then half a cosine to 0."""
    constant = "constant"
    """Linear warm-up, then constant."""


class Batching(StrEnum):
    """How the rows of an optimiser step are laid out for the model. It changes speed and rounding, not the loss."""

    bucket = "bucket"
    """Sorted by length within the step, then padded: for any model."""
    pack = "pack"
    """End to end without padding, attention kept within each row, and what the rows of a forward pass begin with (the chat
    prompt) computed once for all of them, dropout included: the fastest. For models whose attention is a plain softmax."""
    share = "share"
    """Padded, with the common beginning computed once: for models that `pack` refuses. Not with gradient checkpointing."""


class Strategy(StrEnum):
    """How the model is spread over devices."""

    single = "single"
    """One device."""
    ddp = "ddp"
    """A full copy of the model on every device."""
    fsdp = "fsdp"
    """Parameters sharded over the devices (FSDP2). The first process alone reads the base and hands out its shards."""
    qlora = "qlora"
    """The base in 4-bit NF4 (bitsandbytes), a copy on every device."""


class Optimizer(StrEnum):
    """What moves the weights; its two averages are float32 in either case."""

    adamw = "adamw"
    """torch's AdamW."""
    paged_adamw = "paged_adamw"
    """bitsandbytes' PagedAdamW32bit: the averages leave the GPU's memory where that is short. For CUDA, and not for `fsdp`."""


class Precision(StrEnum):
    """Floating-point type of the computation; adapter and optimiser state are always float32."""

    fp32 = "fp32"
    """float32 throughout."""
    bf16_mixed = "bf16_mixed"
    """Matrix products in bfloat16 by autocast."""


class Accelerator(StrEnum):
    """Kind of device."""

    auto = "auto"
    """CUDA where there is a device, else the CPU."""
    cpu = "cpu"
    """The CPU."""
    cuda = "cuda"
    """CUDA devices."""


@dataclass(frozen=True)
class Training:
    """What is learned and how: every field changes the adapter."""

    rank: int = 16
    """Rank of the LoRA matrices (>= 1; reference 16)."""
    alpha: int = 16
    """LoRA scale: the update is multiplied by alpha / rank (>= 1; reference 16)."""
    dropout: float = 0.05
    """Dropout before the LoRA matrices (0 <= p < 1; reference 0.05)."""
    target_modules: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"])
    """Names of the linear layers that get an adapter; each must occur in the model (reference: these four)."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(rank) instead (rank-stabilised LoRA)."""
    use_dora: bool = False
    """Learn magnitude and direction apart (DoRA); about twice the time."""
    learning_rate: float = 4e-4
    """Peak learning rate (> 0; reference 4e-4)."""
    epochs: int = 1
    """Passes over the rows (>= 1; reference 1)."""
    global_batch_size: int = 64
    """Rows of one optimiser step over all devices (>= 1; reference 768). The last step of an epoch may have fewer."""
    warmup_steps: int = 10
    """Optimiser steps until the peak learning rate (>= 0; reference 100); should be well below the total."""
    schedule: Schedule = Schedule.warmup_decay
    """How the learning rate moves (reference warmup_decay)."""
    optimizer: Optimizer = Optimizer.adamw
    """What moves the weights (reference adamw; Dromedary-2's QLoRA paged_adamw)."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay (>= 0; reference 0)."""
    beta1: float = 0.9
    """AdamW's decay of the mean of gradients (0 <= b < 1; reference 0.9)."""
    beta2: float = 0.999
    """AdamW's decay of the mean of squared gradients (0 <= b < 1; reference 0.999)."""
    max_grad_norm: float = 1.0
    """The gradient is scaled down to this norm (>= 0; 0 = never)."""
    max_seq_length: int = 512
    """Tokens of prompt and target together (>= 2; reference 512, 768 in stage 4). Longer targets lose their end."""
    max_prompt_length: int = 0
    """Tokens of the prompt alone; a longer one loses its beginning (>= 0; 0 = it is kept whole; Dromedary-2's QLoRA 512)."""
    max_target_length: int = 0
    """Tokens of the target alone; a longer one loses its end (>= 0; 0 = as many as fit; Dromedary-2's QLoRA 512)."""
    add_eos: bool = False
    """End every target with the tokenizer's end token (reference False: a turn ends with a text marker)."""
    batching: Batching = Batching.pack
    """How the rows of a step are laid out (docs/benchmarks.md: `pack` is the fastest of the three)."""
    validation_fraction: float = 0.02
    """Share of rows held out and scored before training and after every epoch (0 <= f < 1; 0 = none).
    The reference holds 2,000 rows out and never scores them."""
    validate_every_steps: int = 0
    """Optimiser steps between scores of the held-out rows (>= 0; 0 = only before training and after every epoch)."""
    early_stopping_patience: int = 0
    """Scores of the held-out rows in a row that may bring no new minimum before training ends (>= 0; 0 = it never ends early, as
    in the reference). The adapter is that of the last step."""
    max_untrainable_share: float = 0.0
    """Share of rows (0 to 1) that may have no trainable token because their prompt fills `max_seq_length`; more is an
    error."""
    seed: int = 0
    """Seed of LoRA initialisation, order, dropout and the choice of validation rows."""


@dataclass(frozen=True)
class TrainerSettings:
    """What it runs on: a Hydra group. Fields that can move the last bits of a result are part of its identity."""

    strategy: Strategy = Strategy.single
    """How the model is spread over devices."""
    devices: int = 1
    """Processes per node, one per device (>= 1)."""
    num_nodes: int = 1
    """Machines (>= 1); more than one needs `launcher`."""
    precision: Precision = Precision.fp32
    """Floating-point type of the computation."""
    micro_batch_size: int = 8
    """Rows of one forward pass on one device (>= 1; reference 16). A device alone packs as many rows as have no more tokens than
    that many of the longest row."""
    accelerator: Accelerator = transient(Accelerator.auto)
    """Kind of device."""
    threads: int = transient(0)
    """CPU threads of each process (>= 0; 0 = one for a small model, else torch's own choice)."""
    cpu_offload: bool = False
    """Keep shards, gradients and optimiser state in the main memory, and take the optimiser's step there: for `fsdp`. Less GPU
    memory, more time. No transient field: a CPU rounds AdamW's step otherwise than a GPU."""
    gradient_checkpointing: bool = transient(False)
    """Recompute activations in the backward pass: less memory, about a third more time."""
    checkpoint_every_steps: int = transient(50)
    """Optimiser steps between checkpoints (>= 1; reference 50): what a killed run may lose."""
    launcher: list[str] = field(default_factory=list, metadata={"transient": True})
    """Command put before the worker's, such as [srun, --nodes=2, --ntasks-per-node=8]; the first process reads its
    standard input. Empty: worker processes of this machine are started directly."""


def identity(trainer: TrainerSettings) -> dict[str, Any]:
    """What of the trainer's settings results depend on, as plain values."""
    return identities.plain(trainer)


def arithmetic(training: Training, trainer: TrainerSettings) -> str:
    """How a whole step's rows are spread over devices and forward passes, in words; the settings have no problem."""
    micro, devices = trainer.micro_batch_size, trainer.devices * trainer.num_nodes
    passes = training.global_batch_size // (micro * devices)

    def some(count: int, unit: str) -> str:
        return f"{count} {unit}{'' if count == 1 else 's' if unit[-1] != 's' else 'es'}"

    nodes = f" on {some(trainer.num_nodes, 'node')}" if trainer.num_nodes > 1 else ""
    fewer = ", or fewer full packs" if training.batching is Batching.pack and devices == 1 < passes else ""
    return (
        f"{some(training.global_batch_size, 'row')} a step = {some(micro, 'row')} x {some(devices, 'device')}{nodes} x "
        f"{some(passes, 'pass')}{fewer}"
    )


def problems(training: Training, trainer: TrainerSettings) -> list[str]:
    """What is wrong with these settings, each with its remedy; loads torch only to count CUDA devices."""
    return [
        *_range_problems(training, trainer),
        *_batch_problems(training, trainer),
        *_strategy_problems(training, trainer),
        *_device_problems(training, trainer),
    ]


def _range_problems(training: Training, trainer: TrainerSettings) -> list[str]:
    found = []

    def expect(holds: bool, name: str, value: object, allowed: str) -> None:
        if not holds:
            found.append(f"{name}={value}: expected {allowed}")

    for name in ("rank", "alpha", "epochs", "global_batch_size"):
        expect(getattr(training, name) >= 1, f"training.{name}", getattr(training, name), "at least 1")
    for name in (
        *("warmup_steps", "weight_decay", "max_grad_norm", "validate_every_steps", "early_stopping_patience"),
        *("max_prompt_length", "max_target_length"),
    ):
        expect(getattr(training, name) >= 0, f"training.{name}", getattr(training, name), "at least 0")
    for name in ("dropout", "beta1", "beta2", "validation_fraction"):
        value = getattr(training, name)
        expect(0 <= value < 1, f"training.{name}", value, "at least 0 and below 1")
    if training.early_stopping_patience > 0 and training.validation_fraction == 0:
        found.append(
            f"training.early_stopping_patience={training.early_stopping_patience} needs held-out rows, found "
            "training.validation_fraction=0; hold some out (0.02), or set training.early_stopping_patience=0"
        )
    if training.batching is Batching.share and trainer.gradient_checkpointing:
        found.append(
            "training.batching=share keeps the keys and values of the common beginning, which trainer.gradient_checkpointing=true "
            "does not allow; use training.batching=bucket, or trainer.gradient_checkpointing=false"
        )
    share = training.max_untrainable_share
    expect(0 <= share <= 1, "training.max_untrainable_share", share, "a share from 0 to 1")
    expect(training.learning_rate > 0, "training.learning_rate", training.learning_rate, "more than 0")
    expect(training.max_seq_length >= 2, "training.max_seq_length", training.max_seq_length, "at least 2 tokens")
    expect(bool(training.target_modules), "training.target_modules", training.target_modules, "at least one name")
    for name in ("devices", "num_nodes", "micro_batch_size", "checkpoint_every_steps"):
        expect(getattr(trainer, name) >= 1, f"trainer.{name}", getattr(trainer, name), "at least 1")
    expect(trainer.threads >= 0, "trainer.threads", trainer.threads, "at least 0 (0 chooses by the size of the model)")
    return found


def _batch_problems(training: Training, trainer: TrainerSettings) -> list[str]:
    micro, devices, nodes = trainer.micro_batch_size, trainer.devices, trainer.num_nodes
    together = micro * devices * nodes
    size = training.global_batch_size
    if min(micro, devices, nodes, size) < 1 or size % together == 0:
        return []
    near = sorted({max(size // together, 1) * together, -(-size // together) * together})
    sum_of = f"{size // together} x {together} + {size % together}"
    return [
        f"training.global_batch_size={size} must be a multiple of micro_batch_size x devices x num_nodes "
        f"= {micro} x {devices} x {nodes} = {together}; found {size} = {sum_of}; "
        f"use {' or '.join(map(str, near))}, or another trainer.micro_batch_size"
    ]


def _strategy_problems(training: Training, trainer: TrainerSettings) -> list[str]:
    """Settings that the strategy cannot follow or has no use for, and libraries that are missing."""
    found = []
    strategy = trainer.strategy
    if strategy is Strategy.single and (trainer.devices, trainer.num_nodes) != (1, 1):
        found.append(
            f"trainer.strategy={strategy} runs on one device, found devices={trainer.devices}, "
            f"num_nodes={trainer.num_nodes}; set both to 1, or use trainer.strategy=ddp or fsdp"
        )
    if trainer.cpu_offload and strategy is not Strategy.fsdp:
        found.append(
            f"trainer.cpu_offload=true keeps the shards of trainer.strategy=fsdp in the main memory, found strategy={strategy}, "
            "which has none; use trainer.strategy=fsdp (one device will do), or trainer.cpu_offload=false"
        )
    if training.optimizer is Optimizer.paged_adamw and strategy is Strategy.fsdp:
        found.append(
            "training.optimizer=paged_adamw cannot page the shards of trainer.strategy=fsdp; use training.optimizer=adamw "
            "(with trainer.cpu_offload=true where memory is short), or trainer.strategy=qlora, ddp or single"
        )
    if trainer.num_nodes > 1 and not trainer.launcher:
        found.append(
            f"trainer.num_nodes={trainer.num_nodes} needs a command that starts a process per device on every node; "
            f"set trainer.launcher, such as [srun, --nodes={trainer.num_nodes}, --ntasks-per-node={trainer.devices}]"
        )
    users = [
        (f"trainer.strategy={Strategy.qlora}", strategy is Strategy.qlora, "trainer.strategy=single"),
        (
            f"training.optimizer={Optimizer.paged_adamw}",
            training.optimizer is Optimizer.paged_adamw,
            "training.optimizer=adamw",
        ),
    ]
    for name, used, instead in users:
        if used and importlib.util.find_spec("bitsandbytes") is None:
            found.append(
                f"{name} needs bitsandbytes, which is not installed; run `pip install 'selfalign[quantized]'`, or use {instead}"
            )
    return found


def _device_problems(training: Training, trainer: TrainerSettings) -> list[str]:
    """Devices that are not there. Counting them loads torch, so only where the answer matters."""
    accelerator = trainer.accelerator
    needs = {
        f"trainer.strategy={Strategy.qlora}": (trainer.strategy is Strategy.qlora, "trainer.strategy=single"),
        f"training.optimizer={Optimizer.paged_adamw}": (
            training.optimizer is Optimizer.paged_adamw,
            "training.optimizer=adamw",
        ),
    }
    asked = [(name, instead) for name, (used, instead) in needs.items() if used]
    if accelerator is Accelerator.cpu or (accelerator is Accelerator.auto and not asked and trainer.devices == 1):
        return []
    import torch

    available = torch.cuda.device_count()
    if asked and available == 0 and accelerator is not Accelerator.cpu:
        return [
            f"{name} needs a CUDA device, found {available} and accelerator={accelerator}; run it on a machine with an NVIDIA "
            f"GPU, or use {instead} (trainer.accelerator=cpu tries it without one, slowly)"
            for name, instead in asked
        ]
    if trainer.launcher or (accelerator is Accelerator.auto and available == 0):
        return []
    if trainer.devices > available:
        return [
            f"trainer.devices={trainer.devices} but this machine has {available} CUDA device(s); "
            "set trainer.devices to at most that, or trainer.accelerator=cpu"
        ]
    return []
