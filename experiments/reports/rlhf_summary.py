"""What a sweep of `rl-exp rlhf` ends with, from its run directories alone: who teaches well, and what predicts it.

    python -m experiments.reports.rlhf_summary outputs/sweeps/rlhf-sweep-<id>      # at any time, while it runs too

Per arm: the reward model's properties before training, and the increases of proxy and ground truth at fixed steps and
at fixed KL divergence. Over reward models: the correlation of every property with both increases. Then the papers'
statements with verdicts, and figures. Nothing is computed again; unfinished and damaged runs are left out and named.

Leaves comparison.json (arms, statements, correlations of the main properties), comparison.parquet (one row per run),
correlations.parquet (of every property), statements.json and figures/.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape

from experiments.reports.findings_table import findings_table
from experiments.reports.rlhf_correlations import correlation_rows
from experiments.reports.rlhf_figures import draw_all
from experiments.reports.rlhf_increases import Outcome, increase, mean_increase, points_of
from experiments.reports.rlhf_over_optimisation import over_optimisation_fit
from experiments.reports.rlhf_runs import Arm, Setting, group_runs, read_runs
from experiments.reports.rlhf_statements import findings_of
from experiments.reports.rlhf_tables import SHOWN_PROPERTIES, arms_table, correlation_table
from experiments.runs.files import write_json
from experiments.runs.row_files import write_parquet
from experiments.runs.seeds import SeedStreams
from experiments.runs.sweeps import read_sweep

logger = logging.getLogger(__name__)

DEFAULT_PRESET = "small"  # of conf/rlhf_sweep.yaml
MOST_TABLES = 6


def summarise_rlhf(runs: list[Path], sweep_directory: Path, console: Console) -> dict[str, Any]:
    """Print and write the comparison of these runs; returns what comparison.json holds."""
    found, left_out = read_runs(runs)
    for line in left_out:
        console.print(f"[yellow]left out:[/] {escape(line)}", highlight=False, soft_wrap=True)
    if not found:
        console.print("no finished run can be compared yet", highlight=False)
        return {}
    settings = group_runs(found)
    # One seed of permutations: the same runs always have the same p.
    correlations = correlation_rows(settings, SeedStreams(0).numpy("correlations"))
    findings = findings_of(presets_of(sweep_directory), settings)

    document = {
        "runs": [run.directory.name for run in found],
        "left_out": left_out,
        "arms": [arm_row(setting, arm) for setting in settings for arm in setting.arms],
        "correlations": [row for row in correlations if row["property"] in SHOWN_PROPERTIES],
        "statements": [finding.as_dict() for finding in findings],
    }
    write_json(sweep_directory / "comparison.json", document)
    write_json(sweep_directory / "statements.json", document["statements"])
    write_parquet(run_rows(settings), sweep_directory / "comparison.parquet")
    if correlations:
        write_parquet(correlations, sweep_directory / "correlations.parquet")

    for setting in settings[:MOST_TABLES]:
        console.print(arms_table(setting))
        table = correlation_table(setting, correlations)
        if table is not None:
            console.print(table)
    if len(settings) > MOST_TABLES:
        console.print(f"{len(settings) - MOST_TABLES} further settings are in comparison.json", highlight=False)
    if findings:
        console.print(findings_table(findings))
    for figure in figures(settings, correlations, sweep_directory / "figures"):
        console.print(f"[bold]figure[/]    {escape(str(figure))}", highlight=False, soft_wrap=True)
    return document


def presets_of(sweep_directory: Path) -> list[str]:
    """The presets that the sweep was asked for, from sweep.json; none where it was no sweep of ours."""
    try:
        sweep = read_sweep(sweep_directory)
    except ValueError:
        return []
    if sweep.command != "rlhf-sweep":
        return []
    named = [text.partition("=")[2] for text in sweep.overrides if text.startswith("preset=")]
    return named[-1].split(",") if named else [DEFAULT_PRESET]


def arm_row(setting: Setting, arm: Arm) -> dict[str, Any]:
    """An arm for comparison.json: what it is, its properties, its increases with intervals over seeds."""
    row: dict[str, Any] = {
        "setting": setting.label,
        "policy": setting.policy,
        "task": setting.task,
        "arm": arm.label,
        "seeds": arm.seeds,
        "properties": {name: arm.property_value(name) for name in setting.property_names},
        "final_kl": float(np.mean([run.probe.kl[-1] for run in arm.runs])),
        "over_optimisation": over_optimisation_fit(arm),
    }
    for outcome in Outcome:
        for point in points_of(setting):
            interval = mean_increase(arm, outcome, point)
            row[f"{outcome}_increase/{point.name}"] = {
                "at": point.label,
                "mean": interval.value,
                "low": interval.low,
                "high": interval.high,
            }
    return row


def run_rows(settings: Sequence[Setting]) -> list[dict[str, Any]]:
    """One row per run: what it was, the reward model's properties, the increases."""
    return [
        {
            "run": run.directory.name,
            "setting": setting.label,
            "policy": run.policy,
            "task": run.task,
            "arm": arm.label,
            "seed": run.seed,
            **{f"property/{name}": value for name, value in run.properties.items()},
            **{
                f"{outcome}_increase/{point.name}": increase(run, outcome, point)
                for outcome in Outcome
                for point in points_of(setting)
            },
            "final_kl": float(run.probe.kl[-1]),
            "final_ground_truth": float(run.probe.ground_truth[-1]),
        }
        for setting in settings
        for arm in setting.arms
        for run in arm.runs
    ]


def figures(settings: Sequence[Setting], correlations: Sequence[dict[str, Any]], directory: Path) -> list[Path]:
    """Draw them; a figure that cannot be drawn ends no sweep."""
    try:
        return draw_all(settings, correlations, directory)
    except Exception:
        logger.warning("a figure could not be drawn", exc_info=True)
        return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="a folder of outputs/sweeps/")
    arguments = parser.parse_args()
    try:
        summarise_rlhf(list(read_sweep(arguments.sweep).runs), arguments.sweep, Console())
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
