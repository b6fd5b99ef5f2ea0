"""Everything that needs one GPU, in at most ten minutes and one JSON file.

    python -m experiments.benchmarks.gpu_check --output results.json          # or: make gpu-check
    python -m experiments.benchmarks.gpu_check --output tuning.json --tune    # block sizes instead of speed

Parity of the Triton decode kernels at real sizes; the attention paper's kernel cells (batch 128, 128 query heads,
contexts of 1K to 64K, query lengths 1 and 2, page sizes 64 and 1; GLA-2 beside MLA, GTA-8 beside GQA-8); baselines that
are there (a straightforward Triton kernel, SDPA, compiled flex attention, FlashInfer's MLA); the device's measured
ceilings, its driver and clocks. What fails is a row with its reason, and so is what the time does not suffice for.
Needs torch and triton only.

Exit code 0: every parity check passed; 1: one did not, or none was made; 2: there is no GPU to check.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..runs.files import write_json
from ..runs.manifest import describe_environment, now
from .gpu_goals import judge_goals
from .gpu_machine import GpuCeilings, GraphTimer, Timer, clocks, describe_gpu, measure_gpu_ceilings
from .gpu_parity import ParityCase, check_parity, parity_cases
from .gpu_speed import Attend, SpeedCell, baseline_groups, failure_reason, measure_group, paper_groups
from .gpu_tuning import measure_blocks

# Shares of the time after which the next part begins, whatever is left of this one
PARITY_UNTIL, CELLS_UNTIL, BASELINES_UNTIL = 0.4, 0.8, 0.95

Row = dict[str, Any]
Report = Callable[[str], None]


class Budget:
    """Seconds that may be spent, and whether a share of them is."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._clock, self._start = seconds, clock, clock()

    def spent(self, share: float = 1.0) -> bool:
        """Whether more than this share of the seconds is over."""
        return self._clock() - self._start > share * self.seconds


def why_not() -> str | None:
    """One line that says what is missing for a check, or None."""
    if not torch.cuda.is_available():
        return (
            "gpu_check needs a CUDA device and torch finds none: run it on a machine with an NVIDIA GPU and a CUDA "
            "build of torch"
        )
    if importlib.util.find_spec("triton") is None:
        return "gpu_check needs the package triton: pip install 'rl-exp[triton]'"
    if os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes"):
        return "gpu_check measures compiled kernels, but TRITON_INTERPRET is set: unset it"
    return None


def run_parity(
    cases: Sequence[ParityCase], attend: Attend, device: torch.device, budget: Budget, report: Report
) -> list[Row]:
    """A row for every case: passed, failed or skipped."""
    rows = []
    for case in cases:
        if budget.spent(PARITY_UNTIL):
            rows.append(case.labels() | {"status": "skipped", "reason": "the time for parity checks was over"})
            continue
        try:
            row = check_parity(case, attend, device)
        except Exception as error:  # a case that cannot even run has failed
            row = case.labels() | {"status": "failed", "reason": failure_reason(error)}
        rows.append(row)
        report(line("parity", row))
        _free(device)
    return rows


def run_groups(
    groups: Sequence[Sequence[SpeedCell]],
    until: float,
    *,
    attend: Attend,
    timer: Timer,
    ceilings: GpuCeilings,
    device: torch.device,
    budget: Budget,
    report: Report,
) -> list[Row]:
    """A row for every cell of every group: measured, failed or skipped."""
    rows: list[Row] = []
    for group in groups:
        if budget.spent(until):
            rows += [cell.labels() | {"status": "skipped", "reason": "the time was over"} for cell in group]
            continue
        measured = measure_group(group, attend=attend, timer=timer, ceilings=ceilings, device=device)
        for row in measured:
            report(line("speed", row))
        rows += measured
        _free(device)
    return rows


def line(part: str, row: Row) -> str:
    """A row in words, for who watches."""
    names = ("mechanism", "kernel", "context", "query_length", "page_size", "dtype")
    words = [part, row["status"], *(f"{name}={row[name]}" for name in names if name in row)]
    if row["status"] == "measured":
        words.append(f"{row['seconds'] * 1e6:.1f} us")
        for unit, name in (("GB/s", "gigabytes_per_second"), ("TFLOP/s", "teraflops_per_second")):
            words.append(f"{row[name]:.0f} {unit}")
        words.append(f"{row['fraction_of_limit']:.2f} of the limit")
    if "worst_row_error" in row:
        words.append(f"error {row['worst_row_error']:.1e}")
    return " ".join([*words, row.get("reason", "")]).rstrip()


def check(budget: Budget, device: torch.device, tune: bool, report: Report) -> dict[str, Any]:
    """The document of one GPU."""
    from ..decoding.triton_attend import launched_blocks, triton_attend  # here: importing this module needs no triton

    timer = GraphTimer(device)
    document: dict[str, Any] = {
        "command": "gpu_check",
        "time": now(),
        "environment": describe_environment(),
        "device": describe_gpu(device),
        "clocks": {"before": clocks()},
    }
    ceilings = measure_gpu_ceilings(timer, device)
    _free(device)
    document["ceilings"] = {"memory_bytes": ceilings.memory_bytes, **vars(ceilings)}
    document["clocks"]["after_ceilings"] = clocks()
    report(f"ceilings {ceilings.memory_bytes / 1e9:.0f} GB/s, {ceilings.bf16_matmul_flops / 1e12:.0f} TFLOP/s")
    if tune:
        document["tuning"] = measure_blocks(timer, ceilings, device, budget.spent, report)
    else:
        measure = partial(
            run_groups,
            attend=triton_attend,
            timer=timer,
            ceilings=ceilings,
            device=device,
            budget=budget,
            report=report,
        )
        document["parity"] = run_parity(parity_cases(), triton_attend, device, budget, report)
        document["cells"] = measure(paper_groups(), CELLS_UNTIL)
        document["baselines"] = measure(baseline_groups(), BASELINES_UNTIL)
        document["goals"] = judge_goals(document["cells"])
        document["blocks"] = launched_blocks()
    document["clocks"]["after"] = clocks()
    return document


def exit_code(document: dict[str, Any]) -> int:
    """1 where a parity check failed or none was made, else 0."""
    if "parity" not in document:
        return 0
    statuses = {row["status"] for row in document["parity"]}
    return 0 if "passed" in statuses and "failed" not in statuses else 1


def _free(device: torch.device) -> None:
    if device.type == "cuda":
        with suppress(RuntimeError):  # a device that a failed cell left broken: the document is written all the same
            torch.cuda.empty_cache()


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the JSON document")
    parser.add_argument("--minutes", type=float, default=9.5, help="when to stop; what is left out is recorded")
    parser.add_argument("--tune", action="store_true", help="measure alternatives to the table of block sizes")
    arguments = parser.parse_args(words)
    if reason := why_not():
        print(reason, file=sys.stderr)
        return 2
    budget = Budget(60 * arguments.minutes)
    document = check(
        budget, torch.device("cuda", torch.cuda.current_device()), arguments.tune, partial(print, flush=True)
    )
    write_json(arguments.output, document)
    for goal in document.get("goals", []):
        print(f"{goal['goal']}: {goal['cells_reaching_it']} of {goal['cells']} cells")
    print(f"written to {arguments.output}")
    return exit_code(document)


if __name__ == "__main__":
    sys.exit(main())
