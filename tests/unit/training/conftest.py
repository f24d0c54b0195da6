"""A two-layer random Llama with a byte-level tokenizer, 24 examples, and settings under which a run takes six steps."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest

from selfalign import identity, jsonl, records
from selfalign.training.job import Job
from selfalign.training.settings import Accelerator, TrainerSettings, Training

TRAINING = Training(
    rank=4, learning_rate=1e-2, epochs=2, global_batch_size=8, warmup_steps=2, validation_fraction=0.1, dropout=0.1
)
TRAINER = TrainerSettings(micro_batch_size=4, checkpoint_every_steps=2, threads=1, accelerator=Accelerator.cpu)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny_llama")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(["<s>", "</s>", *alphabet])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.08,
        bos_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_examples(path: Path, count: int = 24) -> Path:
    draw = random.Random(0)
    words = "the owl sees a mouse in the old barn and waits until the moon is up".split()
    rows = []
    for number in range(count):
        prompt = f"### User\nWhat does {draw.choice(words)} number {number} do?\n\n### A\n"
        target = " ".join(draw.choices(words, k=draw.randint(2, 14))) + "\n\n### User\n"
        rows.append(records.to_row(records.Example(identity.short_id(prompt, target), "r", prompt, target)))
    jsonl.write(path, rows)
    return path


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_examples(tmp_path_factory.mktemp("examples") / "examples.jsonl")


def make_job(out: Path, examples: Path, model: Path, training: dict[str, Any] | None = None, **trainer: Any) -> Job:
    out.mkdir(parents=True, exist_ok=True)
    return Job(
        examples,
        model,
        out,
        identity.folder_digest(model),
        identity.file_digest(examples),
        dataclasses.replace(TRAINING, **(training or {})),
        dataclasses.replace(TRAINER, **trainer),
    )


def contents(out: Path) -> dict[str, bytes]:
    """Every file below a folder by its relative name."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
