"""A PEFT model in, the same model sharded over the processes out: FSDP2, one unit for each transformer block.

The base is read once, by the first process. Every process builds the model on torch's meta device, which takes no memory, and gets
its own shards from the first one: beside it, no process ever holds a whole copy. Imported by the worker alone, as `module` is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed import broadcast
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard


def shard(model: Any, whole: Any | None, mesh: DeviceMesh, device: torch.device, bf16: bool) -> None:
    """Shard `model`, which is on the meta device, and fill it from `whole`, which the first process has and others need not.

    Both have their LoRA matrices already: parameters that are added to a sharded module would stay unsynchronised. With `bf16`
    parameters are gathered and computed with in bfloat16; shards, gradients' sums and optimiser stay float32.
    """
    policy = (
        MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if bf16 else MixedPrecisionPolicy()
    )
    base = model.get_base_model()
    blocks = set(base._no_split_modules or ())
    for module in list(base.modules()):
        if type(module).__name__ in blocks:
            fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    model.to_empty(device=device)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, whole.state_dict() if whole is not None else {}, options=options)
    # Buffers outside the state dict (the angles of rotary embeddings) would stay whatever the memory held.
    loaded = set(model.state_dict())
    source = dict(whole.named_buffers()) if whole is not None else {}
    for name, buffer in model.named_buffers():
        if name not in loaded:
            if source:
                buffer.copy_(source[name])
            broadcast(buffer, src=0)
