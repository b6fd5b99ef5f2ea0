"""`rl-exp bench mode=plan`: what a model needs and allows on devices that are not at hand.

    rl-exp bench mode=plan
    rl-exp bench mode=plan_deepseek        # the model of the attention paper's serving benchmark, and its figures

Nothing is measured, except this machine's ceilings with plan.device=cpu. Times are floors: bytes and operations over
the device's peaks, each byte once, perfectly overlapped. So tokens per second are ceilings, and no forecast: the
comparison with published figures says what share of them a real server reached.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import asdict
from itertools import product
from typing import Any

from rich.markup import escape

from conf.bench_config import BenchConfig, physical_memory
from conf.plan_config import PlanDevice
from experiments.bench_records import log_rows, send_media, write_parquet
from experiments.benchmarks.ceilings import measure_ceilings
from experiments.benchmarks.device_table import DEVICES, Device
from experiments.benchmarks.plan import PlanSetting, Serving, crossovers, predict
from experiments.benchmarks.published_serving import compare_with_published
from experiments.decoding.whole_model_cost import Experts
from experiments.models.shapes import ModelShape
from experiments.reports import plan_figures, plan_tables
from experiments.runs.run import Run

logger = logging.getLogger(__name__)


def plan(config: BenchConfig, run: Run, shapes: Mapping[str, ModelShape]) -> dict[str, Any]:
    """Predict, print, draw, record; returns the summary. `results.json` is the document of the last line."""
    grid, options = config.bench, config.plan
    device, ceilings = planned_device(options.device)
    serving = Serving(
        device=device,
        weights=options.weights_dtype.value,
        weight_bytes=options.weights_dtype.element_bytes,
        cache=options.cache_dtype.value,
        cache_bytes=options.cache_dtype.element_bytes,
        devices=options.devices,
        memory_share=options.memory_share,
        experts=Experts(**asdict(options.experts)) if options.experts.routed else None,
    )
    settings = [
        PlanSetting(mechanism=name, tensor_parallel=size, context=context, batch=batch, query_length=query_length)
        for size, batch, query_length, context, name in product(
            grid.tensor_parallel, grid.batch, grid.query_length, grid.context, shapes
        )
    ]
    size = f"{config.model.layers}x{config.model.query_heads}x{config.model.head_dim}"
    rows = [{"model": size} | row for row in predict(settings, shapes, serving)]
    crossed = crossovers(settings, shapes, serving)
    published = compare_with_published() if options.published else []
    machine = {"cores": os.cpu_count(), "device": asdict(device), "ceilings": ceilings}
    log_rows(rows, run)
    run.add_to_manifest(machine=machine)
    run.write_json(
        "results.json",
        {
            "command": "bench",
            "mode": config.mode.value,
            "run_id": run.id,
            "machine": machine,
            "rows": rows,
            "crossovers": crossed,
            "published": published,
        },
    )
    write_parquet(rows, run.directory / "results.parquet")
    run.console.print(plan_tables.plan_table(rows))
    run.console.print(plan_tables.crossover_table(rows, crossed))
    if published:
        run.console.print(plan_tables.published_table(published))
    for reason in dict.fromkeys(row["reason"] for row in rows if row["status"] == "skipped"):
        run.console.print(f"[yellow]skipped:[/] {escape(reason)}", highlight=False, soft_wrap=True)
    run.console.print(f"[bold]{device.name}[/]   {device.source}", highlight=False, soft_wrap=True)
    figures = []
    try:
        figures = [path for path in (plan_figures.draw_plan(rows, run.figures),) if path is not None]
    except Exception:  # a figure that cannot be drawn ends no run
        logger.warning("a figure could not be drawn", exc_info=True)
    send_media(config, run, rows, figures)
    return summary(rows) | {"figures": [path.name for path in figures]}


def planned_device(name: PlanDevice) -> tuple[Device, list[dict[str, Any]]]:
    """The device, and the ceilings that were measured for it: none but for the CPU."""
    if name is not PlanDevice.cpu:
        return DEVICES[name.value], []
    memory = physical_memory()
    if memory is None:
        raise RuntimeError("this system does not say how much memory it has: plan for another plan.device")
    ceilings = measure_ceilings()
    device = Device(
        name="cpu",
        memory_bytes=memory,
        bytes_per_second=ceilings.memory_read_bytes,
        flops_per_second={"fp32": ceilings.fp32_flops, "bf16": ceilings.fp32_flops},  # bf16 is only stored
        link_bytes_per_second=None,
        source=f"this machine, measured in this run with {ceilings.threads} threads: "
        f"{ceilings.memory_read_bytes / 1e9:.1f} GB/s, {ceilings.fp32_flops / 1e9:.0f} GFLOP/s",
    )
    return device, [asdict(ceilings)]


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The headline: how many cells fit, and the highest ceiling."""
    fit = [row for row in rows if row["status"] == "predicted"]
    found: dict[str, Any] = {"cells": len(rows), "not_predicted": len(rows) - len(fit)}
    if fit:
        best = max(fit, key=lambda row: row["tokens_per_second_ceiling"])
        ceiling = best["tokens_per_second_ceiling"]
        found["highest_ceiling"] = f"{best['mechanism']}, {best['devices']} {best['device']}, {ceiling:,.0f} tokens/s"
        found["objective"] = -ceiling
    return found
