"""Calf's tokenizer: the first documents of the corpus in, a byte-level BPE as a transformers folder out."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from selfalign.calf import corpus

EOS, PAD = "<|end|>", "<|pad|>"


def train_tokenizer(out: Path, *, vocab_size: int, seed: int, documents: int, max_length: int) -> None:
    """Write the tokenizer's folder: complete under its name or not there at all."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus.tokenizer_texts(seed, documents), trainer)
    fresh = out.with_name(f"{out.name}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD, clean_up_tokenization_spaces=False
    ).save_pretrained(fresh)
    # The class name that every transformers since version 4 and vLLM know.
    path = fresh / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_length}
    settings.pop("backend", None)
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    os.replace(fresh, out)
