"""What a killed run goes on from: adapter, AdamW's two averages and the step, in one safetensors file.

Order and dropout are functions of (seed, step), so neither a loader's nor a generator's state has to be kept. A file is
complete under its name or not there; the old one goes when the new one is complete. Works for sharded parameters
(every process must call `gather` and `restore`).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

AVERAGES = {"exp_avg": "state1", "exp_avg_sq": "state2"}
"""What AdamW keeps of a parameter: as torch calls it, which is its name in a file, and as bitsandbytes does."""


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor in the main memory, gathered from all processes where it is sharded."""
    from torch.distributed.tensor import DTensor

    tensor = tensor.detach()
    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    return tensor.cpu().contiguous()


def _like(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A whole tensor, placed and sharded as a parameter is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    value = value.to(parameter.device)
    if isinstance(parameter, DTensor):
        # To the kind of device that the mesh is of, and from there to where the parameter is: the main memory, if offloaded.
        return distribute_tensor(value, parameter.device_mesh, parameter.placements).to(parameter.device)
    return value


def gather(parameters: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Trainable parameters and optimiser state under names `<parameter>.<part>`."""
    tensors = {}
    for name, parameter in parameters.items():
        tensors[f"{name}.weight"] = whole(parameter)
        state = optimizer.state[parameter]
        for part, other in AVERAGES.items():
            tensors[f"{name}.{part}"] = whole(state[part] if part in state else state[other])
    return tensors


def restore(
    tensors: dict[str, torch.Tensor],
    step: int,
    parameters: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Put what `gather` returned after `step` optimiser steps back into parameters and optimiser."""
    import torch

    with torch.no_grad():
        for number, (name, parameter) in enumerate(parameters.items()):
            parameter.copy_(_like(tensors[f"{name}.weight"], parameter))
            averages = {part: _like(tensors[f"{name}.{part}"], parameter) for part in AVERAGES}
            if hasattr(optimizer, "init_state"):
                _fill_paged(optimizer, parameter, number, step, averages)
            else:
                optimizer.state[parameter] = {"step": torch.tensor(float(step)), **averages}


def _fill_paged(
    optimizer: Any, parameter: torch.nn.Parameter, number: int, step: int, averages: dict[str, torch.Tensor]
) -> None:
    """Set what an optimiser of bitsandbytes keeps of its parameter `number`: in memory that it allocates itself, to page it."""
    optimizer.init_state(optimizer.param_groups[0], parameter, 0, number)
    state = optimizer.state[parameter]
    state["step"] = step
    for part, average in averages.items():
        state[AVERAGES[part]].copy_(average)


def save(folder: Path, tensors: dict[str, torch.Tensor], step: int, rows: int) -> None:
    """Write the checkpoint of `step`, at which the metrics file had `rows` rows; then remove the older ones."""
    from safetensors.torch import save as save_bytes

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}.safetensors"
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as stream:
        stream.write(save_bytes(tensors, metadata={"state": json.dumps({"step": step, "rows": rows})}))
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
    for other in folder.iterdir():
        if other != path:
            other.unlink()


def latest(folder: Path) -> tuple[Path, int, int] | None:
    """The newest complete checkpoint: its file, its step and its number of metrics rows; None where there is none."""
    from safetensors import safe_open

    complete = sorted(folder.glob("step-*.safetensors"))
    if not complete:
        return None
    with safe_open(complete[-1], framework="pt") as stream:
        state = json.loads(stream.metadata()["state"])
    return complete[-1], state["step"], state["rows"]


def load(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, in the main memory."""
    from safetensors.torch import load_file

    return load_file(path)
