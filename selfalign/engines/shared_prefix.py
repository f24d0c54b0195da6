"""A batch of token rows over one shared prefix: tokens in, logits out, keys and values of the prefix held once.

The reference copies the keys and values of the meta-prompt into every row (REFERENCE 4.1). Here attention over the
prefix is one matrix product for all rows, and a joint softmax with the row's own keys makes it exact. Models whose
attention is more than a plain softmax take `CopiedPrefixBatch`: slower, by transformers' own attention and cache.

Rows are padded on the left when a batch starts, so that every row's next token stands in the same column; tokens that
are added later in one call may be padded on the right.
"""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    Layers = list[tuple[torch.Tensor, torch.Tensor]]

ATTENTION = "selfalign_shared_prefix"
"""Name under which the attention function is registered with transformers."""
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose attention is `softmax(scaling * QK' + mask) V` and passes its extra arguments on."""


class Batch(Protocol):
    """Rows that grow together."""

    def forward(self, tokens: torch.Tensor, real: torch.Tensor, *, last: bool) -> torch.Tensor:
        """Append columns to all rows and return float32 logits `[batch, 1 if last else seq, vocab]`.

        `tokens` is int64 `[batch, seq]`; `real` is bool `[batch, seq]`, False where a token is padding.
        """
        ...

    def select(self, rows: torch.Tensor) -> Batch:
        """A new batch with these rows (int64 `[n]`, repeats allowed); this one stays as it is."""
        ...


@dataclass(frozen=True)
class Prefix:
    """Tokens that open every row, and what the model keeps of them."""

    tokens: tuple[int, ...]
    state: Any
    """Keys and values: a list of layers `[kv_heads, prefix, head_dim]`, or a transformers cache."""


def can_share(model: PreTrainedModel) -> bool:
    """True where attention over a prefix held once is known to be exact for this model: a plain-softmax family."""
    return model.config.model_type in FAMILIES and not has_window(model)


def has_window(model: PreTrainedModel) -> bool:
    """True where some layer looks back over a limited window only."""
    kinds = set(getattr(model.config, "layer_types", None) or [])
    if kinds:
        return kinds != {"full_attention"}
    return getattr(model.config, "sliding_window", None) is not None


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    shared_prefix: Layers | None = None,
    **ignored: Any,
) -> tuple[torch.Tensor, None]:
    """Exact attention over the shared prefix and the row's own columns.

    `query` is `[batch, heads, seq, dim]`, `key` and `value` `[batch, kv_heads, columns, dim]`; the mask is bool
    `[batch, 1, seq, columns]` (None: causal, without a prefix). Returns `[batch, seq, heads, dim]`.
    """
    import torch

    batch, heads, length, width = query.shape
    kv_heads = key.shape[1]
    share = heads // kv_heads
    if length > 1:
        if shared_prefix is not None and attention_mask is not None:
            prefix_key, prefix_value = shared_prefix[module.layer_idx]  # type: ignore[index]
            key = torch.cat([prefix_key.expand(batch, -1, -1, -1), key], dim=2)
            value = torch.cat([prefix_value.expand(batch, -1, -1, -1), value], dim=2)
            seen = attention_mask.new_ones(1).expand(batch, 1, length, prefix_key.shape[1])
            attention_mask = torch.cat([seen, attention_mask], dim=-1)
        out = torch.nn.functional.scaled_dot_product_attention(
            query,
            key.repeat_interleave(share, dim=1) if share > 1 else key,
            value.repeat_interleave(share, dim=1) if share > 1 else value,
            attn_mask=attention_mask,
            is_causal=attention_mask is None,
            scale=scaling,
        )
        return out.transpose(1, 2), None

    grouped = query.reshape(batch, kv_heads, share, width) * scaling
    scores = torch.matmul(grouped, key.transpose(2, 3))
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, float("-inf"))
    if shared_prefix is None:
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
        return torch.matmul(weights, value).reshape(batch, 1, heads, width), None
    prefix_key, prefix_value = shared_prefix[module.layer_idx]  # type: ignore[index]
    size = prefix_key.shape[1]
    # One matrix product per head with all rows as its rows: the prefix is read once per step, not once per row.
    stacked = grouped.transpose(0, 1).reshape(kv_heads, batch * share, width)
    over_prefix = torch.bmm(stacked, prefix_key.transpose(1, 2)).view(kv_heads, batch, share, size).transpose(0, 1)
    weights = torch.softmax(torch.cat([over_prefix, scores], dim=-1), dim=-1, dtype=torch.float32).to(query.dtype)
    stacked = weights[..., :size].transpose(0, 1).reshape(kv_heads, batch * share, size)
    out = torch.bmm(stacked, prefix_value).view(kv_heads, batch, share, width).transpose(0, 1)
    out = out + torch.matmul(weights[..., size:], value)
    return out.reshape(batch, 1, heads, width), None


def install(model: PreTrainedModel) -> None:
    """Make the model attend through `attention`. No mask function is registered: masks arrive ready-made."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, attention)
    model.set_attn_implementation(ATTENTION)


class _Columns:
    """The cache object that the model's layers write to: room for `[batch, kv_heads, room, dim]` per layer."""

    is_compileable = False

    def __init__(self, layers: list[list[torch.Tensor]], used: int) -> None:
        self.layers = layers
        self.used = used
        self.start = used

    def update(self, key: torch.Tensor, value: torch.Tensor, layer: int, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new columns behind those in use and return views of all of them."""
        end = self.used
        if layer == len(self.layers):
            self.layers.append([key.new_empty(0), value.new_empty(0)])
        held = self.layers[layer]
        for i, new in enumerate((key, value)):
            if held[i].numel() == 0 or held[i].shape[2] < end:
                held[i] = self._roomier(held[i], new, end)
            held[i][:, :, self.start : end] = new
        return held[0][:, :, :end], held[1][:, :, :end]

    def _roomier(self, old: torch.Tensor, new: torch.Tensor, end: int) -> torch.Tensor:
        """A tensor with half as much room again, so that copying is rare, with the old columns in it."""
        room = end + max(32, end // 2)
        bigger = new.new_empty(new.shape[0], new.shape[1], room, new.shape[3])
        if self.start:
            bigger[:, :, : self.start] = old[:, :, : self.start]
        return bigger

    def get_seq_length(self, layer: int = 0) -> int:
        """Columns before this call."""
        return self.start


class SharedPrefixBatch:
    """Rows over a prefix that is held once."""

    def __init__(self, model: PreTrainedModel, prefix: Prefix | None) -> None:
        self._model = model
        self._prefix = prefix
        self._columns = _Columns([], 0)
        self._real: torch.Tensor | None = None

    def forward(self, tokens: torch.Tensor, real: torch.Tensor, *, last: bool) -> torch.Tensor:
        """See `Batch.forward`."""
        import torch

        length = tokens.shape[1]
        before = self._real
        held = real if before is None else torch.cat([before, real], dim=1)
        offset = len(self._prefix.tokens) if self._prefix else 0
        position = held.cumsum(1)[:, -length:] - 1 + offset
        mask = held[:, None, None, :]
        if length > 1:
            column = torch.arange(held.shape[1], device=tokens.device)
            row = column[-length:, None]
            # A padding token sees itself, so that no row of the softmax is empty and no NaN spreads from it.
            mask = (mask & (column <= row)) | (column == row)
        self._columns.start, self._columns.used = self._columns.used, held.shape[1]
        output = self._model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=position.clamp(min=0),
            past_key_values=self._columns,
            use_cache=True,
            logits_to_keep=1 if last else 0,
            shared_prefix=self._prefix.state if self._prefix else None,
        )
        self._real = held
        return output.logits.float()

    def select(self, rows: torch.Tensor) -> SharedPrefixBatch:
        """See `Batch.select`."""
        if self._real is None:
            raise ValueError("expected a batch with columns, found one before its first forward; call forward first")
        chosen = SharedPrefixBatch(self._model, self._prefix)
        used = self._columns.used
        layers = [[held[:, :, :used].index_select(0, rows) for held in layer] for layer in self._columns.layers]
        chosen._columns = _Columns(layers, used)
        chosen._real = self._real[rows]
        return chosen


class CopiedPrefixBatch:
    """Rows that each hold a copy of the prefix, in transformers' own cache."""

    def __init__(self, model: PreTrainedModel, prefix: Prefix | None) -> None:
        self._model = model
        self._prefix = prefix
        self._cache: Any = None
        self._real: torch.Tensor | None = None

    def forward(self, tokens: torch.Tensor, real: torch.Tensor, *, last: bool) -> torch.Tensor:
        """See `Batch.forward`."""
        import torch
        from transformers import DynamicCache

        if self._real is None:
            self._cache = copy.deepcopy(self._prefix.state) if self._prefix else DynamicCache(config=self._model.config)
            if self._prefix:
                self._cache.batch_repeat_interleave(tokens.shape[0])
            self._real = real.new_ones(tokens.shape[0], len(self._prefix.tokens) if self._prefix else 0)
        held = torch.cat([self._real, real], dim=1)
        given: dict[str, Any] = {"input_ids": tokens, "attention_mask": held.long(), "use_cache": True}
        accepted = inspect.signature(self._model.forward).parameters
        if "position_ids" in accepted:
            given["position_ids"] = (held.cumsum(1)[:, -tokens.shape[1] :] - 1).clamp(min=0)
        if last and "logits_to_keep" in accepted:
            given["logits_to_keep"] = 1
        output = self._model(**given, past_key_values=self._cache)
        self._real = held
        return (output.logits[:, -1:] if last else output.logits).float()

    def select(self, rows: torch.Tensor) -> CopiedPrefixBatch:
        """See `Batch.select`."""
        if self._real is None:
            raise ValueError("expected a batch with columns, found one before its first forward; call forward first")
        chosen = CopiedPrefixBatch(self._model, self._prefix)
        chosen._cache = copy.deepcopy(self._cache)
        chosen._cache.batch_select_indices(rows)
        chosen._real = self._real[rows]
        return chosen


class Batches:
    """Makes batches of one model, and keeps the state of the prefixes used last."""

    KEPT = 2
    """Prefixes held at a time: groups may alternate between two where a token spans the prefix's end."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self.shares = can_share(model)
        # Padding between prefix and row would count towards a window that is measured in columns.
        self.takes_prefix = self.shares or not has_window(model)
        self._prefixes: list[Prefix] = []
        if self.shares:
            install(model)

    def start(self, prefix: tuple[int, ...]) -> Batch:
        """A batch without columns whose rows will follow these tokens (none where `takes_prefix` is False)."""
        kind = SharedPrefixBatch if self.shares else CopiedPrefixBatch
        return kind(self._model, self._state(prefix) if prefix else None)

    def _state(self, tokens: tuple[int, ...]) -> Prefix:
        """The prefix, computed where it is not one of those kept."""
        import torch
        from transformers import DynamicCache

        for kept in self._prefixes:
            if kept.tokens == tokens:
                return kept
        ids = torch.tensor([tokens], device=self._model.device)
        cache: Any = _Columns([], 0) if self.shares else DynamicCache(config=self._model.config)
        if self.shares:
            cache.used = len(tokens)
        extra = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(self._model.forward).parameters else {}
        self._model(input_ids=ids, past_key_values=cache, use_cache=True, **extra)
        state = cache
        if self.shares:
            state = [tuple(held[0, :, : len(tokens)].contiguous() for held in layer) for layer in cache.layers]
        prefix = Prefix(tokens, state)
        self._prefixes = [prefix, *self._prefixes][: self.KEPT]
        return prefix
