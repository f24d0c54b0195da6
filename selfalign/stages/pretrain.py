"""Calf's pretraining as a stage: no artifact in, `model/` (a transformers folder) and `metrics.jsonl` out.

Source: none; the paper starts from LLaMA. The embedded model stands in for such a base (`selfalign.calf`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from selfalign import jsonl, resources
from selfalign.artifacts import Artifact, Outcome
from selfalign.calf import corpus
from selfalign.calf.pretrain import pretrain
from selfalign.calf.settings import Pretraining, problems
from selfalign.identity import digest, file_digest, plain
from selfalign.stages.base import Context
from selfalign.training.settings import Accelerator, Precision, TrainerSettings

DIGESTED = 2000
"""Documents that tell one corpus from another: enough that each seed task stands in some."""

ROW_MAKERS = ("rows", "guides")
"""Files of selfalign/calf/ that turn documents into what is trained on."""

RECORD = "training.json"
"""Beside the weights: how they were trained."""


@dataclass(frozen=True)
class Pretrain(Pretraining):
    """Settings of the pretraining."""

    VERSION: ClassVar[str] = "1"
    READS: ClassVar[tuple[str, ...]] = ()
    OPTIONAL: ClassVar[tuple[str, ...]] = ()
    GENERATES: ClassVar[bool] = False

    def identity(self, context: Context) -> Mapping[str, Any]:
        """Settings, precision, and the corpus."""
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


@cache
def corpus_digest() -> str:
    """sha256 over what is read: the first documents, the tokenizer's words, and the source of what makes rows of them.

    Documents count and not the code that writes them, so that weights stay those of the committed recipe when a file that the
    corpus also uses (`selfalign.prompts`, a text of `principles/`) changes in what the corpus does not.
    """
    content = hashlib.sha256()
    for number in range(DIGESTED):
        content.update(repr(corpus.document(0, number, corpus.few_rules(number / DIGESTED))).encode())
    for text in corpus.tokenizer_texts(0, 0):
        content.update(text.encode())
    folder = resources.PACKAGE / "calf"
    return digest(
        {"documents": content.hexdigest()} | {name: file_digest(folder / f"{name}.py") for name in ROW_MAKERS}
    )


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
