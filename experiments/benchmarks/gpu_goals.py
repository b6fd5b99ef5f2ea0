"""What the rows of a GPU check say about the goals of the kernels: ratios of cells that were timed side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Goal:
    """A number that every cell should reach, and how to read it off the rows."""

    name: str
    wanted: float
    at_least: bool
    values: Callable[[Sequence[Row]], list[float]]

    def judge(self, rows: Sequence[Row]) -> dict[str, Any]:
        """`reached` None where nothing of it was measured."""
        values = self.values([row for row in rows if row["kernel"] == "triton" and row["status"] == "measured"])
        reaching = [value for value in values if (value >= self.wanted if self.at_least else value <= self.wanted)]
        judged: dict[str, Any] = {
            "goal": f"{self.name}: {'at least' if self.at_least else 'at most'} {self.wanted}",
            "cells": len(values),
            "cells_reaching_it": len(reaching),
            "reached": len(reaching) == len(values) if values else None,
        }
        if values:
            judged |= {"lowest": min(values), "median": median(values), "highest": max(values)}
        return judged


def ratios(rows: Iterable[Row], numerator: Row, denominator: Row) -> list[float]:
    """Seconds of the cells with the columns `numerator` over those that differ from them by `denominator` only."""
    rows = list(rows)
    same = [
        name
        for name in ("mechanism", "batch", "query_heads", "head_dim", "context", "query_length", "page_size")
        if name not in denominator
    ]
    below = {tuple(row[name] for name in same): row for row in rows if denominator.items() <= row.items()}
    return [
        row["seconds"] / below[key]["seconds"]
        for row in rows
        if numerator.items() <= row.items() and (key := tuple(row[name] for name in same)) in below
    ]


GOALS = (
    Goal(
        "fraction of measured bandwidth in memory-bound cells",
        0.85,
        True,
        lambda rows: [row["fraction_of_bandwidth"] for row in rows if row["bound"] == "memory"],
    ),
    Goal(
        "fraction of the measured matmul peak, GLA-2 at query length 2",
        0.6,
        True,
        lambda rows: [
            row["fraction_of_matmul"] for row in rows if row["mechanism"] == "gla-2" and row["query_length"] == 2
        ],
    ),
    Goal(
        "seconds at page size 1 over page size 64",
        1.1,
        False,
        lambda rows: ratios(rows, {"page_size": 1}, {"page_size": 64}),
    ),
    Goal(
        "seconds of MLA over GLA-2 at query length 2",
        1.5,
        True,
        lambda rows: ratios(rows, {"mechanism": "mla", "query_length": 2}, {"mechanism": "gla-2"}),
    ),
    Goal(
        "seconds of GQA-8 over GTA-8",
        1.6,
        True,
        lambda rows: ratios(rows, {"mechanism": "gqa-8"}, {"mechanism": "gta-8"}),
    ),
)


def judge_goals(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A row for every goal. The paper-match cells only: baselines' own groups repeat some of them."""
    return [goal.judge(rows) for goal in GOALS]
