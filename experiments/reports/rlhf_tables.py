"""The tables that a sweep of `rl-exp rlhf` ends with."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from experiments.reports.rlhf_effects import last_kl_point, steps_of
from experiments.reports.rlhf_increases import Outcome, Point, mean_increase
from experiments.reports.rlhf_runs import Arm, Setting
from experiments.reports.tables import Column, name_column, rich_table
from experiments.reward_metrics.correlations import Interval
from experiments.reward_metrics.properties import MAIN_PROPERTIES, label_of

ARM_PROPERTIES = {"variance": "variance", "on_policy_accuracy": "accuracy", "harm_aware_accuracy": "HAcc"}
# of the correlation table, where the run has them
SHOWN_PROPERTIES = (*MAIN_PROPERTIES, "covariance_with_ground_truth")


def arms_table(setting: Setting) -> Table:
    """One row per arm: what it was before training, and how far the ground truth and the proxy rose."""
    steps = steps_of(setting)
    end = steps[-1]
    numbers = sorted({len(arm.runs) for arm in setting.arms})
    seeds = f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"

    def property_column(name: str, label: str) -> Column[Arm]:
        return Column(f"\n{label}", lambda arm: _number(arm.property_value(name)))

    def increase_column(heading: str, outcome: Outcome, point: Point) -> Column[Arm]:
        return Column(f"{heading}\n{point.label}", lambda arm: _with_spread(mean_increase(arm, outcome, point)))

    return rich_table(
        [
            name_column("reward model", (arm.label for arm in setting.arms), lambda arm: arm.label),
            *(property_column(name, label) for name, label in ARM_PROPERTIES.items()),
            *(increase_column("truth", Outcome.ground_truth, point) for point in (steps[0], end)),
            increase_column("proxy", Outcome.proxy, end),
            Column("\nKL", lambda arm: _number(statistics.fmean(float(run.probe.kl[-1]) for run in arm.runs), 2)),
        ],
        sorted(setting.arms, key=lambda arm: -_or_low(mean_increase(arm, Outcome.ground_truth, end).value)),
        title=f"reward models as teachers{_beside(setting)}",
        caption=f"increases of ground truth and proxy: mean of {seeds} seed{'' if seeds == '1' else 's'} ± half of "
        "Student's 95 % interval; proxy in std of its initial scores; accuracy: on-policy",
        gap=0,
    )


def correlation_table(setting: Setting, rows: Sequence[dict[str, Any]]) -> Table | None:
    """Pearson's r of the main properties with both increases; None where there are too few reward models."""
    rows = [row for row in rows if row["setting"] == setting.label and row["method"] == "pearson"]
    if not rows:
        return None
    found = {(row["property"], row["increase_of"], row["point"]): row for row in rows}

    def column(outcome: Outcome, point: Point) -> Column[str]:
        return Column(
            f"{outcome.words.removeprefix('ground ')}\n{point.label}",
            lambda name: _coefficient(found.get((name, outcome.value, point.name))),
        )

    n = max(row["reward_models"] for row in rows)
    return rich_table(
        [
            Column("property\nbefore training", label_of, left=True, fold=True, min_width=19),
            *(column(outcome, point) for outcome, point in _shown_columns(setting)),
        ],
        [name for name in SHOWN_PROPERTIES if any(row["property"] == name for row in rows)],
        title=f"correlation with the increase of rewards, over {n} reward models{_beside(setting)}",
        caption="Pearson's r, Fisher's 95 % interval over reward models (from 6 on), permutation p (not corrected for "
        "their number)",
        ruled=True,
        gap=0,
    )


def _beside(setting: Setting) -> str:
    return f": {setting.label}" if setting.label else ""


def _shown_columns(setting: Setting) -> list[tuple[Outcome, Point]]:
    """Early and at the end for both, and the ground truth at equal KL: what fits a terminal."""
    steps, kl = steps_of(setting), last_kl_point(setting)
    ground_truth = [steps[0], steps[-1], *([] if kl is None else [kl])]
    return [(Outcome.proxy, steps[0]), (Outcome.proxy, steps[-1]), *((Outcome.ground_truth, p) for p in ground_truth)]


def _coefficient(row: dict[str, Any] | None) -> str:
    if row is None or math.isnan(row["coefficient"]):
        return "-"
    interval = [f"{value:+.1f}".replace("0.", ".") for value in (row["low"], row["high"])]
    span = "" if math.isnan(row["low"]) else escape(f"[{','.join(interval)}]") + "\n"
    return f"{row['coefficient']:+.2f}\n[dim]{span}p {row['permutation_p']:.2g}[/]"


def _with_spread(interval: Interval) -> str:
    if math.isnan(interval.value):
        return "-"
    half = (interval.high - interval.low) / 2
    return f"{interval.value:+.3f}" + ("" if math.isnan(half) else f"\n[dim]± {half:.3f}[/]")


def _number(value: float, digits: int = 3) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _or_low(value: float) -> float:
    return -math.inf if math.isnan(value) else value
