"""Logits in, one token per row out: each row by its own request's sampling and its own random generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from selfalign.engines.penalties import shifted

if TYPE_CHECKING:
    import torch

    from selfalign.engines.base import GenerateRequest
    from selfalign.engines.penalties import Shift

CANDIDATES = 256
"""Likeliest tokens that top_p looks at before it sorts the whole vocabulary, which takes 30 times as long."""


class Draw:
    """One request's randomness, and what it adds to its logits, for as long as it is written."""

    def __init__(self, request: GenerateRequest, shift: Shift | None = None) -> None:
        import torch

        self.sampling = request.sampling
        self.generator = torch.Generator().manual_seed(request.seed)
        self.shift = shift


class Sampler:
    """Draws the next token of every row.

    The shifts of bias and penalties come first, then the filters in the order temperature, top_k, top_p, min_p (that of
    transformers). The draw is a race: every token's arrival time is exponential with its probability as rate, and the
    first one wins. That is exact sampling in which two nearly equal distributions mostly give the same token under the
    same seed, so that two arms of an ablation differ where the models differ. A row's n-th token depends on its logits,
    the request's seed and n alone; under penalties also on the row's tokens before.
    """

    def __init__(self, draws: Sequence[Draw], device: torch.device) -> None:
        import torch

        self._device = device
        self._draws = draws
        self._temperature = torch.tensor([[draw.sampling.temperature or 1.0] for draw in draws], device=device)
        self._top_k = torch.tensor([[draw.sampling.top_k] for draw in draws], device=device)
        self._top_p = torch.tensor([[draw.sampling.top_p] for draw in draws], device=device)
        self._min_p = torch.tensor([[draw.sampling.min_p] for draw in draws], device=device)
        self._sampled = [draw.sampling.temperature > 0 for draw in draws]
        self._largest_k = max(draw.sampling.top_k for draw in draws)
        self._any_p = any(draw.sampling.top_p < 1 for draw in draws)
        self._any_min_p = any(draw.sampling.min_p > 0 for draw in draws)

    def __call__(self, logits: torch.Tensor) -> list[int]:
        """One token id per row of float32 logits `[batch, vocab]`."""
        tokens = self._draw(shifted(logits, [draw.shift for draw in self._draws]))
        for draw, token in zip(self._draws, tokens, strict=True):
            if draw.shift:
                draw.shift.add(token)
        return tokens

    def _draw(self, logits: torch.Tensor) -> list[int]:
        """One token id per row of logits that are shifted already."""
        import torch

        likeliest = logits.argmax(dim=-1)
        if not any(self._sampled):
            return likeliest.tolist()
        uniform = torch.full(logits.shape, 0.5)
        for row, (sampled, draw) in enumerate(zip(self._sampled, self._draws, strict=True)):
            if sampled:
                torch.rand(logits.shape[1], generator=draw.generator, out=uniform[row])
        # A uniform of 0 arrives at infinity and never wins; 1 is not drawn.
        arrival = uniform.to(self._device).log_().neg_()
        arrival /= torch.softmax(self._kept(logits / self._temperature), dim=-1)
        sampled_rows = torch.tensor(self._sampled, device=self._device)
        return torch.where(sampled_rows, arrival.argmin(dim=-1), likeliest).tolist()

    def _kept(self, scaled: torch.Tensor) -> torch.Tensor:
        """The logits, -inf where top_k, top_p or min_p leave a token out; tokens that tie with the last one kept stay."""
        if self._largest_k:
            largest = scaled.topk(min(self._largest_k, scaled.shape[1]), dim=-1).values
            last = largest.gather(1, (self._top_k - 1).clamp(0, largest.shape[1] - 1))
            scaled = scaled.masked_fill((scaled < last) & (self._top_k > 0), float("-inf"))
        if self._any_p:
            last = self._last_of_nucleus(scaled)
            scaled = scaled.masked_fill((scaled < last) & (self._top_p < 1), float("-inf"))
        if self._any_min_p:
            # A share of the likeliest probability is a distance below its logit; that of 0 is infinite.
            scaled = scaled.masked_fill(scaled < scaled.amax(dim=-1, keepdim=True) + self._min_p.log(), float("-inf"))
        return scaled

    def _last_of_nucleus(self, scaled: torch.Tensor) -> torch.Tensor:
        """The smallest logit of every row, `[batch, 1]`, among the fewest likeliest tokens that add up to top_p."""
        total = scaled.logsumexp(dim=-1, keepdim=True)
        ordered = scaled.topk(min(CANDIDATES, scaled.shape[1]), dim=-1).values
        last, enough = _nucleus(ordered, total, self._top_p)
        # Which way a row takes depends on that row alone, never on the others.
        short = (~enough & (self._top_p < 1))[:, 0]
        if ordered.shape[1] < scaled.shape[1] and bool(short.any()):
            everything = scaled[short].sort(dim=-1, descending=True).values
            last[short] = _nucleus(everything, total[short], self._top_p[short])[0]
        return last


def _nucleus(ordered: torch.Tensor, total: torch.Tensor, top_p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The last logit kept, `[batch, 1]`, of falling logits `[batch, n]`, and whether they add up to top_p."""
    probability = (ordered - total).exp()
    sums = probability.cumsum(dim=-1)
    last = ordered.masked_fill(sums - probability >= top_p, float("inf")).amin(dim=-1, keepdim=True)
    return last, sums[:, -1:] >= top_p
