"""What a killed pretraining goes on from: weights, both optimisers and the place in the corpus, in one safetensors file.

The corpus is a function of (seed, shard) and nothing is drawn while training, so no generator's state has to be kept.
The file is replaced by a rename: it is complete under its name or not there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from selfalign.errors import DataError

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM

FILE = "checkpoint.safetensors"
OPTIMIZER_KEYS = ("momentum", "step", "exp_avg", "exp_avg_sq")
"""What Muon and AdamW remember of a parameter."""


@dataclass
class State:
    """How far training has come."""

    shard: int = 0
    """The shard of the corpus that is being read."""
    batch: int = 0
    """Its next batch."""
    shard_tokens: int = 0
    """`tokens` at the beginning of the shard."""
    step: int = 0
    """Steps done."""
    tokens: int = 0
    """Tokens read, padding included."""
    trained_tokens: int = 0
    """Tokens that the loss counted."""
    rows: int = 0
    """Rows read."""
    losses: list[float] = field(default_factory=list)
    """Loss of each step since the last row of metrics."""
    attention_losses: list[float] = field(default_factory=list)
    """The same for the loss of the guided heads; steps without one have none."""


def save(
    path: Path,
    state: State,
    digest: str,
    model: LlamaForCausalLM,
    optimizers: Sequence[torch.optim.Optimizer],
) -> None:
    """Write the checkpoint and wait until it is on the disk."""
    from safetensors.torch import save as save_bytes

    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        tensors[f"model.{name}"] = parameter
        for optimizer in optimizers:
            tensors |= {f"{key}.{name}": value for key, value in optimizer.state.get(parameter, {}).items()}
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    fresh = path.with_name(f"{path.name}.tmp")
    with open(fresh, "wb") as stream:
        stream.write(save_bytes(whole, metadata={"state": json.dumps(asdict(state)), "digest": digest}))
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(fresh, path)


def load(path: Path, digest: str) -> tuple[State, dict[str, torch.Tensor]]:
    """State and tensors of a checkpoint; a fresh state and no tensors where there is none.

    Raises DataError for a checkpoint of other settings.
    """
    from safetensors import safe_open

    if not path.exists():
        return State(), {}
    with safe_open(path, "pt") as stream:
        metadata = stream.metadata()
        if metadata["digest"] != digest:
            raise DataError(
                f"{path}: expected a checkpoint of the settings {digest[:12]}, found one of {metadata['digest'][:12]}; "
                "use the settings it was begun with, or another folder, or delete this one"
            )
        return State(**json.loads(metadata["state"])), {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118


def restore(
    tensors: Mapping[str, torch.Tensor], model: LlamaForCausalLM, optimizers: Sequence[torch.optim.Optimizer]
) -> None:
    """Put the tensors of a checkpoint back into model and optimisers, on the devices where the parameters are."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
            kept = {key: tensors[f"{key}.{name}"] for key in OPTIMIZER_KEYS if f"{key}.{name}" in tensors}
            for optimizer in optimizers:
                if any(parameter is one for group in optimizer.param_groups for one in group["params"]):
                    optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in kept.items()}


def export(model: LlamaForCausalLM, tokenizer: Path, out: Path) -> None:
    """Write an ordinary transformers folder with float16 weights; each file is replaced by a rename."""
    import torch
    from safetensors.torch import save as save_bytes

    fresh = out.with_name(f"{out.name}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for file in tokenizer.iterdir():
        shutil.copy(file, fresh / file.name)
    weights = {
        name: parameter.detach().to("cpu", torch.float16).contiguous() for name, parameter in model.named_parameters()
    }
    (fresh / "model.safetensors").write_bytes(save_bytes(weights, metadata={"format": "pt"}))
    model.generation_config.save_pretrained(fresh)
    config = model.config.to_dict() | {"dtype": "float16", "architectures": ["LlamaForCausalLM"]}
    (fresh / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    out.mkdir(exist_ok=True)
    for file in sorted(fresh.iterdir()):
        os.replace(file, out / file.name)
    fresh.rmdir()
