"""Cells of one layer's attention: what they cost at least, which are measured side by side, what a time says of them.

Shared by the processor's side (`attention`) and the GPU's (`gpu_attention`).

Legend: B sequences, T query length.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch

from ..decoding.cost_model import AttentionCost, attention_cost
from ..decoding.layout import row_layout
from ..models.shapes import AttentionShape

Row = dict[str, Any]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
OUR_KERNELS = ("cpu", "reference", "triton")
# The calls behind a kernel's name: of several the faster one is reported. Another name is its own only call.
CALLS = {"matmul": ("matmul_query_key", "matmul_key_query")}


@dataclass(frozen=True, kw_only=True)
class AttentionCell:
    """`batch` sequences of `context` tokens, the `query_length` new ones included, on one kernel.

    `mechanism` is the name to show, `threads` None torch's present number (or, on a GPU, none).
    """

    mechanism: str
    shape: AttentionShape
    batch: int
    context: int
    query_length: int = 1
    dtype: str = "fp32"
    page_size: int | None = None
    threads: int | None = None
    kernel: str = "cpu"

    @property
    def calls(self) -> tuple[str, ...]:
        """The calls that are timed for this kernel."""
        return CALLS.get(self.kernel, (self.kernel,))

    @property
    def storage(self) -> torch.dtype:
        """The type of the cache's elements."""
        return DTYPES[self.dtype]

    def cost(self) -> AttentionCost:
        """The bytes and operations that no kernel can do without. Raises ValueError for a cell that cannot exist."""
        if self.query_length > self.context:
            raise ValueError(f"query_length={self.query_length} new tokens do not fit into context={self.context}")
        return attention_cost(
            self.shape,
            [self.context] * self.batch,
            query_length=self.query_length,
            element_bytes=self.storage.itemsize,
        )

    def needed_bytes(self) -> int:
        """Memory for the cache and, for stock kernels, their own keys and values (made over a copy of the rows)."""
        tokens = self.batch * self.context
        cache = tokens * self.shape.cached_elements() * self.storage.itemsize
        if self.kernel in OUR_KERNELS:
            return cache
        heads, width = row_layout(self.shape).cached_heads, self.shape.absorbed_key_dim + self.shape.absorbed_value_dim
        return cache + (1 + len(self.calls)) * tokens * heads * width * self.storage.itemsize

    def labels(self) -> Row:
        """The columns that say which cell a row is."""
        names = ("mechanism", "batch", "context", "query_length", "dtype", "page_size", "threads", "kernel")
        return {name: getattr(self, name) for name in names}

    def cost_columns(self) -> Row:
        """The columns that are known before anything is measured. Raises as `cost`."""
        cost = self.cost()
        return {
            "query_heads": self.shape.query_heads,
            "head_dim": self.shape.head_dim,
            "cached_elements": self.shape.cached_elements(),
            "cache_bytes": cost.cache_bytes,
            "bytes": cost.bytes,
            "flops": cost.flops,
            "intensity": cost.arithmetic_intensity,
        }

    def speed_columns(self, seconds: Sequence[float], bandwidth: float, peak_flops: float) -> Row:
        """What the seconds of single calls mean beside bytes and operations per second of the machine."""
        cost, (lower, median, upper) = self.cost(), quartiles(seconds)
        floor = cost.floor_seconds(bandwidth, peak_flops)
        return {
            "status": "measured",
            "runs": len(seconds),
            "seconds": median,
            "seconds_q1": lower,
            "seconds_q3": upper,
            "seconds_best": min(seconds),
            "bandwidth": bandwidth,
            "peak_flops": peak_flops,
            "floor_seconds": floor,
            "bound": "memory" if cost.is_memory_bound(bandwidth, peak_flops) else "compute",
            "fraction_of_limit": floor / median,
            "tokens_per_second": self.batch * self.query_length / median,
            "gigabytes_per_second": cost.bytes / median / 1e9,
            "gigaflops_per_second": cost.flops / median / 1e9,
            "load_average": os.getloadavg()[0],
        }


def blocks(cells: Iterable[tuple[int, AttentionCell]]) -> Iterator[list[tuple[int, AttentionCell]]]:
    """Numbered cells that are measured side by side: all mechanisms, query lengths and kernels of one size of cache."""

    def size(numbered: tuple[int, AttentionCell]) -> tuple[Any, ...]:
        cell = numbered[1]
        return (cell.batch, cell.context, cell.dtype, cell.page_size or 0)

    for _, group in groupby(sorted(cells, key=size), key=size):
        yield list(group)


def parts_within_memory(
    cells: Sequence[AttentionCell], memory: Callable[[], int]
) -> Iterator[tuple[list[AttentionCell], int]]:
    """Consecutive cells that fit `memory()` bytes side by side, and those bytes, measured again for every part.

    A cell that is larger by itself is a member of a part too: `beyond_memory` says so when it is set up.
    """
    rest = list(cells)
    while rest:
        budget, needed, count = memory(), 0, 0
        for cell in rest:
            own = cell.needed_bytes()
            if own <= budget and needed + own > budget:
                break
            needed += own if own <= budget else 0
            count += 1
        yield rest[:count], budget
        rest = rest[count:]


def beyond_memory(cell: AttentionCell, budget: int) -> str | None:
    """Why a cell is left out, or None."""
    if cell.needed_bytes() <= budget:
        return None
    return (
        f"needs {cell.needed_bytes() / 1e9:,.2f} GB, bench.memory_share of the free memory is {budget / 1e9:,.2f} GB: "
        "use a shorter context, a smaller batch or dtype bf16"
    )


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile."""
    lower, median, upper = np.quantile(values, (0.25, 0.5, 0.75))
    return float(lower), float(median), float(upper)


def failure_reason(error: Exception) -> str:
    """One line for a row: a ValueError explains itself, others are named."""
    lines = str(error).strip().splitlines()
    message = lines[0][:300] if lines else "no message"
    return message if isinstance(error, ValueError) else f"{type(error).__name__}: {message}"


def failure(error: Exception) -> Row:
    """What a row says of a cell that cannot be measured: skipped where it was refused, else failed."""
    return {"status": "skipped" if isinstance(error, ValueError) else "failed", "reason": failure_reason(error)}


@contextmanager
def threads_kept() -> Iterator[int]:
    """Gives torch's present number of threads, and sets it again afterwards."""
    before = torch.get_num_threads()
    try:
        yield before
    finally:
        torch.set_num_threads(before)
