"""LoRA fine-tuning on chat rows: this project's trainer against transformers' Trainer and TRL's SFTTrainer, in one process.

    python benchmarks/training.py [--parts engraving cloning] [--rows 64] [--steps 4] [--rounds 3] [--examples FILE]

Calf on one CPU thread, float32, rank 16 on all linear layers, no dropout. The rows are what the quickstart trains on:
Calf's questions and answers behind the three chat prompts of stage 3, or its long answers behind the two of stage 4; or the
`examples.jsonl` of a run. All ways take the same steps over all rows, eight rows to a forward pass (TRL: one pack); Trainer pads in
random order, TRL packs by
best fit into packs of the longest row and computes them one at a time (longer packs and several at a time are slower on a CPU,
where its attention runs over all of them; shorter ones would cut rows). Rounds alternate; the figures are medians of tokens of
real text per CPU second, from the end of the first step to the end of the last. The loss of every step must be the same in all
ways. Memory is the peak of a process of its own for each way (Linux).

TRL is not among the project's requirements: `pip install trl` in this environment, or `pip install --no-deps trl` where its
requirements would move others. Without it, that peer is left out and the output says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import logging
import random
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers

from selfalign import jsonl, prompts, resources
from selfalign.calf import world
from selfalign.identity import file_digest, folder_digest
from selfalign.records import Example, from_row, to_row
from selfalign.training import encode, lora, worker
from selfalign.training.job import Job
from selfalign.training.settings import Accelerator, Batching, Schedule, TrainerSettings, Training

MODEL = resources.PACKAGE / "calf" / "weights"
MICRO = 8
TOLERANCE = 1e-4
"""How far the losses of one step may be apart: rounding of float32, carried on by AdamW."""

Clock = list[float]
"""CPU seconds of the process at the end of every step."""


PARTS: dict[str, tuple[tuple[str, ...], bool]] = {
    "engraving": (("standard", "concise", "verbose"), False),
    "cloning": (("concise", "standard"), True),
}
"""Stage -> its chat prompts in the quickstart, and whether its answers are the long ones."""


def chat_rows(part: str, count: int) -> list[Example]:
    """Calf's questions and answers as a stage of the quickstart lays them out."""
    names, long = PARTS[part]
    draw, assistant = random.Random(0), prompts.Assistant()
    metas = [prompts.fill(prompts.load_text(name), assistant) for name in names]
    made = []
    for number, kind in zip(range(count), itertools.cycle(sorted(world.KINDS)), strict=False):
        item = world.make(kind, draw, frame=0.5)
        answer = item.verbose_answer(item.governs, draw) if long else item.answer(item.governs)
        prompt = prompts.chat_prompt(metas[number % len(metas)], assistant, item.text)
        made.append(Example(str(number), str(number), prompt, prompts.chat_target(answer, finished=True)))
    return made


def ours(batching: Batching, file: Path, rows: list[encode.Row], steps: int, out: Path) -> tuple[list[float], Clock]:
    """Train with this project; returns losses and times of the steps."""
    out.mkdir()
    clock: Clock = []
    training = Training(**settings(len(rows), steps), batching=batching)
    trainer = TrainerSettings(micro_batch_size=MICRO, threads=1, accelerator=Accelerator.cpu)
    job = Job(file, MODEL, out, folder_digest(MODEL), file_digest(file), training, trainer)
    assert worker.run(job, lambda line: clock.append(time.process_time())) == 0
    return [row["loss"] for row in jsonl.read(out / "metrics.jsonl")], clock


def settings(rows: int, steps: int) -> dict[str, Any]:
    """What is learned, the same in all ways."""
    return {
        "dropout": 0.0, "epochs": steps, "global_batch_size": rows, "max_seq_length": 1024, "validation_fraction": 0.0,
        "warmup_steps": 0, "schedule": Schedule.constant, "learning_rate": 1e-3,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    }  # fmt: skip


class Times(transformers.TrainerCallback):
    """Notes the CPU time at the end of every step."""

    def __init__(self) -> None:
        self.clock: Clock = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.clock.append(time.process_time())


def common_arguments(rows: int, steps: int, out: Path) -> dict[str, Any]:
    """What both peers are told: a step is all rows, however many batches they make."""
    return {
        "output_dir": str(out), "gradient_accumulation_steps": rows, "num_train_epochs": steps, "learning_rate": 1e-3,
        "lr_scheduler_type": "constant", "logging_steps": 1, "save_strategy": "no", "report_to": "none", "use_cpu": True,
        "disable_tqdm": True,
    }  # fmt: skip


def peft_model(rows: int, steps: int) -> Any:
    """The model that this project would train."""
    return lora.add_lora(lora.load_base(MODEL, TrainerSettings()), Training(**settings(rows, steps)), TrainerSettings())


def padded(file: Path, rows: list[encode.Row], steps: int, out: Path) -> tuple[list[float], Clock]:
    """Train with transformers' Trainer, rows in random order, padded."""
    data = [{"input_ids": list(row.ids), "labels": row.labels} for row in rows]
    arguments = transformers.TrainingArguments(
        per_device_train_batch_size=MICRO, **common_arguments(len(rows), steps, out)
    )
    collator = transformers.DataCollatorForTokenClassification(lora.load_tokenizer(MODEL), padding=True)
    times = Times()
    trainer = transformers.Trainer(
        peft_model(len(rows), steps), arguments, collator, train_dataset=data, callbacks=[times]
    )  # type: ignore[arg-type]
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row], times.clock


def packed(file: Path, rows: list[encode.Row], steps: int, out: Path) -> tuple[list[float], Clock]:
    """Train with TRL's SFTTrainer, rows packed by best fit."""
    from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportMissingImports]

    arguments = SFTConfig(
        per_device_train_batch_size=1, packing=True, max_length=max(len(row.ids) for row in rows),
        gradient_checkpointing=False, bf16=False,
        **common_arguments(len(rows), steps, out),
    )  # fmt: skip
    data = datasets.Dataset.from_list([{"input_ids": list(row.ids), "labels": row.labels} for row in rows])
    times = Times()
    trainer = SFTTrainer(
        peft_model(len(rows), steps), arguments, train_dataset=data, processing_class=lora.load_tokenizer(MODEL),
        callbacks=[times],
    )  # fmt: skip
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row], times.clock


Way = Callable[[Path, list[encode.Row], int, Path], tuple[list[float], Clock]]


def ways() -> dict[str, Way]:
    """Name -> how to train; TRL where it is installed."""
    found: dict[str, Way] = {}
    for batching in (Batching.pack, Batching.share, Batching.bucket):
        found[f"selfalign {batching}"] = lambda *given, batching=batching: ours(batching, *given)
    found["Trainer padded"] = padded
    if importlib.util.find_spec("trl"):
        found["SFTTrainer packed"] = packed
    return found


def quiet() -> None:
    """One thread, and no word of the libraries."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    logging.disable(logging.ERROR)


def read_rows(file: Path) -> list[encode.Row]:
    """The token rows of an examples file."""
    examples = [from_row(Example, row) for row in jsonl.read(file)]
    return encode.encode(examples, lora.load_tokenizer(MODEL), 1024).rows


def own_peak() -> float:
    """MiB that this process took at most. `getrusage` would give the peak of the process that started it, where that is higher."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def peak_memory(way: str, file: Path, steps: int) -> float:
    """MiB that a process of its own takes at most for a few steps of one way."""
    command = [sys.executable, __file__, "--memory", way, "--examples", str(file), "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Print the rates, their ratios and the peaks of memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rows", type=int, default=64, help=f"a multiple of {MICRO}")
    parser.add_argument("--steps", type=int, default=4, help="at least 2: the first one warms up")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--examples", type=Path, help="the examples.jsonl of a run, whose first rows are taken instead")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    given = parser.parse_args()
    quiet()
    if given.memory:
        with tempfile.TemporaryDirectory() as name:
            ways()[given.memory](given.examples, read_rows(given.examples), given.steps, Path(name) / "out")
        print(own_peak())
        return
    for part in [str(given.examples)] if given.examples else given.parts:
        with tempfile.TemporaryDirectory() as name:
            file = Path(name) / "examples.jsonl"
            of_run = jsonl.read(given.examples)[: given.rows] if given.examples else []
            jsonl.write(file, of_run or map(to_row, chat_rows(part, given.rows)))
            print(f"{part}:")
            compare(file, given.steps, given.rounds, Path(name))


def compare(file: Path, steps: int, rounds: int, folder: Path) -> None:
    """Run all ways alternately and print what they took."""
    rows = read_rows(file)
    lengths = [len(row.ids) for row in rows]
    tokens = (steps - 1) * sum(lengths)
    rates: dict[str, list[float]] = {way: [] for way in ways()}
    for number in range(rounds):
        losses = {}
        for way, train in ways().items():
            losses[way], clock = train(file, rows, steps, folder / f"{way}-{number}")
            assert len(clock) == steps
            rates[way].append(tokens / (clock[-1] - clock[0]))
        apart = max(max(step) - min(step) for step in zip(*losses.values(), strict=True))
        if apart > TOLERANCE:
            raise SystemExit(f"expected the same losses to within {TOLERANCE:g}, found {json.dumps(losses)}")
    medians = {way: statistics.median(found) for way, found in rates.items()}
    trl = "trl not installed (pip install trl): that peer is left out"
    if "SFTTrainer packed" in medians:
        trl = f"trl {importlib.import_module('trl').__version__}"
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, {trl}; one thread, float32, LoRA of rank 16"
    )
    print(
        f"{len(rows)} rows of {min(lengths)} to {max(lengths)} tokens (median {statistics.median(lengths):.0f}), {steps} steps, "
        f"{rounds} rounds; losses of all ways within {apart:.1g} of one another"
    )
    for way, rate in medians.items():
        print(f"{way:<22} {rate:8.0f} tokens per CPU second, peak memory {peak_memory(way, file, 2):6.0f} MiB")
    best = medians["selfalign pack"]
    print(f"pack / Trainer         {best / medians['Trainer padded']:8.2f}")
    if "SFTTrainer packed" in medians:
        print(f"pack / SFTTrainer      {best / medians['SFTTrainer packed']:8.2f}")


if __name__ == "__main__":
    main()
