"""The attention paper's kernel cells on a GPU: pairs of mechanisms, page sizes and baselines, timed side by side.

A group is what is timed in the same rounds, in a new random order each round: two mechanisms that the paper compares,
at page size 64 and at page size 1, at one context and query length. Pages are scrambled; at page size 1 every token is.
Baselines have groups of their own beside the same kernel, for they need their keys and values a second time.

Legend: B sequences, T query length, L context, E elements of a cache row.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..decoding.cache import CacheLayer
from ..models.shapes import LATENT, AttentionShape
from .cells import AttentionCell, Timing
from .gpu_machine import GpuCeilings, Timer
from .gpu_parity import grouped_reference, paper_shapes, random_queries, worst_row_error
from .stock_paths import STOCK_PATHS, stock_calls

PAPER_BATCH = 128
PAPER_PAIRS = (("gla-2", "mla"), ("gta-8", "gqa-8"))  # the first is the claim, the second what it is compared with
PAPER_CONTEXTS = (8192, 1024, 32768, 2048, 65536, 4096, 16384)  # the most telling first: time may run out
PAGE_SIZES = (64, 1)
QUERY_LENGTHS = (1, 2)
BASELINE_CONTEXTS = {"baseline": (4096, 16384), "sdpa": (4096, 16384), "flex": (4096,), "flashinfer_mla": (4096, 16384)}
MOST_ROUNDS, LEAST_ROUNDS = 25, 5
GROUP_SECONDS = 1.5  # of timed calls, once everything is compiled
WORST_ROW_ERROR = 1e-2  # bf16: beyond this a time means nothing
STOCK_WORST_ROW_ERROR = 5e-2  # torch's own paths round scores and probabilities to the storage's type on the way

Attend = Callable[..., Tensor]


@dataclass(frozen=True, kw_only=True)
class SpeedCell:
    """One kernel on one cache."""

    name: str
    kernel: str  # triton, or what it is held against: `baseline` is the straightforward kernel of ours
    cell: AttentionCell

    def labels(self) -> dict[str, Any]:
        """The columns that say which cell a row is."""
        cell, cost = self.cell, self.cell.cost()
        return {
            "mechanism": self.name,
            "kernel": self.kernel,
            "batch": cell.batch,
            "query_heads": cell.shape.query_heads,
            "head_dim": cell.shape.head_dim,
            "context": cell.context_length,
            "query_length": cell.query_length,
            "page_size": cell.page_size,
            "dtype": str(cell.dtype).removeprefix("torch."),
            "cache_bytes": cost.cache_bytes,
            "bytes": cost.bytes,
            "flops": cost.flops,
        }


def paper_cell(shape: AttentionShape, batch: int, context: int, query_length: int, page_size: int) -> AttentionCell:
    """A cell in the paper's storage, bf16."""
    return AttentionCell(
        shape=shape,
        batch=batch,
        context_length=context,
        query_length=query_length,
        dtype=torch.bfloat16,
        page_size=page_size,
    )


def paper_groups(
    head_dim: int = 128, batch: int = PAPER_BATCH, contexts: Sequence[int] = PAPER_CONTEXTS
) -> list[list[SpeedCell]]:
    """The paper-match cells, group by group; nothing is allocated."""
    shapes = paper_shapes(head_dim)
    return [
        [
            SpeedCell(
                name=name,
                kernel="triton",
                cell=paper_cell(shapes[name], batch, context, query_length, page_size),
            )
            for name in pair
            for page_size in PAGE_SIZES
        ]
        for context in contexts
        for query_length in QUERY_LENGTHS
        for pair in PAPER_PAIRS
    ]


def baseline_groups(head_dim: int = 128, batch: int = PAPER_BATCH) -> list[list[SpeedCell]]:
    """Each mechanism's kernel beside what else can compute the cell; one group for a baseline, so that one may fail."""
    groups = []
    for baseline, contexts in BASELINE_CONTEXTS.items():
        for context in contexts:
            for query_length in QUERY_LENGTHS:
                for name, shape in paper_shapes(head_dim).items():
                    if baseline == "flashinfer_mla" and name != "mla":
                        continue
                    cell = paper_cell(shape, batch, context, query_length, page_size=64)
                    groups.append([SpeedCell(name=name, kernel=kernel, cell=cell) for kernel in ("triton", baseline)])
    return groups


def measure_group(
    group: Sequence[SpeedCell],
    *,
    attend: Attend,
    timer: Timer,
    ceilings: GpuCeilings,
    device: torch.device,
    seed: int = 0,
    most_rounds: int = MOST_ROUNDS,
    seconds: float = GROUP_SECONDS,
) -> list[dict[str, Any]]:
    """A row for every cell, in order; one that cannot be measured has `status` failed and a `reason`.

    `seconds` of timed calls are meant for the whole group: it gets fewer than `most_rounds` where they are slow.
    """
    storages: dict[str, Tensor] = {}
    rows: list[dict[str, Any]] = []
    ready: dict[int, Callable[[], object]] = {}
    for number, cell in enumerate(group):
        row = cell.labels()
        rows.append(row)
        try:
            call, error = _set_up(cell, storages, attend, device, seed)
            row["worst_row_error"] = error
            if error > (STOCK_WORST_ROW_ERROR if cell.kernel in STOCK_PATHS else WORST_ROW_ERROR):
                raise ArithmeticError(f"worst_row_error is {error:.1e}: the result is wrong")
            ready[number], row["cuda_graph"] = timer.prepare(call)
        except Exception as error:  # one cell's failure is its row
            row |= {"status": "failed", "reason": failure_reason(error)}
    try:
        timings = time_side_by_side(ready, timer, seed, most_rounds=most_rounds, seconds=seconds)
    except Exception as error:  # the device is in doubt: nothing of the group counts
        for number in ready:
            rows[number] |= {"status": "failed", "reason": failure_reason(error)}
        return rows
    for number, (timing, runs) in timings.items():
        rows[number] |= speed_columns(group[number].cell, timing, ceilings) | {"runs": runs}
    return rows


def _set_up(
    cell: SpeedCell, storages: dict[str, Tensor], attend: Attend, device: torch.device, seed: int
) -> tuple[Callable[[], Tensor], float]:
    """The call, and its error on the first and the last sequence; cells of one mechanism share the storage."""
    problem, shape = cell.cell, cell.cell.shape
    if cell.name not in storages:
        storages[cell.name] = random_rows(problem, device, seed)
    cache = full_cache(problem, storages[cell.name], seed)
    queries = random_queries(shape, problem.batch, problem.query_length, problem.dtype, device, seed)
    lengths = torch.full((problem.batch,), problem.context_length, dtype=torch.int32, device=device)
    if cell.kernel == "triton":
        call: Callable[[], Tensor] = partial(attend, shape, queries, cache, lengths)
    elif cell.kernel == "baseline":
        from .triton_baseline import baseline_attend  # here: importing this module needs no triton

        call = partial(baseline_attend, shape, queries, cache, lengths)
    elif cell.kernel in STOCK_PATHS:
        stock = stock_calls([cell.kernel], shape, queries, cache, problem.context_length)[cell.kernel]
        call = lambda: stock().transpose(1, 2)  # noqa: E731
    else:
        call = _flashinfer_mla(problem, queries, cache, lengths)
    checked = [0, problem.batch - 1]
    few = CacheLayer(cache.storage, cache.page_table[checked])
    expected = grouped_reference(shape, queries[checked], few, [problem.context_length] * len(checked))
    return call, worst_row_error(call()[checked], expected)


def random_rows(problem: AttentionCell, device: torch.device, seed: int = 0) -> Tensor:
    """[B * L, E] of unit variance, in the cell's type."""
    generator = torch.Generator(device).manual_seed(seed)
    rows = torch.empty(
        problem.batch * problem.context_length, problem.shape.cached_elements(), dtype=problem.dtype, device=device
    )
    return rows.normal_(generator=generator)


def full_cache(problem: AttentionCell, rows: Tensor, seed: int = 0) -> CacheLayer:
    """The rows as pages that sequences hold in random order; a contiguous cache where there is no page size."""
    size = problem.page_size or problem.context_length
    if problem.context_length % size:
        raise ValueError(f"context={problem.context_length} is not a whole number of pages of {size} tokens")
    generator = torch.Generator(rows.device).manual_seed(seed)
    pages = rows.shape[0] // size
    order = torch.randperm(pages, generator=generator, device=rows.device, dtype=torch.int64).int()
    return CacheLayer(rows.view(pages, size, rows.shape[1]), order.view(problem.batch, -1))


def time_side_by_side(
    calls: Mapping[int, Callable[[], object]],
    timer: Timer,
    seed: int = 0,
    *,
    most_rounds: int = MOST_ROUNDS,
    seconds: float = GROUP_SECONDS,
) -> dict[int, tuple[Timing, int]]:
    """Timings and numbers of runs, measured in rounds of random order."""
    times: dict[int, list[float]] = {key: [] for key in calls}
    once = sum(timer.seconds(call) for call in calls.values())
    rounds = int(min(most_rounds, max(LEAST_ROUNDS, seconds / max(once, 1e-9))))
    order, keys = random.Random(seed), list(calls)
    for _ in range(rounds):
        order.shuffle(keys)
        for key in keys:
            times[key].append(timer.seconds(calls[key]))
    return {key: (Timing.of(of_call), rounds) for key, of_call in times.items()}


def speed_columns(problem: AttentionCell, timing: Timing, ceilings: GpuCeilings) -> dict[str, Any]:
    """What a time means beside the device's limits; every cached byte counts once."""
    cost = problem.cost()
    limits = (ceilings.memory_bytes, ceilings.matmul_flops(problem.dtype))
    floor = cost.floor_seconds(*limits)
    return {
        "status": "measured",
        "seconds": timing.median,
        "seconds_q1": timing.lower_quartile,
        "seconds_q3": timing.upper_quartile,
        "seconds_best": timing.best,
        "gigabytes_per_second": cost.bytes / timing.median / 1e9,
        "teraflops_per_second": cost.flops / timing.median / 1e12,
        "fraction_of_bandwidth": cost.bytes / timing.median / limits[0],
        "fraction_of_matmul": cost.flops / timing.median / limits[1],
        "floor_seconds": floor,
        "fraction_of_limit": floor / timing.median,
        "bound": "memory" if cost.is_memory_bound(*limits) else "compute",
    }


def failure_reason(error: Exception) -> str:
    """One line for a row."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no message'}"


def _flashinfer_mla(
    problem: AttentionCell, queries: Tensor, cache: CacheLayer, lengths: Tensor
) -> Callable[[], Tensor]:
    """FlashInfer's MLA over the same pages; it wants latent and RoPE key as two tensors, and queries in their type."""
    try:
        from flashinfer.mla import BatchMLAPagedAttentionWrapper
    except ImportError as error:
        raise ImportError(f"FlashInfer cannot be imported ({error})") from None
    shape, batch, query_length = problem.shape, problem.batch, problem.query_length
    if shape.mechanism not in LATENT or shape.latent_heads != 1:
        raise ValueError(f"FlashInfer's MLA has one latent head, {shape.mechanism} has others")
    latent, rope = (part.contiguous() for part in cache.storage.split([shape.latent_dim, shape.rope_dim], dim=-1))
    device, pages = queries.device, cache.page_table.shape[1]
    wrapper = BatchMLAPagedAttentionWrapper(torch.empty(256 * 2**20, dtype=torch.int8, device=device))
    counts = torch.arange(batch + 1, dtype=torch.int32, device=device)
    wrapper.plan(
        *(counts * query_length, counts * pages, cache.page_table.flatten(), lengths),
        *(shape.query_heads, shape.latent_dim, shape.rope_dim, cache.storage.shape[1], query_length > 1),
        *(shape.softmax_scale, problem.dtype, problem.dtype),
    )
    packed = queries.to(problem.dtype).flatten(0, 1)  # [B * T, H, K]
    absorbed, rotated = (part.contiguous() for part in packed.split([shape.latent_dim, shape.rope_dim], dim=-1))
    return lambda: wrapper.run(absorbed, rotated, latent, rope).unflatten(0, (batch, query_length))
