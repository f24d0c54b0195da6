"""Generation behind one long shared prompt: this project's engine against plain transformers `generate`, in one process.

    python benchmarks/generation.py [--rows 32] [--prefix 800] [--new 100] [--rounds 5]

A random four-million-parameter Llama on one CPU thread, greedy, float32. Rounds alternate; the figures are medians of tokens
per CPU second. Before anything is timed, both must write the same tokens.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from selfalign.engines.base import GenerateRequest, Sampling
from selfalign.engines.huggingface import HuggingFaceEngine
from selfalign.engines.model import ModelSettings, load_tokenizer, write_tiny_random

WORDS = "the a cat river stone seven walks under bright because often new green two answers question and ends".split()


def model_folder(folder: Path) -> Path:
    """A Llama of Calf's size with random weights that do not fall into loops, and a byte-level tokenizer."""
    write_tiny_random(folder, context_length=8192)
    shape = LlamaConfig(
        vocab_size=257, hidden_size=256, intermediate_size=688, num_hidden_layers=5, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=8192, initializer_range=0.08, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(shape).save_pretrained(folder)
    return folder


def ours(engine: HuggingFaceEngine, requests: list[GenerateRequest]) -> int:
    """New tokens of one round through the engine."""
    return sum(completion.new_tokens for completion in engine.generate(requests))


def theirs(model: LlamaForCausalLM, tokenizer: object, requests: list[GenerateRequest], new: int) -> list[list[int]]:
    """New tokens of one round through `generate`, prompts padded on the left."""
    tokenizer.padding_side = "left"  # type: ignore[attr-defined]
    batch = tokenizer([request.prompt for request in requests], return_tensors="pt", padding=True)  # type: ignore[operator]
    with torch.no_grad():
        out = model.generate(**batch, max_new_tokens=new, do_sample=False, pad_token_id=0)
    return out[:, batch["input_ids"].shape[1] :].tolist()


def main() -> None:
    """Print the two rates and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--prefix", type=int, default=800, help="tokens (here bytes) of the shared part")
    parser.add_argument("--new", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    draw = random.Random(0)
    shared = " ".join(draw.choices(WORDS, k=given.prefix))[: given.prefix]
    requests = [
        GenerateRequest(
            str(number), f"{shared} {' '.join(draw.choices(WORDS, k=draw.randrange(4, 14)))}",
            Sampling(max_new_tokens=given.new, temperature=0.0), shared=shared,
        )
        for number in range(given.rows)
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = model_folder(Path(name))
        model = LlamaForCausalLM.from_pretrained(folder, attn_implementation="sdpa").eval()
        own = LlamaForCausalLM.from_pretrained(folder).eval()
        engine = HuggingFaceEngine(own, folder, context_length=8192, group_size=given.rows)  # type: ignore[arg-type]
        tokenizer = load_tokenizer(ModelSettings(str(folder)))
        texts = [completion.text for completion in engine.generate(requests)]
        expected = [tokenizer.decode(row) for row in theirs(model, tokenizer, requests, given.new)]
        same = sum(a.rstrip("\ufffd") == b.rstrip("\ufffd") for a, b in zip(texts, expected, strict=True))
        rates: dict[str, list[float]] = {"selfalign": [], "generate": []}
        for _ in range(given.rounds):
            start = time.process_time()
            count = ours(engine, requests)
            rates["selfalign"].append(count / (time.process_time() - start))
            start = time.process_time()
            theirs(model, tokenizer, requests, given.new)
            rates["generate"].append(given.rows * given.new / (time.process_time() - start))
    mine, other = (statistics.median(rates[name]) for name in ("selfalign", "generate"))
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, one thread, float32, greedy")
    print(f"{given.rows} rows, shared prompt of {given.prefix} tokens, {given.new} new tokens, {given.rounds} rounds")
    print(f"same text in {same} of {given.rows} rows")
    print(f"selfalign engine      {mine:8.0f} tokens per CPU second (median)")
    print(f"transformers generate {other:8.0f} tokens per CPU second (median)")
    print(f"ratio                 {mine / other:8.2f}")


if __name__ == "__main__":
    main()
