"""The tables of `rl-exp reward-eval`: rows as `Evaluation.rows()` has them, of one policy or several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from experiments.reports.tables import Column, name_column, rich_table
from experiments.reward_metrics.properties import ERROR_CATEGORIES, SIGNALS, label_of

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
    shown = [name for name in PROPERTIES_SHOWN if any(row.get(name) is not None for row in rows)]
    return rich_table(
        [*_names(rows), *(_property(name, label_of(name).replace(" ", "\n")) for name in shown)],
        rows,
        title="reward models for this policy",
        caption="95 % bootstrap intervals over prompts; covariance: of proxy with ground truth within prompts, both "
        "normalised; set: the configured target_variance, not a property of the reward model",
        gap=0,
    )


def accuracies_table(rows: Sequence[Row]) -> Table:
    """The harm-aware accuracies of the imperfect-rewards paper, over pairs and the best output against the rest."""
    headings = {
        name: label_of(name).replace("1-vs-many ", "1 vs many\n").replace("/len", "\nper token")
        for name in (*ACCURACIES_SHOWN, "one_vs_many_harm_aware_accuracy")
    }
    return rich_table(
        [*_names(rows), *(_property(name, heading) for name, heading in headings.items())],
        rows,
        title="harm-aware accuracies",
        caption="pairs of the policy's samples; 1 vs many: its best sample against all worse ones",
        gap=0,
    )


def signals_table(rows: Sequence[Row]) -> Table:
    """What the first step of training on each reward model does to this policy."""
    shown = [name for name in SIGNALS if name != "signal_cosine" and any(row.get(name) is not None for row in rows)]
    return rich_table(
        [
            *_names(rows),
            *(
                _property(name, label_of(name).replace(" / ", "/\n").replace(", ", "\n").replace(" signal", "\nsignal"))
                for name in shown
            ),
        ],
        rows,
        title="learning and teaching signals",
        caption="95 % jackknife intervals over prompts; first order, at this policy (docs/teaching_signal.md)",
        gap=0,
    )


def errors_table(rows: Sequence[Row]) -> Table:
    """Shares of the policy's samples by what their reward error does."""
    headings = {"zero_variance_share": "prompts\nwithout\nvariance"}
    for name, label in ERROR_CATEGORIES.items():
        headings[f"error_{name}"] = label.replace(": ", "\n").replace(" ", "\n")
    return rich_table(
        [
            *_names(rows),
            *(Column[Row](text, name, "{:.0f}", scale=100, missing="-") for name, text in headings.items()),
        ],
        rows,
        title="reward errors of the policy's samples, in per cent",
        caption="categories of the imperfect-rewards paper on the empirical distribution of each prompt's samples",
        gap=0,
    )


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


def _names(rows: Sequence[Row]) -> list[Column[Row]]:
    """The reward model, and the policy where there are several."""
    names = (str(row["reward_model"]) for row in rows)
    models: Column[Row] = name_column("reward model", names, lambda row: str(row["reward_model"]))
    if len({row.get("run_id") for row in rows}) == 1:
        return [models]
    return [Column("policy", lambda row: escape(str(row["policy"])), left=True, fold=True), models]


def _property(name: str, heading: str) -> Column[Row]:
    """A number with its interval below it."""

    def cell(row: Row) -> str:
        value, low, high = (row.get(key) for key in (name, f"{name}_low", f"{name}_high"))
        if value is None:
            return "-"
        shown = f"{value:.3f}" + (" set" if name == "variance" and row.get("variance_is_set") else "")
        interval = "" if low is None or high is None else f"\n[dim]\\[{_short(low)},{_short(high)}][/]"
        return f"{shown}{interval}"

    return Column(heading, cell)


def _short(value: float) -> str:
    """.52: two digits, without what says nothing."""
    return f"{value:.2f}".replace("0.", ".", 1).replace("1.00", "1")
