"""The head and the cross entropy in one: the logits of a few rows at a time, and never all of them.

The logits (N, V) are the largest tensor of a training step. Made whole, they are written and read from memory about
ten times (scores, log-softmax, their gradients); in chunks they stay in the cache of the processor, and the gradients
of hidden states and weight are formed while they are there.

Legend: N tokens, d hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .linear import times_transposed

IGNORED_TARGET = -100  # targets with this value take no part in a loss


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Cross entropy in nats of `targets` (N,) under softmax(hidden (N, d) @ weight (V, d)^T), in fp32 or better.

    `reduction` "mean" divides by the number of targets that are not -100 and "sum" does not; "none" gives (N,).
    A compiled graph gets the plain formula, which the compiler fuses in its own way.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction={reduction!r} is unknown: use one of mean, sum, none")
    if reduction == "none" or torch.compiler.is_compiling():
        logits = F.linear(hidden, weight)
        precise = torch.promote_types(logits.dtype, torch.float32)
        return F.cross_entropy(logits.to(precise), targets, ignore_index=IGNORED_TARGET, reduction=reduction)
    total = _ChunkedCrossEntropy.apply(hidden, weight, targets, torch.is_grad_enabled())
    return total / (targets != IGNORED_TARGET).sum() if reduction == "mean" else total


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The sum over tokens. The gradients are made in the forward pass, from the logits while they are there."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, with_gradients: bool) -> Tensor:
        device = hidden.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else hidden.dtype
        precise = torch.promote_types(dtype, torch.float32)
        total = torch.zeros((), dtype=precise, device=hidden.device)
        weight_gradient = torch.zeros(weight.shape, dtype=precise, device=weight.device) if with_gradients else None
        hidden_gradient = torch.empty_like(hidden) if with_gradients else None
        rows = rows_at_once(weight.shape[0], device)
        with torch.autocast(device, enabled=False):
            matrix = weight.to(dtype)
            for start in range(0, hidden.shape[0], rows):
                chunk, target = hidden[start : start + rows].to(dtype), targets[start : start + rows]
                counts = (target != IGNORED_TARGET)[:, None]
                target = target.clamp(min=0)[:, None]
                logits = times_transposed(chunk, matrix).to(precise)
                normaliser = logits.logsumexp(dim=-1, keepdim=True)
                total += ((normaliser - logits.gather(1, target)) * counts).sum()
                if hidden_gradient is None or weight_gradient is None:
                    continue
                gradient = logits.sub_(normaliser).exp_()  # softmax - onehot, in the memory of the logits
                gradient.scatter_add_(1, target, -torch.ones_like(normaliser))
                gradient = gradient.mul_(counts).to(dtype)
                hidden_gradient[start : start + rows] = times_transposed(gradient, matrix.T)
                weight_gradient += times_transposed(gradient.T, chunk.T)
        if hidden_gradient is not None and weight_gradient is not None:
            ctx.save_for_backward(hidden_gradient, weight_gradient.to(weight.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden_gradient, weight_gradient = ctx.saved_tensors
        return (
            hidden_gradient * gradient.to(hidden_gradient),
            weight_gradient * gradient.to(weight_gradient),
            None,
            None,
        )


def rows_at_once(vocabulary: int, device: str) -> int:
    """Rows whose logits fit the processor's cache (8 MB); on a GPU, rows enough to keep it busy (256 MB)."""
    elements, fewest = (2**21, 128) if device == "cpu" else (2**26, 1024)
    return max(fewest, elements // vocabulary)
