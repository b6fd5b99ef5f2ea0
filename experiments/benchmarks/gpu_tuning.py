"""Alternatives to the table of block sizes, measured on the attention paper's layers: what to write into the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from ..decoding.triton_blocks import alternatives
from .gpu_machine import GpuCeilings, Timer
from .gpu_parity import grouped_reference, paper_shapes, random_queries, worst_row_error
from .gpu_speed import (
    PAPER_BATCH,
    QUERY_LENGTHS,
    WORST_ROW_ERROR,
    failure_reason,
    full_cache,
    paper_cell,
    random_rows,
    speed_columns,
    time_side_by_side,
)

TUNING_CONTEXT = 8192
TUNING_PAGE_SIZE = 64


def measure_blocks(
    timer: Timer,
    ceilings: GpuCeilings,
    device: torch.device,
    spent: Callable[[], bool],
    report: Callable[[str], None],
    *,
    batch: int = PAPER_BATCH,
    context: int = TUNING_CONTEXT,
) -> list[dict[str, Any]]:
    """A row for every alternative that runs, the fastest of a cell first; the table's own entry has `in_table`."""
    from ..decoding.triton_attend import first_blocks, triton_attend  # here: importing this module needs no triton

    rows: list[dict[str, Any]] = []
    for name, shape in paper_shapes().items():
        for query_length in QUERY_LENGTHS:
            if spent():
                break
            cell = paper_cell(shape, batch, context, query_length, TUNING_PAGE_SIZE)
            cache = full_cache(cell, random_rows(cell, device))
            queries = random_queries(shape, batch, query_length, cell.dtype, device)
            lengths = torch.full((batch,), context, dtype=torch.int32, device=device)
            expected = grouped_reference(shape, queries[:1], cache, [context])
            entry = first_blocks(shape, queries, cache)
            of_cell, ready = [], {}
            for number, blocks in enumerate(alternatives(entry)):
                row = {"mechanism": name, "query_length": query_length, "in_table": blocks == entry, **asdict(blocks)}
                of_cell.append(row)
                call = partial(triton_attend, shape, queries, cache, lengths, blocks=blocks)
                try:
                    row["worst_row_error"] = worst_row_error(call()[:1], expected)
                    if row["worst_row_error"] > WORST_ROW_ERROR:
                        raise ArithmeticError("the result is wrong")
                    ready[number], _ = timer.prepare(call)
                except Exception as error:  # too large for the device, most often
                    row |= {"status": "failed", "reason": failure_reason(error)}
            for number, (timing, runs) in time_side_by_side(ready, timer).items():
                of_cell[number] |= speed_columns(cell, timing, ceilings) | {"runs": runs}
            of_cell.sort(key=lambda row: row.get("seconds", float("inf")))
            report(f"tuning {name} query_length={query_length}: {_words(of_cell[0])}")
            rows += of_cell
    return rows


def _words(row: dict[str, Any]) -> str:
    if "seconds" not in row:
        return "nothing ran"
    return f"{row['seconds'] * 1e6:.0f} us with {row['rows']} rows, {row['tokens']} tokens, {row['warps']} warps, " + (
        f"depth {row['depth']}, {row['fraction_of_limit']:.2f} of the limit"
    )
