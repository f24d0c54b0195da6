"""What a node leaves on the disk, reckoned before it runs: a stage and its rows and tokens in, bytes out.

Rows are JSON, so their size follows from the characters that models write. An adapter's size is exact where the base model's
weights are there: LoRA adds rank x (in + out) numbers to each matrix that it adapts (Hu et al. 2021, arXiv:2106.09685,
section 4.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from selfalign.stages.engrave import Engrave
from selfalign.stages.engraving_gap import EngravingGap
from selfalign.training.settings import Training

CHARACTERS_PER_TOKEN = 4
"""Of English text, by usual tokenizers."""
ROW = 400
"""Bytes of a row beside what a model wrote: ids, question, reason, names of fields."""
ROW_OF_NUMBERS = 120
"""Bytes of a scored text."""
COPIES = 3
"""Times that a written text stands in the files of its stage: as the engine gave it, as it was read, and cut into its parts."""
ADAPTER_BYTES = 4
"""Of a number of an adapter: they are stored in float32."""


def bytes_of(
    stage: Any,
    *,
    kept: int,
    requests: int,
    new_tokens: int,
    trained_tokens: int,
    adapter_parameters: float,
) -> int:
    """Bytes that a stage with so many rows and tokens leaves in the store; right to about a factor of two."""
    if isinstance(stage, Engrave):
        text = trained_tokens / stage.training.epochs * CHARACTERS_PER_TOKEN
        return round(kept * ROW + text + adapter_parameters * ADAPTER_BYTES)
    if isinstance(stage, EngravingGap):
        return requests * ROW_OF_NUMBERS
    return max(requests, kept) * ROW + new_tokens * CHARACTERS_PER_TOKEN * COPIES


def checkpoint_bytes(adapter_parameters: float) -> float:
    """Bytes that a training needs beside what it leaves, until it ends: weights and both averages of AdamW."""
    return 3 * ADAPTER_BYTES * adapter_parameters


def lora_parameters(training: Training, shapes: Mapping[str, Sequence[int]], parameters: float) -> float:
    """Numbers of an adapter: exact by the `shapes` of the base model's weights, name -> (out, in); where there are none, those of a
    Llama of so many `parameters` (layers of 12 x width^2, heads of 128, MLPs of 2.7 x width)."""
    targets = set(training.target_modules)
    found = [
        shape
        for name, shape in shapes.items()
        if len(shape) == 2 and name.removesuffix(".weight").rpartition(".")[2] in targets
    ]
    if found:
        return float(sum(training.rank * (rows + columns) for rows, columns in found))
    width = (parameters * 128 / 12) ** (1 / 3)
    sides = sum(3.7 if name.startswith(("gate", "up", "down", "fc", "w")) else 2.0 for name in targets)
    return training.rank * sides * width * width / 128
