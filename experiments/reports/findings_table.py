"""Findings with their verdicts, as a run or a sweep prints them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from experiments.reward_metrics.correlations import Interval
from experiments.reward_metrics.statements import Finding, Kind, Verdict

VERDICT_COLOURS = {Verdict.reproduced: "green", Verdict.not_reproduced: "red", Verdict.inconclusive: "yellow"}


def findings_table(findings: Sequence[Finding]) -> Table:
    """Verdict, statement, source and measurement, effect, and what was drawn independently."""
    table = Table(
        "verdict", "statement, source, and what was measured", "effect\n[95 % interval]", "n", show_lines=True
    )
    for item in findings:
        kind = "" if item.statement.kind is Kind.paper else f"\n({item.statement.kind})"
        what = Text.assemble(item.says, ("\n" + item.statement.source, "dim"), "\n" + item.measured)
        verdict = Text(f"{item.verdict}{kind}", style=VERDICT_COLOURS[item.verdict])
        table.add_row(verdict, what, Text(effect_text(item.effect).replace(" ", "\n", 1)), Text(item.drawn))
    return table


def effect_text(effect: Interval) -> str:
    """`1.61 [1.52, 1.7]`; computed numbers have no interval."""
    if math.isnan(effect.value):
        return "not measured"
    value = number(effect.value)
    if math.isnan(effect.low):
        return f"{value} (no interval)"
    if effect.low == effect.high:
        return f"{value} (exact)" if effect.n == 1 else value
    return f"{value} [{number(effect.low)}, {number(effect.high)}]"


def number(value: float) -> str:
    """Three digits; thousands with commas."""
    if math.isinf(value):
        return "never"
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}" if abs(value) < 1e7 else f"{value:.2e}"
