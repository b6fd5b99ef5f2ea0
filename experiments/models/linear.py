"""Matrix products on CPUs where torch's default library is slow: `torch.nn.Linear` with another engine underneath.

torch multiplies fp32 matrices on x86 with MKL, which on AMD processors never uses its AVX-512 kernels. The wheel also
ships oneDNN, which does: twice the speed on a Zen 5. Elsewhere, and for small products, nothing changes. The choice
depends on the processor alone, never on a timing, so that a run repeats bit for bit.

Legend: N rows, K inputs, M outputs.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

FEWEST_ROWS = 32  # below, a product reads the weight once and any library does


class Linear(nn.Linear):
    """`torch.nn.Linear`, through oneDNN where that is the faster of torch's two libraries."""

    def forward(self, inputs: Tensor) -> Tensor:
        if not _takes_onednn(inputs):
            return F.linear(inputs, self.weight, self.bias)
        if not torch.is_grad_enabled():
            return _product(inputs, self.weight, self.bias)
        return _OneDnnLinear.apply(inputs, self.weight, self.bias)


def times_transposed(left: Tensor, right: Tensor) -> Tensor:
    """left (N, K) @ right (M, K)^T -> (N, M), without gradients; either may be a transposed view."""
    return _product(left, right, None) if _takes_onednn(left) else left @ right.T


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.has_bias = bias is not None
        return _product(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        inputs, weight = ctx.saved_tensors
        rows = gradient.flatten(0, -2)
        input_gradient = weight_gradient = bias_gradient = None
        if ctx.needs_input_grad[0]:
            input_gradient = _product(gradient, weight.T, None)
        if ctx.needs_input_grad[1]:
            weight_gradient = _product(rows.T, inputs.flatten(0, -2).T, None)
        if ctx.has_bias and ctx.needs_input_grad[2]:
            bias_gradient = rows.sum(0)
        return input_gradient, weight_gradient, bias_gradient


def _product(left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
    """left (..., K) @ right (M, K)^T + bias (M), the operator that torch's compiler uses for linear layers."""
    return torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")


def _takes_onednn(inputs: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()  # first: the compiler must not trace the rest
        and inputs.dtype == torch.float32
        and inputs.device.type == "cpu"
        and inputs.numel() >= FEWEST_ROWS * inputs.shape[-1]
        and onednn_is_faster()
        and not torch.is_autocast_enabled("cpu")
    )


@lru_cache(maxsize=1)
def onednn_is_faster() -> bool:
    """An AMD processor with AVX-512 under a torch that has both libraries."""
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkl.is_available():
        return False
    try:
        amd = "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")[:2000]
    except OSError:
        return False
    return (
        amd and torch.backends.cpu.get_cpu_capability() == "AVX512" and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
