"""Rotary position embedding, computed once per forward pass and applied to the last dimensions of a head.

Legend: B batch, T time, H heads, D head dim, R rope dim. Halves are paired (dimension i with i + R/2), the
convention of Llama; rotated dimensions come last in a head (GTA and GLA, arXiv 2505.21487, section 3.3).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Rotation(NamedTuple):
    """Cosine and sine of the angle of every position and pair, each (B or 1, T, 1, R/2)."""

    cosine: Tensor
    sine: Tensor


def rotation_at(positions: Tensor, rope_dim: int, base: float, dtype: torch.dtype) -> Rotation | None:
    """The rotation of the integer `positions` (B or 1, T); None when nothing is rotated (rope_dim 0).

    Angles are taken in fp32 whatever the dtype of the model (fp64 for an fp64 model): in half precision
    position 1000 and 1001 would be the same.
    """
    if rope_dim == 0:
        return None
    precise = torch.promote_types(dtype, torch.float32)
    pairs = torch.arange(0, rope_dim, 2, device=positions.device, dtype=precise)
    angles = positions[..., None].to(precise) * base ** (-pairs / rope_dim)  # (B or 1, T, R/2)
    return Rotation(angles.cos().to(dtype)[..., None, :], angles.sin().to(dtype)[..., None, :])


def rotate(heads: Tensor, rotation: Rotation | None) -> Tensor:
    """Rotate the last R dimensions of every head (B, T, H, D); the leading D - R stay as they are."""
    if rotation is None:
        return heads
    cosine, sine = rotation
    half = cosine.shape[-1]
    still, first, second = heads.split([heads.shape[-1] - 2 * half, half, half], dim=-1)
    return torch.cat((still, first * cosine - second * sine, second * cosine + first * sine), dim=-1)
