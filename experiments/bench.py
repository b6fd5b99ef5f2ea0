"""`rl-exp bench`: decode speed and cache bytes of attention mechanisms against the limit of this machine.

    rl-exp bench
    rl-exp bench mode=generate bench.policy=outputs/train/<run id>/model
    rl-exp bench mode=plan                                  # predicts, and measures nothing: see bench_plan.py

Method. Every combination of the lists in `bench` is a cell. The cells of one size are measured side by side, in rounds
of random order after a warm-up, and reported by median and quartiles. The machine's ceilings are measured in the same
process: no step can be faster than its bytes at the measured bandwidth or its operations at the measured peak, and
every row says what share of that limit it reached. A cell that does not fit or fails is reported, the rest goes on.
"""

from __future__ import annotations

import logging
import os
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rich.console import Console, RenderableType
from rich.markup import escape

from conf.bench_config import BenchConfig, BenchMode, LengthConfig, Parallel
from conf.bench_kernels import BenchKernel
from conf.run_config import Device
from experiments.bench_machine import machine_line, measuring_gpu, processor_record, summary
from experiments.bench_plan import plan
from experiments.bench_records import log_rows, send_media, write_parquet
from experiments.bench_tensor_parallel import bench_tensor_parallel
from experiments.benchmarks.attention import measure_attention
from experiments.benchmarks.ceilings import Ceilings, measure_ceilings
from experiments.benchmarks.cells import AttentionCell
from experiments.benchmarks.device_bytes import bytes_per_device
from experiments.benchmarks.generate import SPECULATIVE, GenerateSetting, measure_generation, measure_speculation
from experiments.benchmarks.gpu import Gpu, OnGpu, recorded
from experiments.benchmarks.gpu_attention import measure_attention_on_gpu
from experiments.benchmarks.serving import Lengths, ServingSetting, draw_arrivals, measure_serving
from experiments.models.configuration import RlExpConfig
from experiments.models.initialisation import initialise
from experiments.models.shapes import AttentionMechanism, AttentionShape, ModelShape
from experiments.models.transformer import RlExpForCausalLM
from experiments.reports import bench_figures, bench_tables, plan_figures, plan_tables
from experiments.reports.bench_claims import PAPER_DEVICE_BYTES, paper_claims
from experiments.runs.files import read_json
from experiments.runs.foreign_files import loading, refuse_missing_weights
from experiments.runs.run import Run

logger = logging.getLogger(__name__)

Row = dict[str, Any]
OWN_MODEL = "name the model folder of a trained run, such as outputs/train/<run id>/model"
PAPER_XL = {"hidden_size": 2048, "query_heads": 16, "head_dim": 128}


def bench(config: BenchConfig, run: Run) -> dict[str, Any]:
    """Measure, print, draw, record; returns the summary. `results.json` is the document of the last line."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if config.parallel is Parallel.tensor:
        return bench_tensor_parallel(config, run, attention_shapes(config), paper_xl_shapes())
    run.resume_metrics(0)
    if config.mode is BenchMode.plan:
        return plan(config, run, model_shapes(config))
    gpu = measuring_gpu(config)
    load_before = os.getloadavg()
    rows, record = {
        BenchMode.attention: attention,
        BenchMode.generate: generate,
        BenchMode.serving: serving,
    }[config.mode](config, run, gpu)
    log_rows(rows, run)
    measured = [row for row in rows if row["status"] == "measured"]
    if not measured:
        raise RuntimeError(f"none of {len(rows)} cells could be measured; the first: {rows[0]['reason']}")

    shapes = attention_shapes(config)
    devices = bytes_per_device(shapes, config.bench.tensor_parallel)
    claims = []
    if config.mode is BenchMode.attention:
        claims = paper_claims(rows, bytes_per_device(paper_xl_shapes(), (1, 2, 4)))
    machine = {
        "cores": os.cpu_count(),
        "load_average_before": load_before,
        "load_average_after": os.getloadavg(),
        **record,
    }
    document = {
        "command": "bench",
        "mode": config.mode.value,
        "run_id": run.id,
        "machine": machine,
        "rows": rows,
        "bytes_per_device": devices,
        "claims": claims,
    }
    run.add_to_manifest(machine=machine)
    run.write_json("results.json", document)
    write_parquet(rows, run.directory / "results.parquet")
    for table in tables(config.mode.value, rows):
        run.console.print(table)
    title = ", ".join(dict.fromkeys(f"{shape.query_heads} heads of {shape.head_dim}" for shape in shapes.values()))
    run.console.print(bench_tables.device_table(devices, title))
    if claims:
        run.console.print(bench_tables.claims_table(claims))
    for line in bench_tables.failures(rows):
        run.console.print(f"[yellow]not measured:[/] {escape(line)}", highlight=False, soft_wrap=True)
    run.console.print(machine_line(machine), highlight=False, soft_wrap=True)
    figures = draw(config.mode.value, rows, devices, title, run.figures)
    send_media(config, run, rows, figures)
    return summary(rows, machine) | {"figures": [path.name for path in figures]}


def compare(runs: list[Path], sweep_directory: Path, console: Console) -> None:
    """The end of a sweep: the rows of all runs of a mode in one table and figure; `results.json` as for one run."""
    from experiments.runs.files import write_json

    documents = [read_json(run / "results.json") for run in runs]
    rows: list[Row] = []
    for mode in dict.fromkeys(document["mode"] for document in documents):
        same = [document for document in documents if document["mode"] == mode]
        of_mode = [row | {"mode": mode, "run_id": document["run_id"]} for document in same for row in document["rows"]]
        for table in tables(mode, of_mode):
            console.print(table)
        draw(mode, of_mode, [], "", sweep_directory / "figures" / mode)
        rows += of_mode
    write_parquet(rows, sweep_directory / "results.parquet")
    write_json(
        sweep_directory / "results.json",
        {
            "command": "bench",
            "runs": [document["run_id"] for document in documents],
            "machines": [document["machine"] for document in documents],
            "rows": rows,
        },
    )


# The modes that measure -----------------------------------------------------------------------------------------------


def attention(config: BenchConfig, run: Run, gpu: Gpu | None) -> tuple[list[Row], dict[str, Any]]:
    """One layer's attention step."""
    grid = config.bench
    shapes = attention_shapes(config)
    settings = [
        AttentionCell(
            mechanism=name,
            shape=shape,
            batch=batch,
            context=context,
            query_length=query_length,
            dtype=dtype.value,
            page_size=page_size,
            threads=used_threads(threads, gpu),
            kernel=kernel.value,
        )
        for context, dtype, query_length, batch, page_size, threads, (name, shape), kernel in product(
            grid.context,
            grid.dtype,
            grid.query_length,
            grid.batch,
            grid.page_size,
            grid.threads,
            shapes.items(),
            kernels(config, gpu),
        )
    ]
    with run.progress("attention", len(settings)) as bar:
        options: dict[str, Any] = {
            "rounds": grid.rounds,
            "cell_seconds": grid.cell_seconds,
            "memory_share": grid.memory_share,
            "seed": run.seeds.integer("order"),
            "progress": lambda text: bar.advance(1, now=text),
        }
        if gpu is not None:
            rows, record = recorded(gpu, lambda on_gpu: measure_attention_on_gpu(settings, on_gpu, **options))
        else:
            rows, ceilings = measure_attention(settings, **options)
            record = processor_record(ceilings)
    return [named(row, config) for row in rows], record


def generate(config: BenchConfig, run: Run, gpu: Gpu | None) -> tuple[list[Row], dict[str, Any]]:
    """Prefill and decode of whole models."""
    grid, options = config.bench, config.generate
    models = Models(config, run)
    settings = [
        GenerateSetting(
            mechanism=name,
            batch=batch,
            context=context,
            dtype=dtype.value,
            page_size=page_size,
            threads=used_threads(threads, gpu),
            kernel=kernel.value,
            new_tokens=options.new_tokens,
        )
        for context, batch, dtype, page_size, threads, kernel, name in product(
            grid.context, grid.batch, grid.dtype, grid.page_size, grid.threads, kernels(config, gpu), models.shapes
        )
    ]
    seed = run.seeds.integer("prompts")
    with run.progress("generate", len(settings) * (2 if options.speculative else 1)) as bar:

        def progress(text: str) -> None:
            bar.advance(1, now=text)

        def measure(on_gpu: OnGpu | None) -> tuple[list[Row], dict[int, Ceilings]]:
            rows, ceilings = measure_generation(
                settings,
                models.get,
                models.shapes,
                rounds=grid.rounds,
                cell_seconds=grid.cell_seconds,
                memory_share=grid.memory_share,
                peers=[peer.value for peer in options.peers],
                seed=seed,
                progress=progress,
                on_gpu=on_gpu,
            )
            if options.speculative:
                rows += measure_speculation(
                    settings,
                    models.get,
                    draft_tokens=options.draft_tokens,
                    repeated_tokens=options.repeated_tokens,
                    rounds=min(3, grid.rounds),
                    seed=seed,
                    progress=progress,
                    on_gpu=on_gpu,
                )
            return rows, ceilings

        if gpu is not None:
            (rows, _), record = recorded(gpu, measure)
        else:
            rows, ceilings = measure(None)
            record = processor_record(ceilings)
    return [named(row, config) for row in rows], record


def serving(config: BenchConfig, run: Run, gpu: Gpu | None) -> tuple[list[Row], dict[str, Any]]:
    """Requests in a queue, at one cache budget for all mechanisms."""
    grid, options = config.bench, config.serving
    models = Models(config, run)
    arrivals = draw_arrivals(
        options.requests,
        options.arrivals_per_second,
        lengths(options.prompt),
        lengths(options.output),
        min(shape.vocabulary_size for shape in models.shapes.values()),
        run.seeds.numpy("arrivals"),
    )
    settings = [
        ServingSetting(
            mechanism=name,
            dtype=dtype.value,
            threads=used_threads(threads, gpu),
            kernel=kernel.value,
            cache_bytes=int(options.cache_megabytes * 1e6),
            largest_batch=options.largest_batch,
            page_size=options.page_size,
        )
        for dtype, threads, kernel, name in product(grid.dtype, grid.threads, kernels(config, gpu), models.shapes)
    ]
    with run.progress("serving", len(settings) * grid.rounds) as bar:

        def measure(on_gpu: OnGpu | None) -> list[Row]:
            return measure_serving(
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

        if gpu is not None:
            rows, record = recorded(gpu, measure)
        else:
            rows, record = measure(None), processor_record({torch.get_num_threads(): measure_ceilings()})
    return [named(row, config) for row in rows], record


def kernels(config: BenchConfig, gpu: Gpu | None) -> list[BenchKernel]:
    """What is measured on the device of this run."""
    return config.kernels(Device.cpu if gpu is None else Device.cuda)


def used_threads(threads: int | None, gpu: Gpu | None) -> int | None:
    """The processor's threads; None where it is not the processor that is measured."""
    return None if gpu is not None else threads or torch.get_num_threads()


# What is measured --------------------------------------------------------------------------------------------------


class Models:
    """The models of a run, made when they are asked for: of random weights, or the one of `bench.policy`."""

    def __init__(self, config: BenchConfig, run: Run) -> None:
        self.config, self.run = config, run
        self._made: dict[str, RlExpForCausalLM] = {}
        self.shapes: dict[str, ModelShape] = {}
        if config.bench.policy is not None:
            policy = load_policy(config.bench.policy)
            shape = policy.config.model_shape()
            self._made[label(shape.attention)] = policy
            self.shapes[label(shape.attention)] = shape
            return
        self.shapes |= model_shapes(config)

    def get(self, name: str) -> RlExpForCausalLM:
        """The model of that mechanism, in evaluation mode."""
        if name not in self._made:
            model = RlExpForCausalLM(RlExpConfig.from_shape(self.shapes[name]))
            initialise(model, self.run.seeds.torch("initialisation"))
            self._made[name] = model.eval()
        return self._made[name]


def load_policy(folder: str) -> RlExpForCausalLM:
    """A trained run's model; the configuration has seen that there is one. Raises ValueError for models not of ours."""
    _policy_config(folder)
    with loading("bench.policy", folder, OWN_MODEL):
        model, info = RlExpForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
        refuse_missing_weights(info)
    return model.eval()


def _policy_config(folder: str) -> RlExpConfig:
    """Raises ValueError where config.json is damaged or another model's."""
    with loading("bench.policy", folder, OWN_MODEL):
        kind = dict(read_json(Path(folder) / "config.json")).get("model_type")
    if kind != RlExpConfig.model_type:
        raise ValueError(f"bench.policy={folder} is a model of type {kind}: use one of rl-exp train")
    with loading("bench.policy", folder, OWN_MODEL):
        config: RlExpConfig = RlExpConfig.from_pretrained(folder)
    return config


def attention_shapes(config: BenchConfig) -> dict[str, AttentionShape]:
    """The layers of the grid by the names that are shown; a policy's own where one is given."""
    if config.bench.policy is not None and config.mode is not BenchMode.attention:
        shape = _policy_config(config.bench.policy).model_shape().attention
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
        for name in PAPER_DEVICE_BYTES
    }


def label(shape: AttentionShape) -> str:
    """The paper's way to name a mechanism: its cached heads behind it where they are a choice (gqa-4, gla-2)."""
    name = str(shape.mechanism.value)
    if name in ("mha", "mqa", "mla"):
        return name
    return f"{name}-{getattr(shape, shape.states_heads_name)}"


def lengths(config: LengthConfig) -> Lengths:
    """The distribution that a configuration describes."""
    return Lengths(config.distribution.value, config.mean, config.spread, config.longest)


def named(row: Row, config: BenchConfig) -> Row:
    """The row with the size of its model in front."""
    size = f"{config.model.query_heads}x{config.model.head_dim}"
    if config.mode is not BenchMode.attention:
        size = Path(config.bench.policy).parent.name if config.bench.policy else f"{config.model.layers}x{size}"
    return {"model": size} | row


# What is shown -----------------------------------------------------------------------------------------------------


def tables(mode: str, rows: list[Row]) -> list[RenderableType]:
    """The tables of a mode's rows."""
    if mode == BenchMode.attention.value:
        return [bench_tables.attention_table(rows)]
    if mode == BenchMode.generate.value:
        speculative = [row for row in rows if row["system"] == SPECULATIVE]
        plain = [row for row in rows if row["system"] != SPECULATIVE]
        shown = [bench_tables.generate_table(plain)] if plain else []
        return [*shown, bench_tables.speculation_table(speculative)] if speculative else shown
    if mode == BenchMode.plan.value:
        return [plan_tables.plan_table(rows)]
    return [bench_tables.serving_table(rows)]


def draw(mode: str, rows: list[Row], devices: list[Row], title: str, directory: Path) -> list[Path]:
    """The figures of a mode's rows; a figure that cannot be drawn ends no run."""
    figures: list[Path | None] = []
    try:
        if mode == BenchMode.attention.value:
            figures += [
                bench_figures.draw_throughput(rows, "kernel", directory),
                bench_figures.draw_roofline(rows, directory),
            ]
        elif mode == BenchMode.generate.value:
            figures.append(bench_figures.draw_throughput(rows, "system", directory))
        elif mode == BenchMode.plan.value:
            figures.append(plan_figures.draw_plan(rows, directory))
        else:
            figures.append(bench_figures.draw_serving(rows, directory))
        if devices:
            figures.append(bench_figures.draw_device_bytes(devices, title, directory))
    except Exception:
        logger.warning("a figure could not be drawn", exc_info=True)
    return [figure for figure in figures if figure is not None]
