"""A run's adapter, alone or merged into its base, as a folder that plain `peft`, `transformers` and vLLM load, with the chat
template of training and a model card.

Merging rounds: a merged model's logits differ from those of base and adapter, and more so in half precision (peft issues 1388,
1836 and 2502). So the folder is loaded again as a stranger would load it, and compared on texts that the model was trained on.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from selfalign import jsonl
from selfalign.engines.adapters import Adapters
from selfalign.engines.model import (
    Dtype,
    ModelSettings,
    load_model,
    load_tokenizer,
    model_digest,
    model_folder,
    raw_tokenizer,
    without_bars,
)
from selfalign.engines.serving import ADAPTER_FILES
from selfalign.errors import DataError, SelfAlignError, unknown
from selfalign.model_card import Parity, base_name, card, chat_template, chat_text
from selfalign.records import Example, from_row
from selfalign.report import Run, load_run
from selfalign.training.encode import leading_ids

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

NODES = ("cloned", "engraved")
"""Nodes that have an adapter, the last stage first."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
PROBES = 16
"""Training texts on which a merged model is compared."""
PROBE_TOKENS = 512
"""Tokens of each, at most."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    folder: Path
    node: str
    parity: Parity | None
    """None for an adapter, whose weights are copied to the byte."""


def export(
    run: Path,
    out: Path | None = None,
    *,
    node: str = "",
    merged: bool = False,
    force: bool = False,
    tolerance: float = 0.01,
) -> Exported:
    """Write a node's adapter, or the model that it and its base make, to `out` (default: `RUN/export/<node>`), with a card.

    `tolerance` is the share of positions (0..1) at which a merged model may find another token the likeliest; `force` writes
    it all the same. Raises SelfAlignError for a run without adapters, DataError for another base than the adapter's, a folder
    that is there already, and a merged model beyond the tolerance.
    """
    one = load_run(run)
    chosen, adapter = _adapter(one, node)
    settings = model_of(one)
    check_base(one, chosen, settings)
    out = out or run / "export" / f"{chosen}{'-merged' if merged else ''}"
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(
            f"{out}: expected a new or empty folder, found one with files; give another with --to, or delete it"
        )
    partial = out.with_name(f".{out.name}-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for name in TOKENIZER_FILES:
            if (model_folder(settings) / name).is_file():
                shutil.copy(model_folder(settings) / name, partial / name)
        tokenizer = load_tokenizer(settings)
        beginning = str(tokenizer.decode(leading_ids(tokenizer)))
        template = chat_template(*chat_text(one, chosen), beginning)
        (partial / "chat_template.jinja").write_text(template, encoding="utf-8")
        parity = None
        if merged:
            parity = _merge(one, chosen, settings, adapter, partial)
            if parity.flips > tolerance * parity.positions and not force:
                raise DataError(
                    f"expected a merged model whose likeliest token is another in at most {tolerance:.1%} of positions, found "
                    f"{parity.flips:,} of {parity.positions:,} (largest difference of a logit: {parity.max_difference:.3g}); "
                    "export the adapter (without --merged), a model with a finer dtype, or take it all the same with --force"
                )
        else:
            for name in ADAPTER_FILES:
                shutil.copy(adapter / name, partial / name)
            _name_base(one, settings, partial / "adapter_config.json")
        (partial / "README.md").write_text(card(one, chosen, parity, merged=merged), encoding="utf-8")
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.is_dir():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Exported(out, chosen, parity)


def adapters_of(run: Run) -> dict[str, Path]:
    """Node -> its adapter's folder, the last stage first; empty where the run has trained nothing."""
    done = [one for one in run.nodes if one.status in ("computed", "reused")]
    folders = {one.name: one.folder / "adapter" for one in done if one.folder is not None}
    return {name: folders[name] for name in NODES if name in folders and folders[name].is_dir()}


def model_of(run: Run) -> ModelSettings:
    """The base model of a run. Raises DataError where its configuration is missing."""
    found = run.config.get("model")
    if not isinstance(found, Mapping):
        raise DataError(
            f"{run.folder}: expected config.yaml to say which model it trained, found nothing; run it again"
        )
    return ModelSettings(**{**found, "dtype": Dtype(found["dtype"])})


def _adapter(run: Run, node: str) -> tuple[str, Path]:
    """The chosen node, else the last stage's, and its adapter's folder."""
    there = adapters_of(run)
    if not there:
        raise SelfAlignError(
            f"{run.folder}: expected an adapter in one of {', '.join(NODES)}, found none; run with stages.engrave=true first"
        )
    if node and node not in there:
        raise SelfAlignError(f"{run.folder}: {unknown('node with an adapter', node, there)}")
    chosen = node or next(iter(there))
    return chosen, there[chosen]


def check_base(run: Run, node: str, settings: ModelSettings) -> None:
    """Raise DataError where the base model is no longer the one that the adapter was trained on."""
    folder = next(one.folder for one in run.nodes if one.name == node)
    assert folder is not None
    engine = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["identity"].get("engine", {})
    if engine.get("model", model_digest(model_folder(settings))) != model_digest(model_folder(settings)):
        raise DataError(
            f"{node}: expected the base model that it was trained on (digest {engine['model'][:12]}), found another in "
            f"'{settings.path}' (digest {model_digest(model_folder(settings))[:12]}); put the old files back, or run again"
        )


def _name_base(run: Run, settings: ModelSettings, path: Path) -> None:
    """Let an adapter's configuration name its base as a hub does; the content's digest stays where it came from a folder."""
    name = base_name(run)
    if "/" in name and not Path(settings.path).exists():
        config = json.loads(path.read_text(encoding="utf-8"))
        config |= {"base_model_name_or_path": name, "revision": settings.revision or None}
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _merge(run: Run, node: str, settings: ModelSettings, adapter: Path, out: Path) -> Parity:
    """Write the merged model, load it again, and compare it."""
    import torch
    from peft import PeftModel

    folder = next(one.folder for one in run.nodes if one.name == node)
    assert folder is not None
    tokenizer = raw_tokenizer(model_folder(settings))
    examples = (from_row(Example, row) for row in jsonl.iterate(folder / "examples.jsonl"))
    texts = [example.prompt_text + example.target_text for example in islice(examples, PROBES)]
    probes = [torch.tensor([tokenizer.encode(text).ids[:PROBE_TOKENS]]) for text in texts]
    base = load_model(settings)
    Adapters(base, [adapter], model_digest(model_folder(settings))).use(adapter)
    before = _logits(base, probes)
    with warnings.catch_warnings():
        # As in `Adapters`: nothing that a user could act on.
        warnings.simplefilter("ignore", FutureWarning)
        whole = PeftModel.from_pretrained(load_model(settings), str(adapter)).merge_and_unload(safe_merge=True)
    with without_bars():
        whole.save_pretrained(out)
    after = _logits(load_model(ModelSettings(str(out), dtype=settings.dtype)), probes)
    return Parity(
        max(float((a - b).abs().max()) for a, b in zip(before, after, strict=True)),
        sum(int((a.argmax(-1) != b.argmax(-1)).sum()) for a, b in zip(before, after, strict=True)),
        sum(len(probe[0]) for probe in probes),
    )


def _logits(model: PreTrainedModel, probes: list[torch.Tensor]) -> list[torch.Tensor]:
    """The logits (positions, vocabulary) of each text, float32."""
    import torch

    with torch.inference_mode():
        return [model(input_ids=probe).logits[0].float() for probe in probes]


def push(folder: Path, name: str, *, private: bool = True) -> str:
    """Upload an exported folder to the Hugging Face hub as `name` (owner/name); returns its address.

    Signs in as `hf auth login` or HF_TOKEN say. Raises SelfAlignError with the hub's own words where it refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    try:
        api = HfApi()
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=str(folder))
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        raise SelfAlignError(
            f"expected the hub to take '{name}', found: {str(error).splitlines()[0]}; sign in with `hf auth login` and give "
            "owner/name; the folder itself is complete"
        ) from None
    return str(address)
