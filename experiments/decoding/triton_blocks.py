"""Block sizes of the Triton kernels as data, and how many splits fill a device. Standard library only.

A program holds `rows` query rows (the query heads of a group times the query length) against tiles of `tokens` cached
tokens. What may be right depends on how wide a cached head is and on the GPU's generation: the table below says it, and
`candidates` shrinks an entry until it fits the shared memory of the GPU, so that a GPU which is not in the table, or a
head dim that is in no entry, runs as well.

The entries follow from arithmetic (registers of the accumulator, shared memory of the tiles) and from what Triton 3.9
compiles them to for Hopper without a GPU; they were not tuned on a device. `python -m experiments.benchmarks.gpu_check
--tune` measures the alternatives of `alternatives`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

LEAST_ROWS = 16  # the smallest tile of a tensor core's product
LEAST_TOKENS = 16
# fp32 tiles are split into parts of tf32: a warpgroup's product of 64 rows would hold them in shared memory twice
MOST_FP32_ROWS = 32
FP32_MARGIN = 1.25  # what the parts add to the estimate of shared memory otherwise
LARGEST_SPLITS = 128
LEAST_TILES_PER_SPLIT = 2  # below, writing and combining partial results costs more than waiting
LOOK_UP_BYTES = 2048  # of shared memory, for page numbers and synchronisation
GOOD_ENOUGH = 0.9  # of the best share of busy multiprocessors: fewer splits are then better


@dataclass(frozen=True)
class Blocks:
    """One configuration of the kernel; `rows`, `tokens` and `warps` are powers of two.

    `depth` tiles are on their way from memory while one is computed with; 0 loads each when it is needed.
    """

    rows: int
    tokens: int
    warps: int
    depth: int

    def pipeline_stages(self, *, looks_up_pages: bool) -> int:
        """Triton's `num_stages`: it gives half of them to the page-table look-up that a tile's loads wait for."""
        return 1 + self.depth * (2 if looks_up_pages else 1)


@dataclass(frozen=True)
class Device:
    """What of a GPU matters here: compute capability, shared memory of one program in bytes, multiprocessors."""

    capability: tuple[int, int]
    shared_bytes: int
    multiprocessors: int


@dataclass(frozen=True)
class TileWidths:
    """Elements of a token that a program loads, padded to powers of two; 0 where there is no such part."""

    state: int  # the head that gives keys, and values where they are shared
    rope_key: int
    value: int  # a separate value

    def elements(self) -> int:
        """Elements of one token in shared memory."""
        return self.state + self.rope_key + self.value


# (width of the state up to, query rows up to): blocks, by the compute capability they are meant for. The accumulator of
# rows x width fp32 numbers stays at or below 128 registers a thread.
TABLE: dict[tuple[int, int], dict[tuple[int, int], Blocks]] = {
    (9, 0): {  # Hopper: warpgroup products want 64 rows, 227 KB of shared memory
        (64, 16): Blocks(16, 64, 4, 4),
        (64, 64): Blocks(64, 64, 4, 3),
        (64, 128): Blocks(128, 64, 8, 3),
        (128, 16): Blocks(16, 64, 4, 3),
        (128, 64): Blocks(64, 64, 4, 2),
        (128, 128): Blocks(128, 64, 8, 2),
        (256, 16): Blocks(16, 64, 4, 2),
        (256, 64): Blocks(64, 64, 4, 2),
        (256, 128): Blocks(128, 64, 8, 2),
        (512, 16): Blocks(16, 32, 4, 3),
        (512, 64): Blocks(64, 32, 8, 2),
    },
    (8, 0): {  # Ampere and Ada: 99 to 163 KB
        (64, 16): Blocks(16, 64, 4, 3),
        (64, 64): Blocks(64, 64, 4, 2),
        (128, 16): Blocks(16, 64, 4, 2),
        (128, 64): Blocks(64, 32, 4, 2),
        (256, 16): Blocks(16, 32, 4, 2),
        (256, 64): Blocks(64, 32, 8, 2),
        (512, 16): Blocks(16, 32, 4, 1),
        (512, 32): Blocks(32, 16, 8, 1),
    },
    (0, 0): {  # whatever else there is
        (128, 32): Blocks(32, 32, 4, 1),
        (256, 16): Blocks(16, 32, 4, 1),
        (512, 16): Blocks(16, 16, 4, 1),
    },
}


def padded(size: int) -> int:
    """The smallest power of two that is not below `size` (0 stays 0)."""
    return 1 << (size - 1).bit_length() if size > 0 else 0


def table_entry(device: Device, width: int, query_rows: int) -> Blocks:
    """The table's blocks for a state of this padded width and so many query rows; wider states get the widest entry."""
    generation = max(capability for capability in TABLE if capability <= device.capability)
    entries = TABLE[generation]
    widths = sorted({limit for limit, _ in entries})
    width = next((limit for limit in widths if limit >= width), widths[-1])
    row_limits = sorted(rows for limit, rows in entries if limit == width)
    rows = next((limit for limit in row_limits if limit >= query_rows), row_limits[-1])
    return entries[width, rows]


def candidates(
    device: Device, widths: TileWidths, query_rows: int, element_bytes: int, page_size: int | None
) -> Iterator[Blocks]:
    """Blocks to try, the most promising first, each smaller than the one before; the last is the smallest there is.

    `page_size` None stands for a contiguous cache. A tile that lies within one page is looked up once, so tiles are
    not larger than a page of 32 or 64 tokens.
    """
    blocks = table_entry(device, max(widths.state, widths.value), query_rows)
    most_rows = blocks.rows if element_bytes < 4 else min(blocks.rows, MOST_FP32_ROWS)
    blocks = replace(blocks, rows=min(most_rows, max(LEAST_ROWS, padded(query_rows))))
    if page_size is not None and page_size >= 32 and padded(page_size) == page_size:
        blocks = replace(blocks, tokens=min(blocks.tokens, page_size))
    while True:
        if shared_memory(blocks, widths, element_bytes, device) <= device.shared_bytes or smaller(blocks) is None:
            yield blocks
        following = smaller(blocks)
        if following is None:
            return
        blocks = following


def smaller(blocks: Blocks) -> Blocks | None:
    """The next smaller configuration: shallower pipelining first, then shorter tiles, then fewer rows."""
    if blocks.depth > 1:
        return replace(blocks, depth=blocks.depth - 1)
    if blocks.tokens > LEAST_TOKENS:
        return replace(blocks, tokens=blocks.tokens // 2)
    if blocks.rows > LEAST_ROWS:
        return replace(blocks, rows=blocks.rows // 2)
    if blocks.depth > 0:
        return replace(blocks, depth=0)
    return None


def alternatives(blocks: Blocks) -> list[Blocks]:
    """What `gpu_check --tune` measures beside an entry: its neighbours in each number."""
    changed = [
        replace(blocks, tokens=blocks.tokens * 2),
        replace(blocks, tokens=max(LEAST_TOKENS, blocks.tokens // 2)),
        replace(blocks, warps=4 if blocks.warps == 8 else 8),
        replace(blocks, depth=blocks.depth + 1),
        replace(blocks, depth=max(1, blocks.depth - 1)),
        replace(blocks, rows=max(LEAST_ROWS, blocks.rows // 2)),
    ]
    return [blocks, *dict.fromkeys(other for other in changed if other != blocks)]


def shared_memory(blocks: Blocks, widths: TileWidths, element_bytes: int, device: Device) -> int:
    """An estimate in bytes: queries, tiles, and the probabilities on their way between two products.

    Products of Hopper's warpgroups (64 rows and more) read their tile from shared memory while the next one arrives,
    so that they need one tile more, and keep probabilities in registers.
    """
    warpgroups = device.capability[0] in (9, 10) and blocks.rows >= 64
    queries = blocks.rows * (widths.state + widths.rope_key)
    tiles = (max(blocks.depth, 1) + warpgroups) * blocks.tokens * widths.elements()
    probabilities = 0 if warpgroups else blocks.rows * blocks.tokens
    estimate = element_bytes * (queries + tiles + probabilities) + LOOK_UP_BYTES
    return int(FP32_MARGIN * estimate) if element_bytes == 4 else estimate


def split_count(programs: int, tiles: int, slots: int) -> int:
    """Into how many parts the tokens of every sequence are split.

    `programs` is how many there are without splitting, `tiles` how many tiles the longest sequence may have, `slots`
    how many programs the device runs at a time. The smallest count that keeps nearly as many slots busy, the last
    wave included, as the best one.
    """
    if programs < 1 or slots < 1:
        return 1
    counts = range(1, max(1, min(LARGEST_SPLITS, tiles // LEAST_TILES_PER_SPLIT)) + 1)
    busy = [programs * count / (-(-programs * count // slots) * slots) for count in counts]
    return next(count for count, share in zip(counts, busy, strict=True) if share >= GOOD_ENOUGH * max(busy))
