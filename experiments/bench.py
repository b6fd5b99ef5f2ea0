"""`rl-exp bench`: decode speed and cache bytes of attention mechanisms against the limit of this machine.

    rl-exp bench
    rl-exp bench mode=generate bench.policy=outputs/train/<run id>/model
    rl-exp bench mode=plan                                  # predicts for other devices, and measures nothing
    torchrun --nproc-per-node 2 --no-python rl-exp bench parallel=tensor      # one layer split over processes

Method. Every combination of the lists in `bench` is a cell. The cells of one size are measured side by side, in rounds
of random order after a warm-up, and reported by median and quartiles. The machine's ceilings are measured in the same
process: no step can be faster than its bytes at the measured bandwidth or its operations at the measured peak, and
every row says what share of that limit it reached. A cell that does not fit or fails is reported, the rest goes on.
`mode=plan` takes the same limits from a device's specification: its times are floors, its tokens per second ceilings.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, RenderableType
from rich.markup import escape

from conf.bench_config import BenchConfig, BenchMode, Parallel
from conf.run_config import Device
from experiments.benchmarks.attention import measure_attention
from experiments.benchmarks.ceilings import Ceilings, measure_ceilings
from experiments.benchmarks.cells import AttentionCell
from experiments.benchmarks.choices import BenchKernel
from experiments.benchmarks.device_bytes import bytes_per_device
from experiments.benchmarks.generate import SPECULATIVE, GenerateSetting, measure_generation, measure_speculation
from experiments.benchmarks.gpu import Gpu, OnGpu, open_gpu, recorded
from experiments.benchmarks.gpu_attention import measure_attention_on_gpu
from experiments.benchmarks.grid_models import GridModels, label, policy_config
from experiments.benchmarks.plan import PlanSetting, Serving, crossovers, planned_device, predict
from experiments.benchmarks.published_serving import compare_with_published
from experiments.benchmarks.serving import Lengths, ServingSetting, draw_arrivals, measure_serving
from experiments.benchmarks.tensor_parallel import measure_sharded
from experiments.decoding.cpu_library import cpu_library
from experiments.decoding.whole_model_cost import Experts
from experiments.models.shapes import AttentionMechanism, AttentionShape, ModelShape
from experiments.reports import bench_figures, bench_machine, bench_tables, plan_figures, plan_tables
from experiments.reports.findings_table import findings_table
from experiments.reports.model_statements import findings_on
from experiments.runs.files import read_json, write_json
from experiments.runs.row_files import send_media, write_parquet
from experiments.runs.run import Run

logger = logging.getLogger(__name__)

Row = dict[str, Any]
PAPER_XL: dict[str, Any] = {"hidden_size": 2048, "query_heads": 16, "head_dim": 128}
PAPER_XL_MECHANISMS = ("mha", "gqa-4", "gta-4", "gla-2", "mla")


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a mode found: its rows, what they were measured on, and how they are shown."""

    rows: list[Row]
    machine: Row
    summary: Row
    parts: Row = field(default_factory=dict)  # of the document, beside the rows
    shown: Sequence[RenderableType] = ()
    notes: Sequence[str] = ()  # lines of rich's markup below the tables
    devices: Sequence[Row] = ()  # of the figure of bytes per device
    title: str = ""  # of that figure


def bench(config: BenchConfig, run: Run) -> dict[str, Any]:
    """Measure, print, draw, record; returns the summary. `results.json` is the document of the last line."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    run.resume_metrics(0)
    if config.parallel is Parallel.tensor:
        found = sharded(config, run)
    elif config.mode is BenchMode.plan:
        found = plan(config)
    else:
        found = measured(config, run)
    for number, row in enumerate(found.rows):
        labels = {name: value for name, value in row.items() if not isinstance(value, float)}
        measures = {f"decode/{name}": value for name, value in row.items() if isinstance(value, float)}
        run.log(labels | measures, cell=number)
    if not run.ranks.is_first:
        return found.summary
    document: dict[str, Any] = {"command": "bench", "mode": config.mode, "run_id": run.id}
    document |= {"machine": found.machine, "rows": found.rows, **found.parts}
    run.add_to_manifest(machine=found.machine)
    run.write_json("results.json", document)
    write_parquet(found.rows, run.directory / "results.parquet")
    for table in found.shown:
        run.console.print(table)
    for note in found.notes:
        run.console.print(note, highlight=False, soft_wrap=True)
    figures: list[Path] = []
    if config.parallel is Parallel.none:
        figures = draw(config.mode, found.rows, found.devices, found.title, run.figures)
    send_media(run, config.tracking.mode.value, "rows", found.rows, figures)
    return found.summary | {"figures": [path.name for path in figures]}


def compare(runs: list[Path], sweep_directory: Path, console: Console) -> None:
    """The end of a sweep: the rows of all runs of a mode in one table and figure; `results.json` as for one run."""
    documents = [read_json(run / "results.json") for run in runs]
    rows: list[Row] = []
    for mode in dict.fromkeys(BenchMode(document["mode"]) for document in documents):
        same = [document for document in documents if document["mode"] == mode]
        of_mode = [row | {"mode": mode, "run_id": document["run_id"]} for document in same for row in document["rows"]]
        for table in tables(mode, of_mode):
            console.print(table)
        draw(mode, of_mode, [], "", sweep_directory / "figures" / mode)
        rows += of_mode
    write_parquet(rows, sweep_directory / "results.parquet")
    document = {"command": "bench", "runs": [document["run_id"] for document in documents]}
    document |= {"machines": [document["machine"] for document in documents], "rows": rows}
    write_json(sweep_directory / "results.json", document)


# The modes that measure -----------------------------------------------------------------------------------------------


def measured(config: BenchConfig, run: Run) -> Found:
    """Attention, generate or serving, on a GPU or the processor."""
    gpu, load_before = measuring_gpu(config), os.getloadavg()
    modes = {BenchMode.attention: attention, BenchMode.generate: generate, BenchMode.serving: serving}
    rows, record = modes[config.mode](config, run, gpu)
    rows = [named(row, config) for row in rows]
    if not any(row["status"] == "measured" for row in rows):
        raise RuntimeError(f"none of {len(rows)} cells could be measured; the first: {rows[0]['reason']}")
    shapes = attention_shapes(config)
    devices = bytes_per_device(shapes, config.bench.tensor_parallel)
    findings = findings_on(config.mode, {"rows": rows, "bytes_per_device": devices})
    load = {"load_average_before": load_before, "load_average_after": os.getloadavg()}
    machine = {"cores": os.cpu_count(), **load, **record}
    title = ", ".join(dict.fromkeys(f"{shape.query_heads} heads of {shape.head_dim}" for shape in shapes.values()))
    shown = [*tables(config.mode, rows), bench_tables.device_table(devices, title)]
    failures = [f"[yellow]not measured:[/] {escape(line)}" for line in bench_tables.failures(rows)]
    return Found(
        rows=rows,
        machine=machine,
        summary=bench_machine.summary(rows, machine),
        parts={"bytes_per_device": devices, "statements": [finding.as_dict() for finding in findings]},
        shown=[*shown, findings_table(findings)] if findings else shown,
        notes=[*failures, bench_machine.machine_line(machine)],
        devices=devices,
        title=title,
    )


def attention(config: BenchConfig, run: Run, gpu: Gpu | None) -> tuple[list[Row], Row]:
    """One layer's attention step."""
    grid = config.bench
    threads = [used_threads(count, gpu) for count in grid.threads]
    cells = attention_cells(config, kernels(config, run, gpu), page_sizes=grid.page_size, threads=threads)
    with run.progress("attention", len(cells)) as bar:
        options: dict[str, Any] = {
            "rounds": grid.rounds,
            "cell_seconds": grid.cell_seconds,
            "memory_share": grid.memory_share,
            "seed": run.seeds.integer("order"),
            "progress": lambda text: bar.advance(1, now=text),
        }

        def measure(on_gpu: OnGpu | None) -> tuple[list[Row], Iterable[Ceilings]]:
            if on_gpu is not None:
                return measure_attention_on_gpu(cells, on_gpu, **options), ()
            rows, ceilings = measure_attention(cells, **options)
            return rows, ceilings.values()

        return recorded_on(gpu, measure)


def attention_cells(
    config: BenchConfig,
    kernels: Sequence[BenchKernel],
    *,
    page_sizes: Sequence[int | None] = (None,),
    threads: Sequence[int | None] = (None,),
) -> list[AttentionCell]:
    """The cells of the grid."""
    grid = config.bench
    return [
        AttentionCell(
            mechanism=name,
            shape=shape,
            batch=batch,
            context=context,
            query_length=query_length,
            dtype=dtype,
            page_size=page_size,
            threads=count,
            kernel=kernel,
        )
        for context, dtype, query_length, batch, page_size, count, (name, shape), kernel in product(
            *(grid.context, grid.dtype, grid.query_length, grid.batch, page_sizes, threads),
            attention_shapes(config).items(),
            kernels,
        )
    ]


def generate(config: BenchConfig, run: Run, gpu: Gpu | None) -> tuple[list[Row], Row]:
    """Prefill and decode of whole models."""
    grid, options = config.bench, config.generate
    models = models_of(config, run)
    settings = [
        GenerateSetting(
            mechanism=name,
            batch=batch,
            context=context,
            dtype=dtype,
            page_size=page_size,
            threads=used_threads(threads, gpu),
            kernel=kernel,
            new_tokens=options.new_tokens,
        )
        for context, batch, dtype, page_size, threads, kernel, name in product(
            *(grid.context, grid.batch, grid.dtype, grid.page_size, grid.threads),
            kernels(config, run, gpu),
            models.shapes,
        )
    ]
    with run.progress("generate", len(settings) * (2 if options.speculative else 1)) as bar:
        common: dict[str, Any] = {
            "seed": run.seeds.integer("prompts"),
            "progress": lambda text: bar.advance(1, now=text),
        }

        def measure(on_gpu: OnGpu | None) -> tuple[list[Row], Iterable[Ceilings]]:
            rows, ceilings = measure_generation(
                settings,
                models.get,
                models.shapes,
                rounds=grid.rounds,
                cell_seconds=grid.cell_seconds,
                memory_share=grid.memory_share,
                peers=options.peers,
                on_gpu=on_gpu,
                **common,
            )
            if options.speculative:
                rows += measure_speculation(
                    settings,
                    models.get,
                    draft_tokens=options.draft_tokens,
                    repeated_tokens=options.repeated_tokens,
                    rounds=min(3, grid.rounds),
                    on_gpu=on_gpu,
                    **common,
                )
            return rows, ceilings.values()

        return recorded_on(gpu, measure)


def serving(config: BenchConfig, run: Run, gpu: Gpu | None) -> tuple[list[Row], Row]:
    """Requests in a queue, at one cache budget for all mechanisms."""
    grid, options = config.bench, config.serving
    models = models_of(config, run)
    arrivals = draw_arrivals(
        options.requests,
        options.arrivals_per_second,
        Lengths(**asdict(options.prompt)),
        Lengths(**asdict(options.output)),
        min(shape.vocabulary_size for shape in models.shapes.values()),
        run.seeds.numpy("arrivals"),
    )
    settings = [
        ServingSetting(
            mechanism=name,
            dtype=dtype,
            threads=used_threads(threads, gpu),
            kernel=kernel,
            cache_bytes=int(options.cache_megabytes * 1e6),
            largest_batch=options.largest_batch,
            page_size=options.page_size,
        )
        for dtype, threads, kernel, name in product(grid.dtype, grid.threads, kernels(config, run, gpu), models.shapes)
    ]
    with run.progress("serving", len(settings) * grid.rounds) as bar:

        def measure(on_gpu: OnGpu | None) -> tuple[list[Row], Iterable[Ceilings]]:
            rows = measure_serving(
                settings,
                models.get,
                models.shapes,
                arrivals,
                rounds=grid.rounds,
                memory_share=grid.memory_share,
                seed=run.seeds.integer("order"),
                progress=lambda text: bar.advance(1, now=text),
                on_gpu=on_gpu,
            )
            return rows, [measure_ceilings()] if on_gpu is None else ()

        return recorded_on(gpu, measure)


def sharded(config: BenchConfig, run: Run) -> Found:
    """One layer's attention split over the ranks. Raises RuntimeError where their bytes are not the predicted ones."""
    grid, shapes = config.bench, attention_shapes(config)
    cells = attention_cells(config, kernels(config, run, None))
    rows: list[Row] = []
    with run.progress("tensor parallel", len(cells)) as bar:
        for cell in cells:
            row = measure_sharded(cell, run.ranks, rounds=grid.rounds, seed=run.seeds.integer("sharded"))
            if not row["least_bytes"] == row["bytes"] == row["predicted_bytes"]:
                raise RuntimeError(
                    f"{cell.mechanism}: a rank allocates {row['bytes']} bytes, not {row['predicted_bytes']}"
                )
            rows.append(row)
            bar.advance(1, now=cell.mechanism)
    slowest = max(rows, key=lambda row: float(row["seconds"]))
    return Found(
        rows=rows,
        machine={"cores": os.cpu_count(), "load_average_after": os.getloadavg()},
        summary={
            "cells": len(rows),
            "ranks": run.ranks.size,
            "largest_difference": max(row["largest_difference"] for row in rows),
            "slowest": f"{slowest['mechanism']}, {1e6 * slowest['seconds']:,.0f} µs per step",
            "objective": sum(row["seconds"] for row in rows) / len(rows),
        },
        parts={
            "parallel": config.parallel,
            "bytes_per_device": bytes_per_device(shapes, grid.tensor_parallel),
            "paper_bytes_per_device": bytes_per_device(paper_xl_shapes(), (1, 2, 4)),
        },
        shown=[bench_tables.sharded_table(rows)],
    )


def plan(config: BenchConfig) -> Found:
    """What a model needs and allows on devices that are not available: the cost model, and a device's specification."""
    grid, options, shapes = config.bench, config.plan, model_shapes(config)
    device, ceilings = planned_device(options.device)
    served = Serving(
        device=device,
        weights=options.weights_dtype,
        weight_bytes=options.weights_dtype.element_bytes,
        cache=options.cache_dtype,
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
    rows = [named(row, config) for row in predict(settings, shapes, served)]
    crossed = crossovers(settings, shapes, served)
    published = compare_with_published() if options.published else []
    shown = [plan_tables.plan_table(rows), plan_tables.crossover_table(rows, crossed)]
    skipped = dict.fromkeys(row["reason"] for row in rows if row["status"] == "skipped")
    return Found(
        rows=rows,
        machine={"cores": os.cpu_count(), "device": asdict(device), "ceilings": ceilings},
        summary=bench_machine.plan_summary(rows),
        parts={"crossovers": crossed, "published": published},
        shown=[*shown, plan_tables.published_table(published)] if published else shown,
        notes=[
            *(f"[yellow]skipped:[/] {escape(reason)}" for reason in skipped),
            f"[bold]{device.name}[/]   {device.source}",
        ],
    )


# What it is measured on, and with -------------------------------------------------------------------------------------


def measuring_gpu(config: BenchConfig) -> Gpu | None:
    """The GPU that this run measures on; None for the processor. `device=auto` takes a GPU where there is one.

    Raises ValueError where only a GPU would do and there is none.
    """
    devices = config.devices()
    if Device.cuda not in devices:
        return None
    try:
        return open_gpu(needs_triton=BenchKernel.triton in config.kernels(Device.cuda))
    except ValueError as error:
        if Device.cpu in devices:
            return None
        raise ValueError(f"device={config.device.value}: {error}") from None


def recorded_on(
    gpu: Gpu | None, measure: Callable[[OnGpu | None], tuple[list[Row], Iterable[Ceilings]]]
) -> tuple[list[Row], Row]:
    """The rows, and the record of what they were measured on: the GPU, or the processor's ceilings."""
    if gpu is not None:
        (rows, _), record = recorded(gpu, measure)
        return rows, record
    rows, ceilings = measure(None)
    return rows, {"ceilings": [asdict(ceiling) for ceiling in ceilings]}


def kernels(config: BenchConfig, run: Run, gpu: Gpu | None) -> list[BenchKernel]:
    """What is measured on the device of this run; the reference takes the place of a kernel that cannot be built."""
    chosen = config.kernels(Device.cpu if gpu is None else Device.cuda)
    if BenchKernel.cpu not in chosen:
        return chosen
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if cpu_library() is not None:
            return chosen
    for reason in dict.fromkeys(str(warning.message) for warning in said):
        run.console.print(f"[yellow]kernel cpu:[/] {escape(reason)}", highlight=False, soft_wrap=True)
    return list(dict.fromkeys(BenchKernel.reference if kernel is BenchKernel.cpu else kernel for kernel in chosen))


def used_threads(threads: int | None, gpu: Gpu | None) -> int | None:
    """The processor's threads; None where it is not the processor that is measured."""
    return None if gpu is not None else threads or torch.get_num_threads()


def models_of(config: BenchConfig, run: Run) -> GridModels:
    """The models of the grid: of random weights, or the one of `bench.policy`."""
    if config.bench.policy is not None:
        return GridModels.of_policy(config.bench.policy)
    return GridModels(model_shapes(config), lambda: run.seeds.torch("initialisation"))


def attention_shapes(config: BenchConfig) -> dict[str, AttentionShape]:
    """The layers of the grid by the names that are shown; a policy's own where one is given."""
    if config.bench.policy is not None and config.mode is not BenchMode.attention:
        shape = policy_config(config.bench.policy).model_shape().attention
        return {label(shape): shape}
    return {name: shape.attention for name, shape in model_shapes(config).items()}


def model_shapes(config: BenchConfig) -> dict[str, ModelShape]:
    """The models of the grid by the names that are shown."""
    shapes = map(config.model_shape, config.bench.mechanism)
    return {label(shape.attention): shape for shape in shapes}


def paper_xl_shapes() -> dict[str, AttentionShape]:
    """The layers of the paper's XL model, whose bytes per device its Table 15 gives."""
    return {
        name: AttentionShape(mechanism=AttentionMechanism(name.partition("-")[0]), **PAPER_XL)
        for name in PAPER_XL_MECHANISMS
    }


def named(row: Row, config: BenchConfig) -> Row:
    """The row with the size of its model in front."""
    size = f"{config.model.query_heads}x{config.model.head_dim}"
    if config.mode is not BenchMode.attention:
        size = Path(config.bench.policy).parent.name if config.bench.policy else f"{config.model.layers}x{size}"
    return {"model": size} | row


# What is shown -----------------------------------------------------------------------------------------------------


def tables(mode: BenchMode, rows: list[Row]) -> list[RenderableType]:
    """The tables of a mode's rows."""
    if mode is BenchMode.attention:
        return [bench_tables.attention_table(rows)]
    if mode is BenchMode.generate:
        speculative = [row for row in rows if row["system"] == SPECULATIVE]
        plain = [row for row in rows if row["system"] != SPECULATIVE]
        shown = [bench_tables.generate_table(plain)] if plain else []
        return [*shown, bench_tables.speculation_table(speculative)] if speculative else shown
    if mode is BenchMode.plan:
        return [plan_tables.plan_table(rows)]
    return [bench_tables.serving_table(rows)]


def draw(mode: BenchMode, rows: list[Row], devices: Sequence[Row], title: str, directory: Path) -> list[Path]:
    """The figures of a mode's rows; a figure that cannot be drawn ends no run."""
    figures: list[Path | None] = []
    try:
        if mode is BenchMode.attention:
            figures.append(bench_figures.draw_throughput(rows, "kernel", directory))
            figures.append(bench_figures.draw_roofline(rows, directory))
        elif mode is BenchMode.generate:
            figures.append(bench_figures.draw_throughput(rows, "system", directory))
        elif mode is BenchMode.plan:
            figures.append(plan_figures.draw_plan(rows, directory))
        else:
            figures.append(bench_figures.draw_serving(rows, directory))
        if devices:
            figures.append(bench_figures.draw_device_bytes(devices, title, directory))
    except Exception:
        logger.warning("a figure could not be drawn", exc_info=True)
    return [figure for figure in figures if figure is not None]
