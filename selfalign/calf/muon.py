"""Muon, an optimiser for matrices: momentum, orthogonalised by Newton-Schulz steps (Jordan et al. 2024).

Imported by `module` alone: an optimiser needs torch when its class is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

MOMENTUM = 0.95


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest matrix `[rows, columns]` whose singular values are about 1: five Newton-Schulz steps."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum of 0.95 on matrices, each update orthogonalised; decoupled weight decay."""

    def __init__(self, matrices: Iterable[torch.nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(list(matrices), {"lr": lr, "weight_decay": weight_decay})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step on the gradients there are; returns what `closure`, called first, gives."""
        result = closure() if closure is not None else None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group["lr"], group["weight_decay"])
        return result

    @torch.no_grad()
    def _update(self, parameter: torch.nn.Parameter, lr: float, decay: float) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        # The step runs inside a training step, whose autocast is meant for the model.
        with torch.autocast(parameter.device.type, enabled=False):
            update = orthogonalised(gradient.lerp(momentum, MOMENTUM))
        scale = max(1.0, parameter.shape[0] / parameter.shape[1]) ** 0.5
        parameter.mul_(1 - lr * decay).add_(update, alpha=-lr * scale)
