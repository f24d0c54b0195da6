"""Calf's pretraining: the generated corpus in, a transformers folder (config, tokenizer, float16 weights) out.

Run as `selfalign run experiments=calf_pretraining`. Hidden matrices are trained with Muon (Jordan et al. 2024), all
others with AdamW; the learning rate rises, stays, and falls over shares of the planned tokens. Lightning runs the loop
(`module`); a killed run goes on from its last checkpoint and, on a CPU with one thread, ends in the same bytes.
"""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfalign import jsonl
from selfalign.calf.settings import Pretraining
from selfalign.identity import digest, plain


def pretrain(
    settings: Pretraining,
    out: Path,
    *,
    cuda: bool = False,
    bf16: bool = False,
    threads: int = 1,
    report: Callable[[int, str], None] = lambda tokens, note: None,
) -> dict[str, Any]:
    """Train to the planned end and return the metrics; goes on where a killed attempt in `out` stopped.

    `out` then holds model/, metrics.jsonl (a row every 20 steps), speed.jsonl (the same steps' tokens per second: all
    that depends on the clock) and result.json. `report(tokens, note)` is called with every row of metrics.
    Raises StageError for a loss that is not finite, DataError for a checkpoint of other settings in `out`.
    """
    result = out / "result.json"
    if not result.exists():
        out.mkdir(parents=True, exist_ok=True)
        metrics = _train(settings, out, cuda=cuda, bf16=bf16, threads=threads, report=report)
        jsonl.write_json(result, metrics)
    (out / "checkpoint.safetensors").unlink(missing_ok=True)
    shutil.rmtree(out / "tokenizer", ignore_errors=True)
    return json.loads(result.read_text(encoding="utf-8"))


def _train(
    settings: Pretraining, out: Path, *, cuda: bool, bf16: bool, threads: int, report: Callable[[int, str], None]
) -> dict[str, Any]:
    import pytorch_lightning as pl
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from transformers import AutoTokenizer

    from selfalign.calf import checkpoint
    from selfalign.calf.module import Feed, Pretrainer
    from selfalign.calf.tokenizer import train_tokenizer

    folder, shape = out / "tokenizer", settings.shape
    if not folder.exists():
        train_tokenizer(
            folder,
            vocab_size=shape.vocab_size,
            seed=settings.seed,
            documents=settings.tokenizer_documents,
            max_length=shape.max_position_embeddings,
        )
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    with _torch_threads(threads), _quiet_lightning():
        module = Pretrainer(settings, out, tokenizer, digest([plain(settings), cuda and bf16]), report)
        if module.state.tokens < settings.tokens:
            trainer = pl.Trainer(
                accelerator="cuda" if cuda else "cpu",
                devices=1,
                precision="bf16-mixed" if bf16 else "32-true",
                # A surrounding SLURM job is none of Lightning's business.
                plugins=[LightningEnvironment()],
                max_epochs=1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                limit_val_batches=0,
                use_distributed_sampler=False,
                default_root_dir=out,
            )
            try:
                trainer.fit(module, Feed(settings, tokenizer, module.state))
            except SystemExit as stopped:
                # Lightning turns Ctrl-C into an exit with status 1.
                raise KeyboardInterrupt from stopped
    checkpoint.export(module.model, folder, out / "model")
    return _summary(out / "metrics.jsonl", module)


def _summary(path: Path, module: Any) -> dict[str, Any]:
    """The run in short; `loss` and `attention_loss` are means over the last tenth of the rows of metrics."""
    rows = jsonl.read(path)
    last = rows[-max(1, len(rows) // 10) :]
    means = {}
    for name in ("loss", "attention_loss"):
        values = [row[name] for row in last if row[name] is not None]
        means[name] = round(sum(values) / len(values), 5) if values else None
    state = module.state
    return {
        "rows": state.rows,
        "steps": state.step,
        "tokens": state.tokens,
        "trained_tokens": state.trained_tokens,
        "parameters": sum(parameter.numel() for parameter in module.model.parameters()),
        **means,
    }


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Without Lightning's remarks on devices, loaders and the end of training: none of them calls for a deed."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"pytorch_lightning\..*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
