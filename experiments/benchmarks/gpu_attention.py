"""One layer's attention over a full cache on a GPU: the settings of `attention`, timed by CUDA graphs and events.

The cells of one size of cache are set up together, checked against an fp64 reference, captured as CUDA graphs and
visited in rounds of random order; before every timed run the L2 cache is overwritten. Rows have the columns of the
processor's, and in addition `worst_row_error`, `cuda_graph` (False: the call could not be captured, and its time holds
what launching costs) and `peak_name`, the arithmetic that `peak_flops` was measured in.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from .attention import AttentionSetting, beyond_memory, blocks, cost_columns, parts_within_memory
from .gpu import PEAK_NAMES, Gpu, OnGpu
from .gpu_machine import GpuCeilings
from .gpu_speed import SpeedCell, failure_reason, measure_group

Row = dict[str, Any]
KEPT = (  # of what the speed cells report, under the same name
    *("runs", "seconds", "seconds_q1", "seconds_q3", "seconds_best", "floor_seconds", "bound", "fraction_of_limit"),
    *("gigabytes_per_second", "worst_row_error", "cuda_graph"),
)


def measure_attention_on_gpu(
    settings: Sequence[AttentionSetting],
    on_gpu: OnGpu,
    *,
    rounds: int,
    cell_seconds: float,
    memory_share: float,
    seed: int,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """A row for every setting, in their order.

    A setting that cannot be measured has `status` failed or skipped and a `reason`; the others go on. `progress` is
    called once per setting.
    """
    gpu, ceilings = on_gpu.gpu, on_gpu.ceilings
    rows: dict[int, Row] = {}
    for block in blocks(list(enumerate(settings))):
        measured: list[Row] = []
        parts = parts_within_memory([setting for _, setting in block], lambda: int(memory_share * gpu.free_memory()))
        for part, budget in parts:
            measured += _measure_part(part, budget, gpu, ceilings, rounds, cell_seconds, seed, progress)
        rows.update(zip((number for number, _ in block), measured, strict=True))
    return [rows[number] for number in range(len(settings))]


def _measure_part(
    settings: Sequence[AttentionSetting],
    budget: int,
    gpu: Gpu,
    ceilings: GpuCeilings,
    rounds: int,
    cell_seconds: float,
    seed: int,
    progress: Callable[[str], None],
) -> list[Row]:
    """Settings that fit the device's memory together."""
    from ..decoding.triton_attend import triton_attend  # here: importing this module needs no triton

    rows: list[Row] = []
    group: list[SpeedCell] = []
    places: list[list[int]] = []  # of the calls of each setting in the group; a stock kernel has several
    for setting in settings:
        progress(f"{setting.mechanism} {setting.kernel} {setting.context}")
        row = setting.labels()
        places.append([])
        rows.append(row)
        try:
            cell = setting.cell()
            row |= cost_columns(setting, cell.cost())
        except ValueError as error:
            row |= {"status": "failed", "reason": str(error)}
            continue
        if reason := beyond_memory(setting, budget):
            row |= {"status": "skipped", "reason": reason}
            continue
        for path in setting.paths:
            places[-1].append(len(group))
            group.append(SpeedCell(name=setting.mechanism, kernel=path, cell=cell))
    try:
        found = measure_group(
            group,
            attend=triton_attend,
            timer=gpu.timer,
            ceilings=ceilings,
            device=gpu.device,
            seed=seed,
            most_rounds=rounds,
            seconds=cell_seconds * len(group),
        )
    except Exception as error:  # the device is in doubt: nothing of the part counts
        found = [cell.labels() | {"status": "failed", "reason": failure_reason(error)} for cell in group]
    gpu.release()
    return [
        row | _columns(setting, [found[place] for place in own], ceilings) if own else row
        for setting, row, own in zip(settings, rows, places, strict=True)
    ]


def _columns(setting: AttentionSetting, calls: Sequence[Row], ceilings: GpuCeilings) -> Row:
    """Of several calls the fastest counts."""
    measured = [call for call in calls if call["status"] == "measured"]
    if not measured:
        return {"status": "failed", "reason": calls[0]["reason"]}
    best = min(measured, key=lambda call: call["seconds"])
    return {name: best[name] for name in KEPT} | {
        "status": "measured",
        "path": best["kernel"],
        "residence": "memory",
        "bandwidth": ceilings.memory_bytes,
        "peak_flops": ceilings.matmul_flops(setting.cell().dtype),
        "peak_name": PEAK_NAMES[setting.dtype],
        "tokens_per_second": setting.batch * setting.query_length / best["seconds"],
        "gigaflops_per_second": 1e3 * best["teraflops_per_second"],
        "load_average": os.getloadavg()[0],
    }
