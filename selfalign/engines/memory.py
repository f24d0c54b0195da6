"""How much memory there is, and whether an error says that it was not enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfalign.errors import StageError

if TYPE_CHECKING:
    import torch

SHARE = {"cpu": 0.5, "cuda": 0.85}
"""Part of the free memory that is planned with: on a CPU other programs want some, on a GPU the model's passing tensors."""


def usable_bytes(device: torch.device) -> int:
    """Bytes on the device that may be filled, as measured now."""
    import torch

    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What torch has taken from the driver and does not use is free for torch.
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    else:
        import psutil

        free = psutil.virtual_memory().available
    return int(free * SHARE.get(device.type, SHARE["cpu"]))


def is_out_of_memory(error: BaseException) -> bool:
    """True for the errors by which torch says that there is no memory left, on a GPU or a CPU."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and ("out of memory" in str(error) or "can't allocate memory" in str(error))


def no_memory(error: BaseException) -> StageError:
    """What to tell where memory does not suffice for a single request."""
    return StageError(
        f"expected memory for one request at a time, found: {' '.join(str(error).split())[:200]}; use a smaller model or number "
        "format (model.dtype=bfloat16), a shorter prompt, or a device with more memory"
    )
