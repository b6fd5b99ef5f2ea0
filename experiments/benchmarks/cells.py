"""One attention step of one layer, timed: our kernels and the stock paths side by side, beside the machine's limit.

Everything of a cell is timed in one process, in rounds of random order, ceilings included: each round times every
call once, so that what disturbs the machine disturbs all of them. Legend: B sequences, T query length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..decoding.attention import attend
from ..decoding.cache import DecodeCache
from ..decoding.cost_model import AttentionCost, attention_cost
from ..models.shapes import AttentionShape
from .stock_paths import stock_calls


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
