"""The last lines of `rl-exp bench`: what was measured on, its ceilings, the headline."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

BUSY_SHARE = 0.75  # load average per core before a run, from which on other jobs may have slowed it down


def machine_line(machine: Mapping[str, Any]) -> str:
    """The ceilings of the run in words."""
    parts = _gpu_words(machine) if "gpu" in machine else _processor_words(machine["ceilings"])
    before, after = machine["load_average_before"][0], machine["load_average_after"][0]
    parts.append(f"load {before:.1f} before, {after:.1f} after")
    if before > BUSY_SHARE * (os.cpu_count() or 1):
        parts.append("[yellow]the machine was busy before: compare ratios only[/]")
    return "[bold]machine[/]   " + "\n          ".join(parts)


def _processor_words(ceilings: Sequence[Mapping[str, Any]]) -> list[str]:
    parts = []
    for ceiling in ceilings:
        threads = f"{ceiling['threads']} thread{'' if ceiling['threads'] == 1 else 's'}"
        memory, cache = (ceiling[f"{place}_read_bytes"] / 1e9 for place in ("memory", "cache"))
        peak, product = ceiling["fp32_flops"] / 1e9, ceiling["fp32_matmul_flops"] / 1e9
        parts.append(f"{threads}: memory {memory:.1f} GB/s, cache {cache:.1f} GB/s")
        parts.append(f"fp32 {peak:.0f} GFLOP/s, torch's own products {product:.0f} GFLOP/s")
    return parts


def _gpu_words(machine: Mapping[str, Any]) -> list[str]:
    (ceiling,) = machine["ceilings"]
    read, copied = (ceiling[f"memory_{name}_bytes"] / 1e9 for name in ("read", "copy"))
    products = [f"{name} {ceiling[f'{name}_matmul_flops'] / 1e12:,.1f}" for name in ("bf16", "tf32", "fp32")]
    parts = [machine["gpu"]["name"], f"memory read {read:,.0f} GB/s, copied {copied:,.0f} GB/s"]
    parts.append(f"products {', '.join(products)} TFLOP/s")
    clocks = machine["clocks"]["after"]
    if clocks is None:
        parts.append("driver and clocks unknown: nvidia-smi did not answer")
    else:
        parts.append(f"driver {clocks['driver_version']}, clocks {clocks['clocks.sm']} and {clocks['clocks.mem']}")
    return parts


def summary(rows: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]) -> dict[str, Any]:
    """The headline: how much was measured, how near to the limit, the fastest mechanism."""
    measured = [row for row in rows if row["status"] == "measured"]
    best = max(measured, key=lambda row: row["tokens_per_second"])
    fractions = sorted(row["fraction_of_limit"] for row in measured if "fraction_of_limit" in row)
    ceiling = machine["ceilings"][0]
    if "gpu" in machine:
        peak = {"bf16_teraflops_per_second": ceiling["bf16_matmul_flops"] / 1e12, "gpu": machine["gpu"]["name"]}
    else:
        peak = {"fp32_gigaflops_per_second": ceiling["fp32_flops"] / 1e9}
    return {
        "cells": len(rows),
        "not_measured": len(rows) - len(measured),
        **({"median_share_of_limit": fractions[len(fractions) // 2]} if fractions else {}),
        "fastest": f"{best['mechanism']}, {best['tokens_per_second']:,.0f} tokens/s",
        "memory_gigabytes_per_second": ceiling["memory_read_bytes"] / 1e9,
        **peak,
        "objective": -best["tokens_per_second"],
    }


def plan_summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The headline of a plan: how many cells fit, and the highest ceiling."""
    fit = [row for row in rows if row["status"] == "predicted"]
    found: dict[str, Any] = {"cells": len(rows), "not_predicted": len(rows) - len(fit)}
    if fit:
        best = max(fit, key=lambda row: float(row["tokens_per_second_ceiling"]))
        ceiling = best["tokens_per_second_ceiling"]
        found["highest_ceiling"] = f"{best['mechanism']}, {best['devices']} {best['device']}, {ceiling:,.0f} tokens/s"
        found["objective"] = -ceiling
    return found
