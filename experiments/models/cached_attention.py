"""Attention of a few new tokens over cached states: one function per family of caches, in plain torch.

A faster kernel replaces exactly these two functions. Queries come scaled by nothing; `scale` is the one
softmax scale of the mechanism. Softmax is taken in fp32 (fp64 for fp64 models).

Legend: B batch, T new tokens, S cached tokens, H query heads, K cached heads, G = H / K, D and C widths, R
rope dim.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def key_value_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Separate keys and values (MHA, MQA, GQA): (B, T, H, D), (B, S, K, D), (B, S, K, D) -> (B, T, H, D).

    `mask` (B or 1, 1, T, S) is True where a query may look; None: everywhere.
    """
    heads = F.scaled_dot_product_attention(
        queries.transpose(1, 2),
        keys.transpose(1, 2),
        values.transpose(1, 2),
        attn_mask=mask,
        scale=scale,
        enable_gqa=queries.shape[2] != keys.shape[2],
    )
    return heads.transpose(1, 2)


def shared_state_attention(
    queries: Tensor, states: Tensor, rope_key: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    """One state is key and value (GTA, MLA, GLA), with one RoPE key for all heads.

    queries (B, T, H, W + R), states (B, S, K, C), rope_key (B, S, R) -> (B, T, H, C). A score is the query's
    first W dimensions against the first W of the state, plus its last R against the RoPE key. For GTA W = C -
    R (part of the tied state is key), for MLA and GLA W = C (the whole latent, queries absorbed). Query head
    h reads state h // G.
    """
    length, query_heads = queries.shape[1:3]
    rope_dim, cached_heads = rope_key.shape[-1], states.shape[2]
    group = query_heads // cached_heads
    content, rotated = queries.split([queries.shape[-1] - rope_dim, rope_dim], dim=-1)
    scores = (rotated.flatten(1, 2) @ rope_key.transpose(1, 2)).unflatten(1, (length, cached_heads, group))
    content = content.unflatten(2, (cached_heads, group))
    precise = torch.promote_types(queries.dtype, torch.float32)

    outputs = []
    for head in range(cached_heads):  # one state at a time: a view of the cache, never a copy of it
        state = states[:, :, head]  # (B, S, C)
        key = state[..., : content.shape[-1]]
        score = content[:, :, head].flatten(1, 2) @ key.transpose(1, 2)  # (B, T * G, S)
        score = (score.unflatten(1, (length, group)) + scores[:, :, head]) * scale
        if mask is not None:
            score = score.masked_fill(~mask.transpose(1, 2), float("-inf"))  # (B or 1, T, 1, S)
        weights = torch.softmax(score, dim=-1, dtype=precise).to(state.dtype)
        outputs.append((weights.flatten(1, 2) @ state).unflatten(1, (length, group)))
    return torch.stack(outputs, dim=2).flatten(2, 3)
