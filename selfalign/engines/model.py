"""Model settings in, a local `transformers` folder out, with its digest, context length, tokenizer and problems.

Everything here but `load_model` works without torch, so that plans and identities cost no model load. The one truth
about tokens is the folder's `tokenizer.json`, read with the `tokenizers` library: settings, engines, training and
evaluation count and cut text alike. (`AutoTokenizer` of transformers 5 rebuilds some families' tokenizers from their
vocabulary, and then normalises text differently from the file.)
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfalign.errors import ConfigError, did_you_mean
from selfalign.identity import digest, file_digest
from selfalign.resources import PACKAGE, user_root

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

EMBEDDED = {"calf": PACKAGE / "calf" / "weights"}
"""Models that lie in the package."""
TINY_RANDOM = "tiny_random"
"""A two-layer random Llama over bytes, written on first use: it writes noise, quickly."""
TINY_RANDOM_VERSION = 1
"""Part of the folder's name: raise it when the recipe changes."""
DESCRIPTION = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
"""The files of a model's folder that say what it is: all that is needed where another machine computes."""
CONTENT = (*DESCRIPTION, "*.safetensors", "*.safetensors.index.json")
"""The files that results depend on; the only ones that are fetched from a hub."""
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class Dtype(StrEnum):
    """Number format of the weights and of the computation."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@dataclass(frozen=True)
class ModelSettings:
    """A base model. Also a node of the configuration."""

    path: str = "calf"
    """`calf` (in the package), `tiny_random` (noise, for tests), a local folder, or a name on the Hugging Face hub."""
    revision: str = ""
    """Commit, tag or branch of a hub model; empty for its main branch. Not used for folders."""
    context_length: int = 0
    """Tokens that prompt and completion may have together; 0 takes the model's own limit, which it may not exceed."""
    dtype: Dtype = Dtype.float32
    """Number format: float32 is exact and the default on CPU, bfloat16 halves memory and suits GPUs."""


def model_folder(settings: ModelSettings, *, weights: bool = True) -> Path:
    """The local folder of the model: writes `tiny_random` or fetches a hub model where it is not there yet.

    Without `weights` only the small files of a hub model are fetched: tokenizer and configuration.
    Raises ConfigError for an empty path, a folder that does not exist and a hub model that cannot be fetched.
    """
    if settings.path == TINY_RANDOM:
        return _tiny_random()
    if settings.path in EMBEDDED:
        return EMBEDDED[settings.path]
    folder = Path(settings.path).expanduser()
    if settings.path and folder.is_dir():
        return folder
    if settings.path and HUB_NAME.fullmatch(settings.path):
        return _from_hub(settings.path, settings.revision, weights)
    raise ConfigError([_missing(settings.path)])


def parameter_count(folder: Path) -> int:
    """Parameters in a model folder's weights; loads none. Tied ones count once."""
    return sum(map(math.prod, weight_shapes(folder).values()))


def weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of each tensor in a model folder's weights, by the headers of its files; empty where they are not there."""
    from safetensors import safe_open

    found: dict[str, tuple[int, ...]] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            found |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return found


def _missing(path: str) -> str:
    """The message for a path that is no folder and no hub name."""
    parent = Path(path).expanduser().parent
    beside = [str(entry) for entry in parent.iterdir() if entry.is_dir()] if path and parent.is_dir() else []
    hint = did_you_mean(path, [*EMBEDDED, TINY_RANDOM, *beside])
    found = f"found no folder {path!r}" if path else "found an empty path"
    return (
        f"model.path: expected a model, {found}{hint} (allowed: {', '.join([*EMBEDDED, TINY_RANDOM])}, a folder, "
        "or a hub name owner/name); set model.path"
    )


def _offline() -> bool:
    """True where the environment forbids the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


@functools.lru_cache(maxsize=16)
def _from_hub(name: str, revision: str, weights: bool) -> Path:
    """The hub model's snapshot on this disk, fetched where it is not there. Raises ConfigError where it cannot be."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            name,
            revision=revision or None,
            allow_patterns=list(CONTENT if weights else DESCRIPTION),
            local_files_only=_offline(),
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        at = f" at revision {revision!r}" if revision else ""
        why = "it is not in the local cache and HF_HUB_OFFLINE is set" if _offline() else type(error).__name__
        raise ConfigError(
            [
                f"model.path: expected a folder or a model of the hub, found neither for {name!r}{at} ({why}); "
                "check name and connection, or download it elsewhere and give its folder"
            ]
        ) from error
    return Path(folder)


def model_problems(settings: ModelSettings, *, weights: bool = True) -> list[str]:
    """What is wrong with a model, found without loading it: nothing there, no config, no tokenizer, no safetensors
    (where `weights` are needed).

    A hub model that is not on this disk is looked for only when it is opened, unless HF_HUB_OFFLINE is set.
    """
    path = settings.path
    local = path in (TINY_RANDOM, *EMBEDDED) or (path and Path(path).expanduser().is_dir())
    if not local and HUB_NAME.fullmatch(path) and not _offline():
        return []
    try:
        folder = model_folder(settings, weights=weights)
    except ConfigError as error:
        return error.problems
    problems = []
    if not (folder / "config.json").is_file():
        return [f"model.path: expected a transformers model, found no config.json in {folder}; give the model's folder"]
    if not (folder / "tokenizer.json").is_file():
        problems.append(
            f"model.path: expected a tokenizer.json in {folder}, found none; write one with "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    if weights and not any(folder.glob("*.safetensors")):
        pickled = next((file.name for file in sorted(folder.glob("*.bin"))), "")
        found = f"found only {pickled}, which is a pickle and can run code" if pickled else "found no weights"
        problems.append(
            f"model.path: expected *.safetensors in {folder}, {found}; convert it with "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)"
        )
    if settings.context_length < 0:
        problems.append(f"model.context_length: expected 0 (the model's own) or more, found {settings.context_length}")
    elif 0 < _own_context_length(folder) < settings.context_length:
        problems.append(
            f"model.context_length: expected at most the model's own {_own_context_length(folder)} tokens, found "
            f"{settings.context_length}; lower it or set 0"
        )
    elif settings.context_length == 0 and _own_context_length(folder) == 0:
        problems.append(f"model.context_length: {folder}/config.json does not say its context window; set it")
    return problems


_digests: dict[tuple[str, int, int], str] = {}


def model_digest(folder: Path, *, weights: bool = True) -> str:
    """sha256 (64 hex digits) over names and contents of the files that results depend on: config, tokenizer, `weights`.

    A file is read once per process for as long as its size and time stay the same.
    """
    content = {}
    for path in sorted({path for pattern in (CONTENT if weights else DESCRIPTION) for path in folder.glob(pattern)}):
        state = path.stat()
        key = (str(path.resolve()), state.st_size, state.st_mtime_ns)
        if key not in _digests:
            _digests[key] = file_digest(path)
        content[path.name] = _digests[key]
    return digest(content)


def model_config(folder: Path) -> dict[str, Any]:
    """The model's `config.json`. Raises ConfigError where it is missing or no JSON object."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError([f"{folder}/config.json: expected a JSON object, found {error}; repair it"]) from None
    if not isinstance(config, dict):
        raise ConfigError([f"{folder}/config.json: expected a JSON object, found {type(config).__name__}; repair it"])
    return config


def _own_context_length(folder: Path) -> int:
    """Context window in tokens by the model's config, 0 where it names none."""
    config = model_config(folder)
    config = config.get("text_config", config)
    names = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "seq_length")
    return next((int(config[name]) for name in names if config.get(name)), 0)


def model_context_length(settings: ModelSettings, *, weights: bool = True) -> int:
    """Context window in tokens: the setting, else the model's own. Raises ConfigError where neither is there."""
    length = settings.context_length or _own_context_length(model_folder(settings, weights=weights))
    if not length:
        raise ConfigError(model_problems(settings, weights=weights))
    return length


@functools.lru_cache(maxsize=8)
def _tokenizer(path: str, size: int, mtime_ns: int) -> Tokenizer:
    """The tokenizer of one state of a file."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def raw_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of the `tokenizers` library in `tokenizer.json`, without truncation and padding; do not change it.

    Raises ConfigError where the folder has none.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ConfigError([f"expected a tokenizer.json in {folder}, found none; see `model_problems`"])
    state = path.stat()
    return _tokenizer(str(path.resolve()), state.st_size, state.st_mtime_ns)


def count_tokens(settings: ModelSettings, text: str) -> int:
    """Tokens of a text as a prompt, the beginning-of-text token included where the tokenizer adds one. No torch."""
    return len(raw_tokenizer(model_folder(settings)).encode(text).ids)


def special_tokens(folder: Path) -> dict[str, str]:
    """The special tokens the folder names (`bos_token`, `eos_token`, `unk_token`, `pad_token`), by their text."""
    found: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            continue
        entries = json.loads((folder / name).read_text(encoding="utf-8"))
        for key in ("bos_token", "eos_token", "unk_token", "pad_token"):
            entry = entries.get(key)
            if entry:
                found[key] = entry["content"] if isinstance(entry, dict) else entry
    return found


def load_tokenizer(settings: ModelSettings) -> PreTrainedTokenizerFast:
    """The tokenizer as transformers wants it: the same token ids as `raw_tokenizer`, and always a padding token.

    Where the model has none, its end token pads, else its unknown token; both are masked wherever they pad.
    """
    from transformers import PreTrainedTokenizerFast

    folder = model_folder(settings)
    special = special_tokens(folder)
    pad = special.get("pad_token") or special.get("eos_token") or special.get("unk_token")
    if pad is None:
        raise ConfigError([f"expected a pad, eos or unk token in {folder}/tokenizer_config.json, found none; name one"])
    config = folder / "tokenizer_config.json"
    template = json.loads(config.read_text(encoding="utf-8")).get("chat_template") if config.is_file() else None
    return PreTrainedTokenizerFast(
        tokenizer_object=raw_tokenizer(folder),
        **{**special, "pad_token": pad},
        model_max_length=model_context_length(settings),
        clean_up_tokenization_spaces=False,
        **({"chat_template": template} if template else {}),
    )


def load_model(settings: ModelSettings) -> PreTrainedModel:
    """The model on the CPU, in evaluation mode, from safetensors only. Raises ConfigError listing every problem."""
    problems = model_problems(settings)
    if problems:
        raise ConfigError(problems)
    import torch
    from transformers import AutoModelForCausalLM

    with without_bars():
        model = AutoModelForCausalLM.from_pretrained(
            model_folder(settings),
            dtype=getattr(torch, settings.dtype.value),
            use_safetensors=True,
            local_files_only=True,
        )
    return model.eval()


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """No progress bars of transformers: they would stand between the lines of selfalign's own progress."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _tiny_random() -> Path:
    """The folder of the random model in the user's cache; written whole under a temporary name, then renamed."""
    folder = user_root() / "cache" / "models" / f"{TINY_RANDOM}-{TINY_RANDOM_VERSION}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=folder.name, dir=folder.parent))
    try:
        write_tiny_random(temporary)
        temporary.rename(folder)
    except OSError as error:
        # Another process wrote the same folder in the meantime: its content is the same.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def write_tiny_random(folder: Path, *, context_length: int = 16384, seed: int = 0) -> None:
    """Write a random Llama (2 layers, hidden 64, vocabulary of 256 bytes and an end token) as a transformers folder.

    The same bytes on every machine: no torch is involved, and numpy's Philox stream is part of its contract.
    """
    import numpy as np
    from safetensors.numpy import save_file
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    hidden, middle, layers, heads, end = 64, 176, 2, 4, "<|endoftext|>"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    tokenizer.add_special_tokens([AddedToken(end, special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))

    draw = np.random.Generator(np.random.Philox(seed))
    vocabulary = len(alphabet) + 1
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "lm_head.weight": (vocabulary, hidden)}
    ones = {"model.norm.weight": hidden}
    for layer in range(layers):
        start = f"model.layers.{layer}."
        shapes |= {f"{start}self_attn.{name}_proj.weight": (hidden, hidden) for name in "qkvo"}
        shapes |= {f"{start}mlp.{name}_proj.weight": (middle, hidden) for name in ("gate", "up")}
        shapes |= {f"{start}mlp.down_proj.weight": (hidden, middle)}
        ones |= {f"{start}{name}_layernorm.weight": hidden for name in ("input", "post_attention")}
    # 0.02, the usual scale, makes so flat a model that greedy decoding repeats one token.
    weights = {name: (draw.standard_normal(shape) * 0.1).astype(np.float32) for name, shape in shapes.items()}
    weights |= {name: np.ones(size, dtype=np.float32) for name, size in ones.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": middle,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": context_length,
        "vocab_size": vocabulary,
        "tie_word_embeddings": False,
        "bos_token_id": vocabulary - 1,
        "eos_token_id": vocabulary - 1,
        "dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": end, "eos_token": end, "pad_token": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(names, indent=2) + "\n", encoding="utf-8")
