"""Step in, learning rate out: a pure function, so a resumed run needs no scheduler state.

`warmup_decay` is DeepSpeed's WarmupDecayLR (reference: training/finetune.py, ds_config_zero3.json), one step ahead:
there the first step has rate 0 and is lost.
"""

from __future__ import annotations

import math

from selfalign.training.settings import Schedule, Training


def learning_rate(training: Training, step: int, total_steps: int) -> float:
    """Learning rate of one optimiser step (0 <= step < total_steps); it peaks at the last step of the warm-up."""
    warmup = training.warmup_steps
    if step < warmup:
        if training.schedule is Schedule.warmup_decay:
            return training.learning_rate * math.log(step + 2) / math.log(warmup + 1)
        return training.learning_rate * (step + 1) / warmup
    left = (total_steps - step) / (total_steps - warmup)
    if training.schedule is Schedule.warmup_decay:
        return training.learning_rate * left
    if training.schedule is Schedule.cosine:
        return training.learning_rate * 0.5 * (1 - math.cos(math.pi * left))
    return training.learning_rate
