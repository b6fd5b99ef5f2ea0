"""Attention over a full sequence, for training and for reading a prompt: torch's fused kernel.

Legend: B batch, T time, H query heads, K key and value heads, D widths.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def causal_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Softmax attention: queries (B, T, H, D_qk), keys (B, T, K, D_qk), values (B, T, K, D_v) -> (B, T, H,
    D_v).

    `mask` (B or 1, 1, T, T) is True where a query may look; None is causal. K divides H, and D_v <= D_qk.
    """
    value_dim = values.shape[-1]
    missing = queries.shape[-1] - value_dim
    if missing and values.device.type == "cpu":
        # The CPU kernel is fused only for equal widths; otherwise torch silently takes the unfused path,
        # which takes twice as long even though the padding adds work.
        values = F.pad(values, (0, missing))
    heads = F.scaled_dot_product_attention(
        queries.transpose(1, 2),
        keys.transpose(1, 2),
        values.transpose(1, 2),
        attn_mask=mask,
        is_causal=mask is None,
        scale=scale,
        enable_gqa=queries.shape[2] != keys.shape[2],
    )
    return heads.transpose(1, 2)[..., :value_dim]
