"""Logits in, one token per row out: each row by its own request's sampling and its own random generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from selfalign.engines.base import GenerateRequest
    from selfalign.engines.penalties import Shifts

CANDIDATES = 256
"""Likeliest tokens that top_p looks at before it sorts the whole vocabulary, which takes 30 times as long."""


class Sampler:
    """Draws the next token of every row.

    The shifts of bias and penalties come first, then the filters in the order temperature, top_k, top_p (that of
    transformers). The draw is a race: every token's arrival time is exponential with its probability as rate, and the
    first one wins. That is exact sampling in which two nearly equal distributions mostly give the same token under the
    same seed, so that two arms of an ablation differ where the models differ. A row's n-th token depends on its logits,
    the request's seed and n alone; under penalties also on the row's tokens before.
    """

    def __init__(self, requests: Sequence[GenerateRequest], device: torch.device, shifts: Shifts | None = None) -> None:
        import torch

        self._device = device
        self._shifts = shifts
        self._sampled = [request.sampling.temperature > 0 for request in requests]
        self._generators = [torch.Generator().manual_seed(request.seed) for request in requests]
        self._temperature = torch.tensor([[r.sampling.temperature or 1.0] for r in requests], device=device)
        self._top_k = torch.tensor([[r.sampling.top_k] for r in requests], device=device)
        self._top_p = torch.tensor([[r.sampling.top_p] for r in requests], device=device)
        self._largest_k = max(r.sampling.top_k for r in requests)
        self._any_p = any(r.sampling.top_p < 1 for r in requests)

    def __call__(self, logits: torch.Tensor) -> list[int]:
        """One token id per row of float32 logits `[batch, vocab]`."""
        if self._shifts is None:
            return self._draw(logits)
        tokens = self._draw(self._shifts(logits))
        self._shifts.add(tokens)
        return tokens

    def _draw(self, logits: torch.Tensor) -> list[int]:
        """One token id per row of logits that are shifted already."""
        import torch

        likeliest = logits.argmax(dim=-1)
        if not any(self._sampled):
            return likeliest.tolist()
        uniform = torch.full(logits.shape, 0.5)
        for row, (sampled, generator) in enumerate(zip(self._sampled, self._generators, strict=True)):
            if sampled:
                torch.rand(logits.shape[1], generator=generator, out=uniform[row])
        # A uniform of 0 arrives at infinity and never wins; 1 is not drawn.
        arrival = uniform.to(self._device).log_().neg_()
        arrival /= torch.softmax(self._kept(logits / self._temperature), dim=-1)
        sampled_rows = torch.tensor(self._sampled, device=self._device)
        return torch.where(sampled_rows, arrival.argmin(dim=-1), likeliest).tolist()

    def _kept(self, scaled: torch.Tensor) -> torch.Tensor:
        """The logits, -inf where top_k or top_p leave a token out; tokens that tie with the last one kept stay."""
        if self._largest_k:
            largest = scaled.topk(min(self._largest_k, scaled.shape[1]), dim=-1).values
            last = largest.gather(1, (self._top_k - 1).clamp(0, largest.shape[1] - 1))
            scaled = scaled.masked_fill((scaled < last) & (self._top_k > 0), float("-inf"))
        if self._any_p:
            last = self._last_of_nucleus(scaled)
            scaled = scaled.masked_fill((scaled < last) & (self._top_p < 1), float("-inf"))
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

    def select(self, rows: list[int]) -> None:
        """Keep these rows, in this order."""
        if self._shifts is not None:
            self._shifts.select(rows)
        self._sampled = [self._sampled[row] for row in rows]
        self._generators = [self._generators[row] for row in rows]
        self._temperature = self._temperature[rows]
        self._top_k = self._top_k[rows]
        self._top_p = self._top_p[rows]


def _nucleus(ordered: torch.Tensor, total: torch.Tensor, top_p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The last logit kept, `[batch, 1]`, of falling logits `[batch, n]`, and whether they add up to top_p."""
    probability = (ordered - total).exp()
    sums = probability.cumsum(dim=-1)
    last = ordered.masked_fill(sums - probability >= top_p, float("inf")).amin(dim=-1, keepdim=True)
    return last, sums[:, -1:] >= top_p
