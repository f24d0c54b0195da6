"""Attention for packed rows: the tokens of many rows laid end to end in, each row's own attention out.

A mask over the whole pack would make attention quadratic in all its tokens, which costs more than padding (measured: half the
speed on short rows). Here everything but attention runs on the pack, without a padding token, and attention gathers the rows
into `[rows, longest]`. What all rows begin with stands once, at the start of the pack, and every row attends to it: exact,
because a causal model's keys and values depend on what stands before them alone. Works for models that take their attention
from transformers' AttentionInterface and use a plain softmax; others are refused. Imported by the worker alone, as `module` is.
"""

from __future__ import annotations

from typing import Any

import torch

from selfalign.errors import StageError

NAME = "selfalign_packed_rows"
"""Name under which the function is registered with transformers."""

REMEDY = "use training.batching=bucket"

BEYOND_SOFTMAX = ("softcap", "s_aux", "position_bias")
"""Arguments by which transformers' models ask their attention function for more than a softmax."""


def use(base: Any) -> None:
    """Let a transformers model attend within rows; every forward pass then needs `rows`. Raises StageError where it cannot."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attention)
    # Rows are told apart by `rows`; a mask would be as large as the square of the pack.
    AttentionMaskInterface.register(NAME, lambda *_, **__: None)
    base.set_attn_implementation(NAME)
    if base.config._attn_implementation != NAME:
        raise StageError(
            f"training.batching=pack needs a model whose attention can be replaced, found {type(base).__name__}, which does "
            f"not take it from transformers' AttentionInterface; {REMEDY}"
        )


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    rows: dict[str, Any],
    scaling: float | None = None,
    dropout: float = 0.0,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each row, and of each row to the common beginning.

    `query` is `[1, heads, total, dim]`, `key` and `value` `[1, kv_heads, total, dim]`, `rows` what `batches.collate` says of the
    pack. Returns `[1, total, heads, dim]`. Raises StageError for a sliding window that is shorter than a row, and for
    attention that is more than a softmax.
    """
    common, places = rows["common"], rows["places"]
    count, longest = places.shape
    _check(module, common + longest, more)
    parts = []
    first_query, first_key, first_value = query[:, :, :common], key[:, :, :common], value[:, :, :common]
    if common:
        first = attend(first_query, first_key, first_value, None, scaling, dropout)
        parts.append(first[0].transpose(0, 1))
    own_query, own_key, own_value = (
        Spread.apply(t[0].transpose(0, 1), places, rows["slots"]) for t in (query, key, value)
    )
    mask = None
    if common:
        own_key = torch.cat([first_key.expand(count, -1, -1, -1), own_key], dim=2)
        own_value = torch.cat([first_value.expand(count, -1, -1, -1), own_value], dim=2)
        mask = torch.ones((longest, common + longest), dtype=torch.bool, device=query.device).tril(common)
    own = attend(own_query, own_key, own_value, mask, scaling, dropout)
    parts.append(Collect.apply(own.transpose(1, 2).flatten(0, 1), rows["slots"]))
    return torch.cat(parts)[None], None


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """Attention `[rows, heads, seq, dim]` by torch; causal where there is no `mask`. Several heads may look at one key."""
    share = query.shape[1] // key.shape[1]
    if share > 1 and mask is not None and query.device.type != "cpu":
        # With a mask, CUDA's memory-efficient kernel wants a key for each head.
        key, value = key.repeat_interleave(share, dim=1), value.repeat_interleave(share, dim=1)
        share = 1
    return torch.nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
        dropout_p=dropout,
        enable_gqa=share > 1,
    )


class Spread(torch.autograd.Function):
    """A pack `[total, heads, dim]` as rows `[rows, heads, longest, dim]`.

    `places` and `slots` as in `batches.Micro`. What padding repeats gets no gradient for it, so the way back is a copy too, where
    autograd would add up (on a CPU, one element after the other).
    """

    @staticmethod
    def forward(ctx: Any, pack: torch.Tensor, places: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        """A copy of each place."""
        ctx.save_for_backward(slots)
        ctx.total = len(pack)
        return pack.index_select(0, places.flatten()).unflatten(0, places.shape).transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """The gradient of each token, 0 for the common beginning."""
        (slots,) = ctx.saved_tensors
        flat = gradients[0].transpose(1, 2).flatten(0, 1)
        found = flat.new_zeros((ctx.total, *flat.shape[1:]))
        torch.index_select(flat, 0, slots, out=found[ctx.total - len(slots) :])
        return found, None, None


class Collect(torch.autograd.Function):
    """Rows `[rows * longest, heads, dim]` as a pack `[own, heads, dim]`, without their padding: the way back from `Spread`."""

    @staticmethod
    def forward(ctx: Any, padded: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        """A copy of what is no padding."""
        ctx.save_for_backward(slots)
        ctx.size = len(padded)
        return padded.index_select(0, slots)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The gradient of each token, 0 for padding."""
        (slots,) = ctx.saved_tensors
        found = gradients[0].new_zeros((ctx.size, *gradients[0].shape[1:]))
        return found.index_copy_(0, slots, gradients[0]), None


def _check(module: Any, longest: int, more: dict[str, Any]) -> None:
    window = more.get("sliding_window")
    if window is not None and window < longest:
        raise StageError(
            f"training.batching=pack attends to whole rows, found one of {longest} tokens and a sliding window of {window} in "
            f"{type(module).__name__}; allowed: rows that fit into the window; lower training.max_seq_length, or {REMEDY}"
        )
    beyond = [name for name in BEYOND_SOFTMAX if more.get(name) is not None]
    if beyond:
        raise StageError(
            f"training.batching=pack needs attention that is a softmax of scaled products, found {type(module).__name__} with "
            f"{', '.join(beyond)}; {REMEDY}"
        )
