"""A base model and LoRA adapters in, the names they are served under and vLLM's command line out.

An adapter's name holds the digest of its content: vLLM caches keys and values by adapter name, so that a name used
again for other weights answers with the old ones (vllm-project/vllm, issues 30931 and 42125).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfalign.engines.model import ModelSettings, model_context_length, model_folder
from selfalign.errors import DataError, StageError
from selfalign.identity import BASE_PREFIX, ID_LENGTH, base_name, folder_digest

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
"""What makes a folder a PEFT adapter, and all of it that results depend on."""
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's --max-lora-rank takes (vllm 0.33.0, config/lora.py)."""


def check_adapter(adapter: Path) -> None:
    """Raise DataError where a folder holds no PEFT adapter."""
    for name in ADAPTER_FILES:
        if not (adapter / name).is_file():
            raise DataError(f"{adapter}: expected a PEFT adapter, found no {name} in it; give an adapter's folder")


def check_base(adapter: Path, base: str) -> None:
    """Raise DataError where an adapter says that it was trained on another base than the one with the content digest `base`.

    peft and vLLM load it all the same: equal shapes suffice. One from elsewhere names its base by a place, which says nothing.
    """
    config: dict[str, Any] = json.loads((adapter / ADAPTER_FILES[0]).read_text(encoding="utf-8"))
    found = str(config.get("base_model_name_or_path") or "")
    if found.startswith(BASE_PREFIX) and found != base_name(base):
        raise DataError(
            f"{adapter}: expected an adapter that was trained on the loaded base model ({base_name(base)}), found one of another "
            f"({found}); put the base's old files back, or train the adapter again"
        )


def adapter_name(served: str, adapter: Path) -> str:
    """`<served>-<12 hex digits>`: what an adapter on the model of this name is served as."""
    return f"{served}-{folder_digest(adapter, ADAPTER_FILES)[:ID_LENGTH]}"


def default_name(model: ModelSettings) -> str:
    """What a base model is served as where no name was chosen: its hub name, else its folder's."""
    path = Path(model.path).expanduser()
    return path.resolve().name if path.is_dir() else model.path


def serve_command(model: ModelSettings, served: str, adapters: Sequence[Path]) -> list[str]:
    """The words of the `vllm serve` command for a base model under a name, and for adapters on it under theirs.

    Raises DataError for a folder without an adapter, StageError for an adapter that vLLM does not serve, ConfigError
    for a model that is not there.
    """
    folder = model_folder(model, weights=False)
    is_local = Path(model.path).expanduser().is_dir() or "/" not in model.path
    words = ["vllm", "serve", str(folder.resolve()) if is_local else model.path]
    if model.revision and not is_local:
        words += ["--revision", model.revision]
    words += ["--served-model-name", served, "--dtype", model.dtype.value]
    words += ["--max-model-len", str(model_context_length(model, weights=False))]
    # By default vLLM fills in what a request does not name (top_k, repetition_penalty) from the model's folder.
    words += ["--generation-config", "vllm"]
    if not adapters:
        return words
    words += ["--enable-lora", "--max-loras", str(len(adapters)), "--max-lora-rank", str(max_lora_rank(adapters))]
    return [*words, "--lora-modules", *(f"{adapter_name(served, one)}={one.resolve()}" for one in adapters)]


def max_lora_rank(adapters: Sequence[Path]) -> int:
    """What vLLM must be told as the largest rank, to serve all of these. Raises as `serve_command` does."""
    rank = max(_rank(adapter) for adapter in adapters)
    return min(size for size in RANKS if size >= rank)


def _rank(adapter: Path) -> int:
    """The rank of an adapter. Raises StageError where vLLM does not serve its kind."""
    check_adapter(adapter)
    config: dict[str, Any] = json.loads((adapter / ADAPTER_FILES[0]).read_text(encoding="utf-8"))
    rank = int(config["r"])
    # vllm-project/vllm, vllm/lora/peft_helper.py refuses DoRA.
    if config.get("use_dora") or rank > RANKS[-1]:
        raise StageError(
            f"{adapter}: expected an adapter that vLLM serves (no DoRA, rank at most {RANKS[-1]}), found "
            f"use_dora={bool(config.get('use_dora'))}, r={rank}; use engine=huggingface, or train with other settings"
        )
    return rank
