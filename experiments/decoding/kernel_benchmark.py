"""One attention step of one layer, timed: our kernels and the stock paths side by side, beside the machine's limit.

Everything of a cell is timed in one process, in rounds of random order, ceilings included: each round times every
call once, so that what disturbs the machine disturbs all of them. Legend: B sequences, T query length.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..models.shapes import AttentionShape
from .attention import attend
from .cache import DecodeCache
from .cost_model import AttentionCost, attention_cost
from .machine import CeilingProbe
from .stock_paths import STOCK_PATHS, stock_calls


@dataclass(frozen=True, kw_only=True)
class AttentionCell:
    """What is measured: `batch` sequences of `context_length` tokens (the new ones included)."""

    shape: AttentionShape
    batch: int
    context_length: int
    query_length: int = 1
    dtype: torch.dtype = torch.float32
    page_size: int | None = None

    def cost(self) -> AttentionCost:
        """The bytes and operations that no kernel can do without."""
        return attention_cost(
            self.shape,
            [self.context_length] * self.batch,
            query_length=self.query_length,
            element_bytes=torch.empty(0, dtype=self.dtype).element_size(),
        )


@dataclass(frozen=True)
class Timing:
    """Seconds per call."""

    median: float
    lower_quartile: float
    upper_quartile: float
    best: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        """Order statistics of single measurements."""
        lower, median, upper = np.quantile(seconds, (0.25, 0.5, 0.75))
        return cls(float(median), float(lower), float(upper), min(seconds))


@dataclass(frozen=True)
class CellResult:
    """Timings by call, and the ceilings measured in the same rounds (medians; `best_*` the highest seen)."""

    cell: AttentionCell
    cost: AttentionCost
    threads: int
    timings: Mapping[str, Timing]
    memory_read_bytes: float
    best_memory_read_bytes: float
    fp32_flops: float
    fp32_matmul_flops: float

    @property
    def floor_seconds(self) -> float:
        """Predicted: the roofline of memory bandwidth and register-only multiply-adds."""
        return self.cost.floor_seconds(self.memory_read_bytes, self.fp32_flops)

    @property
    def matmul_floor_seconds(self) -> float:
        """The roofline with torch's matmul as the arithmetic ceiling: what a good library reaches."""
        return self.cost.floor_seconds(self.memory_read_bytes, self.fp32_matmul_flops)

    def fraction_of_limit(self, call: str) -> float:
        """`floor_seconds` over the call's median."""
        return self.floor_seconds / self.timings[call].median

    def tokens_per_second(self, call: str) -> float:
        """New tokens of all sequences through this one layer's attention."""
        return self.cell.batch * self.cell.query_length / self.timings[call].median

    def best_stock(self) -> str | None:
        """The stock path with the smallest median, if any was measured."""
        measured = [name for name in STOCK_PATHS if name in self.timings]
        return min(measured, key=lambda name: self.timings[name].median) if measured else None


def cell_calls(
    cell: AttentionCell, kernels: Sequence[str], stock: Sequence[str] = (), seed: int = 0
) -> dict[str, Callable[[], Tensor]]:
    """Calls by name on one random filled cache and one random batch of queries."""
    generator = torch.Generator().manual_seed(seed)
    cache = DecodeCache(
        cell.shape,
        layers=1,
        batch_size=cell.batch,
        max_length=cell.context_length,
        page_size=cell.page_size,
        dtype=cell.dtype,
    )
    step = cache.reserve(cell.context_length)
    layer = step.layer(0)
    row = torch.randn(layer.storage.shape[1:], generator=generator)
    for page in layer.storage:  # the same values on every page: timing does not depend on them, filling takes time
        page.copy_(row)
    queries = torch.randn(
        cell.batch,
        cell.query_length,
        cell.shape.query_heads,
        cell.shape.absorbed_key_dim,
        generator=generator,
    )
    calls: dict[str, Callable[[], Tensor]] = {}
    for kernel in kernels:
        calls[kernel] = partial(attend, cell.shape, queries, layer, step.lengths, kernel=kernel)
    return calls | stock_calls(stock, cell.shape, queries, layer, cell.context_length)


def measure_cells(
    cells: Mapping[str, AttentionCell],
    *,
    kernels: Sequence[str] = ("cpu",),
    stock: Sequence[str] = (),
    rounds: int = 9,
    warm_up: int = 2,
    seed: int = 0,
    probe: CeilingProbe | None = None,
) -> dict[str, CellResult]:
    """Time several cells against each other in the same rounds; ratios between them then mean something."""
    probe = probe or CeilingProbe()
    calls = {
        (name, call): function
        for name, cell in cells.items()
        for call, function in cell_calls(cell, kernels, stock, seed).items()
    }
    for function in calls.values():
        for _ in range(warm_up):
            function()
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    memory, fp32, matmul = [], [], []
    order = random.Random(seed)
    keys = list(calls)
    gc.disable()
    try:
        for _ in range(rounds):
            order.shuffle(keys)
            for key in keys:
                memory.append(probe.memory_read())  # before each call: it also empties the caches
                start = time.perf_counter()
                calls[key]()
                seconds[key].append(time.perf_counter() - start)
            fp32.append(probe.fp32())
            matmul.append(probe.matmul())
    finally:
        gc.enable()
    return {
        name: CellResult(
            cell=cell,
            cost=cell.cost(),
            threads=probe.threads,
            timings={call: Timing.of(times) for (of, call), times in seconds.items() if of == name},
            memory_read_bytes=float(np.median(memory)),
            best_memory_read_bytes=max(memory),
            fp32_flops=float(np.median(fp32)),
            fp32_matmul_flops=float(np.median(matmul)),
        )
        for name, cell in cells.items()
    }
