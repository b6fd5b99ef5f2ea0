"""Decode problems for the tests, and an fp64 oracle that shares no code with the kernels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from experiments.decoding.cache import CacheLayer
from experiments.models.shapes import AttentionMechanism, AttentionShape

MECHANISMS = tuple(AttentionMechanism)


def small_shape(
    mechanism: str, query_heads: int = 4, head_dim: int = 16, heads: int | None = None, **fields: int
) -> AttentionShape:
    """A shape of `mechanism`; `heads` counts the cached heads where the mechanism leaves them open."""
    name = {
        "gqa": "key_value_heads",
        "tied_key_value": "key_value_heads",
        "gta": "tied_heads",
        "gla": "latent_heads",
    }
    if heads is not None and mechanism in name:
        fields[name[mechanism]] = heads
    return AttentionShape(
        mechanism=AttentionMechanism(mechanism),
        hidden_size=query_heads * head_dim,
        query_heads=query_heads,
        head_dim=head_dim,
        **fields,
    )


@dataclass
class DecodeCase:
    """Queries [B, T, H, d_k], a poisoned cache layer, lengths [B] int32, and the true rows of every sequence."""

    shape: AttentionShape
    queries: torch.Tensor
    layer: CacheLayer
    lengths: torch.Tensor
    rows: list[torch.Tensor]


def decode_case(
    shape: AttentionShape,
    lengths: list[int],
    *,
    query_length: int = 1,
    page_size: int = 16,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    scale: float = 1.0,
) -> DecodeCase:
    """Random rows on scrambled pages; rows and pages that are not in use hold NaN, unused page entries nonsense."""
    generator = torch.Generator().manual_seed(seed)
    pages_needed = [-(-length // page_size) for length in lengths]
    spare_pages = 3
    order = torch.randperm(sum(pages_needed) + spare_pages, generator=generator).tolist()
    storage = torch.full((len(order), page_size, shape.cached_elements()), torch.nan).to(dtype)
    page_table = torch.full((len(lengths), max([*pages_needed, 1]) + 2), 2**31 - 1, dtype=torch.int32)
    page_table[:, 1::2] = -(2**31)
    rows = []
    for sequence, length in enumerate(lengths):
        rows.append((scale * torch.randn(length, shape.cached_elements(), generator=generator)).to(dtype))
        for page in range(pages_needed[sequence]):
            part = rows[-1][page * page_size : (page + 1) * page_size]
            page_table[sequence, page] = order.pop()
            storage[page_table[sequence, page], : len(part)] = part
    queries = scale * torch.randn(
        len(lengths), query_length, shape.query_heads, shape.absorbed_key_dim, generator=generator
    )
    return DecodeCase(shape, queries, CacheLayer(storage, page_table), torch.tensor(lengths, dtype=torch.int32), rows)


def oracle(case: DecodeCase) -> torch.Tensor:
    """Outputs in fp64, one query head and one query token at a time."""
    shape, d_h, d_r = case.shape, case.shape.head_dim, case.shape.rope_dim
    batch, query_length, query_heads, _ = case.queries.shape
    outputs = np.zeros((batch, query_length, query_heads, shape.absorbed_value_dim))
    for b in range(batch):
        cached = case.rows[b].double().numpy()
        for h in range(query_heads):
            keys, values = _keys_values_of_head(shape, cached, h, d_h, d_r)
            for t in range(query_length):
                seen = len(cached) - query_length + t + 1
                if seen <= 0:
                    continue
                scores = keys[:seen] @ case.queries[b, t, h].double().numpy() * shape.softmax_scale
                weights = np.exp(scores - scores.max())
                outputs[b, t, h] = weights @ values[:seen] / weights.sum()
    return torch.from_numpy(outputs)


def _keys_values_of_head(
    shape: AttentionShape, cached: np.ndarray, h: int, d_h: int, d_r: int
) -> tuple[np.ndarray, np.ndarray]:
    if shape.mechanism in ("mla", "gla"):
        g = h // (shape.query_heads // shape.latent_heads)
        latent = cached[:, g * shape.latent_dim : (g + 1) * shape.latent_dim]
        return np.concatenate([latent, cached[:, cached.shape[1] - d_r :]], axis=1), latent
    if shape.mechanism == "gta":
        g = h // (shape.query_heads // shape.tied_heads)
        tied = cached[:, g * d_h : (g + 1) * d_h]
        return np.concatenate([tied[:, : d_h - d_r], cached[:, shape.tied_heads * d_h :]], axis=1), tied
    g = h // (shape.query_heads // shape.key_value_heads)
    key = cached[:, g * d_h : (g + 1) * d_h]
    if shape.mechanism == "tied_key_value":
        return key, key
    start = shape.key_value_heads * d_h
    return key, cached[:, start + g * d_h : start + (g + 1) * d_h]
