"""Decode attention as others offer it, for comparison: SDPA, compiled flex attention, grouped matmul, FlashInfer's MLA.

torch's calls get their keys [B, G, L, d_k] and values [B, G, L, d_v] as two contiguous tensors made beforehand. That is
the layout they like best, and more memory than the cache where keys and values share states: generous to them.

Legend: B sequences, T query length, H query heads, G cached heads, L context length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from ..decoding.cache import CacheLayer
from ..decoding.reference import cached_rows, keys_and_values
from ..models.shapes import LATENT, AttentionShape

STOCK_CALLS = ("sdpa", "flex", "matmul_query_key", "matmul_key_query", "flashinfer")


def stock_calls(
    names: Sequence[str], shape: AttentionShape, queries: Tensor, layer: CacheLayer, length: int
) -> dict[str, Callable[[], Tensor]]:
    """Calls without arguments that compute the outputs [B, H, T, d_v]; all sequences have `length` tokens.

    `queries` [B, T, H, d_k] are converted to the type of the cache, as all want one type.
    """
    if unknown := set(names) - set(STOCK_CALLS):
        raise ValueError(f"stock calls {sorted(unknown)} are unknown: use {', '.join(STOCK_CALLS)}")
    if "flashinfer" in names:
        return {"flashinfer": _flashinfer_mla(shape, queries, layer, length)}
    rows = [keys_and_values(shape, cached_rows(layer, b, length)) for b in range(queries.shape[0])]
    keys = torch.stack([keys for keys, _ in rows]).transpose(1, 2).contiguous()  # [B, G, L, d_k]
    values = torch.stack([values for _, values in rows]).transpose(1, 2).contiguous()  # [B, G, L, d_v]
    queries = queries.to(keys.dtype).transpose(1, 2).contiguous()  # [B, H, T, d_k]
    makers: dict[str, Callable[..., Callable[[], Tensor]]] = {
        "sdpa": _sdpa,
        "flex": _flex,
        "matmul_query_key": partial(_matmul, key_first=False),
        "matmul_key_query": partial(_matmul, key_first=True),
    }
    return {name: makers[name](shape, queries, keys, values) for name in names}


def _visible(query_length: int, length: int, device: torch.device) -> Tensor:
    """[T, L]: bottom-right causal alignment."""
    return torch.ones(query_length, length, dtype=torch.bool, device=device).tril(length - query_length)


def _sdpa(shape: AttentionShape, queries: Tensor, keys: Tensor, values: Tensor) -> Callable[[], Tensor]:
    query_length, length = queries.shape[2], keys.shape[2]
    mask = _visible(query_length, length, queries.device) if query_length > 1 else None
    grouped = shape.group_size > 1
    return lambda: F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, enable_gqa=grouped, scale=shape.softmax_scale
    )


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    return torch.compile(flex_attention, dynamic=False)


def _flex(shape: AttentionShape, queries: Tensor, keys: Tensor, values: Tensor) -> Callable[[], Tensor]:
    query_length, length = queries.shape[2], keys.shape[2]
    mask: Any = None
    if query_length > 1:
        mask = create_block_mask(
            lambda b, h, q, k: q + (length - query_length) >= k, None, None, query_length, length, device=queries.device
        )
    flex, grouped = _compiled_flex(), shape.group_size > 1
    return lambda: flex(queries, keys, values, block_mask=mask, enable_gqa=grouped, scale=shape.softmax_scale)


def _matmul(
    shape: AttentionShape, queries: Tensor, keys: Tensor, values: Tensor, *, key_first: bool
) -> Callable[[], Tensor]:
    """Both orders of the first product: which one is faster depends on the shapes."""
    batch, heads, query_length, key_dim = queries.shape
    cached_heads, length = keys.shape[1], keys.shape[2]
    grouped = (queries * shape.softmax_scale).view(batch, cached_heads, -1, key_dim)  # [B, G, H/G * T, d_k]
    hidden = None
    if query_length > 1:
        hidden = ~_visible(query_length, length, queries.device).repeat(shape.group_size, 1)

    def call() -> Tensor:
        if key_first:
            scores = torch.matmul(keys, grouped.transpose(-1, -2)).transpose(-1, -2)
        else:
            scores = torch.matmul(grouped, keys.transpose(-1, -2))
        if hidden is not None:
            scores = scores.masked_fill(hidden, -torch.inf)
        return torch.matmul(scores.softmax(-1), values).view(batch, heads, query_length, -1)

    return call


def _flashinfer_mla(shape: AttentionShape, queries: Tensor, layer: CacheLayer, length: int) -> Callable[[], Tensor]:
    """FlashInfer's MLA over the same pages; it wants latent and RoPE key as two tensors, and queries in their type."""
    try:
        from flashinfer.mla import BatchMLAPagedAttentionWrapper
    except ImportError as error:
        raise ImportError(f"FlashInfer cannot be imported ({error})") from None
    if shape.mechanism not in LATENT or shape.latent_heads != 1:
        raise ValueError(f"FlashInfer's MLA has one latent head, {shape.mechanism} has others")
    (batch, query_length), device, dtype = queries.shape[:2], queries.device, layer.storage.dtype
    sizes = [shape.latent_dim, shape.rope_dim]
    latent, rope = (part.contiguous() for part in layer.storage.split(sizes, dim=-1))
    wrapper = BatchMLAPagedAttentionWrapper(torch.empty(256 * 2**20, dtype=torch.int8, device=device))
    counts = torch.arange(batch + 1, dtype=torch.int32, device=device)
    lengths = torch.full((batch,), length, dtype=torch.int32, device=device)
    wrapper.plan(
        *(counts * query_length, counts * layer.page_table.shape[1], layer.page_table.flatten(), lengths),
        *(shape.query_heads, shape.latent_dim, shape.rope_dim, layer.storage.shape[1], query_length > 1),
        *(shape.softmax_scale, dtype, dtype),
    )
    packed = queries.to(dtype).flatten(0, 1)  # [B * T, H, K]
    absorbed, rotated = (part.contiguous() for part in packed.split(sizes, dim=-1))
    return lambda: wrapper.run(absorbed, rotated, latent, rope).unflatten(0, (batch, query_length)).transpose(1, 2)
