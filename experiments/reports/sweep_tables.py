"""The newest sweeps as tables of their arms, for the page of `rl-exp report html`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from experiments.reports.run_comparison import compare_arms, compare_metrics, sweep_directories
from experiments.reports.run_records import HEADLINES, shown
from experiments.reward_metrics.correlations import Interval
from experiments.runs.sweeps import read_sweep

MOST_SWEEPS = 3
MOST_METRICS = 4


@dataclass(frozen=True)
class SweepTable:
    """Arms below each other, metrics beside each other."""

    name: str
    metrics: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]  # label of an arm, a cell per metric
    left_out: tuple[str, ...]  # a line per run that is not finished, or damaged


def sweep_tables(output_dir: Path) -> list[SweepTable]:
    """Of the newest sweeps that have something to compare; a damaged one is passed over."""
    tables: list[SweepTable] = []
    for directory in sweep_directories(output_dir):
        if len(tables) == MOST_SWEEPS:
            break
        try:
            arms, left_out = compare_arms(read_sweep(directory).runs)
        except (ValueError, OSError):
            continue
        rows = compare_metrics(arms)
        patterns = HEADLINES.get(arms[0].runs[0].experiment, ()) if arms else ()
        first = [row for pattern in patterns for row in rows if fnmatchcase(row.metric, pattern)]
        chosen = (first or rows)[:MOST_METRICS]
        if not chosen:
            continue
        tables.append(
            SweepTable(
                directory.name,
                tuple(row.metric for row in chosen),
                tuple((arm.label, tuple(_cell(row.intervals[i]) for row in chosen)) for i, arm in enumerate(arms)),
                tuple(left_out),
            )
        )
    return tables


def _cell(interval: Interval) -> str:
    """`61.7 [60.9, 62.4], n = 3`; one seed has no interval."""
    value = shown(float(interval.value))
    if math.isnan(interval.low) or interval.low == interval.high:
        return f"{value}, n = {interval.n}" if interval.n > 1 else value
    return f"{value} [{shown(float(interval.low))}, {shown(float(interval.high))}], n = {interval.n}"
