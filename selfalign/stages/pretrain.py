"""Calf's pretraining as a stage: no artifact in, `model/` (a transformers folder) and `metrics.jsonl` out.

Source: none; the paper starts from LLaMA. The embedded model stands in for such a base (`selfalign.calf`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from selfalign import jsonl, resources
from selfalign.artifacts import Artifact, Outcome
from selfalign.calf.pretrain import pretrain
from selfalign.calf.settings import Pretraining, problems
from selfalign.identity import digest, file_digest, plain
from selfalign.stages.base import Context
from selfalign.training.settings import Accelerator, Precision, TrainerSettings

SOURCES = ("lexicon", "item", "kinds", "world", "documents", "corpus", "exams", "rows", "guides")
"""Files of selfalign/calf/ that decide what the model reads and where its attention is guided."""


RECORD = "training.json"
"""Beside the weights: how they were trained."""


@dataclass(frozen=True)
class Pretrain(Pretraining):
    """Settings of the pretraining."""

    VERSION: ClassVar[str] = "1"
    READS: ClassVar[tuple[str, ...]] = ()
    OPTIONAL: ClassVar[tuple[str, ...]] = ()

    def identity(self, context: Context) -> Mapping[str, Any]:
        """Settings, precision, and all files that the corpus is made from."""
        return {
            "settings": plain(self),
            "content": {"corpus": corpus_digest()},
            "trainer": {"precision": str(context.trainer.precision)},
        }

    def problems(self, context: Context) -> list[str]:
        """Impossible settings, and more devices than one."""
        return [*problems(self), *_trainer_problems(context.trainer)]

    def unfit(self, context: Context) -> str:
        """Nothing: no model takes part."""
        return ""

    def run(self, inputs: Mapping[str, Artifact], out: Path, context: Context) -> Outcome:
        """Write `model/` (with `training.json`: settings, corpus, metrics), `metrics.jsonl`, `result.json`, and `speed.jsonl`,
        which alone depends on the clock."""
        trainer = context.trainer
        with context.progress("pretraining", self.tokens, "tokens") as progress:
            metrics = pretrain(
                self,
                out,
                cuda=_on_cuda(trainer),
                bf16=trainer.precision is Precision.bf16_mixed,
                # One thread is faster for a model this small, and the only number that gives the same bytes everywhere.
                threads=trainer.threads or 1,
                report=progress,
            )
        record = {"settings": plain(self), "corpus": corpus_digest(), "metrics": metrics}
        jsonl.write_json(out / "model" / RECORD, record)
        return Outcome(rows_in=metrics["rows"], kept=metrics["rows"], metrics=metrics)


def corpus_digest() -> str:
    """sha256 over principles, exemplars, prompt texts and seeds, as the corpus finds them, and over its own source."""
    package, shipped = resources.PACKAGE, resources.shipped_root()
    texts = sorted(path.relative_to(shipped).as_posix() for path in (shipped / "principles").rglob("*.*"))
    code = [package / "prompts.py", package / "principles.py", *(package / "calf" / f"{name}.py" for name in SOURCES)]
    found = {name: file_digest(resources.find(name)) for name in texts}
    return digest(found | {path.relative_to(package).as_posix(): file_digest(path) for path in code})


def _on_cuda(trainer: TrainerSettings) -> bool:
    import torch

    return trainer.accelerator is not Accelerator.cpu and torch.cuda.is_available()


def _trainer_problems(trainer: TrainerSettings) -> list[str]:
    found = []
    if (trainer.devices, trainer.num_nodes) != (1, 1) or trainer.strategy != "single":
        found.append(
            f"pretrain: expected one device, found trainer.strategy={trainer.strategy}, devices={trainer.devices}, "
            f"num_nodes={trainer.num_nodes}; a step of a model this small is too short to share (allowed: strategy=single "
            "with devices=1, num_nodes=1); use trainer=single"
        )
    # Looking for a device loads torch, so only where the answer matters.
    if trainer.accelerator is Accelerator.cuda and not _on_cuda(trainer):
        found.append(
            "pretrain: expected a CUDA device for trainer.accelerator=cuda, found none (allowed: auto, cpu, cuda); "
            "set trainer.accelerator=auto"
        )
    return found
