"""A model folder in, a PEFT model out; and its adapter as the two files that plain PEFT loads.

The files depend on weights and settings alone: no path, no set order, no model card.
"""

from __future__ import annotations

import enum
import importlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfalign.errors import MissingDependencyError, StageError, unknown
from selfalign.identity import BASE_PREFIX, seed_of
from selfalign.training.settings import Accelerator, Precision, Strategy, TrainerSettings, Training

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

NAMED_WEIGHTS = 3
"""Weights that an error names."""


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model folder, as its tokenizer.json states it: the one that engines use.

    transformers' AutoTokenizer rebuilds some Llama tokenizers with another normaliser, which gives other tokens.
    Raises StageError where there is none that can be read.
    """
    from transformers import PreTrainedTokenizerFast

    try:
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable("tokenizer", folder, error) from error


def load_base(folder: Path, trainer: TrainerSettings, device_index: int = 0) -> Any:
    """The base model, in float32 (qlora: 4-bit NF4 with double quantisation, straight on its device).

    Raises StageError for a folder that is not a causal language model, MissingDependencyError for qlora without
    bitsandbytes. The qlora branch was run on CPUs alone.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    more: dict[str, Any] = {}
    if trainer.strategy is Strategy.qlora:
        cpu = trainer.accelerator is Accelerator.cpu
        more = {"quantization_config": _four_bit(trainer), "device_map": {"": "cpu" if cpu else device_index}}
    try:
        base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True, **more)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _unreadable("causal language model", folder, error) from error
    module: Any
    for module in base.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # Where a CPU has these instructions, bitsandbytes lays weights out anew once they are scored, and cannot train on.
            module.support_avx512bf16_for_cpu = False
    return base


def empty_base(folder: Path) -> Any:
    """The base model without its weights, in float32, on the device of the context that torch is in."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable("causal language model", folder, error) from error


def limits(folder: Path) -> tuple[int | None, int | None]:
    """Tokens of a model's context and tokens of its vocabulary; None where its configuration does not say."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable("causal language model", folder, error) from error
    return getattr(config, "max_position_embeddings", None), getattr(config, "vocab_size", None)


def _unreadable(what: str, folder: Path, error: Exception) -> StageError:
    reason = " ".join(str(error).split())[:300]
    return StageError(
        f"expected a {what} in {folder}, found one that cannot be loaded ({type(error).__name__}: {reason}); "
        "allowed: a transformers folder with config.json, tokenizer.json and *.safetensors; check the path, or copy "
        "the model again"
    )


def bitsandbytes(what: str) -> Any:
    """The library bitsandbytes, for a setting that needs it. Raises MissingDependencyError where it cannot be imported."""
    try:
        return importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise MissingDependencyError(
            f"{what} needs bitsandbytes, which cannot be imported ({error}); run `pip install 'selfalign[quantized]'`, or leave "
            "that setting as it is by default"
        ) from error


def _four_bit(trainer: TrainerSettings) -> Any:
    import torch

    bitsandbytes("trainer.strategy=qlora")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if trainer.precision is Precision.bf16_mixed else torch.float32,
    )


def add_lora(base: Any, training: Training, trainer: TrainerSettings) -> PeftModel:
    """A PEFT model with fresh LoRA matrices in float32, the base frozen.

    Raises StageError where a name of `target_modules` is no linear layer of this model.
    """
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    linear = {name.rpartition(".")[2] for name, module in base.named_modules() if hasattr(module, "in_features")}
    wrong = [
        unknown("layer in training.target_modules", name, linear)
        for name in training.target_modules
        if name not in linear
    ]
    if wrong:
        raise StageError("; ".join(wrong))
    base.config.use_cache = False
    if trainer.strategy is Strategy.qlora:
        base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    if trainer.gradient_checkpointing:
        base.gradient_checkpointing_enable({"use_reentrant": False})
    # The process belongs to this run: LoRA's initialisation has no other generator than the global one.
    torch.manual_seed(seed_of(training.seed, "lora"))  # noqa: TID251
    return get_peft_model(
        base,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=training.rank,
            lora_alpha=training.alpha,
            lora_dropout=training.dropout,
            target_modules=sorted(training.target_modules),
            use_rslora=training.use_rslora,
            use_dora=training.use_dora,
            bias="none",
        ),
    )


def load_initial(model: PeftModel, folder: Path, base_name: str) -> None:
    """Replace the fresh LoRA matrices by those of an adapter folder.

    Raises StageError where that adapter has another rank, scale or other layers than the settings ask for, or says that it
    was trained on another base than `base_name`. An adapter from elsewhere names its base by a place, which says nothing.
    """
    from peft import LoraConfig, set_peft_model_state_dict
    from safetensors.torch import load_file

    expected: Any = model.peft_config["default"]
    found: Any = LoraConfig.from_pretrained(str(folder))
    wrong = [
        f"{name} {_plain(getattr(found, name))} instead of {_plain(getattr(expected, name))}"
        for name in ("r", "lora_alpha", "target_modules", "use_rslora", "use_dora")
        if getattr(found, name) != getattr(expected, name)
    ]
    base = found.base_model_name_or_path or ""
    if base.startswith(BASE_PREFIX) and base != base_name:
        raise StageError(
            f"expected an adapter of this model ({base_name}) in {folder}, found one that was trained on another ({base}); "
            "allowed: an adapter of the same base weights; train on the base that the adapter belongs to, or start afresh"
        )
    weights = load_file(folder / "adapter_model.safetensors")
    if not wrong:
        result = set_peft_model_state_dict(model, weights)
        missing = [name for name in result.missing_keys if "lora_" in name]
        wrong = [f"weights that do not fit: {name}" for name in (*missing, *result.unexpected_keys)][:NAMED_WEIGHTS]
    if wrong:
        raise StageError(
            f"expected an adapter that the training settings describe in {folder}, found {'; '.join(wrong)}; give both "
            "trainings the same rank, alpha and target_modules, or start from the base model"
        )


def save_adapter(model: PeftModel, weights: dict[str, torch.Tensor], base_name: str, folder: Path) -> None:
    """Write adapter_config.json and adapter_model.safetensors, both or none; `weights` are the trained parameters."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save

    temporary = folder.with_name(folder.name + ".tmp")
    for leftover in (temporary, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    state = get_peft_model_state_dict(model, state_dict=weights, save_embedding_layers=False)
    # As bytes: `save_file` makes a file that its owner alone can read.
    content = save(dict(sorted(state.items())), metadata={"format": "pt"})
    (temporary / "adapter_model.safetensors").write_bytes(content)
    config = model.peft_config["default"].to_dict()
    config |= {"base_model_name_or_path": base_name, "inference_mode": True}
    text = json.dumps({key: _plain(value) for key, value in config.items()}, indent=2, sort_keys=True)
    (temporary / "adapter_config.json").write_text(text + "\n", encoding="utf-8")
    temporary.rename(folder)


def _plain(value: Any) -> Any:
    """A value of PEFT's config for JSON: a set in sorted order, since its own order differs from run to run."""
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return value.value if isinstance(value, enum.Enum) else value
