"""Guided attention: where the corpus says that a word can be found in, a loss on some attention heads out.

Reading the header is what a small model learns last: a rule's name is one of a thousand tokens, and its gradient as faint; its
number has to be handed on twice. A loss on a few heads says where to look and, for some, which word to hand on from there.
It shapes training alone: the trained model is a plain Llama.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM


@dataclass(frozen=True)
class Guide:
    """The attention heads that a kind of look points."""

    heads: tuple[tuple[int, int], ...]
    """(layer, query head)."""
    from_itself: bool = False
    """Whether the named token looks itself, or the one before it, which has to predict it."""
    says: bool = False
    """Whether the heads are also taught what to hand on from there: `Batch.looks` names the token."""
    knows: bool = False
    """Whether the asking token is also taught what it looks for, before it looks: `Batch.looks` names the token."""


GUIDES = {
    "number": Guide(((1, 0),), from_itself=True, says=True),
    "pair": Guide(((1, 2),), from_itself=True),
    "rule": Guide(((2, 0),), knows=True),
    "cited": Guide(((3, 0),), says=True),
    # A head of 32 numbers is a narrow door for a thousand words: two carry more.
    "copy": Guide(((2, 2), (3, 2)), says=True),
    "verdict": Guide(((2, 4),)),
}
"""Guide (`corpus.Look.guide`) -> its heads. Each has a key head of its own where two query heads share one."""


class Guides:
    """Measures how far the guided heads look from where they should."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        self.looks: torch.Tensor | None = None
        self.words = model.lm_head.weight
        self._losses: list[torch.Tensor] = []
        for layer in sorted({layer for guide in GUIDES.values() for layer, _ in guide.heads}):
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
        for number, guide in enumerate(GUIDES.values()):
            for head in (head for found, head in guide.heads if found == layer):
                if len(chosen := self.looks[self.looks[:, 0] == number]):
                    loss = _looking(attention, head, hidden, named["position_embeddings"], chosen)
                    named_tokens = chosen[chosen[:, 4] >= 0]
                    if guide.says and len(named_tokens):
                        loss = loss + _saying(attention, head, hidden, self.words, named_tokens)
                    if guide.knows and len(named_tokens):
                        loss = loss + _knowing(hidden, self.words, named_tokens)
                    self._losses.append(loss / len(guide.heads))


def _looking(
    attention: Any, head: int, hidden: torch.Tensor, turned: tuple[torch.Tensor, torch.Tensor], looks: torch.Tensor
) -> torch.Tensor:
    """Mean of -log of the attention paid where it is due."""
    import torch
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    query = torch.nn.functional.linear(hidden, attention.q_proj.weight[_rows(attention, head)])
    key = torch.nn.functional.linear(hidden, attention.k_proj.weight[_rows(attention, _shared(attention, head))])
    query, key = apply_rotary_pos_emb(query[:, None], key[:, None], *turned)
    query, key = query[:, 0], key[:, 0]
    total = hidden.new_zeros((), dtype=torch.float32)
    # Row by row: one product for all looks would hold [looks, seq, head] keys.
    for row in looks[:, 1].unique().tolist():
        _, _, asking, target, _ = looks[looks[:, 1] == row].unbind(1)
        scores = (query[row, asking] @ key[row].T).float() * attention.head_dim**-0.5
        later = torch.arange(scores.shape[1], device=scores.device)[None] > asking[:, None]
        total = total + torch.nn.functional.cross_entropy(
            scores.masked_fill(later, float("-inf")), target, reduction="sum"
        )
    return total / len(looks)


def _saying(attention: Any, head: int, hidden: torch.Tensor, words: torch.Tensor, looks: torch.Tensor) -> torch.Tensor:
    """Mean of -log of the probability of the word to say, were nothing but this head's look at its place the output."""
    import torch

    _, row, _, target, said = looks.unbind(1)
    value = torch.nn.functional.linear(
        hidden[row, target], attention.v_proj.weight[_rows(attention, _shared(attention, head))]
    )
    output = torch.nn.functional.linear(value, attention.o_proj.weight[:, _rows(attention, head)])
    return torch.nn.functional.cross_entropy(torch.nn.functional.linear(output, words).float(), said)


def _knowing(hidden: torch.Tensor, words: torch.Tensor, looks: torch.Tensor) -> torch.Tensor:
    """Mean of -log of the probability of the word looked for, were what the asking token knows already the output."""
    import torch

    _, row, asking, _, said = looks.unbind(1)
    return torch.nn.functional.cross_entropy(torch.nn.functional.linear(hidden[row, asking], words).float(), said)


def _rows(attention: Any, head: int) -> slice:
    return slice(head * attention.head_dim, (head + 1) * attention.head_dim)


def _shared(attention: Any, head: int) -> int:
    return head // attention.num_key_value_groups
