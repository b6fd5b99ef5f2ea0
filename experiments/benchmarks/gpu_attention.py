"""One layer's attention over a full cache on a GPU, checked, and timed by CUDA graphs and events.

The cells of one size of cache are set up together, checked against an fp64 reference, captured as CUDA graphs and
visited in rounds of random order; before every timed run the L2 cache is overwritten. Pages are scrambled. Rows have
the columns of the processor's, and in addition `worst_row_error`, `cuda_graph` (False: the call could not be captured,
and its time holds what launching costs) and `peak_name`, the arithmetic that `peak_flops` was measured in.

Legend: B sequences, T query length, L context, E elements of a cache row.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import TypeVar

import torch
from torch import Tensor

from ..decoding.attention import attend
from ..decoding.cache import CacheLayer
from .cells import OUR_KERNELS, AttentionCell, Row, beyond_memory, blocks, failure_reason, parts_within_memory
from .gpu import PEAK_NAMES, Call, OnGpu, Timer
from .gpu_parity import grouped_reference, random_queries, worst_row_error
from .stock_calls import stock_calls

Key = TypeVar("Key", bound=Hashable)

LEAST_ROUNDS = 5
WORST_ROW_ERROR = 1e-2  # bf16: beyond this a time means nothing
STOCK_WORST_ROW_ERROR = 5e-2  # torch's own calls round scores and probabilities to the storage's type on the way


def measure_attention_on_gpu(
    cells: Sequence[AttentionCell],
    on_gpu: OnGpu,
    *,
    rounds: int,
    cell_seconds: float,
    memory_share: float,
    seed: int,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """A row for every cell, in their order.

    A cell that cannot be measured has `status` failed or skipped and a `reason`; the others go on. `progress` is
    called once per cell.
    """
    rows: dict[int, Row] = {}
    for block in blocks(enumerate(cells)):
        measured: list[Row] = []
        memory = lambda: int(memory_share * on_gpu.gpu.free_memory())  # noqa: E731
        for part, budget in parts_within_memory([cell for _, cell in block], memory):
            for cell in part:
                progress(f"{cell.mechanism} {cell.kernel} {cell.context}")
            measured += measure_side_by_side(
                part, on_gpu, rounds=rounds, seconds=cell_seconds * len(part), seed=seed, budget=budget
            )
        rows.update(zip((number for number, _ in block), measured, strict=True))
    return [rows[number] for number in range(len(cells))]


def measure_side_by_side(
    cells: Sequence[AttentionCell],
    on_gpu: OnGpu,
    *,
    rounds: int,
    seconds: float,
    seed: int = 0,
    budget: int | None = None,
) -> list[Row]:
    """A row for every cell, timed in the same rounds; those of one mechanism and size share a storage.

    About `seconds` of timed calls are spent on all cells together: slow ones get fewer than `rounds`. Cells of more
    than `budget` bytes are left out.
    """
    storages: dict[str, Tensor] = {}
    rows: list[Row] = []
    ready: dict[tuple[int, str], Call] = {}
    for number, cell in enumerate(cells):
        row = cell.labels()
        rows.append(row)
        try:
            row |= cell.cost_columns()
            if budget is not None and (reason := beyond_memory(cell, budget)):
                row |= {"status": "skipped", "reason": reason}
                continue
            if cell.mechanism not in storages:
                storages[cell.mechanism] = random_rows(cell, on_gpu.gpu.device, seed)
        except Exception as error:  # one cell's failure is its row
            row |= {"status": "failed", "reason": failure_reason(error)}
            continue
        for name in cell.calls:
            try:
                call, error_of_call = _checked_call(cell, name, storages[cell.mechanism], seed)
                row["worst_row_error"] = max(error_of_call, row.get("worst_row_error", 0.0))
                ready[number, name], row["cuda_graph"] = on_gpu.gpu.timer.prepare(call)
            except Exception as error:
                row |= {"status": "failed", "reason": failure_reason(error)}
    try:
        times = time_in_turns(ready, on_gpu.gpu.timer, rounds=rounds, seconds=seconds, seed=seed)
    except Exception as error:  # the device is in doubt: nothing of these cells counts
        for number, _ in ready:
            rows[number] |= {"status": "failed", "reason": failure_reason(error)}
        times = {}
    for number, cell in enumerate(cells):
        own = {name: times[number, name] for name in cell.calls if (number, name) in times}
        if own:  # of several calls the fastest counts
            rows[number].pop("reason", None)
            fastest = min(own, key=lambda name: median(own[name]))
            ceilings = on_gpu.ceilings
            peak = ceilings.matmul_flops(cell.storage)
            rows[number] |= cell.speed_columns(own[fastest], ceilings.memory_bytes, peak)
            rows[number] |= {"path": fastest, "residence": "memory", "peak_name": PEAK_NAMES[cell.dtype]}
    del storages, ready
    on_gpu.gpu.release()
    return rows


def _checked_call(cell: AttentionCell, name: str, rows: Tensor, seed: int) -> tuple[Call, float]:
    """The call, and its error on the first and the last sequence. Raises ArithmeticError for a wrong result."""
    shape, device = cell.shape, rows.device
    cache = full_cache(cell, rows, seed)
    queries = random_queries(shape, cell.batch, cell.query_length, cell.storage, device, seed)
    lengths = torch.full((cell.batch,), cell.context, dtype=torch.int32, device=device)
    if name in OUR_KERNELS:
        call: Callable[[], Tensor] = partial(attend, shape, queries, cache, lengths, kernel=name)
        outputs, tolerance = call(), WORST_ROW_ERROR
    else:
        call = stock_calls([name], shape, queries, cache, cell.context)[name]
        outputs, tolerance = call().transpose(1, 2), STOCK_WORST_ROW_ERROR
    checked = [0, cell.batch - 1]
    few = CacheLayer(cache.storage, cache.page_table[checked])
    expected = grouped_reference(shape, queries[checked], few, [cell.context] * len(checked))
    error = worst_row_error(outputs[checked], expected)
    if error > tolerance:
        raise ArithmeticError(f"worst_row_error is {error:.1e}: the result is wrong")
    return call, error


def random_rows(cell: AttentionCell, device: torch.device, seed: int = 0) -> Tensor:
    """[B * L, E] of unit variance, in the cell's type."""
    generator = torch.Generator(device).manual_seed(seed)
    size = (cell.batch * cell.context, cell.shape.cached_elements())
    return torch.empty(size, dtype=cell.storage, device=device).normal_(generator=generator)


def full_cache(cell: AttentionCell, rows: Tensor, seed: int = 0) -> CacheLayer:
    """The rows as pages that sequences hold in random order; a contiguous cache where there is no page size."""
    size = cell.page_size or cell.context
    if cell.context % size:
        raise ValueError(f"context={cell.context} is not a whole number of pages of {size} tokens")
    generator = torch.Generator(rows.device).manual_seed(seed)
    pages = rows.shape[0] // size
    order = torch.randperm(pages, generator=generator, device=rows.device, dtype=torch.int64).int()
    return CacheLayer(rows.view(pages, size, rows.shape[1]), order.view(cell.batch, -1))


def time_in_turns(
    calls: Mapping[Key, Call], timer: Timer, *, rounds: int, seconds: float, seed: int = 0
) -> dict[Key, list[float]]:
    """Seconds of single runs of every call, in rounds of random order: at least five, then as `seconds` allow."""
    times: dict[Key, list[float]] = {key: [] for key in calls}
    once = sum(timer.seconds(call) for call in calls.values())
    order, keys = random.Random(seed), list(calls)
    for _ in range(int(min(rounds, max(LEAST_ROUNDS, seconds / max(once, 1e-9))))):
        order.shuffle(keys)
        for key in keys:
            times[key].append(timer.seconds(calls[key]))
    return times
