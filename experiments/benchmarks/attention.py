"""One layer's attention over a full cache: every cell of a grid timed against the others and against the machine.

This is the processor's side; `gpu_attention` measures the same settings on a GPU.

Cells of the same batch, context, storage and pages are set up together and visited in rounds, in a new random order
each round. Before each timed call either 256 MiB of other memory are read, which measures the bandwidth of that moment
and drives the cell's data out of the processor's caches (`memory`-resident), or, where the data are a small part of
the last-level cache, the call is made once untimed (`cache`-resident).

Legend: B sequences, T query length, G cached heads.
"""

from __future__ import annotations

import gc
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..decoding.cost_model import AttentionCost
from ..decoding.cpu_library import cpu_library
from ..decoding.layout import row_layout
from ..models.shapes import AttentionShape
from .ceilings import CeilingProbe, Ceilings, measure_ceilings
from .cells import AttentionCell, Timing, cell_calls

OUR_KERNELS = ("cpu", "reference", "triton")
# What a kernel's name stands for: of several stock paths the faster one is reported.
STOCK_PATHS = {"sdpa": ("sdpa",), "flex": ("flex",), "matmul": ("matmul_query_key", "matmul_key_query")}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LEAST_ROUNDS = 3
CACHE_SHARE = 0.25  # of the last-level cache: data up to this size stay there from call to call
USUAL_CACHE_BYTES = 32 * 2**20  # where the system does not say


@dataclass(frozen=True, kw_only=True)
class AttentionSetting:
    """One cell of the grid. `mechanism` is the name to show, `threads` None torch's present number, or a GPU's none."""

    mechanism: str
    shape: AttentionShape
    batch: int
    context: int
    query_length: int
    dtype: str
    page_size: int | None
    threads: int | None
    kernel: str

    @property
    def paths(self) -> tuple[str, ...]:
        """The calls that are timed for this kernel."""
        return STOCK_PATHS.get(self.kernel, (self.kernel,))

    def cell(self) -> AttentionCell:
        """What the kernel benchmark knows of it; raises ValueError for what cannot be."""
        if self.query_length > self.context:
            raise ValueError(f"query_length={self.query_length} new tokens do not fit into context={self.context}")
        return AttentionCell(
            shape=self.shape,
            batch=self.batch,
            context_length=self.context,
            query_length=self.query_length,
            dtype=DTYPES[self.dtype],
            page_size=self.page_size,
        )

    def needed_bytes(self) -> int:
        """Memory for the cache and, for stock paths, their own keys and values (made over a copy of the rows)."""
        element, tokens = DTYPES[self.dtype].itemsize, self.batch * self.context
        cache = tokens * self.shape.cached_elements() * element
        if self.kernel in OUR_KERNELS:
            return cache
        heads, width = row_layout(self.shape).cached_heads, self.shape.absorbed_key_dim + self.shape.absorbed_value_dim
        return cache + (1 + len(self.paths)) * tokens * heads * width * element

    def labels(self) -> dict[str, Any]:
        """The columns that say which cell a row is."""
        names = ("mechanism", "batch", "context", "query_length", "dtype", "page_size", "threads", "kernel")
        return {name: getattr(self, name) for name in names}


@dataclass
class _Cell:
    """A setting that is set up: its calls, and the seconds they took."""

    setting: AttentionSetting
    cost: AttentionCost
    resident: str
    calls: dict[str, Callable[[], Any]]
    rounds: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    error: str | None = None


def measure_attention(
    settings: Sequence[AttentionSetting],
    *,
    rounds: int,
    cell_seconds: float,
    memory_share: float,
    seed: int,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[list[dict[str, Any]], dict[int, Ceilings]]:
    """A row for every setting, in their order, and the ceilings of the machine by number of threads.

    A setting that cannot be measured has `status` failed or skipped and a `reason`; the others go on.
    `progress` is called once per setting.
    """
    before = torch.get_num_threads()
    ceilings: dict[int, Ceilings] = {}
    rows: dict[int, dict[str, Any]] = {}
    try:
        for threads in dict.fromkeys(setting.threads for setting in settings):
            torch.set_num_threads(threads or before)
            present = ceilings[threads or before] = measure_ceilings()
            probe = CeilingProbe()
            own = [(number, setting) for number, setting in enumerate(settings) if setting.threads == threads]
            for block in blocks(own):
                measured = _measure_block(
                    [setting for _, setting in block],
                    present,
                    probe,
                    rounds=rounds,
                    cell_seconds=cell_seconds,
                    memory_share=memory_share,
                    seed=seed,
                    progress=progress,
                )
                rows.update(zip((number for number, _ in block), measured, strict=True))
    finally:
        torch.set_num_threads(before)
    return [rows[number] for number in range(len(settings))], ceilings


def blocks(settings: list[tuple[int, AttentionSetting]]) -> Iterable[list[tuple[int, AttentionSetting]]]:
    """What is measured side by side: all mechanisms, query lengths and kernels of one size of cache."""

    def block(numbered: tuple[int, AttentionSetting]) -> tuple[Any, ...]:
        setting = numbered[1]
        return (setting.batch, setting.context, setting.dtype, setting.page_size or 0)

    for _, group in groupby(sorted(settings, key=block), key=block):
        yield list(group)


def _measure_block(
    settings: Sequence[AttentionSetting],
    ceilings: Ceilings,
    probe: CeilingProbe,
    *,
    rounds: int,
    cell_seconds: float,
    memory_share: float,
    seed: int,
    progress: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Set up, warm up, time and let go of one block. A block larger than memory is measured part by part."""
    rows: list[dict[str, Any]] = []
    for part, budget in parts_within_memory(settings, lambda: int(memory_share * free_memory())):
        cells: list[_Cell | dict[str, Any]] = []
        for setting in part:
            progress(f"{setting.mechanism} {setting.kernel} {setting.context}")
            cells.append(_set_up(setting, budget, rounds, cell_seconds, seed))
        present = _time([cell for cell in cells if isinstance(cell, _Cell)], probe, ceilings, seed)
        rows += [cell if isinstance(cell, dict) else _row(cell, present) for cell in cells]
        cells.clear()  # the next part needs the room
    return rows


def parts_within_memory(
    settings: Sequence[AttentionSetting], memory: Callable[[], int]
) -> Iterator[tuple[list[AttentionSetting], int]]:
    """Consecutive settings that fit `memory()` bytes side by side, and those bytes, asked for anew for every part.

    A setting that is larger by itself is a member of a part too: it is left out when that is set up.
    """
    rest = list(settings)
    while rest:
        budget, needed = memory(), 0
        part: list[AttentionSetting] = []
        while rest:
            more = rest[0].needed_bytes() if rest[0].needed_bytes() <= budget else 0
            if part and needed + more > budget:
                break
            part.append(rest.pop(0))
            needed += more
        yield part, budget


def beyond_memory(setting: AttentionSetting, budget: int) -> str | None:
    """Why the setting is left out where it needs more than `budget` bytes, else None."""
    needed = setting.needed_bytes()
    if needed <= budget:
        return None
    return (
        f"needs {needed / 1e9:,.2f} GB, bench.memory_share of the free memory is {budget / 1e9:,.2f} GB: use a "
        "shorter context, a smaller batch or dtype bf16"
    )


def _set_up(
    setting: AttentionSetting, budget: int, rounds: int, cell_seconds: float, seed: int
) -> _Cell | dict[str, Any]:
    """Allocate and call everything once; where that cannot be, the row that says why."""
    try:
        cell = setting.cell()
        cost = cell.cost()
        described = setting.labels() | cost_columns(setting, cost)
        if reason := beyond_memory(setting, budget):
            return described | {"status": "skipped", "reason": reason}
        ours = [path for path in setting.paths if path in OUR_KERNELS]
        calls: dict[str, Callable[[], Any]] = dict(
            cell_calls(cell, ours, [path for path in setting.paths if path not in OUR_KERNELS], seed)
        )
        small = cost.cache_bytes <= CACHE_SHARE * last_level_cache_bytes()
        ready = _Cell(setting, cost, "cache" if small else "memory", calls)
        for path, call in calls.items():
            call()  # compiles, allocates, touches every page
            start = time.perf_counter()
            call()
            seconds = max(time.perf_counter() - start, 1e-9)
            ready.rounds[path] = int(min(rounds, max(min(LEAST_ROUNDS, rounds), cell_seconds / seconds)))
            ready.seconds[path] = []
        return ready
    except Exception as error:  # one cell's failure is its row
        message = (str(error).strip() or repr(error)).splitlines()[0]
        reason = message if isinstance(error, ValueError) else f"{type(error).__name__}: {message}"
        try:
            columns = cost_columns(setting, setting.cell().cost())
        except ValueError:
            columns = {}
        return setting.labels() | columns | {"status": "failed", "reason": reason}


def _time(cells: Sequence[_Cell], probe: CeilingProbe, ceilings: Ceilings, seed: int) -> Ceilings:
    """Fill in the seconds of all calls; returns the ceilings with the memory bandwidth of these very rounds.

    On a shared machine the bandwidth moves as the calls do, so its median stands beside theirs. What a core can
    compute or read from its cache does not move, it is only stolen at times: the best seen stays the limit.
    """
    visits = [(cell, path) for cell in cells for path in cell.calls]
    order = random.Random(seed)
    bandwidths: list[float] = []
    gc.disable()
    try:
        for number in range(max((max(cell.rounds.values()) for cell in cells), default=0)):
            order.shuffle(visits)
            for cell, path in visits:
                if number >= cell.rounds[path] or cell.error:
                    continue
                call = cell.calls[path]
                try:
                    if cell.resident == "memory":
                        bandwidths.append(probe.memory_read())
                    else:
                        call()
                    start = time.perf_counter()
                    call()
                    cell.seconds[path].append(time.perf_counter() - start)
                except Exception as error:
                    cell.error = f"{type(error).__name__}: {error}"
    finally:
        gc.enable()
    return replace(ceilings, memory_read_bytes=float(np.median(bandwidths))) if bandwidths else ceilings


def _row(cell: _Cell, ceilings: Ceilings) -> dict[str, Any]:
    setting, cost = cell.setting, cell.cost
    row = setting.labels() | cost_columns(setting, cost) | {"residence": cell.resident}
    if cell.error:
        return row | {"status": "failed", "reason": cell.error}
    path = min(cell.seconds, key=lambda name: float(np.median(cell.seconds[name])))
    timing = Timing.of(cell.seconds[path])
    bandwidth = ceilings.cache_read_bytes if cell.resident == "cache" else ceilings.memory_read_bytes
    floor = cost.floor_seconds(bandwidth, ceilings.fp32_flops)
    return row | {
        "status": "measured",
        "path": "reference" if path == "cpu" and cpu_library() is None else path,
        "runs": len(cell.seconds[path]),
        "seconds": timing.median,
        "seconds_q1": timing.lower_quartile,
        "seconds_q3": timing.upper_quartile,
        "seconds_best": timing.best,
        "bandwidth": bandwidth,
        "peak_flops": ceilings.fp32_flops,
        "floor_seconds": floor,
        "bound": "memory" if cost.is_memory_bound(bandwidth, ceilings.fp32_flops) else "compute",
        "fraction_of_limit": floor / timing.median,
        "tokens_per_second": setting.batch * setting.query_length / timing.median,
        "gigabytes_per_second": cost.bytes / timing.median / 1e9,
        "gigaflops_per_second": cost.flops / timing.median / 1e9,
        "load_average": os.getloadavg()[0],
    }


def cost_columns(setting: AttentionSetting, cost: AttentionCost) -> dict[str, Any]:
    return {
        "query_heads": setting.shape.query_heads,
        "head_dim": setting.shape.head_dim,
        "cached_elements": setting.shape.cached_elements(),
        "cache_bytes": cost.cache_bytes,
        "bytes": cost.bytes,
        "flops": cost.flops,
        "intensity": cost.arithmetic_intensity,
    }


def free_memory() -> int:
    """Bytes that can be allocated without swapping."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def last_level_cache_bytes() -> int:
    """Size of the processor's last-level cache."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        sizes.append(int(text[:-1]) * {"K": 2**10, "M": 2**20}.get(text[-1], 1))
    return max(sizes, default=USUAL_CACHE_BYTES)
