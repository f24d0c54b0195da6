"""Guided attention: where the corpus says that a word can be found in, a loss on some attention heads out.

Reading the header is what a small model learns last: a rule's name is one of a thousand tokens, and its gradient as faint.
A loss on the attention of a few heads points them there; what the heads do with what they find, the text's loss teaches.
It shapes training alone: the trained model is a plain Llama.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM


@dataclass(frozen=True)
class Head:
    """The attention head that a guide points."""

    layer: int
    head: int
    """Query head."""
    from_itself: bool = False
    """Whether the named token looks itself, or the one before it, which has to predict it."""


GUIDES = {
    "number": Head(1, 0, from_itself=True),
    "pair": Head(1, 2, from_itself=True),
    "rule": Head(2, 0),
    "copy": Head(2, 2),
    "verdict": Head(2, 4),
}
"""Guide (`corpus.Look.guide`) -> its head. Each has a key head of its own where two query heads share one."""


class Guides:
    """Measures how far the guided heads look from where they should."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        self.looks: torch.Tensor | None = None
        self._losses: list[torch.Tensor] = []
        for layer in sorted({head.layer for head in GUIDES.values()}):
            attention: Any = model.model.layers[layer].self_attn
            attention.register_forward_pre_hook(
                lambda module, arguments, named, layer=layer: self._look(layer, module, arguments, named),
                with_kwargs=True,
            )

    def loss(self) -> torch.Tensor | None:
        """Cross-entropy of the last forward pass, in nats: the sum over the guides of each one's mean; None without looks."""
        losses, self._losses = self._losses, []
        return sum(losses[1:], losses[0]) if losses else None

    def _look(self, layer: int, attention: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if self.looks is None or not len(self.looks):
            return
        hidden = named["hidden_states"] if "hidden_states" in named else arguments[0]
        for number, head in enumerate(GUIDES.values()):
            if head.layer == layer and len(chosen := self.looks[self.looks[:, 0] == number]):
                self._losses.append(_cross_entropy(attention, head.head, hidden, named, chosen))


def _cross_entropy(
    attention: Any, head: int, hidden: torch.Tensor, named: dict[str, Any], looks: torch.Tensor
) -> torch.Tensor:
    import torch
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    size, group = attention.head_dim, attention.num_key_value_groups
    query = torch.nn.functional.linear(hidden, attention.q_proj.weight[head * size : (head + 1) * size])
    kv = head // group
    key = torch.nn.functional.linear(hidden, attention.k_proj.weight[kv * size : (kv + 1) * size])
    query, key = apply_rotary_pos_emb(query[:, None], key[:, None], *named["position_embeddings"])
    query, key = query[:, 0], key[:, 0]
    total = hidden.new_zeros((), dtype=torch.float32)
    # Row by row: one product for all looks would hold [looks, seq, head] keys.
    for row in looks[:, 1].unique().tolist():
        _, _, asking, target = looks[looks[:, 1] == row].unbind(1)
        scores = (query[row, asking] @ key[row].T).float() * size**-0.5
        later = torch.arange(scores.shape[1], device=scores.device)[None] > asking[:, None]
        total = total + torch.nn.functional.cross_entropy(
            scores.masked_fill(later, float("-inf")), target, reduction="sum"
        )
    return total / len(looks)
