"""A PEFT model in, the same model sharded over the processes out: FSDP2, one unit for each transformer block.

The base is read once, by the first process. Every process builds the model on torch's meta device, which takes no memory, and gets
its own shards from the first one: beside it, no process ever holds a whole copy. Imported by the worker alone, as `module` is.
"""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch.distributed import broadcast
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

from selfalign.training.settings import TrainerSettings


class Sharded(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, over all devices of all nodes."""

    def __init__(self, settings: TrainerSettings, cuda: bool) -> None:
        self.cpu_offload = settings.cpu_offload
        super().__init__(
            # Its own defaults shard over nodes only and use tensor parallelism within one.
            data_parallel_size=settings.devices * settings.num_nodes,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            # NCCL alone cannot sum the norms of gradients, nor gather shards, that are in the main memory.
            process_group_backend="cpu:gloo,cuda:nccl" if cuda and settings.cpu_offload else None,
        )

    def model_to_device(self) -> None:
        """Move what is left to the device; nothing where FSDP brings each unit there itself."""
        if not self.cpu_offload:
            super().model_to_device()


def shard(
    model: Any, whole: Any | None, mesh: DeviceMesh, device: torch.device, bf16: bool, cpu_offload: bool = False
) -> None:
    """Shard `model`, which is on the meta device, and fill it from `whole`, which the first process has and others need not.

    Both have their LoRA matrices already: parameters that are added to a sharded module would stay unsynchronised. With `bf16`
    parameters are gathered and computed with in bfloat16; shards, gradients' sums and optimiser stay float32. With `cpu_offload`
    the shards are in the main memory, pinned where `device` is a CUDA device; buffers are on `device` in either case.
    """
    precision = (
        MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if bf16 else MixedPrecisionPolicy()
    )
    offload = CPUOffloadPolicy(pin_memory=device.type == "cuda") if cpu_offload else OffloadPolicy()
    base = model.get_base_model()
    blocks = set(base._no_split_modules or ())
    for module in list(base.modules()):
        if type(module).__name__ in blocks:
            fully_shard(module, mesh=mesh, mp_policy=precision, offload_policy=offload)
    fully_shard(model, mesh=mesh, mp_policy=precision, offload_policy=offload)
    model.to_empty(device=torch.device("cpu") if cpu_offload else device)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, whole.state_dict() if whole is not None else {}, options=options)
    # Buffers outside the state dict (the angles of rotary embeddings) would stay whatever the memory held.
    loaded = set(model.state_dict())
    source = dict(whole.named_buffers()) if whole is not None else {}
    for module_name, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            full_name = f"{module_name}.{name}" if module_name else name
            placed = buffer.to(device)
            if full_name not in loaded:
                if source:
                    placed.copy_(source[full_name])
                broadcast(placed, src=0)
            setattr(module, name, placed)
