"""Exact attention over keys and values that many rows share and are held once, beside each row's own.

The reference copies the keys and values of the meta-prompt into every row (REFERENCE 4.1). Here a row sees *segments*, each
held once for all rows that see it, and its own columns. Attention over each part gives an output and the logarithm of
its softmax's denominator, by which the parts are weighed: the same sum as one softmax over all of them.

`share` puts this into a transformers model whose layers take their attention from the registry, and proves on the loaded
weights that it computes what the model's own attention does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

ATTENTION = "selfalign_segments"
"""Name under which the attention function is registered with transformers."""
MEANINGFUL = ("softcap", "s_aux", "sliding_window", "position_bias", "head_mask")
"""Arguments that make attention more than `softmax(scaling QK' + mask) V`: a model that gives one keeps its own attention."""
SCORES = 2**26
"""Elements of a score matrix that are computed at a time where it has to be written out: 256 MiB."""
CHECKED_TOKENS = 24
"""Tokens of the text on which the two attentions are compared."""
TOLERANCE = {"float32": 1e-3, "float16": 0.03, "bfloat16": 0.15}
"""Largest difference of a logit, in standard deviations of the logits: wide enough for rounding, far too narrow for
another formula."""


class UnsharedError(Exception):
    """The model's attention is something else than what `attention` computes."""


@dataclass(frozen=True, eq=False)
class Segment:
    """Keys and values of consecutive tokens, by layer: pairs of `[kv_heads, tokens, head_dim]`."""

    layers: list[tuple[torch.Tensor, torch.Tensor]]

    def __len__(self) -> int:
        return self.layers[0][0].shape[1]

    def split(self, at: int) -> tuple[Segment, Segment]:
        """The first `at` tokens and the others; both are views."""
        return (
            Segment([(key[:, :at], value[:, :at]) for key, value in self.layers]),
            Segment([(key[:, at:], value[:, at:]) for key, value in self.layers]),
        )

    @staticmethod
    def join(parts: Sequence[Segment]) -> Segment:
        """One segment of several, in their order; a copy."""
        import torch

        layers = zip(*(part.layers for part in parts), strict=True)
        return Segment(
            [(torch.cat([key for key, _ in layer], 1), torch.cat([value for _, value in layer], 1)) for layer in layers]
        )

    def nbytes(self) -> int:
        """Bytes of memory."""
        return sum(key.nbytes + value.nbytes for key, value in self.layers)


@dataclass
class Sight:
    """What the rows of one forward pass see beside their new tokens' causal past."""

    mask: torch.Tensor | None = None
    """What is added to the scores of own columns, `[batch, 1, new tokens, columns]`, 0 or -inf, in the model's number
    format; None: the new tokens are the only columns and see those before them."""
    segments: list[tuple[torch.Tensor | None, Segment]] = field(default_factory=list)
    """Segments that are seen whole, each with the rows that see it (int64 `[n]`, None: all)."""
    _grouped: torch.Tensor | None = None

    def grouped_mask(self, share: int) -> torch.Tensor | None:
        """The mask for queries in groups of `share` heads, `[batch, 1, share * new tokens, columns]`."""
        if self.mask is None or share == 1:
            return self.mask
        if self._grouped is None:
            batch, _, new, columns = self.mask.shape
            self._grouped = self.mask.expand(batch, share, new, columns).reshape(batch, 1, share * new, columns)
        return self._grouped


def _part(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float,
    causal: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output `[batch, heads, queries, dim]` and log of the softmax's denominator `[batch, heads, queries]`, float32."""
    import torch

    if query.device.type == "cpu":
        # The kernel behind scaled_dot_product_attention, which hands out the denominator too.
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=mask, scale=scaling
        )
    size = max(1, SCORES // (query.shape[0] * query.shape[1] * key.shape[2]))
    outputs, sums = [], []
    for start in range(0, query.shape[2], size):
        scores = (query[:, :, start : start + size] @ key.transpose(2, 3)).float() * scaling
        if mask is not None:
            scores = scores + mask[:, :, start : start + size]
        if causal:
            ahead = torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1 + start)
            scores = scores.masked_fill(ahead, float("-inf"))
        total = scores.logsumexp(dim=-1)
        outputs.append((scores - total[..., None]).exp().to(value.dtype) @ value)
        sums.append(total)
    return torch.cat(outputs, dim=2), torch.cat(sums, dim=2)


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sight: Sight | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """The attention of every layer: `query` is `[batch, heads, new, dim]`, `key` and `value` `[batch, kv_heads, columns,
    dim]`. Returns `[batch, new, heads, dim]`.

    Raises UnsharedError where the model wants more than a softmax over dot products, or drops `sight` on the way here.
    """
    import torch

    asked = [name for name in MEANINGFUL if others.get(name) is not None]
    if sight is None or asked or attention_mask is not None:
        raise UnsharedError(f"its layers ask for {', '.join(asked) or 'masks of their own'}")
    batch, heads, new, width = query.shape
    kv_heads = key.shape[1]
    share = heads // kv_heads
    scale = width**-0.5 if scaling is None else scaling
    queries = query.reshape(batch, kv_heads, share * new, width)
    if sight.mask is None and new > 1:
        if share > 1:
            key, value = key.repeat_interleave(share, dim=1), value.repeat_interleave(share, dim=1)
        out, total = _part(query, key, value, None, scale, causal=True)
        out, total = out.reshape(queries.shape), total.reshape(queries.shape[:3])
    else:
        out, total = _part(queries, key, value, sight.grouped_mask(share), scale)
    for number, (rows, segment) in enumerate(sight.segments, start=1):
        segment_key, segment_value = segment.layers[module.layer_idx]  # type: ignore[index]
        seeing = queries if rows is None else queries[rows]
        # All rows' queries stand in one matrix per head: the segment is read once, not once per row.
        stacked = seeing.transpose(0, 1).reshape(1, kv_heads, -1, width)
        part, part_total = _part(stacked, segment_key[None], segment_value[None], None, scale)
        part = part.view(kv_heads, -1, share * new, width).transpose(0, 1)
        part_total = part_total.view(kv_heads, -1, share * new).transpose(0, 1)
        before = (out, total) if rows is None else (out[rows], total[rows])
        weight = torch.sigmoid(part_total - before[1])[..., None].to(out.dtype)
        merged = torch.lerp(before[0], part, weight)
        merged_total = torch.logaddexp(part_total, before[1]) if number < len(sight.segments) else before[1]
        if rows is None:
            out, total = merged, merged_total
        else:
            out, total = out.index_copy(0, rows, merged), total.index_copy(0, rows, merged_total)
    return out.reshape(batch, heads, new, width).transpose(1, 2), None


class Columns:
    """The cache object that the layers write to in a forward pass over new tokens alone: keeps what they wrote."""

    is_compileable = False

    def __init__(self) -> None:
        self.layers: list[tuple[torch.Tensor, torch.Tensor]] = []

    def update(self, key: torch.Tensor, value: torch.Tensor, layer: int, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Take in one layer's keys and values `[batch, kv_heads, new, dim]`."""
        self.layers.append((key, value))
        return key, value

    def get_seq_length(self, layer: int = 0) -> int:
        """Columns before this call: positions are given, so nothing depends on it."""
        return 0

    def segment(self, row: int, start: int, end: int) -> Segment:
        """A row's columns from start to end; views."""
        return Segment([(key[row, :, start:end], value[row, :, start:end]) for key, value in self.layers])


def has_window(model: PreTrainedModel) -> bool:
    """True where some layer looks back over a limited window only."""
    kinds = set(getattr(model.config, "layer_types", None) or [])
    if kinds:
        return kinds != {"full_attention"}
    return getattr(model.config, "sliding_window", None) is not None


def share(model: PreTrainedModel) -> str:
    """Make the model attend through `attention`; what is in the way (empty: nothing), and then it stays as it was.

    The model is asked the same text twice, with its own attention and cut into segments and a last token, and must give
    the same logits up to rounding.
    """
    import torch
    from transformers import AttentionInterface

    if has_window(model):
        return "some of its layers do not look back at everything"
    own = model.config._attn_implementation or "eager"
    ids = torch.arange(CHECKED_TOKENS, device=model.device)[None] * 7 % min(model.config.vocab_size, 997)
    with torch.inference_mode():
        expected = model(input_ids=ids, use_cache=False).logits[0, -1].float()
        AttentionInterface.register(ATTENTION, attention)
        try:
            model.set_attn_implementation(ATTENTION)
            found = _in_segments(model, ids)
        except torch.OutOfMemoryError:
            raise
        except (UnsharedError, ValueError, TypeError, AttributeError, RuntimeError, IndexError) as error:
            model.set_attn_implementation(own)
            return str(error) or type(error).__name__
    spread = float(expected.std()) or 1.0
    away = float((found - expected).abs().max()) / spread
    tolerance = TOLERANCE[str(model.dtype).removeprefix("torch.")]
    # A model whose weights are broken has no logits to compare: what it is asked says so.
    if away <= tolerance or not bool(expected.isfinite().all()):
        return ""
    model.set_attn_implementation(own)
    return f"its logits differ by {away:.2g} standard deviations (allowed: {tolerance})"


def _in_segments(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """The last logits behind a text, computed as two segments and a rest that two rows see."""
    import torch

    third = ids.shape[1] // 3
    nothing = torch.arange(0, device=ids.device)
    segments: list[Segment] = []
    for start in (0, third):
        columns = Columns()
        sight = Sight(segments=[(None, one) for one in segments])
        forward(model, ids[:, start : start + third], start, columns, sight, nothing)
        segments.append(columns.segment(0, 0, third))
    rest = ids[:, 2 * third :].expand(2, -1)
    both = torch.arange(2, device=ids.device)
    sight = Sight(segments=[(None, segments[0]), (both, segments[1])])
    last = torch.tensor([2 * rest.shape[1] - 1], device=ids.device)
    return forward(model, rest, 2 * third, Columns(), sight, last)[0]


def forward(
    model: PreTrainedModel,
    tokens: torch.Tensor,
    positions: torch.Tensor | int,
    columns: Any,
    sight: Sight,
    at: torch.Tensor | None = None,
) -> torch.Tensor:
    """Float32 logits `[n, vocab]` at some of the new tokens (`at`: int64 `[n]` in row-major order; None: at all).

    Tokens are int64 `[batch, new]`, positions the same, or the first one of all rows; keys and values go to `columns`.
    """
    import torch

    if isinstance(positions, int):
        positions = torch.arange(positions, positions + tokens.shape[1], device=tokens.device)[None].expand_as(tokens)
    head: Any = model.get_output_embeddings()

    def choose(_: torch.nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden = given[0].flatten(0, 1)
        return (hidden[None] if at is None else hidden[at][None],)

    # What follows the head in some models (scaling, caps) works on whatever it gives out.
    handle = head.register_forward_pre_hook(choose)
    try:
        output = model(input_ids=tokens, position_ids=positions, past_key_values=columns, use_cache=True, sight=sight)
    finally:
        handle.remove()
    return output.logits[0].float()
