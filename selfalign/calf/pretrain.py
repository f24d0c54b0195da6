"""Calf's pretraining: the generated corpus in, a transformers folder (config, tokenizer, float16 weights) out.

Run as `python -m selfalign.calf.pretrain --out DIR --minutes 66 --threads 1`; run again with the same folder to go on after an
interruption. Hidden matrices are trained with Muon (Jordan et al. 2024: momentum, orthogonalised by Newton-Schulz steps),
all others with AdamW; the learning rate rises, stays,
and falls in the last third of the planned minutes or tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfalign import jsonl
from selfalign.calf import corpus
from selfalign.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM

EOS, PAD = "<|end|>", "<|pad|>"


@dataclass(frozen=True)
class Shape:
    """The model's size."""

    vocab_size: int = 2048
    """Tokens of the byte-level BPE."""
    hidden_size: int = 192
    """Width."""
    intermediate_size: int = 512
    """Width of the MLP."""
    num_hidden_layers: int = 4
    """Layers."""
    num_attention_heads: int = 6
    """Query heads."""
    num_key_value_heads: int = 3
    """Key and value heads."""
    max_position_embeddings: int = 1536
    """Longest input the configuration allows; the model has seen rows of `Plan.row_tokens`."""


@dataclass(frozen=True)
class Plan:
    """How the model is trained."""

    minutes: float = 66.0
    """Planned time of training, over which the learning rate falls to zero; not used where `tokens` is set."""
    tokens: int = 0
    """Planned tokens of training; 0 plans by time."""
    seed: int = 0
    """Seed of the weights and of the corpus."""
    row_tokens: int = 1152
    """Longest row; documents are packed whole, into rows of a third, five, seven or nine ninths of this length."""
    batch_tokens: int = 4096
    """Tokens in a step."""
    lr: float = 1.5e-3
    """Peak rate of AdamW (embeddings, norms; everything with `muon_lr` 0)."""
    muon_lr: float = 0.012
    """Peak rate of Muon (hidden matrices); 0 trains them with AdamW."""
    warmup: float = 0.02
    """Share of the plan in which the rate rises."""
    decay: float = 0.3
    """Share of the plan, at its end, in which the rate falls."""
    guidance: float = 1.0
    """Weight of the loss that points one attention head at the rule a question calls for; 0 leaves it out."""
    guided_layer: int = 2
    """Layer, from 0, whose first head is guided."""
    few_rules: float = 0.4
    """Share of self-align documents with one to five rules until `curriculum`."""
    few_rules_later: float = 0.1
    """The same share afterwards."""
    curriculum: float = 0.7
    """Share of the plan after which full headers prevail."""
    weight_decay: float = 0.05
    """Decoupled decay of the matrices."""
    bf16: bool = False
    """bfloat16 autocast: several times faster on processors that have it, far slower on others."""
    checkpoint_minutes: float = 4.0
    """Time between two checkpoints."""
    tokenizer_documents: int = 1500
    """Documents of the corpus on which the tokenizer is trained."""
    shape: Shape = field(default_factory=Shape)
    """The model's size."""


# ------------------------------------------------------------------------------------------------------ tokenizer


def train_tokenizer(out: Path, *, vocab_size: int, seed: int, documents: int, max_length: int) -> None:
    """Train a byte-level BPE on the first documents of the corpus and save it as a transformers tokenizer."""
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
    tokenizer.train_from_iterator((corpus.document(seed, number).text for number in range(documents)), trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD, clean_up_tokenization_spaces=False
    ).save_pretrained(out)
    # The class name that every transformers since version 4 and vLLM know.
    path = out / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_length}
    settings.pop("backend", None)
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


# ----------------------------------------------------------------------------------------------------------- rows


@dataclass
class Row:
    """Token ids, the weight of each in the loss, and where attention is guided to."""

    ids: list[int]
    weights: list[float]
    looks: list[tuple[int, int]]
    """(position that asks for a rule, position of its name in the header; 0 where the header does not list it)."""

    def extend(self, other: Row) -> None:
        """Put another document behind this one; only a row that holds one document guides attention."""
        self.ids.extend(other.ids)
        self.weights.extend(other.weights)


_LISTED = re.compile(r"^(\d+) \(([^)\n]+)\)\. ", re.MULTILINE)
_CITED = re.compile(r"(\d+) \(")


def _header(tokenizer: Any, text: str) -> dict[int, int]:
    """Rule number -> position of the first token of its name, for the header that `text` begins with."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    starts = {start: index for index, (start, _) in enumerate(offsets)}
    rules = text.split("\n\n## Examples")[0].split("\n\nUser:")[0]
    return {int(found[1]): starts[found.start(2)] for found in _LISTED.finditer(rules) if found.start(2) in starts}


def encode(tokenizer: Any, document: corpus.Document) -> Row:
    """A document as a row of its own, with its end."""
    row = Row([], [], [])
    header = _header(tokenizer, document.pieces[0].text) if document.family == "self_align" else {}
    for piece in document.pieces:
        encoded = tokenizer.encode(piece.text, add_special_tokens=False)
        if piece.weight == corpus.CITATION_WEIGHT:
            cited = _CITED.search(piece.text)
            target = header.get(int(cited[1]), -1) if cited else 0
            before = tokenizer.encode(piece.text[: cited.start() - 1], add_special_tokens=False) if cited else []
            asking = {len(row.ids) - 1, len(row.ids) + len(before) - 1}
            row.looks += [(position, target) for position in sorted(asking) if target >= 0]
        row.ids += encoded
        row.weights += [piece.weight] * len(encoded)
    row.ids.append(int(tokenizer.eos_token_id))
    row.weights.append(1.0)
    return row


@dataclass
class Batch:
    """Rows of one length as tensors."""

    ids: torch.Tensor
    """`[batch, seq]`."""
    weights: torch.Tensor
    """`[batch, seq]`, in the loss."""
    looks: torch.Tensor
    """`[looks, 3]`: row, asking position, position looked at."""


@dataclass
class Rows:
    """Packs whole documents into rows of four lengths, and rows of one length into batches."""

    tokenizer: Any
    plan: Plan
    number: int = 0
    """The next document."""
    few_rules: float = 0.1
    """Share of self-align documents with one to five rules."""

    def __post_init__(self) -> None:
        self._open: list[Row] = []
        self._full: dict[int, list[Row]] = {}
        self.lengths = [self.plan.row_tokens * share // 9 for share in (3, 5, 7, 9)]

    def _close(self, row: Row) -> None:
        length = next(length for length in self.lengths if len(row.ids) <= length)
        self._full.setdefault(length, []).append(row)

    def _place(self, family: str, new: Row) -> None:
        # A self-align document has its row alone: a header must not be in sight of another document's questions.
        if family == "self_align":
            self._close(new)
            return
        row = next((row for row in self._open if len(row.ids) + len(new.ids) <= self.plan.row_tokens), None)
        if row is None:
            self._open.append(new)
        else:
            row.extend(new)
        if len(self._open) > 6:
            self._open.sort(key=lambda row: len(row.ids))
            self._close(self._open.pop())

    def __iter__(self) -> Iterator[Batch]:
        """Endless batches."""
        while True:
            document = corpus.document(self.plan.seed, self.number, self.few_rules)
            row = encode(self.tokenizer, document)
            self.number += 1
            if len(row.ids) > self.plan.row_tokens:
                continue
            self._place(document.family, row)
            for length, rows in self._full.items():
                count = max(self.plan.batch_tokens // length, 1)
                if len(rows) >= count:
                    batch, self._full[length] = rows[:count], rows[count:]
                    yield self._batch(batch, length)
                    break

    def _batch(self, rows: list[Row], length: int) -> Batch:
        import torch

        pad = int(self.tokenizer.pad_token_id)
        looks = [(index, *look) for index, row in enumerate(rows) for look in row.looks]
        return Batch(
            torch.tensor([row.ids + [pad] * (length - len(row.ids)) for row in rows]),
            torch.tensor([row.weights + [0.0] * (length - len(row.weights)) for row in rows]),
            torch.tensor(looks, dtype=torch.long).reshape(-1, 3),
        )


# ------------------------------------------------------------------------------------------------------ attention


class Guide:
    """Measures how far one attention head looks from where it should: at the name of the rule that it asks for.

    Reading the header is what the model learns last: the name is one of a thousand tokens, and its gradient as faint.
    A loss on one head's attention points it there; what the head does with what it finds, the text's loss teaches.
    """

    def __init__(self, model: LlamaForCausalLM, layer: int) -> None:
        self.looks: torch.Tensor | None = None
        self.loss: torch.Tensor | None = None
        attention = model.model.layers[layer].self_attn
        self.attention: Any = attention
        attention.register_forward_pre_hook(self._look, with_kwargs=True)  # type: ignore[attr-defined]

    def _look(self, _: Any, arguments: Any, named: dict[str, Any]) -> None:
        import torch
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        if self.looks is None or not len(self.looks):
            self.loss = None
            return
        hidden = named["hidden_states"] if "hidden_states" in named else arguments[0]
        size = self.attention.head_dim
        query = torch.nn.functional.linear(hidden, self.attention.q_proj.weight[:size])
        key = torch.nn.functional.linear(hidden, self.attention.k_proj.weight[:size])
        query, key = apply_rotary_pos_emb(query[:, None], key[:, None], *named["position_embeddings"])
        row, asking, target = self.looks.unbind(1)
        scores = torch.einsum("nd,nsd->ns", query[row, 0, asking], key[row, 0]) * size**-0.5
        later = torch.arange(scores.shape[1])[None] > asking[:, None]
        self.loss = torch.nn.functional.cross_entropy(scores.masked_fill(later, float("-inf")), target)


# ------------------------------------------------------------------------------------------------------ optimizer


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest matrix `[rows, columns]` whose singular values are about 1: five Newton-Schulz steps."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if tall else x


def muon_step(parameters: list[torch.Tensor], momenta: list[torch.Tensor], lr: float, decay: float) -> None:
    """One step of Muon with Nesterov momentum 0.95 on matrices, in place."""
    import torch

    with torch.no_grad():
        for parameter, momentum in zip(parameters, momenta, strict=True):
            gradient = parameter.grad
            if gradient is None:
                continue
            momentum.lerp_(gradient, 0.05)
            update = orthogonalised(gradient.lerp(momentum, 0.95))
            scale = max(1.0, parameter.shape[0] / parameter.shape[1]) ** 0.5
            parameter.mul_(1 - lr * decay).add_(update, alpha=-lr * scale)
            parameter.grad = None


def rate(progress: float, warmup: float, decay: float) -> float:
    """The learning rate as a share of its peak: a linear rise, a plateau, and a linear fall to a hundredth."""
    if progress < warmup:
        return max(progress / warmup, 0.02)
    return max(min((1 - progress) / decay, 1.0), 0.01)


# ----------------------------------------------------------------------------------------------------- checkpoints


def export(model: LlamaForCausalLM, tokenizer_dir: Path, out: Path) -> None:
    """Write an ordinary transformers folder with float16 weights, put in place by renames."""
    import torch
    from safetensors.torch import save_file

    fresh = out.with_name(f".{out.name}.{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for file in tokenizer_dir.iterdir():
        shutil.copy(file, fresh / file.name)
    weights = {
        name: tensor.detach().to(torch.float16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(weights, fresh / "model.safetensors", metadata={"format": "pt"})
    model.generation_config.save_pretrained(fresh)
    config = model.config.to_dict() | {"dtype": "float16", "architectures": ["LlamaForCausalLM"]}
    (fresh / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(fresh.iterdir()):
        os.replace(file, out / file.name)
    fresh.rmdir()


def _new_model(shape: Shape, tokenizer: Any, seed: int) -> LlamaForCausalLM:
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    end, pad = int(tokenizer.eos_token_id), int(tokenizer.pad_token_id)
    config = LlamaConfig(
        **asdict(shape), tie_word_embeddings=True, bos_token_id=None, eos_token_id=end, pad_token_id=pad
    )
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                shrink = (
                    (2 * shape.num_hidden_layers) ** -0.5
                    if name.endswith(("o_proj.weight", "down_proj.weight"))
                    else 1.0
                )
                parameter.normal_(0.0, 0.02 * shrink, generator=generator)
    model.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=pad, do_sample=False)
    return model


@dataclass
class _State:
    step: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    elapsed_s: float = 0.0
    documents: int = 0


class Training:
    """Model, optimizers and progress of one training run in one folder."""

    def __init__(self, out: Path, plan: Plan) -> None:
        import torch
        from transformers import AutoTokenizer

        self.out, self.plan, self.state = out, plan, _State()
        if not (out / "tokenizer" / "tokenizer.json").exists():
            shape = plan.shape
            train_tokenizer(
                out / "tokenizer",
                vocab_size=shape.vocab_size,
                seed=plan.seed,
                documents=plan.tokenizer_documents,
                max_length=shape.max_position_embeddings,
            )
        self.tokenizer: Any = AutoTokenizer.from_pretrained(out / "tokenizer")
        self.model = _new_model(plan.shape, self.tokenizer, plan.seed)
        matrices = [p for name, p in self.model.named_parameters() if p.dim() == 2 and "embed" not in name]
        self.matrices: list[torch.Tensor] = matrices if plan.muon_lr else []  # type: ignore[assignment]
        chosen = {id(p) for p in self.matrices}
        self.others = [p for p in self.model.parameters() if id(p) not in chosen]
        self.momenta = [torch.zeros_like(p) for p in self.matrices]
        self.adamw = torch.optim.AdamW(
            self.others, lr=plan.lr, betas=(0.9, 0.98), weight_decay=plan.weight_decay, fused=True
        )
        self.guide = Guide(self.model, plan.guided_layer)
        self._resume()

    def _optimizer_tensors(self) -> dict[str, torch.Tensor]:
        found = {f"muon.{index}": momentum for index, momentum in enumerate(self.momenta)}
        for index, parameter in enumerate(self.others):
            for key, value in self.adamw.state[parameter].items():
                found[f"adamw.{index}.{key}"] = value
        return found

    def save(self) -> None:
        """Write a checkpoint: weights, optimizers and progress, replaced together by one rename."""
        from safetensors.torch import save_file

        tensors = {
            f"model.{name}": t.detach() for name, t in self.model.state_dict().items() if name != "lm_head.weight"
        }
        tensors |= {f"optimizer.{name}": tensor.detach() for name, tensor in self._optimizer_tensors().items()}
        fresh = self.out / ".checkpoint.safetensors"
        save_file(
            {name: t.contiguous() for name, t in tensors.items()},
            fresh,
            metadata={"state": json.dumps(asdict(self.state))},
        )
        os.replace(fresh, self.out / "checkpoint.safetensors")
        export(self.model, self.out / "tokenizer", self.out / "model")

    def _resume(self) -> None:
        import torch
        from safetensors import safe_open

        path = self.out / "checkpoint.safetensors"
        if not path.exists():
            return
        with safe_open(path, "pt") as file, torch.no_grad():
            self.state = _State(**json.loads(file.metadata()["state"]))
            names = set(file.keys())
            for name, tensor in self.model.state_dict().items():
                if name != "lm_head.weight":
                    tensor.copy_(file.get_tensor(f"model.{name}"))
            for index, momentum in enumerate(self.momenta):
                if f"optimizer.muon.{index}" in names:
                    momentum.copy_(file.get_tensor(f"optimizer.muon.{index}"))
            for index, parameter in enumerate(self.others):
                keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"optimizer.adamw.{index}.{key}" in names]
                values = {key: file.get_tensor(f"optimizer.adamw.{index}.{key}") for key in keys}
                if values and values.get("exp_avg", parameter).shape == parameter.shape:
                    self.adamw.state[parameter] = values

    def loss(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Weighted mean loss of the text (positions of weight 0 cost no logits), and the loss to step on."""
        import torch

        weights = batch.weights[:, 1:]
        chosen = weights > 0
        self.guide.looks = batch.looks if self.plan.guidance else None
        with torch.autocast("cpu", torch.bfloat16, enabled=self.plan.bf16):
            hidden = self.model.model(input_ids=batch.ids, use_cache=False).last_hidden_state[:, :-1]
            logits = torch.nn.functional.linear(hidden[chosen], self.model.lm_head.weight)
        each = torch.nn.functional.cross_entropy(logits.float(), batch.ids[:, 1:][chosen], reduction="none")
        value = (each * weights[chosen]).sum() / weights.sum()
        return value, value if self.guide.loss is None else value + self.plan.guidance * self.guide.loss

    def run(self) -> None:
        """Train to the planned end, with a log line every 20 steps and a checkpoint every few minutes."""
        import torch

        rows = Rows(self.tokenizer, self.plan, self.state.documents)
        self.model.train()
        before = time.monotonic() - self.state.elapsed_s
        saved = self.state.elapsed_s
        recent: list[float] = []
        guided: list[float] = []
        rows.few_rules = self._few_rules()
        for batch in rows:
            progress = self.progress()
            rows.few_rules = self._few_rules()
            if progress >= 1:
                break
            share = rate(progress, self.plan.warmup, self.plan.decay)
            value, total = self.loss(batch)
            total.backward()
            if self.guide.loss is not None:
                guided.append(self.guide.loss.item())
            torch.nn.utils.clip_grad_norm_(self.others, 1.0)
            for group in self.adamw.param_groups:
                group["lr"] = self.plan.lr * share
            self.adamw.step()
            self.adamw.zero_grad(set_to_none=True)
            muon_step(self.matrices, self.momenta, self.plan.muon_lr * share, self.plan.weight_decay)
            recent.append(value.item())
            state = self.state
            state.step += 1
            state.tokens += batch.ids.numel()
            state.trained_tokens += int((batch.weights > 0).sum())
            state.elapsed_s = time.monotonic() - before
            state.documents = rows.number
            if state.step % 20 == 0:
                row = {"loss": round(sum(recent) / len(recent), 4), "progress": round(progress, 4)}
                row["attention_loss"] = round(sum(guided) / max(len(guided), 1), 4)
                jsonl.append(self.out / "log.jsonl", [row | asdict(state)])
                recent, guided = [], []
            if state.elapsed_s - saved > self.plan.checkpoint_minutes * 60:
                saved = state.elapsed_s
                self.save()
        self.save()

    def _few_rules(self) -> float:
        return self.plan.few_rules if self.progress() < self.plan.curriculum else self.plan.few_rules_later

    def progress(self) -> float:
        """Share of the plan that is done."""
        if self.plan.tokens:
            return self.state.tokens / self.plan.tokens
        return self.state.elapsed_s / 60 / self.plan.minutes


def main(arguments: list[str] | None = None) -> None:
    """The command line. Raises ConfigError for a plan without an end."""
    parser = argparse.ArgumentParser(
        prog="python -m selfalign.calf.pretrain", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; an existing one is continued")
    parser.add_argument("--threads", type=int, default=1, help="processor threads")
    defaults, shape = Plan(), Shape()
    for name in (
        "minutes",
        "tokens",
        "seed",
        "row_tokens",
        "batch_tokens",
        "lr",
        "muon_lr",
        "warmup",
        "decay",
        "few_rules",
        "guidance",
        "guided_layer",
        "few_rules_later",
        "curriculum",
        "weight_decay",
    ):
        value = getattr(defaults, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    for name, value in asdict(shape).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    parser.add_argument("--checkpoint-minutes", type=float, default=defaults.checkpoint_minutes)
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast")
    given = vars(parser.parse_args(arguments))
    if given["tokens"] <= 0 and given["minutes"] <= 0:
        raise ConfigError(["expected --minutes or --tokens above 0, found neither; give one of them"])
    import torch

    torch.set_num_threads(given.pop("threads"))
    out: Path = given.pop("out")
    out.mkdir(parents=True, exist_ok=True)
    sizes = {name: given.pop(name) for name in asdict(shape)}
    Training(out, Plan(**given, shape=Shape(**sizes))).run()


if __name__ == "__main__":
    main()
