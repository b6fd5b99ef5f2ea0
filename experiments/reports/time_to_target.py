"""Tokens and seconds until a held-out loss is reached, per arm of a sweep of `rl-exp train`.

    rl-exp train -m optimizer=adamw,muon seed=0,1,2 training.evaluate_every_tokens=50000
    python -m experiments.reports.time_to_target outputs/sweeps/train-<id> --loss 4.5
    python -m experiments.reports.time_to_target outputs/train/<run id> outputs/train/<another> --loss 4.5

Between two evaluations the loss is interpolated linearly. Seconds are tokens divided by the run's own mean speed, so
that evaluations do not count; they are comparable only between runs that had the machine to themselves.
"""

from __future__ import annotations

import argparse
import json
import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.reports.tables import Column, rich_table
from experiments.reports.train_comparison import gather_arms
from experiments.runs.files import read_json


def tokens_to_loss(curve: list[tuple[int, float]], target: float) -> float | None:
    """Where a curve of (tokens, loss) first falls to `target`; None when it never does."""
    for (tokens, loss), (next_tokens, next_loss) in pairwise(curve):
        if next_loss <= target < loss:
            return tokens + (next_tokens - tokens) * (loss - target) / (loss - next_loss)
    return None


def held_out_curve(run: Path, held_out_set: str) -> list[tuple[int, float]]:
    """(tokens, loss) of every evaluation of a run, in order."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    key = f"eval/{held_out_set}/loss"
    return [(row["tokens"], row[key]) for row in rows if row.get(key) is not None]


def time_to_target(runs: list[Path], held_out_set: str, target: float) -> Table:
    """One row per arm: how many seeds reached the target, tokens, seconds, and the final loss."""
    rows = []
    for arm in gather_arms(runs):
        curves = [held_out_curve(run, held_out_set) for run in arm.runs]
        reached = [
            (tokens, tokens / summary["tokens_per_second"])
            for curve, summary in zip(curves, arm.summaries, strict=True)
            if (tokens := tokens_to_loss(curve, target)) is not None
        ]
        finals = [curve[-1][1] for curve in curves]
        spread = f" ± {statistics.stdev(finals):.3f}" if len(finals) > 1 else ""
        rows.append(
            {
                "arm": arm.label,
                "reached": f"{len(reached)} of {len(curves)}",
                "tokens": statistics.fmean(tokens for tokens, _ in reached) if reached else None,
                "seconds": statistics.fmean(seconds for _, seconds in reached) if reached else None,
                "final loss": f"{statistics.fmean(finals):.3f}{spread}",
            }
        )
    columns: list[Column[dict[str, Any]]] = [
        Column("arm", "arm", left=True),
        Column("reached", "reached"),
        Column("tokens", "tokens", "{:,.0f}", missing="-"),
        Column("seconds", "seconds", "{:,.1f}", missing="-"),
        Column("final loss", "final loss"),
    ]
    return rich_table(columns, rows, title=f"until the loss on {held_out_set} is {target} nats per token")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="sweeps (outputs/sweeps/...) or runs (outputs/train/...)")
    parser.add_argument("--loss", type=float, required=True, help="target, nats per token")
    parser.add_argument("--held-out-set", default="web_bible")
    arguments = parser.parse_args()
    runs: list[Path] = []
    for folder in arguments.folders:
        if (folder / "sweep.json").is_file():
            jobs = read_json(folder / "sweep.json")["jobs"]
            runs += [folder.parent.parent / "train" / job["run_id"] for job in jobs]
        elif (folder / "metrics.jsonl").is_file():
            runs.append(folder)
        else:
            parser.error(f"{folder} is no sweep and no run: name folders in outputs/sweeps/ or outputs/train/")
    finished = [run for run in dict.fromkeys(runs) if (run / "summary.json").is_file()]
    if not finished:
        parser.error("none of these runs has finished")
    Console().print(time_to_target(finished, arguments.held_out_set, arguments.loss))


if __name__ == "__main__":
    main()
