"""One layer's attention over a full cache on a processor: every cell timed against the others and the machine's limit.

Cells of the same batch, context, storage and pages are set up together and visited in rounds, in a new random order
each round. Before each timed call either 256 MiB of other memory are read, which measures the bandwidth of that moment
and drives the cell's data out of the processor's caches (`memory`-resident), or, where the data are a small part of
the last-level cache, the call is made once untimed (`cache`-resident).

Legend: B sequences, T query length.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..decoding.attention import attend
from ..decoding.cache import DecodeCache
from .ceilings import CACHE_SHARE, CeilingProbe, Ceilings, free_memory, last_level_cache_bytes, measure_ceilings
from .cells import (
    OUR_KERNELS,
    AttentionCell,
    Row,
    beyond_memory,
    blocks,
    failure_reason,
    parts_within_memory,
    threads_kept,
)
from .stock_calls import stock_calls

LEAST_ROUNDS = 3


@dataclass
class _Ready:
    """A cell that is set up: its calls, how often each is to be timed, the seconds they took."""

    cell: AttentionCell
    row: Row
    resident: str
    calls: dict[str, Callable[[], Tensor]] = field(default_factory=dict)
    rounds: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)


def measure_attention(
    cells: Sequence[AttentionCell],
    *,
    rounds: int,
    cell_seconds: float,
    memory_share: float,
    seed: int,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[list[Row], dict[int, Ceilings]]:
    """A row for every cell, in their order, and the ceilings of the machine by number of threads.

    A cell that cannot be measured has `status` failed or skipped and a `reason`; the others go on. `progress` is
    called once per cell. A slow cell gets fewer than `rounds`, so that it takes about `cell_seconds`.
    """
    ceilings: dict[int, Ceilings] = {}
    rows: dict[int, Row] = {}
    with threads_kept() as before:
        for threads in dict.fromkeys(cell.threads for cell in cells):
            torch.set_num_threads(threads or before)
            present = ceilings[threads or before] = measure_ceilings()
            probe = CeilingProbe()
            for block in blocks((number, cell) for number, cell in enumerate(cells) if cell.threads == threads):
                measured: list[Row] = []
                parts = parts_within_memory([cell for _, cell in block], lambda: int(memory_share * free_memory()))
                for part, budget in parts:
                    set_up = []
                    for cell in part:
                        progress(f"{cell.mechanism} {cell.kernel} {cell.context}")
                        set_up.append(_set_up(cell, budget, rounds, cell_seconds, seed))
                    _time([ready for ready in set_up if ready.calls], probe, present, seed)
                    measured += [ready.row for ready in set_up]
                rows.update(zip((number for number, _ in block), measured, strict=True))
    return [rows[number] for number in range(len(cells))], ceilings


def _set_up(cell: AttentionCell, budget: int, rounds: int, cell_seconds: float, seed: int) -> _Ready:
    """Allocate, and call everything twice; where that fails there are no calls, and the row says why."""
    ready = _Ready(cell, cell.labels(), "memory")
    try:
        ready.row |= cell.cost_columns()
        if reason := beyond_memory(cell, budget):
            ready.row |= {"status": "skipped", "reason": reason}
            return ready
        if cell.cost().cache_bytes <= CACHE_SHARE * last_level_cache_bytes():
            ready.resident = "cache"
        calls = cell_calls(cell, seed)
        for name, call in calls.items():
            call()  # compiles, allocates, touches every page
            seconds = max(_seconds(call), 1e-9)
            ready.rounds[name] = int(min(rounds, max(min(LEAST_ROUNDS, rounds), cell_seconds / seconds)))
            ready.seconds[name] = []
        ready.calls = calls
    except Exception as error:  # one cell's failure is its row
        ready.row |= {"status": "failed", "reason": failure_reason(error)}
    return ready


def cell_calls(cell: AttentionCell, seed: int = 0) -> dict[str, Callable[[], Tensor]]:
    """The calls of a cell's kernel by name, on a filled cache and random queries [B, T, H, d_k]."""
    generator = torch.Generator().manual_seed(seed)
    cache = DecodeCache(
        cell.shape,
        layers=1,
        batch_size=cell.batch,
        max_length=cell.context,
        page_size=cell.page_size,
        dtype=cell.storage,
    )
    step = cache.reserve(cell.context)
    layer = step.layer(0)
    row = torch.randn(layer.storage.shape[1:], generator=generator)
    for page in layer.storage:  # the same values on every page: timing does not depend on them, filling takes time
        page.copy_(row)
    size = (cell.batch, cell.query_length, cell.shape.query_heads, cell.shape.absorbed_key_dim)
    queries = torch.randn(size, generator=generator)
    if cell.kernel in OUR_KERNELS:
        return {cell.kernel: partial(attend, cell.shape, queries, layer, step.lengths, kernel=cell.kernel)}
    return stock_calls(cell.calls, cell.shape, queries, layer, cell.context)


def _time(cells: Sequence[_Ready], probe: CeilingProbe, ceilings: Ceilings, seed: int) -> None:
    """Time all calls and complete the rows, beside the memory bandwidth of these very rounds.

    On a shared machine the bandwidth moves as the calls do, so its median stands beside theirs. What a core can
    compute or read from its cache does not move, it is only stolen at times: the best seen stays the limit.
    """
    visits = [(ready, name) for ready in cells for name in ready.calls]
    order = random.Random(seed)
    bandwidths: list[float] = []
    gc.disable()
    try:
        for number in range(max((max(ready.rounds.values()) for ready in cells), default=0)):
            order.shuffle(visits)
            for ready, name in visits:
                if number >= ready.rounds[name] or "reason" in ready.row:
                    continue
                try:
                    if ready.resident == "memory":
                        bandwidths.append(probe.memory_read())
                    else:
                        ready.calls[name]()
                    ready.seconds[name].append(_seconds(ready.calls[name]))
                except Exception as error:
                    ready.row |= {"status": "failed", "reason": failure_reason(error)}
    finally:
        gc.enable()
    if bandwidths:
        ceilings = replace(ceilings, memory_read_bytes=float(np.median(bandwidths)))
    for ready in cells:
        ready.row |= {"residence": ready.resident}
        if "reason" in ready.row:
            continue
        fastest = min(ready.seconds, key=lambda name: float(np.median(ready.seconds[name])))
        bandwidth = ceilings.cache_read_bytes if ready.resident == "cache" else ceilings.memory_read_bytes
        ready.row |= ready.cell.speed_columns(ready.seconds[fastest], bandwidth, ceilings.fp32_flops)
        ready.row |= {"path": fastest}


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
