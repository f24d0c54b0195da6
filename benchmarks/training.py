"""LoRA fine-tuning behind a long chat prompt: this project's trainer against transformers' Trainer with PEFT, in one process.

    python benchmarks/training.py [--rows 32] [--prefix 300] [--epochs 2] [--rounds 3]

A random four-million-parameter Llama on one CPU thread, float32, rank 16, no dropout, answers of 20 to 80 tokens. Both take the
same steps of all rows, eight to a forward pass, padded or laid out as they do it. Rounds alternate; the figures are medians of
label tokens per CPU second, loading included. Before anything is timed, both must report the same loss at the first step.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import statistics
import tempfile
import time
from pathlib import Path

import torch
import transformers
from generation import WORDS, model_folder

from selfalign import jsonl
from selfalign.identity import file_digest, folder_digest
from selfalign.records import Example, to_row
from selfalign.training import encode, lora, worker
from selfalign.training.job import Job
from selfalign.training.settings import Batching, TrainerSettings, Training

MICRO = 8


def examples(path: Path, rows: int, prefix: int) -> list[Example]:
    """Questions behind one chat prompt; a token of the model is a byte."""
    draw = random.Random(0)
    chat = " ".join(draw.choices(WORDS, k=prefix))[:prefix]
    made = []
    for number in range(rows):
        question = " ".join(draw.choices(WORDS, k=8))
        answer = " ".join(draw.choices(WORDS, k=20))[: draw.randrange(20, 80)]
        made.append(Example(str(number), str(number), f"{chat}\n\n### User\n{question}\n\n### Assistant\n", answer))
    jsonl.write(path, map(to_row, made))
    return made


def ours(model: Path, file: Path, out: Path, training: Training) -> float:
    """Train with this project; returns the loss of the first step."""
    out.mkdir()
    trainer = TrainerSettings(micro_batch_size=MICRO, threads=1)
    assert (
        worker.run(Job(file, model, out, folder_digest(model), file_digest(file), training, trainer), print_nothing)
        == 0
    )
    return jsonl.read(out / "metrics.jsonl")[0]["loss"]


def print_nothing(line: dict) -> None:
    """Where progress goes."""


def theirs(model: Path, made: list[Example], out: Path, training: Training) -> float:
    """Train with transformers' Trainer, rows of like length together; returns the loss of the first step."""
    peft = lora.add_lora(lora.load_base(model, TrainerSettings()), training, TrainerSettings())
    rows = encode.encode(made, lora.load_tokenizer(model), training.max_seq_length).rows
    data = [{"input_ids": list(row.ids), "labels": row.labels, "length": len(row.ids)} for row in rows]
    arguments = transformers.TrainingArguments(
        output_dir=str(out), per_device_train_batch_size=MICRO, gradient_accumulation_steps=len(rows) // MICRO,
        num_train_epochs=training.epochs, learning_rate=training.learning_rate, train_sampling_strategy="group_by_length",
        logging_steps=1, save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    collator = transformers.DataCollatorForTokenClassification(lora.load_tokenizer(model), padding=True)
    trainer = transformers.Trainer(peft, arguments, collator, train_dataset=data)  # type: ignore[arg-type]
    trainer.train()
    return trainer.state.log_history[0]["loss"]


def main() -> None:
    """Print the rates and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32, help=f"a multiple of {MICRO}")
    parser.add_argument("--prefix", type=int, default=300, help="tokens (here bytes) of the chat prompt")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    rates: dict[str, list[float]] = {"share": [], "bucket": [], "Trainer": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model").mkdir()
        model, file = model_folder(folder / "model"), folder / "examples.jsonl"
        made = examples(file, given.rows, given.prefix)
        base = Training(
            dropout=0.0, epochs=given.epochs, global_batch_size=given.rows, max_seq_length=2048, validation_fraction=0.0
        )
        labels = given.epochs * sum(len(example.target_text) for example in made)
        for number in range(given.rounds + 1):
            losses = {}
            for way in rates:
                out = folder / f"{way}-{number}"
                start = time.process_time()
                if way == "Trainer":
                    losses[way] = theirs(model, made, out, base)
                else:
                    training = Training(**{**vars(base), "batching": Batching(way)})
                    losses[way] = ours(model, file, out, training)
                # The first round warms up and compares.
                if number:
                    rates[way].append(labels / (time.process_time() - start))
            if max(losses.values()) - min(losses.values()) > 1e-3:
                raise SystemExit(f"expected the same loss at the first step, found {json.dumps(losses)}")
    medians = {way: statistics.median(found) for way, found in rates.items()}
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, one thread, float32, LoRA of rank 16")
    print(f"{given.rows} rows, chat prompt of {given.prefix} tokens, {given.epochs} steps, {given.rounds} rounds")
    print(f"selfalign batching=share  {medians['share']:8.1f} label tokens per CPU second (median)")
    print(f"selfalign batching=bucket {medians['bucket']:8.1f}")
    print(f"transformers Trainer      {medians['Trainer']:8.1f}")
    print(f"ratio share / Trainer     {medians['share'] / medians['Trainer']:8.2f}")


if __name__ == "__main__":
    main()
