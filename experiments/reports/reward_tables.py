"""The tables of `rl-exp reward-eval`: rows as `Evaluation.rows()` has them, of one policy or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from experiments.reward_metrics.properties import ERROR_CATEGORIES, label_of

Row = dict[str, Any]

PROPERTIES_SHOWN = (
    "variance",
    "on_policy_accuracy",
    "off_policy_accuracy",
    "variance_and_accuracy",
    "covariance_with_ground_truth",
)
ACCURACIES_SHOWN = (
    "strict_accuracy",
    "harm_aware_accuracy",
    "length_normalised_weighted_accuracy",
    "length_normalised_weighted_harm_aware_accuracy",
)


def properties_table(rows: Sequence[Row]) -> Table:
    """Variance and accuracies of the good-teacher paper."""
    table = _table(
        "reward models for this policy",
        "95 % bootstrap intervals over prompts; covariance: of proxy with ground truth within prompts, both normalised",
        rows,
    )
    shown = [name for name in PROPERTIES_SHOWN if any(row.get(name) is not None for row in rows)]
    for name in shown:
        table.add_column(label_of(name).replace(" ", "\n"), justify="right")
    for row in rows:
        table.add_row(*_names(row, rows), *(_cell(row, name) for name in shown))
    return table


def accuracies_table(rows: Sequence[Row]) -> Table:
    """The harm-aware accuracies of the imperfect-rewards paper, over pairs and the best output against the rest."""
    table = _table(
        "harm-aware accuracies",
        "pairs of the policy's samples; 1 vs many: its best sample against all worse ones",
        rows,
    )
    columns = [*ACCURACIES_SHOWN, "one_vs_many_harm_aware_accuracy"]
    for name in columns:
        table.add_column(
            label_of(name).replace("1-vs-many ", "1 vs many\n").replace("/len", "\nper token"), justify="right"
        )
    for row in rows:
        table.add_row(*_names(row, rows), *(_cell(row, name) for name in columns))
    return table


def errors_table(rows: Sequence[Row]) -> Table:
    """Shares of the policy's samples by what their reward error does."""
    table = _table(
        "reward errors of the policy's samples, in per cent",
        "categories of the imperfect-rewards paper on the empirical distribution of each prompt's samples",
        rows,
    )
    table.add_column("prompts\nwithout\nvariance", justify="right")
    for label in ERROR_CATEGORIES.values():
        table.add_column(label.replace(": ", "\n").replace(" ", "\n"), justify="right")
    for row in rows:
        names = ("zero_variance_share", *(f"error_{name}" for name in ERROR_CATEGORIES))
        shares = (row.get(name) for name in names)
        table.add_row(*_names(row, rows), *("-" if share is None else f"{100 * share:.0f}" for share in shares))
    return table


def effective_line(rows: Sequence[Row]) -> str:
    """What the weighted accuracies rest on: the same for all reward models of a policy."""
    row = rows[0]
    pairs, raw, per_token = (
        row.get(name) or 0.0
        for name in ("comparisons", "effective_comparisons", "length_normalised_effective_comparisons")
    )
    return (
        f"weighted accuracies rest on {per_token:,.0f} of {pairs:,.0f} pairs (effective, per token); without dividing "
        f"log-probabilities by length on {raw:,.1f}"
    )


def _table(title: str, caption: str, rows: Sequence[Row]) -> Table:
    table = Table(
        title=title, caption=caption, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD,
        padding=0,
    )  # fmt: skip
    if _several_policies(rows):
        table.add_column("policy", overflow="fold")
    longest = max(len(str(row["reward_model"])) for row in rows)
    table.add_column("reward model", overflow="fold", min_width=min(longest, 20))
    return table


def _several_policies(rows: Sequence[Row]) -> bool:
    return len({row.get("run_id") for row in rows}) > 1


def _names(row: Row, rows: Sequence[Row]) -> list[str]:
    policy = [escape(str(row["policy"]))] if _several_policies(rows) else []
    return [*policy, escape(str(row["reward_model"]))]


def _cell(row: Row, name: str) -> str:
    value, low, high = (row.get(key) for key in (name, f"{name}_low", f"{name}_high"))
    if value is None:
        return "-"
    interval = "" if low is None or high is None else f"\n[dim]\\[{_short(low)},{_short(high)}][/]"
    return f"{value:.3f}{interval}"


def _short(value: float) -> str:
    """.52: two digits, without what says nothing."""
    return f"{value:.2f}".replace("0.", ".", 1).replace("1.00", "1")
