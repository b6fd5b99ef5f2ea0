"""The tables that a sweep of `rl-exp rlhf` ends with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from experiments.reports.claims import VERDICT_COLOURS
from experiments.reports.rlhf_effects import last_kl_point, steps_of
from experiments.reports.rlhf_increases import Outcome, Point, mean_increase
from experiments.reports.rlhf_runs import Setting
from experiments.reward_metrics.correlations import Interval
from experiments.reward_metrics.properties import CHIEF_PROPERTIES, label_of
from experiments.reward_metrics.statements import Statement

ARM_PROPERTIES = {"variance": "variance", "on_policy_accuracy": "accuracy", "harm_aware_accuracy": "HAcc"}
# of the correlation table, where the run has them
SHOWN_PROPERTIES = (*CHIEF_PROPERTIES, "covariance_with_ground_truth")


def arms_table(setting: Setting) -> Table:
    """One row per arm: what it was before training, and how far the ground truth and the proxy rose."""
    steps = steps_of(setting)
    points, ends = [steps[0], steps[-1]], steps[-1]
    numbers = sorted({len(arm.runs) for arm in setting.arms})
    seeds = f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    table = _table(
        f"reward models as teachers{_beside(setting)}",
        f"increases of ground truth and proxy: mean of {seeds} seed{'' if seeds == '1' else 's'} ± half of Student's "
        "95 % interval; proxy in std of its initial scores; accuracy: on-policy",
    )
    longest = max(len(arm.label) for arm in setting.arms)
    table.add_column("reward model", overflow="fold", min_width=min(longest, 20))
    for label in ARM_PROPERTIES.values():
        table.add_column(f"\n{label}", justify="right")
    for point in points:
        table.add_column(f"truth\n{point.label}", justify="right")
    table.add_column(f"proxy\n{ends.label}", justify="right")
    table.add_column("\nKL", justify="right")
    order = sorted(setting.arms, key=lambda arm: -_or_low(mean_increase(arm, Outcome.ground_truth, ends).value))
    for arm in order:
        kl = sum(float(run.probe.kl[-1]) for run in arm.runs) / len(arm.runs)
        table.add_row(
            escape(arm.label),
            *(_number(arm.property_value(name)) for name in ARM_PROPERTIES),
            *(_with_spread(mean_increase(arm, Outcome.ground_truth, point)) for point in points),
            _with_spread(mean_increase(arm, Outcome.proxy, ends)),
            _number(kl, 2),
        )
    return table


def correlation_table(setting: Setting, rows: Sequence[dict[str, Any]]) -> Table | None:
    """Pearson's r of the chief properties with both increases; None where there are too few reward models."""
    rows = [row for row in rows if row["setting"] == setting.label and row["method"] == "pearson"]
    if not rows:
        return None
    columns = _shown_columns(setting)
    n = max(row["reward_models"] for row in rows)
    table = _table(
        f"correlation with the increase of rewards, over {n} reward models{_beside(setting)}",
        "Pearson's r, 95 % bootstrap interval over reward models (from 6 on), permutation p (not corrected for their "
        "number)",
    )
    table.add_column("property\nbefore training", overflow="fold", min_width=19)
    for outcome, point in columns:
        table.add_column(f"{outcome.words.removeprefix('ground ')}\n{point.label}", justify="right")
    known = list(dict.fromkeys(row["property"] for row in rows))
    shown = [name for name in SHOWN_PROPERTIES if name in known]
    for name in shown:
        cells = [
            _coefficient(
                next(
                    (
                        row
                        for row in rows
                        if (row["property"], row["increase_of"], row["point"]) == (name, outcome.value, point.name)
                    ),
                    None,
                )
            )
            for outcome, point in columns
        ]
        table.add_row(label_of(name), *cells, end_section=True)
    return table


def statements_table(statements: Sequence[Statement]) -> Table:
    """Statements of the papers with their verdicts."""
    table = Table(
        "verdict",
        "statement, source, and what was measured",
        "effect\n[95 % interval]",
        Column("n", justify="right"),
        show_lines=True,
    )
    for item in statements:
        verdict = Text(str(item.verdict), style=VERDICT_COLOURS[str(item.verdict)])
        what = Text.assemble(item.statement, ("\n" + item.source, "dim"), "\n" + item.measured)
        table.add_row(verdict, what, Text(_effect(item.effect)), str(item.effect.n))
    return table


def _table(title: str, caption: str) -> Table:
    return Table(
        title=escape(title), caption=caption, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD,
        padding=0,
    )  # fmt: skip


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


def _span(low: float, high: float, form: str) -> str:
    return f"[{low:{form}}, {high:{form}}]"


def _effect(effect: Interval) -> str:
    if math.isnan(effect.value):
        return "not measured"
    if math.isnan(effect.low):
        return f"{effect.value:.3g}\n(no interval)"
    return f"{effect.value:.3g}\n{_span(effect.low, effect.high, '.3g')}"


def _with_spread(interval: Interval) -> str:
    if math.isnan(interval.value):
        return "-"
    half = (interval.high - interval.low) / 2
    return f"{interval.value:+.3f}" + ("" if math.isnan(half) else f"\n[dim]± {half:.3f}[/]")


def _number(value: float, digits: int = 3) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _or_low(value: float) -> float:
    return -math.inf if math.isnan(value) else value
