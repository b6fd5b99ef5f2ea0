"""`rl-exp bench parallel=tensor` under torchrun: one layer's attention split over the ranks, beside the whole layer."""

from __future__ import annotations

from itertools import product
from typing import Any

from rich.table import Table

from conf.bench_config import BenchConfig
from conf.run_config import Device
from experiments.bench_records import log_rows
from experiments.benchmarks.device_bytes import bytes_per_device
from experiments.benchmarks.tensor_parallel import ShardedSetting, measure_sharded
from experiments.models.shapes import AttentionShape
from experiments.runs.run import Run

# Column of a row -> its name on the screen; a storage type needs none.
SETTINGS = {"context": "context", "batch": "batch", "query_length": "query length", "dtype": "", "kernel": "kernel"}


def bench_tensor_parallel(
    config: BenchConfig, run: Run, shapes: dict[str, AttentionShape], paper: dict[str, AttentionShape]
) -> dict[str, Any]:
    """Measure on all ranks, print and record on the first. Raises RuntimeError where bytes are not the predicted."""
    grid = config.bench
    run.resume_metrics(0)
    rows: list[dict[str, Any]] = []
    cells = list(
        product(grid.context, grid.dtype, grid.query_length, grid.batch, shapes.items(), config.kernels(Device.cpu))
    )
    with run.progress("tensor parallel", len(cells)) as bar:
        for context, dtype, query_length, batch, (name, shape), kernel in cells:
            setting = ShardedSetting(
                mechanism=name,
                shape=shape,
                batch=batch,
                context=context,
                query_length=query_length,
                dtype=dtype.value,
                kernel=kernel.value,
            )
            rows.append(measure_sharded(setting, run.ranks, rounds=grid.rounds, seed=run.seeds.integer("sharded")))
            bar.advance(1, now=name)
    log_rows(rows, run)
    for row in rows:
        if not row["least_bytes"] == row["bytes"] == row["predicted_bytes"]:
            raise RuntimeError(
                f"{row['mechanism']}: a rank allocates {row['bytes']} bytes, not {row['predicted_bytes']}"
            )
    document = {
        "command": "bench",
        "mode": config.mode.value,
        "parallel": config.parallel.value,
        "run_id": run.id,
        "rows": rows,
        "bytes_per_device": bytes_per_device(shapes, grid.tensor_parallel),
        "paper_bytes_per_device": bytes_per_device(paper, (1, 2, 4)),
    }
    run.write_json("results.json", document)
    run.console.print(sharded_table(rows))
    slowest = max(rows, key=lambda row: row["seconds"])
    return {
        "cells": len(rows),
        "ranks": run.ranks.size,
        "largest_difference": max(row["largest_difference"] for row in rows),
        "slowest": f"{slowest['mechanism']}, {1e6 * slowest['seconds']:,.0f} µs per step",
        "objective": sum(row["seconds"] for row in rows) / len(rows),
    }


def sharded_table(rows: list[dict[str, Any]]) -> Table:
    """A line per cell; what all cells share stands in the caption, so that the table fits a terminal."""
    shared = [name for name in SETTINGS if len({row[name] for row in rows}) == 1]
    varying = [name for name in SETTINGS if name not in shared]
    caption = ", ".join(f"{SETTINGS[name]} {rows[0][name]}".strip() for name in shared)
    table = Table(
        title=f"one attention layer over {rows[0]['tensor_parallel']} ranks",
        caption=f"{caption}; bytes per token, as predicted; differs by: the most from the whole layer's outputs; "
        "the slowest rank's median step",
    )
    measured = ("bytes\nalone", "bytes\nper rank", "copies", "differs\nby", "µs a\nstep")
    for name in ("attention", *(SETTINGS[name] or "storage" for name in varying), *measured):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(
            row["mechanism"].upper(),
            *(str(row[name]) for name in varying),
            *(f"{row[name]:,.0f}" for name in ("whole_bytes", "bytes", "duplication_factor")),
            f"{row['largest_difference']:.0e}",
            f"{1e6 * row['seconds']:,.0f}",
        )
    return table
