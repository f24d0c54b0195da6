"""How many CPU threads torch should use for a model: a setting and a model folder in, a number or torch's own choice out."""

from __future__ import annotations

from pathlib import Path

SMALL_WEIGHTS_BYTES = 64_000_000
"""Below this, a step is so short that threads mostly wait for one another: with another process running on two cores,
two threads were fifty times slower than one for a model of 8 MB."""


def torch_threads(setting: int, model_folder: Path) -> int | None:
    """The number of threads: the setting where it is above 0, else 1 for a small model and None (torch's choice)."""
    if setting > 0:
        return setting
    weights = sum(path.stat().st_size for path in model_folder.glob("*.safetensors"))
    return 1 if weights < SMALL_WEIGHTS_BYTES else None
