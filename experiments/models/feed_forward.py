"""The gated feed-forward (SwiGLU). Legend: B batch, T time, d hidden size, F feed-forward dim."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .configuration import RlExpConfig
from .linear import Linear


class FeedForward(nn.Module):
    """W_down (silu(W_gate x) * W_up x), (B, T, d) -> (B, T, d)."""

    def __init__(self, config: RlExpConfig) -> None:
        super().__init__()
        assert config.feed_forward_dim is not None, "a configuration sets its default"
        self.input = Linear(config.hidden_size, 2 * config.feed_forward_dim, bias=False)  # [W_gate, W_up]
        self.output = Linear(config.feed_forward_dim, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.output(gated_silu(self.input(hidden)))


def gated_silu(gate_and_up: Tensor) -> Tensor:
    """silu(first half) * second half of the last dimension, (..., 2 F) -> (..., F)."""
    if torch.compiler.is_compiling() or not gate_and_up.requires_grad:
        gate, up = gate_and_up.chunk(2, dim=-1)
        return F.silu(gate) * up
    return _GatedSilu.apply(gate_and_up)


class _GatedSilu(torch.autograd.Function):
    """The same outside of the compiler: keeps only its input, and writes both gradients into one tensor."""

    @staticmethod
    def forward(ctx: Any, gate_and_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_and_up)
        gate, up = gate_and_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (gate_and_up,) = ctx.saved_tensors
        gate, up = gate_and_up.chunk(2, dim=-1)
        both = torch.empty_like(gate_and_up)
        gate_gradient, up_gradient = both.chunk(2, dim=-1)
        torch.mul(gradient, F.silu(gate), out=up_gradient)
        torch.ops.aten.silu_backward.grad_input(gradient * up, gate, grad_input=gate_gradient)
        return both
