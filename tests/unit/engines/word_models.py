"""Tiny random models whose tokens are whole ASCII words, so that a completion's text tells its tokens exactly."""

from __future__ import annotations

import json
from pathlib import Path

WORDS = [f"w{number:03}" for number in range(300)]
END = "<end>"


def write_tokenizer(folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    vocabulary = {word: i for i, word in enumerate([*WORDS, "<unk>", END])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    tokenizer.add_special_tokens([AddedToken(END, special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END, "unk_token": "<unk>"}))


SIZES = dict(
    hidden_size=48,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=302,
    max_position_embeddings=128,
    # With the usual 0.02 greedy output degenerates to loops and proves nothing.
    initializer_range=0.3,
    bos_token_id=None,
    eos_token_id=301,
)


def write_model(folder: Path, kind: str) -> Path:
    """A seeded random model of a family, with the tokenizer of words."""
    import torch
    from transformers import (
        FalconConfig,
        FalconForCausalLM,
        GPT2Config,
        GPT2LMHeadModel,
        GPTNeoXConfig,
        GPTNeoXForCausalLM,
        LlamaConfig,
        LlamaForCausalLM,
        MistralConfig,
        MistralForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
    )

    folder.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(7)
        if kind == "llama":
            model = LlamaForCausalLM(LlamaConfig(**SIZES))
        elif kind == "qwen2":
            model = Qwen2ForCausalLM(Qwen2Config(**SIZES))
        elif kind == "gpt_neox":
            model = GPTNeoXForCausalLM(GPTNeoXConfig(**{**SIZES, "num_key_value_heads": 4}))
        elif kind == "falcon":
            model = FalconForCausalLM(FalconConfig(**{**SIZES, "num_key_value_heads": 1}))
        elif kind == "mistral_window":
            model = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=8))
        else:
            sizes = dict(n_embd=48, n_layer=2, n_head=4, n_positions=128, vocab_size=302, initializer_range=0.3)
            model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=301))
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder
