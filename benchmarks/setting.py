"""What the engine benchmarks have in common: a small random model with a real tokenizer, texts, and how figures are taken.

The model is a Llama of 4 layers, width 256, 8 heads and 4,096 words: 5.3 million parameters, so that a round takes seconds.
Its weights are drawn wide (0.08): narrow ones write loops, which would prove nothing when two programs write the same.
"""

from __future__ import annotations

import random
import statistics
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

PREFIX_TOKENS = 1700
"""The length of the reference's principles and exemplars."""


def write_model(folder: Path, context_length: int = 4096) -> None:
    """The model, and a byte-level BPE tokenizer trained on the sources of Python's standard library."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=4096, special_tokens=["<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )  # fmt: skip
    tokenizer.train_from_iterator((path.read_text(encoding="utf-8", errors="replace") for path in sources), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"unk_token": "<end>"}')
    shape = LlamaConfig(
        vocab_size=4096, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=8,
        max_position_embeddings=context_length, initializer_range=0.08, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(shape).save_pretrained(folder)


def words(count: int, seed: int) -> str:
    """Ordinary words, drawn."""
    common = "the return value of a name is set when class object file path and list not for in as with this that by"
    return " ".join(random.Random(seed).choices(common.split(), k=count))


def text_of(tokenizer: object, tokens: int, seed: int) -> str:
    """A text that begins a line behind it and has about this many tokens (exactly, where the tokenizer splits at words)."""
    text = words(2 * tokens, seed)
    ids = tokenizer.encode(text).ids[: tokens - 1]  # type: ignore[attr-defined]
    return tokenizer.decode(ids) + "\n"  # type: ignore[attr-defined]


def cpu_seconds(work: Callable[[], object]) -> float:
    """Seconds of this process's CPU that some work takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def alternate(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median CPU seconds of every contestant, over rounds in which each has its turn."""
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name, work in contestants.items():
            taken[name].append(cpu_seconds(work))
            print(f"  round {number + 1}: {name} {taken[name][-1]:.2f} s", file=sys.stderr)
    return {name: statistics.median(values) for name, values in taken.items()}


def heading() -> str:
    """Versions, for the page that quotes the figures."""
    return f"torch {torch.__version__}, transformers {transformers.__version__}, one CPU thread, float32"


def peak_mebibytes() -> float:
    """The most memory that this process ever had."""
    status = Path("/proc/self/status")
    if status.exists():
        # Linux hands a process's peak on to its children in getrusage, not here.
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def lognormal_budgets(count: int, seed: int, mean: float = 77, most: int = 245) -> Sequence[int]:
    """Lengths as answers have them: many short ones, few long ones."""
    draw = random.Random(seed)
    return [max(4, min(most, round(draw.lognormvariate(0, 0.75) * mean / 1.32))) for _ in range(count)]
