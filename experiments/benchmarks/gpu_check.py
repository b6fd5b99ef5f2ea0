"""Everything that needs one GPU, in at most ten minutes and one JSON file, on an image with torch and triton only.

    python -m experiments.benchmarks.gpu_check --output results.json          # or: make gpu-check
    python -m experiments.benchmarks.gpu_check --output tuning.json --tune    # block sizes instead of speed

Parity of the Triton decode kernels at real sizes (the same cases run under `pytest -m gpu`); the attention paper's
kernel cells (batch 128, 128 query heads, contexts of 1K to 64K, query lengths 1 and 2, page sizes 64 and 1; GLA-2
beside MLA, GTA-8 beside GQA-8) and their goals; stock kernels where they are installed (SDPA, compiled flex attention,
FlashInfer's MLA). Cells are measured as `rl-exp bench device=cuda` measures them: any other grid is a setting there.
What fails, or is left out for lack of time, is a row with its reason.

Exit code 0: every parity check passed; 1: one did not, or none was made; 2: there is no GPU to check.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ..models.shapes import AttentionMechanism
from ..runs.files import write_json
from ..runs.manifest import describe_environment, now
from .cells import AttentionCell, Row, failure_reason
from .gpu import OnGpu, open_gpu, recorded
from .gpu_attention import (
    WORST_ROW_ERROR,
    full_cache,
    measure_side_by_side,
    random_rows,
    time_in_turns,
)
from .gpu_parity import check_parity, grouped_reference, paper_shapes, parity_cases, random_queries, worst_row_error

Report = Callable[[str], None]

PAPER_BATCH = 128
PAPER_PAIRS = (("gla-2", "mla"), ("gta-8", "gqa-8"))  # the first is the claim, the second what it is compared with
PAPER_CONTEXTS = (8192, 1024, 32768, 2048, 65536, 4096, 16384)  # the most telling first: time may run out
PAGE_SIZES = (64, 1)
QUERY_LENGTHS = (1, 2)
STOCK_CONTEXTS = {"sdpa": (4096, 16384), "flex": (4096,), "flashinfer": (4096, 16384)}
MOST_ROUNDS = 25
GROUP_SECONDS = 1.5  # of timed calls, once everything is compiled
TUNING_CONTEXT, TUNING_PAGE_SIZE = 8192, 64
# Shares of the time after which the next part begins, whatever is left of this one
PARITY_UNTIL, CELLS_UNTIL, STOCK_UNTIL = 0.4, 0.8, 0.95


class Budget:
    """Seconds that may be spent, and whether a share of them is."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._clock, self._start = seconds, clock, clock()

    def spent(self, share: float = 1.0) -> bool:
        """Whether more than this share of the seconds is over."""
        return self._clock() - self._start > share * self.seconds


# Cells ----------------------------------------------------------------------------------------------------------------


def paper_cell(
    name: str, context: int, query_length: int, page_size: int, kernel: str, batch: int = PAPER_BATCH
) -> AttentionCell:
    """A cell of the paper's benchmarks, in its storage."""
    return AttentionCell(
        mechanism=name,
        shape=paper_shapes()[name],
        batch=batch,
        context=context,
        query_length=query_length,
        dtype="bf16",
        page_size=page_size,
        kernel=kernel,
    )


def paper_groups() -> list[list[AttentionCell]]:
    """The paper's cells; a group is measured side by side."""
    return [
        [paper_cell(name, context, length, page_size, "triton") for name in pair for page_size in PAGE_SIZES]
        for context in PAPER_CONTEXTS
        for length in QUERY_LENGTHS
        for pair in PAPER_PAIRS
    ]


def stock_groups() -> list[list[AttentionCell]]:
    """Each mechanism's kernel beside a stock kernel that can compute the cell, one by one: any of them may fail."""
    return [
        [paper_cell(name, context, length, 64, kernel) for kernel in ("triton", stock)]
        for stock, contexts in STOCK_CONTEXTS.items()
        for context in contexts
        for length in QUERY_LENGTHS
        for name, shape in paper_shapes().items()
        if stock != "flashinfer" or shape.mechanism is AttentionMechanism.mla
    ]


# Goals ----------------------------------------------------------------------------------------------------------------


def judge_goals(rows: Sequence[Row]) -> list[Row]:
    """A row for every goal of the kernels, from the paper's cells; `reached` is None where none was measured."""
    rows = [row for row in rows if row["status"] == "measured"]
    latent, tied, paged = "seconds of MLA over GLA-2 at query length 2", "seconds of GQA-8 over GTA-8", "page_size"
    two = [row for row in rows if row["query_length"] == 2]
    return [
        _judged(
            "fraction of measured bandwidth in memory-bound cells",
            [row["fraction_of_limit"] for row in rows if row["bound"] == "memory"],
            at_least=0.85,
        ),
        _judged(
            "fraction of the measured matmul peak, GLA-2 at query length 2",
            [row["flops"] / row["seconds"] / row["peak_flops"] for row in two if row["mechanism"] == "gla-2"],
            at_least=0.6,
        ),
        _judged("seconds at page size 1 over page size 64", _ratios(rows, paged, 1, 64), at_most=1.1),
        _judged(latent, _ratios(two, "mechanism", "mla", "gla-2"), at_least=1.5),
        _judged(tied, _ratios(rows, "mechanism", "gqa-8", "gta-8"), at_least=1.6),
    ]


def _judged(name: str, values: Sequence[float], at_least: float = 0.0, at_most: float = float("inf")) -> Row:
    reaching = sum(at_least <= value <= at_most for value in values)
    wanted = f"at least {at_least}" if at_least else f"at most {at_most}"
    row: Row = {"goal": f"{name}: {wanted}", "cells": len(values), "cells_reaching_it": reaching}
    row["reached"] = reaching == len(values) if values else None
    return row | ({"lowest": min(values), "median": median(values), "highest": max(values)} if values else {})


def _ratios(rows: Sequence[Row], column: str, numerator: object, denominator: object) -> list[float]:
    """Seconds of the cells with `numerator` in a column over those of the cells that differ in nothing else."""
    others = [name for name in ("mechanism", "context", "query_length", "page_size") if name != column]
    cells = {(*(row[name] for name in others), row[column]): row["seconds"] for row in rows}
    return [
        seconds / cells[*cell, denominator]
        for (*cell, value), seconds in cells.items()
        if value == numerator and (*cell, denominator) in cells
    ]


# The parts of a check -------------------------------------------------------------------------------------------------


def check(on_gpu: OnGpu, budget: Budget, report: Report) -> Row:
    """Parity, the paper's cells, stock kernels beside ours, goals, and the block sizes that were launched."""
    from ..decoding.triton_attend import launched_blocks  # here: importing this module needs no triton

    document: Row = {"parity": list(_parity(on_gpu, budget, report))}
    document["cells"] = list(_measured(paper_groups(), CELLS_UNTIL, on_gpu, budget, report))
    document["baselines"] = list(_measured(stock_groups(), STOCK_UNTIL, on_gpu, budget, report))
    return document | {"goals": judge_goals(document["cells"]), "blocks": launched_blocks()}


def _parity(on_gpu: OnGpu, budget: Budget, report: Report) -> Iterator[Row]:
    for case in parity_cases():
        if budget.spent(PARITY_UNTIL):
            yield case.labels() | {"status": "skipped", "reason": "the time for parity checks was over"}
            continue
        try:
            row = check_parity(case, "triton", on_gpu.gpu.device)
        except Exception as error:  # a case that cannot even run has failed
            row = case.labels() | {"status": "failed", "reason": failure_reason(error)}
        report(line("parity", row))
        on_gpu.gpu.release()
        yield row


def _measured(
    groups: Sequence[Sequence[AttentionCell]], until: float, on_gpu: OnGpu, budget: Budget, report: Report
) -> Iterator[Row]:
    for group in groups:
        if budget.spent(until):
            yield from (cell.labels() | {"status": "skipped", "reason": "the time was over"} for cell in group)
            continue
        for row in measure_side_by_side(group, on_gpu, rounds=MOST_ROUNDS, seconds=GROUP_SECONDS):
            report(line("speed", row))
            yield row


def tune(on_gpu: OnGpu, budget: Budget, report: Report, batch: int = PAPER_BATCH, context: int = TUNING_CONTEXT) -> Row:
    """Alternatives to the table of block sizes on the paper's layers, the fastest of a layer first.

    The table's own entry has `in_table`; what to write into it is the first row of each layer.
    """
    from ..decoding.triton_attend import first_blocks, triton_attend  # here: importing this module needs no triton
    from ..decoding.triton_blocks import alternatives

    gpu, rows = on_gpu.gpu, []
    for name, query_length in ((name, length) for name in paper_shapes() for length in QUERY_LENGTHS):
        if budget.spent():
            break
        cell = paper_cell(name, context, query_length, TUNING_PAGE_SIZE, "triton", batch)
        cache = full_cache(cell, random_rows(cell, gpu.device))
        queries = random_queries(cell.shape, batch, query_length, cell.storage, gpu.device)
        lengths = torch.full((batch,), context, dtype=torch.int32, device=gpu.device)
        expected = grouped_reference(cell.shape, queries[:1], cache, [context])
        entry = first_blocks(cell.shape, queries, cache)
        of_cell, ready = [], {}
        for number, blocks in enumerate(alternatives(entry)):
            row: Row = {"mechanism": name, "query_length": query_length, "in_table": blocks == entry, **asdict(blocks)}
            of_cell.append(row)
            call = partial(triton_attend, cell.shape, queries, cache, lengths, blocks=blocks)
            try:
                row["worst_row_error"] = worst_row_error(call()[:1], expected)
                if row["worst_row_error"] > WORST_ROW_ERROR:
                    raise ArithmeticError("the result is wrong")
                ready[number], _ = gpu.timer.prepare(call)
            except Exception as error:  # too large for the device, most often
                row |= {"status": "failed", "reason": failure_reason(error)}
        peak = on_gpu.ceilings.matmul_flops(cell.storage)
        for number, times in time_in_turns(ready, gpu.timer, rounds=MOST_ROUNDS, seconds=GROUP_SECONDS).items():
            of_cell[number] |= cell.speed_columns(times, on_gpu.ceilings.memory_bytes, peak)
        of_cell.sort(key=lambda row: float(row.get("seconds", "inf")))
        report(line("tuning", of_cell[0]))
        rows += of_cell
    return {"tuning": rows}


def line(part: str, row: Row) -> str:
    """A row in words, for who watches."""
    names = ("mechanism", "kernel", "context", "query_length", "page_size", "dtype", "rows", "tokens", "warps", "depth")
    words = [part, row["status"], *(f"{name}={row[name]}" for name in names if name in row)]
    if row["status"] == "measured":
        words += [f"{row['seconds'] * 1e6:.1f} us", f"{row['gigabytes_per_second']:.0f} GB/s"]
        words += [f"{row['gigaflops_per_second'] / 1e3:.0f} TFLOP/s", f"{row['fraction_of_limit']:.2f} of the limit"]
    if "worst_row_error" in row:
        words.append(f"error {row['worst_row_error']:.1e}")
    return " ".join([*words, row.get("reason", "")]).rstrip()


def exit_code(document: Row) -> int:
    """1 where a parity check failed or none was made, else 0."""
    if "parity" not in document:
        return 0
    statuses = {row["status"] for row in document["parity"]}
    return 0 if "passed" in statuses and "failed" not in statuses else 1


def main(words: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the JSON document")
    parser.add_argument("--minutes", type=float, default=9.5, help="when to stop; what is left out is recorded")
    parser.add_argument("--tune", action="store_true", help="measure alternatives to the table of block sizes")
    arguments = parser.parse_args(words)
    try:
        gpu = open_gpu(needs_triton=True)
    except ValueError as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return 2
    budget, report = Budget(60 * arguments.minutes), partial(print, flush=True)
    part = tune if arguments.tune else check
    found, record = recorded(gpu, lambda on_gpu: part(on_gpu, budget, report))
    document: dict[str, Any] = {"command": "gpu_check", "time": now(), "environment": describe_environment()}
    document |= {"device": record["gpu"], "clocks": record["clocks"], "ceilings": record["ceilings"][0]} | found
    write_json(arguments.output, document)
    for goal in document.get("goals", []):
        print(f"{goal['goal']}: {goal['cells_reaching_it']} of {goal['cells']} cells")
    print(f"written to {arguments.output}")
    return exit_code(document)


if __name__ == "__main__":
    sys.exit(main())
