"""24 examples, and settings under which a run on them takes six steps."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

from selfalign import identity, jsonl, records
from selfalign.training.job import Job
from selfalign.training.settings import Accelerator, TrainerSettings, Training

TRAINING = Training(
    rank=4, learning_rate=1e-2, epochs=2, global_batch_size=8, warmup_steps=2, validation_fraction=0.1, dropout=0.1
)
TRAINER = TrainerSettings(micro_batch_size=4, checkpoint_every_steps=2, threads=1, accelerator=Accelerator.cpu)


def make_examples(path: Path, count: int = 24) -> Path:
    draw = random.Random(0)
    words = ["the", "owl", "sees", "a", "mouse", "in", "an", "old", "barn", "and", "waits", "until", "moon", "is", "up"]
    rows = []
    for number in range(count):
        prompt = f"### User\nWhat does {draw.choice(words)} number {number} do?\n\n### A\n"
        target = " ".join(draw.choices(words, k=draw.randint(2, 14))) + "\n\n### User\n"
        rows.append(records.to_row(records.Example(identity.short_id(prompt, target), "r", prompt, target)))
    jsonl.write(path, rows)
    return path


def make_job(
    out: Path,
    examples: Path,
    model: Path,
    training: dict[str, Any] | None = None,
    initial_adapter: Path | None = None,
    **trainer: Any,
) -> Job:
    out.mkdir(parents=True, exist_ok=True)
    return Job(
        examples,
        model,
        out,
        identity.folder_digest(model),
        identity.file_digest(examples),
        dataclasses.replace(TRAINING, **(training or {})),
        dataclasses.replace(TRAINER, **trainer),
        initial_adapter,
        identity.folder_digest(initial_adapter) if initial_adapter else "",
    )


def contents(out: Path) -> dict[str, bytes]:
    """Every file below a folder by its relative name, without what a clock decides."""
    timed = ("speed.jsonl", "training.csv")
    files = (path for path in sorted(out.rglob("*")) if path.is_file() and path.name not in timed)
    return {str(path.relative_to(out)): path.read_bytes() for path in files}
