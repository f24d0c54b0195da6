"""Settings of Calf's pretraining: the model's size, how it is trained, and what can be wrong with either."""

from __future__ import annotations

from dataclasses import dataclass, field

from selfalign.calf.guides import GUIDES
from selfalign.identity import transient


@dataclass(frozen=True)
class Shape:
    """The model's size."""

    vocab_size: int = 3584
    """Tokens of the byte-level BPE (>= 258: the bytes, the end and the padding)."""
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
    """Longest input the configuration allows; the model has seen rows of `Pretraining.row_tokens`."""


@dataclass(frozen=True)
class Pretraining:
    """How the model is trained. All defaults are the project's own: no reference trains such a model."""

    tokens: int = 12_000_000
    """Tokens to read, padding included (>= 1)."""
    seed: int = 0
    """Seed of the weights and of the corpus."""
    row_tokens: int = 1408
    """Longest row (>= 2); longer documents are left out."""
    batch_tokens: int = 4096
    """Tokens of a step, at most (>= row_tokens)."""
    shard_documents: int = 640
    """Documents of a shard of the corpus (>= 1): it is made as a whole when its first row is due, again on resuming."""
    tokenizer_documents: int = 1500
    """Documents of the corpus on which the tokenizer is trained (>= 1)."""
    lr: float = 1.5e-3
    """Peak rate of AdamW: embeddings and norms (> 0)."""
    muon_lr: float = 0.012
    """Peak rate of Muon: the matrices of the hidden layers (> 0)."""
    warmup: float = 0.02
    """Share of the tokens over which the rate rises (0 to 1)."""
    decay: float = 0.6
    """Share of the tokens, at the end, over which the rate falls to a hundredth (0 to 1)."""
    weight_decay: float = 0.05
    """Decoupled decay of all parameters, times the rate (>= 0)."""
    max_grad_norm: float = 1.0
    """The gradient of embeddings and norms is scaled down to this norm (> 0); Muon's updates have a norm of their own."""
    guidance: float = 0.5
    """Weight of the loss that points attention heads at what a text refers to (>= 0; 0 leaves it out)."""
    checkpoint_minutes: float = transient(4.0)
    """Minutes between checkpoints (>= 0): what a killed run may lose."""
    shape: Shape = field(default_factory=Shape)
    """The model's size."""


def problems(settings: Pretraining) -> list[str]:
    """What is wrong with these settings, each with its remedy."""
    found = []

    def expect(holds: bool, name: str, value: object, allowed: str) -> None:
        if not holds:
            found.append(f"pretrain.{name}: expected {allowed}, found {value}; change it")

    for name in ("tokens", "shard_documents", "tokenizer_documents"):
        expect(getattr(settings, name) >= 1, name, getattr(settings, name), "at least 1")
    for name in ("lr", "muon_lr", "max_grad_norm"):
        expect(getattr(settings, name) > 0, name, getattr(settings, name), "more than 0")
    for name in ("weight_decay", "guidance", "checkpoint_minutes"):
        expect(getattr(settings, name) >= 0, name, getattr(settings, name), "at least 0")
    for name in ("warmup", "decay"):
        expect(0 <= getattr(settings, name) <= 1, name, getattr(settings, name), "a share from 0 to 1")
    shape, row = settings.shape, settings.row_tokens
    longest = shape.max_position_embeddings
    expect(2 <= row <= longest, "row_tokens", row, f"2 to shape.max_position_embeddings={longest}")
    expect(settings.batch_tokens >= row, "batch_tokens", settings.batch_tokens, f"at least row_tokens={row}")
    expect(shape.vocab_size >= 258, "shape.vocab_size", shape.vocab_size, "at least 258")
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"):
        expect(getattr(shape, name) >= 1, f"shape.{name}", getattr(shape, name), "at least 1")
    heads, shared = max(shape.num_attention_heads, 1), max(shape.num_key_value_heads, 1)
    width = shape.hidden_size
    expect(width % (2 * heads) == 0, "shape.hidden_size", width, f"a multiple of twice num_attention_heads={heads}")
    expect(heads % shared == 0, "shape.num_attention_heads", heads, f"a multiple of num_key_value_heads={shared}")
    if settings.guidance > 0:
        guided = [place for guide in GUIDES.values() for place in guide.heads]
        layer, head = max(layer for layer, _ in guided), max(head for _, head in guided)
        why = "as attention is guided there (guidance=0 leaves that out)"
        expect(
            shape.num_hidden_layers > layer, "shape.num_hidden_layers", shape.num_hidden_layers, f"over {layer}, {why}"
        )
        expect(heads > head, "shape.num_attention_heads", heads, f"over {head}, {why}")
    return found
