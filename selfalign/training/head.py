"""Hidden states and target tokens in, -log p out: the loss of a frozen head, which never holds the logits of all positions.

Logits and their gradient are most of a step's memory where the vocabulary is large. Both are made piece by piece here, and since
the head is frozen, the gradient of the hidden states right after the loss: what is kept for the way back is as large as the
hidden states. The idea is that of Liger Kernel's fused loss (Hsu et al. 2024, arXiv:2410.10989). Imported by the worker alone,
as `module` is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

PIECE = {"cpu": 2**18, "cuda": 2**26}
"""Logits that are made at a time: what a core's cache holds, and what a GPU is busy with for a while."""


def weight_of(base: Any) -> torch.nn.Parameter | None:
    """The weights `[vocab, width]` of a model's head, where it is a frozen linear layer without bias and all of it is here."""
    head = base.get_output_embeddings()
    plain = type(head) is torch.nn.Linear and head.bias is None and not head.weight.requires_grad
    return head.weight if plain and type(head.weight) is torch.nn.Parameter else None


@contextlib.contextmanager
def left_out(base: Any) -> Iterator[None]:
    """Within, the model gives hidden states in place of logits."""
    head = base.get_output_embeddings()
    base.set_output_embeddings(torch.nn.Identity())
    try:
        yield
    finally:
        base.set_output_embeddings(head)


class Loss(torch.autograd.Function):
    """-log p `[n]` (float32, natural logarithm) of `targets` `[n]` behind hidden states `[n, width]` of a head `[vocab, width]`."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The losses, and on the way the gradient of the hidden states."""
        losses = hidden.new_empty(len(hidden), dtype=torch.float32)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        size = max(1, PIECE.get(hidden.device.type, PIECE["cuda"]) // len(weight))
        for start in range(0, len(hidden), size):
            piece = slice(start, start + size)
            at = targets[piece, None]
            logits = (hidden[piece] @ weight.T).float()
            logits -= logits.amax(1, keepdim=True)
            own = logits.gather(1, at)
            odds = logits.exp_()
            total = odds.sum(1, keepdim=True)
            losses[piece] = (total.log() - own).squeeze(1)
            if gradient is not None:
                odds /= total
                odds.scatter_add_(1, at, -torch.ones_like(own))
                gradient[piece] = odds.to(weight.dtype) @ weight
        ctx.save_for_backward(*([] if gradient is None else [gradient]))
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """The gradient of the hidden states; the head has none."""
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0][:, None].to(gradient.dtype), None, None
