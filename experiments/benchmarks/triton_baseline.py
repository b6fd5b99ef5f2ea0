"""The straightforward Triton decode kernel: what a first attempt looks like, as a baseline for the GPU check.

One program takes a sequence, a query head and a new token and walks over all tokens of the cache. Query heads of a
group read their cached head each for themselves, there are no products on tensor cores and no splits, and the page
table is read for every token. A tied or latent head is still loaded once as key and value. Everything is computed in
fp32.

Legend: B sequences, T query length, H query heads, N tokens of a tile.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..decoding.cache import CacheLayer
from ..decoding.layout import row_layout
from ..decoding.triton_attend import LOG2_E, check_tensors, rope_key_dim, tile_widths
from ..decoding.triton_kernel import INTERPRETED
from ..models.shapes import AttentionShape

TILE_ELEMENTS = 8192  # of the widest part of a token: 64 registers a thread as fp32


@triton.jit
def _load_columns(base, rows, inside, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """[N, BLOCK] in fp32, zeros where a token is not `inside` and in the padding."""
    columns = tl.arange(0, BLOCK)
    mask = inside[:, None] & (columns < WIDTH)[None, :]
    return tl.load(base + rows[:, None] + columns[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["pages_per_sequence", "page_size"])
def attend_head(
    queries,  # [B, T, H, d_k]
    storage,  # [P, page size, E]
    page_table,  # [B, pages per sequence]
    lengths,  # [B]
    outputs,  # [B, T, H, d_v]
    scale,
    pages_per_sequence,
    page_size,
    QUERY_LENGTH: tl.constexpr,
    QUERY_HEADS: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    KEY_DIM: tl.constexpr,
    STATE_DIM: tl.constexpr,
    STATE_BLOCK: tl.constexpr,
    SECOND_OFFSET: tl.constexpr,  # where the second state begins in a row: the RoPE key or the values
    ROPE_DIM: tl.constexpr,
    ROPE_BLOCK: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    VALUE_BLOCK: tl.constexpr,
    SEPARATE_VALUES: tl.constexpr,
    ROW_ELEMENTS: tl.constexpr,
    TOKENS: tl.constexpr,
):
    head, new_token, sequence = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    group = head // GROUP_SIZE
    # Query t of T sits at position length - T + t and sees the tokens up to itself.
    seen = tl.load(lengths + sequence) - QUERY_LENGTH + new_token + 1

    row = (sequence * QUERY_LENGTH + new_token) * QUERY_HEADS + head
    columns = tl.arange(0, STATE_BLOCK)
    query_pointers = queries + row * (KEY_DIM + ROPE_DIM)
    query = tl.load(query_pointers + columns, mask=columns < KEY_DIM, other=0.0).to(tl.float32)
    if ROPE_DIM > 0:
        columns = tl.arange(0, ROPE_BLOCK)
        rope_query = tl.load(query_pointers + KEY_DIM + columns, mask=columns < ROPE_DIM, other=0.0).to(tl.float32)

    accumulated = tl.full([VALUE_BLOCK], 0.0, tl.float32)
    largest = tl.full([1], float("-inf"), tl.float32)
    total = tl.full([1], 0.0, tl.float32)
    pages = page_table + sequence * pages_per_sequence
    for start in range(0, seen, TOKENS):
        tokens = start + tl.arange(0, TOKENS)
        inside = tokens < seen
        page = tl.load(pages + tokens // page_size, mask=inside, other=0).to(tl.int64)
        rows = (page * page_size + tokens % page_size) * ROW_ELEMENTS
        state = _load_columns(storage + group * STATE_DIM, rows, inside, STATE_DIM, STATE_BLOCK)
        scores = tl.sum(state * query[None, :], 1)
        if ROPE_DIM > 0:
            rope_key = _load_columns(storage + SECOND_OFFSET, rows, inside, ROPE_DIM, ROPE_BLOCK)
            scores += tl.sum(rope_key * rope_query[None, :], 1)
        scores = tl.where(inside, scores * scale, float("-inf"))

        new_largest = tl.maximum(largest, tl.max(scores, 0))  # finite: the first token of a tile is inside
        weights = tl.exp2(scores - new_largest)
        correction = tl.exp2(largest - new_largest)
        total = total * correction + tl.sum(weights, 0)
        largest = new_largest
        if SEPARATE_VALUES:
            value = _load_columns(storage + SECOND_OFFSET + group * VALUE_DIM, rows, inside, VALUE_DIM, VALUE_BLOCK)
        else:
            value = state
        accumulated = accumulated * correction + tl.sum(weights[:, None] * value, 0)

    accumulated = accumulated / tl.where(total > 0, total, 1.0)  # a query that sees nothing is zero
    columns = tl.arange(0, VALUE_BLOCK)
    tl.store(outputs + row * VALUE_DIM + columns, accumulated, mask=columns < VALUE_DIM)


def baseline_attend(shape: AttentionShape, queries: Tensor, layer: CacheLayer, lengths: Tensor) -> Tensor:
    """See `attention.attend`. CUDA tensors, or CPU tensors in Triton's interpreter; raises as `triton_attend` does."""
    check_tensors(queries, layer, lengths)
    queries, page_table, lengths = queries.contiguous(), layer.page_table.contiguous(), lengths.contiguous()
    batch, query_length = queries.shape[:2]
    outputs = queries.new_empty(batch, query_length, shape.query_heads, shape.absorbed_value_dim, dtype=torch.float32)
    if outputs.numel() == 0:
        return outputs
    with torch.cuda.device(queries.device) if queries.is_cuda else nullcontext():  # Triton launches on the current one
        attend_head[(shape.query_heads, query_length, batch)](
            queries,
            layer.storage,
            page_table,
            lengths,
            outputs,
            shape.softmax_scale * LOG2_E,
            page_table.shape[1],
            layer.storage.shape[1],
            **kernel_constants(shape, query_length),
            **({} if INTERPRETED else {"num_warps": 4}),
        )
    return outputs


def kernel_constants(shape: AttentionShape, query_length: int) -> dict[str, int | bool]:
    """What `attend_head` is compiled for."""
    layout, widths, rope_dim = row_layout(shape), tile_widths(shape), rope_key_dim(shape)
    return {
        "QUERY_LENGTH": query_length,
        "QUERY_HEADS": shape.query_heads,
        "GROUP_SIZE": shape.group_size,
        "KEY_DIM": shape.absorbed_key_dim - rope_dim,
        "STATE_DIM": layout.state_dims[0],
        "STATE_BLOCK": widths.state,
        "SECOND_OFFSET": layout.state_heads[0] * layout.state_dims[0],
        "ROPE_DIM": rope_dim,
        "ROPE_BLOCK": widths.rope_key,
        "VALUE_DIM": shape.absorbed_value_dim,
        "VALUE_BLOCK": widths.value or widths.state,
        "SEPARATE_VALUES": layout.value_state != 0,
        "ROW_ELEMENTS": shape.cached_elements(),
        "TOKENS": max(16, min(64, TILE_ELEMENTS // max(widths.state, widths.value))),
    }
