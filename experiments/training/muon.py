"""Muon in fp32: torch's optimizer with its Newton-Schulz iteration in the precision of the gradient.

`torch.optim.Muon` multiplies in bf16 whatever the device. On processors without bf16 units that takes 10 to 100 times
as long as fp32, and most of a training step. Algorithm, state and arguments are torch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from experiments.training.distribution import sharded_like, whole


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` (momentum, orthogonalised update, decoupled decay) that never leaves fp32."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every matrix that has a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            parameters: list[Tensor] = []
            gradients: list[Tensor] = []
            momenta: list[Tensor] = []
            self._init_group(group, parameters, gradients, momenta)
            rate, momentum = float(group["lr"]), group["momentum"]
            for parameter, gradient, average in zip(parameters, gradients, momenta, strict=True):
                average.lerp_(gradient, 1 - momentum)
                direction = gradient.lerp(average, momentum) if group["nesterov"] else average
                # The iteration multiplies whole matrices: under FSDP each rank gathers one, and keeps its part.
                update = sharded_like(
                    orthogonalised(whole(direction), group["ns_coefficients"], group["ns_steps"], group["eps"]),
                    parameter,
                )
                parameter.mul_(1 - rate * group["weight_decay"])
                parameter.add_(update, alpha=-rate * _scale(group["adjust_lr_fn"], parameter))
        return loss


def orthogonalised(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, epsilon: float) -> Tensor:
    """About U V^T of the matrix's singular value decomposition, by `steps` quintic Newton-Schulz iterations."""
    a, b, c = coefficients
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp(min=epsilon)  # so that no singular value exceeds 1
    for _ in range(steps):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide


def _scale(adjustment: str | None, parameter: Tensor) -> float:
    rows, columns = parameter.shape
    if adjustment == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1.0, rows / columns))
