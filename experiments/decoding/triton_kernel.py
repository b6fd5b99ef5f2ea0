"""The Triton kernels behind the decode interface: split-KV attention over plain, tied and latent caches, and a combine.

Legend: B sequences, T query length, H query heads, G cached heads, M query rows of a program, N tokens of a tile,
D width of a cached head, R width of the RoPE key, V value dim, S splits. Widths are padded to powers of two by masks.

One program takes a sequence, a cached head, a block of its query rows (row = t * group size + head of the group) and a
split of the tokens. A tied or latent head is loaded once and used as key and as value; a query's part that meets no
cached element (GTA: the tied state's second half is value only) is padded with zeros. The row of a token in storage is
looked up in the page table once per tile where a page holds the tile, else once per token, for all columns and query
rows. Softmax is online, in fp32, base 2. Programs of one sequence and split stand next to each other in the grid: what
they share (the RoPE key, and a cached head where its rows need several blocks) comes from memory once and then from L2.

Lengths stay on the device: a launch neither waits for them nor depends on them, so that it can be a part of a CUDA
graph. Import this module only where triton is installed; with TRITON_INTERPRET=1 in the environment before triton is
first imported, the kernels run in Triton's interpreter on the CPU.

Source: Hardware-Efficient Attention for Fast Decoding (arXiv 2505.21487), sections 3.3 and 4 (what is read once, the
distributed offset calculation); Flash-Decoding for the splits.
"""

from __future__ import annotations

import triton
import triton.language as tl

INTERPRETED: bool = triton.knobs.runtime.interpret

# How often the page table is read: once per program, once per tile, or for every token of a tile
PER_PROGRAM, PER_TILE, PER_TOKEN = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def _load_tile(base, offsets, inside, WIDTH: tl.constexpr, BLOCK: tl.constexpr, MASKED: tl.constexpr):
    """[N, BLOCK] from N rows; zeros where a token is not `inside` and in the padding."""
    columns = tl.arange(0, BLOCK)
    pointers = base + offsets[:, None] + columns[None, :]
    if MASKED:
        tile = tl.load(pointers, mask=inside[:, None] & (columns < WIDTH)[None, :], other=0.0)
    elif WIDTH != BLOCK:
        tile = tl.load(pointers, mask=(columns < WIDTH)[None, :], other=0.0)
    else:
        tile = tl.load(pointers)
    return tile


@triton.jit
def _attend_tiles(
    accumulated,  # [M, V] weighted values so far
    largest,  # [M] the largest score so far, base 2
    total,  # [M] the sum of weights so far
    first,  # tokens first .. last - 1
    last,
    length,
    seen,  # [M] how many tokens of the sequence each row sees
    query,  # [M, D]
    rope_query,  # [M, R]
    states,  # pointers to the first row's columns: of the cached head, of the RoPE key, of a separate value
    rope_keys,
    values,
    pages,  # pointer to the sequence's page table
    page_size,
    scale,
    KEY_DIM: tl.constexpr,
    STATE_DIM: tl.constexpr,
    STATE_BLOCK: tl.constexpr,
    ROPE_DIM: tl.constexpr,
    ROPE_BLOCK: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    VALUE_BLOCK: tl.constexpr,
    SEPARATE_VALUES: tl.constexpr,
    ROW_ELEMENTS: tl.constexpr,
    LOOKUP: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    MASKED: tl.constexpr,
    WIDEN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The online softmax over some tiles; not MASKED: every row sees every token of them."""
    if LOOKUP == PER_PROGRAM:
        first_row = tl.load(pages, mask=first < last, other=0).to(tl.int64) * page_size
    for start in range(first, last, TOKENS):
        tokens = start + tl.arange(0, TOKENS)
        inside = tokens < length
        if LOOKUP == PER_PROGRAM:
            cache_rows = first_row + tokens
        elif LOOKUP == PER_TILE:
            page = tl.load(pages + start // PAGE_SIZE).to(tl.int64)
            cache_rows = page * PAGE_SIZE + (start % PAGE_SIZE + tl.arange(0, TOKENS))
        else:
            if MASKED:
                page = tl.load(pages + tokens // PAGE_SIZE, mask=inside, other=0)
            else:
                page = tl.load(pages + tokens // PAGE_SIZE)
            cache_rows = page.to(tl.int64) * PAGE_SIZE + tokens % PAGE_SIZE
        offsets = cache_rows * ROW_ELEMENTS

        state = _load_tile(states, offsets, inside, STATE_DIM, STATE_BLOCK, MASKED)
        if WIDEN:
            state = state.to(tl.float32)
        scores = tl.full([ROWS, TOKENS], 0.0, tl.float32)
        if KEY_DIM > 0:
            scores = tl.dot(query, tl.trans(state), scores, input_precision=PRECISION)
        if ROPE_DIM > 0:
            rope_key = _load_tile(rope_keys, offsets, inside, ROPE_DIM, ROPE_BLOCK, MASKED)
            if WIDEN:
                rope_key = rope_key.to(tl.float32)
            scores = tl.dot(rope_query, tl.trans(rope_key), scores, input_precision=PRECISION)
        if MASKED:
            scores = tl.where(tokens[None, :] < seen[:, None], scores, float("-inf"))

        new_largest = tl.maximum(largest, tl.max(scores, 1) * scale)
        reference = new_largest
        if MASKED:  # a row that has seen nothing yet: -inf minus -inf would be NaN
            reference = tl.where(new_largest == float("-inf"), 0.0, new_largest)
        weights = tl.exp2(scores * scale - reference[:, None])
        correction = tl.exp2(largest - reference)
        total = total * correction + tl.sum(weights, 1)
        largest = new_largest
        accumulated = accumulated * correction[:, None]
        if SEPARATE_VALUES:
            value = _load_tile(values, offsets, inside, VALUE_DIM, VALUE_BLOCK, MASKED)
            if WIDEN:
                value = value.to(tl.float32)
        else:
            value = state
        accumulated = tl.dot(weights.to(value.dtype), value, accumulated, input_precision=PRECISION)
    return accumulated, largest, total


@triton.jit(do_not_specialize=["splits", "pages_per_sequence", "page_size"])
def attend_split(
    queries,  # [B, T, H, d_k]
    storage,  # [P, page size, E]
    page_table,  # [B, pages per sequence]
    lengths,  # [B]
    partial,  # [B, S, T, H, V]: the outputs themselves where there is one split
    log_sums,  # [B, S, T, H]: base 2
    scale,
    splits,
    pages_per_sequence,
    page_size,
    QUERY_LENGTH: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    CACHED_HEADS: tl.constexpr,
    ROW_BLOCKS: tl.constexpr,
    COMBINED: tl.constexpr,
    KEY_DIM: tl.constexpr,
    STATE_DIM: tl.constexpr,
    STATE_BLOCK: tl.constexpr,
    ROPE_OFFSET: tl.constexpr,
    ROPE_DIM: tl.constexpr,
    ROPE_BLOCK: tl.constexpr,
    VALUE_OFFSET: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    VALUE_BLOCK: tl.constexpr,
    SEPARATE_VALUES: tl.constexpr,
    ROW_ELEMENTS: tl.constexpr,
    LOOKUP: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    WIDEN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    group, row_block = tl.program_id(0) // ROW_BLOCKS, tl.program_id(0) % ROW_BLOCKS
    split, sequence = tl.program_id(1), tl.program_id(2).to(tl.int64)

    length = tl.load(lengths + sequence)
    tiles = (length + TOKENS - 1) // TOKENS
    tokens_per_split = (tiles + splits - 1) // splits * TOKENS
    first = split * tokens_per_split
    last = tl.minimum(first + tokens_per_split, length)
    if COMBINED:  # noqa: SIM102  (one condition is of compile time, the other is not)
        if first >= last:  # an empty split: `combine` knows from the length that nothing was written
            return

    rows = row_block * ROWS + tl.arange(0, ROWS)
    is_row = rows < QUERY_LENGTH * GROUP_SIZE
    new_token, head = rows // GROUP_SIZE, group * GROUP_SIZE + rows % GROUP_SIZE
    # Query t of T sits at position length - T + t and sees the tokens up to itself.
    seen = length - QUERY_LENGTH + new_token + 1

    query_row = (sequence * QUERY_LENGTH + new_token) * (CACHED_HEADS * GROUP_SIZE) + head
    query_pointers = queries + query_row[:, None] * (KEY_DIM + ROPE_DIM)
    columns = tl.arange(0, STATE_BLOCK)
    query = tl.load(query_pointers + columns[None, :], mask=is_row[:, None] & (columns < KEY_DIM)[None, :], other=0.0)
    rope_query = query
    if ROPE_DIM > 0:
        columns = tl.arange(0, ROPE_BLOCK)
        rope_query = tl.load(
            query_pointers + KEY_DIM + columns[None, :],
            mask=is_row[:, None] & (columns < ROPE_DIM)[None, :],
            other=0.0,
        )
    if WIDEN:
        query, rope_query = query.to(tl.float32), rope_query.to(tl.float32)
    else:
        query, rope_query = query.to(storage.dtype.element_ty), rope_query.to(storage.dtype.element_ty)

    accumulated = tl.full([ROWS, VALUE_BLOCK], 0.0, tl.float32)
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.full([ROWS], 0.0, tl.float32)
    states = storage + group * STATE_DIM
    values = storage + VALUE_OFFSET + group * VALUE_DIM
    pages = page_table + sequence * pages_per_sequence
    # Tiles that the first query sees as a whole need no masks.
    whole = tl.maximum(first, tl.minimum(last, (length - QUERY_LENGTH + 1) // TOKENS * TOKENS))
    for part in tl.static_range(2):
        accumulated, largest, total = _attend_tiles(
            accumulated,
            largest,
            total,
            whole if part == 1 else first,
            last if part == 1 else whole,
            length,
            seen,
            query,
            rope_query,
            states,
            storage + ROPE_OFFSET,
            values,
            pages,
            page_size,
            scale,
            KEY_DIM,
            STATE_DIM,
            STATE_BLOCK,
            ROPE_DIM,
            ROPE_BLOCK,
            VALUE_DIM,
            VALUE_BLOCK,
            SEPARATE_VALUES,
            ROW_ELEMENTS,
            LOOKUP,
            PAGE_SIZE,
            ROWS,
            TOKENS,
            part == 1,
            WIDEN,
            PRECISION,
        )

    outputs = accumulated / tl.where(total > 0, total, 1.0)[:, None]  # a row that sees nothing is zero
    row = ((sequence * splits + split) * QUERY_LENGTH + new_token) * (CACHED_HEADS * GROUP_SIZE) + head
    columns = tl.arange(0, VALUE_BLOCK)
    tl.store(
        partial + row[:, None] * VALUE_DIM + columns[None, :],
        outputs,
        mask=is_row[:, None] & (columns < VALUE_DIM)[None, :],
    )
    if COMBINED:
        log_sum = tl.where(total > 0, largest + tl.log2(tl.where(total > 0, total, 1.0)), float("-inf"))
        tl.store(log_sums + row, log_sum, mask=is_row)


@triton.jit(do_not_specialize=["splits"])
def combine(
    partial,  # [B, S, T, H, V]
    log_sums,  # [B, S, T, H]
    lengths,  # [B]
    outputs,  # [B, T, H, V]
    splits,
    QUERY_ROWS: tl.constexpr,  # T * H
    VALUE_DIM: tl.constexpr,
    VALUE_BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """Some query rows of one sequence: their splits' outputs, weighted by their share of the softmax's sum."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    sequence = tl.program_id(1).to(tl.int64)
    tiles = (tl.load(lengths + sequence) + TOKENS - 1) // TOKENS
    tiles_per_split = tl.maximum((tiles + splits - 1) // splits, 1)
    used = (tiles + tiles_per_split - 1) // tiles_per_split  # nothing was written for the splits after these

    columns = tl.arange(0, VALUE_BLOCK)
    is_row = rows < QUERY_ROWS
    is_output = is_row[:, None] & (columns < VALUE_DIM)[None, :]
    accumulated = tl.full([ROWS, VALUE_BLOCK], 0.0, tl.float32)
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.full([ROWS], 0.0, tl.float32)
    for split in range(used):
        rows_of_split = (sequence * splits + split) * QUERY_ROWS + rows
        log_sum = tl.load(log_sums + rows_of_split, mask=is_row, other=float("-inf"))
        part = tl.load(partial + rows_of_split[:, None] * VALUE_DIM + columns[None, :], mask=is_output, other=0.0)
        new_largest = tl.maximum(largest, log_sum)
        reference = tl.where(new_largest == float("-inf"), 0.0, new_largest)  # a row that has seen nothing yet
        correction, weight = tl.exp2(largest - reference), tl.exp2(log_sum - reference)
        accumulated = accumulated * correction[:, None] + weight[:, None] * part
        total = total * correction + weight
        largest = new_largest
    accumulated = accumulated / tl.where(total > 0, total, 1.0)[:, None]
    output_rows = sequence * QUERY_ROWS + rows
    tl.store(outputs + output_rows[:, None] * VALUE_DIM + columns[None, :], accumulated, mask=is_output)
