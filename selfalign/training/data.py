"""The LightningDataModule: the rows of a job's examples, which of them are held out, and the batches of every optimiser step.

Imported by the worker alone, as `module` is.
"""

from __future__ import annotations

import pytorch_lightning as pl

from selfalign import jsonl
from selfalign.records import Example, from_row
from selfalign.training import batches, encode, lora
from selfalign.training.job import Job


class Rows(pl.LightningDataModule):
    """What is trained on and what is scored, from the optimiser step `start` (from 0) on."""

    def __init__(self, job: Job, start: int = 0) -> None:
        """Encode the examples. Raises StageError for rows that cannot be trained on or that the model cannot read."""
        super().__init__()
        training = job.training
        self.start = start
        self.micro_batch_size = job.trainer.micro_batch_size
        self.batching = training.batching
        examples = [from_row(Example, row) for row in jsonl.iterate(job.examples)]
        self.encoded = encode.encode(
            examples,
            lora.load_tokenizer(job.model_folder),
            training.max_seq_length,
            add_eos=training.add_eos,
            max_prompt_length=training.max_prompt_length,
            max_target_length=training.max_target_length,
        )
        encode.check(self.encoded, training.max_seq_length, training.max_untrainable_share)
        encode.check_fit(self.encoded.rows, *lora.limits(job.model_folder))
        rows, self.validation = batches.hold_out(self.encoded.rows, training.validation_fraction, training.seed)
        self.plan = batches.StepPlan(rows, training.global_batch_size, training.epochs, training.seed)

    def train_dataloader(self) -> batches.StepLoader:
        """The batches of this process from the first step that is still to do."""
        assert self.trainer is not None
        return batches.StepLoader(
            self.plan,
            self.start,
            self.micro_batch_size,
            self.batching,
            self.trainer.global_rank,
            self.trainer.world_size,
        )
