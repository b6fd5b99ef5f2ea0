"""Rotary position embedding, computed once per forward pass and applied to the last dimensions of a head.

Legend: B batch, T time, H heads, D head dim, R rope dim. Halves are paired (dimension i with i + R/2), the
convention of Llama; rotated dimensions come last in a head (GTA and GLA, arXiv 2505.21487, section 3.3).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .configuration import RlExpConfig


class Rotation(NamedTuple):
    """Cosine and sine of the angle of every position and pair, each (B or 1, T, 1, R/2)."""

    cosine: Tensor
    sine: Tensor


def rotation_at(positions: Tensor, config: RlExpConfig, dtype: torch.dtype) -> Rotation | None:
    """The rotation of the integer `positions` (B or 1, T); None when nothing is rotated (rope_dim 0).

    Angles are taken in fp32 whatever the dtype of the model (fp64 for an fp64 model): in half precision
    position 1000 and 1001 would be the same.
    """
    rope_dim = config.rope_dim
    if not rope_dim:
        return None
    precise = torch.promote_types(dtype, torch.float32)
    if config.rope_frequencies is None:
        pairs = torch.arange(0, rope_dim, 2, device=positions.device, dtype=precise)
        frequencies = config.rope_base ** (-pairs / rope_dim)
    else:
        frequencies = torch.tensor(config.rope_frequencies, device=positions.device, dtype=precise)
    angles = positions[..., None].to(precise) * frequencies  # (B or 1, T, R/2)
    cosine, sine = angles.cos(), angles.sin()
    if config.rope_amplitude != 1.0:
        cosine, sine = cosine * config.rope_amplitude, sine * config.rope_amplitude
    return Rotation(cosine.to(dtype)[..., None, :], sine.to(dtype)[..., None, :])


def rotate(heads: Tensor, rotation: Rotation | None) -> Tensor:
    """Rotate the last R dimensions of every head (B, T, H, D); the leading D - R stay as they are."""
    if rotation is None:
        return heads
    cosine, sine = (table.to(heads.dtype) for table in rotation)  # under autocast heads are narrower than tables
    if not torch.compiler.is_compiling():
        return _Rotate.apply(heads, cosine, sine)
    half = cosine.shape[-1]
    still, first, second = heads.split([heads.shape[-1] - 2 * half, half, half], dim=-1)
    return torch.cat((still, first * cosine - second * sine, second * cosine + first * sine), dim=-1)


class _Rotate(torch.autograd.Function):
    """The same outside of the compiler: half the passes over memory, and nothing of the heads is kept.

    The gradient of a rotation is the rotation back (of a scaled one: scaled alike).
    """

    @staticmethod
    def forward(ctx: Any, heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.save_for_backward(cosine, sine)
        half = cosine.shape[-1]
        widths = [heads.shape[-1] - 2 * half, half, half]
        rotated = torch.empty(heads.shape, dtype=heads.dtype, device=heads.device)
        still, first, second = heads.split(widths, dim=-1)
        same, rotated_first, rotated_second = rotated.split(widths, dim=-1)
        same.copy_(still)
        torch.mul(first, cosine, out=rotated_first)
        rotated_first.addcmul_(second, sine, value=-1)
        torch.mul(second, cosine, out=rotated_second)
        rotated_second.addcmul_(first, sine)
        return rotated

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cosine, sine = ctx.saved_tensors
        return _Rotate.apply(gradient, cosine, -sine), None, None
