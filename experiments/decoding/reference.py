"""Decode attention in plain torch: one sequence at a time, straight from the definitions. Every kernel is held to it.

Legend: B sequences, T query length, H query heads, G cached heads, L cached tokens, K key dim, V value dim.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.shapes import AttentionShape
from .cache import CacheLayer
from .layout import row_layout


def reference_attend(shape: AttentionShape, queries: Tensor, layer: CacheLayer, lengths: Tensor) -> Tensor:
    """See `attention.attend`. Computes in the dtype of the queries (fp32; fp64 where a test asks for it)."""
    outputs = queries.new_zeros(*queries.shape[:3], shape.absorbed_value_dim)  # [B, T, H, V]
    for sequence, length in enumerate(lengths.tolist()):
        if length > 0:
            rows = cached_rows(layer, sequence, length).to(queries.dtype)
            keys, values = keys_and_values(shape, rows)
            outputs[sequence] = attend_sequence(shape, queries[sequence], keys, values)
    return outputs


def cached_rows(layer: CacheLayer, sequence: int, length: int) -> Tensor:
    """The rows of one sequence in token order, [L, E]; reads no page and no row beyond the length."""
    page_size = layer.storage.shape[1]
    pages = layer.page_table[sequence, : -(-length // page_size)].long()
    return layer.storage[pages].flatten(0, 1)[:length]


def keys_and_values(shape: AttentionShape, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [L, E] to the keys [L, G, K] and values [L, G, V] of the decode form (sections 3.3.1 and 3.3.2)."""
    parts = rows.split([state.elements for state in shape.cached_states()], dim=-1)
    states = [
        part.unflatten(-1, (state.heads, state.dim)) for part, state in zip(parts, shape.cached_states(), strict=True)
    ]
    layout = row_layout(shape)
    heads = layout.cached_heads
    keys = [states[state][..., :width].expand(-1, heads, -1) for state, width in layout.key_segments]
    return torch.cat(keys, dim=-1), states[layout.value_state]


def attend_sequence(shape: AttentionShape, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Queries [T, H, K] are the last T tokens of keys [L, G, K] and values [L, G, V]: outputs [T, H, V]."""
    query_length, length = queries.shape[0], keys.shape[0]
    keys = keys.repeat_interleave(shape.group_size, dim=1)  # [L, H, K]
    values = values.repeat_interleave(shape.group_size, dim=1)  # [L, H, V]
    scores = torch.einsum("thk,lhk->htl", queries, keys) * shape.softmax_scale
    query_position = torch.arange(query_length, device=queries.device)[:, None] + length - query_length
    visible = torch.arange(length, device=queries.device)[None, :] <= query_position  # [T, L]
    probabilities = scores.masked_fill(~visible, -torch.inf).softmax(dim=-1)
    # A query before the first token sees nothing: softmax gives NaN there, the output is defined as zero.
    probabilities = torch.where(visible.any(dim=-1, keepdim=True), probabilities, 0.0)
    return torch.einsum("htl,lhv->thv", probabilities, values)
