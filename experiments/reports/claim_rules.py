"""From numbers to verdicts: a rule names a quantity in a JSON document, and the region in which its claim holds.

    rows: arms                              where the list of rows stands in the document; empty: the document itself
    where: {mechanism: gta}                 rows whose columns have these values; texts may have * and ?
    minus: {mechanism: gqa}                 the row that is taken off (or, with `over`, divided by)
    same: [dtype]                           columns that the two must share
    value: by_seed.eval/web_bible/loss      the column, by its path in the row
    spread: seeds                           where the interval comes from
    at_most: 0.01                           the region

The verdict follows as for every statement of ours: reproduced when the whole interval lies in the region, not
reproduced when all of it lies outside, else inconclusive. A number without an interval decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from experiments.reward_metrics.correlations import Interval, student_interval
from experiments.reward_metrics.statements import Statement, computed

Row = Mapping[str, Any]


class Spread(Enum):
    """Where a quantity's interval comes from."""

    interval = "interval"  # the row has `interval` and `n` beside it: rows of statements.json
    seeds = "seeds"  # the value is a mapping from seed to number: Student's t over seeds, paired for two rows
    rounds = "rounds"  # the value is a list by round of measurement: as seeds; rows are measured in turn within a round
    quartiles = "quartiles"  # the row has <value>_q1 and <value>_q3; for two rows the widest ratio of quartiles
    exact = "exact"  # the number was computed, not measured: an interval of no width


@dataclass
class Rule:
    """One part of a claim, checked against every row (or pair of rows) that fits."""

    says: str
    evidence: str  # name of the evidence of the claim
    rows: str = ""
    where: dict[str, Any] = field(default_factory=dict)
    minus: dict[str, Any] = field(default_factory=dict)
    over: dict[str, Any] = field(default_factory=dict)
    same: list[str] = field(default_factory=list)
    largest: list[str] = field(default_factory=list)  # of the rows only those with the largest value here
    value: str = "effect"
    spread: Spread = Spread.interval
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None  # as at_least, the bound itself excluded
    below: float | None = None
    unit: str = ""
    counts: bool = True  # false: shown beside the claim, no part of its verdict

    def __post_init__(self) -> None:
        if self.low == -math.inf and self.high == math.inf:
            raise ValueError(f"rule {self.says!r} has no region: give at_least, at_most, above or below")
        if self.low > self.high:
            raise ValueError(f"rule {self.says!r} has an empty region: no number is {region(self)}")
        if self.minus and self.over:
            raise ValueError(f"rule {self.says!r} has both minus and over: a quantity is a difference or a ratio")
        if (self.minus or self.over) and self.spread is Spread.interval:
            raise ValueError(
                f"rule {self.says!r}: intervals of two rows cannot be combined; use seeds, rounds or quartiles"
            )
        if self.minus and self.spread is Spread.quartiles:
            raise ValueError(f"rule {self.says!r}: quartiles are combined into ratios; use over instead of minus")

    @property
    def quantity(self) -> str:
        """The column of the one number whose values by seed or round `value` names; `value` itself elsewhere."""
        return self.value.removeprefix("by_seed.").removesuffix("_by_round")

    @property
    def low(self) -> float:
        """Where the region begins."""
        bounds = [self.at_least, None if self.above is None else math.nextafter(self.above, math.inf)]
        return max((bound for bound in bounds if bound is not None), default=-math.inf)

    @property
    def high(self) -> float:
        """Where the region ends."""
        bounds = [self.at_most, None if self.below is None else math.nextafter(self.below, -math.inf)]
        return min((bound for bound in bounds if bound is not None), default=math.inf)


def apply_rule(rule: Rule, document: Any, source: str) -> list[Statement]:
    """What the document says of the rule: a statement for every row or pair that fits; none where none does.

    Damaged or missing numbers give a statement that was not measured, never an exception.
    """
    rows = _rows(document, rule.rows)
    for key in rule.largest:
        fitting = [row for row in rows if _fits(row, rule.where)]
        most = max((row[key] for row in fitting if _is_number(row.get(key))), default=None)
        rows = [row for row in rows if row.get(key) == most]
    statements = []
    for row, other in _pairs(rows, rule):
        try:
            effect = _effect(rule, row, other)
        except (KeyError, TypeError, ValueError, ZeroDivisionError, IndexError, OverflowError):
            effect = Interval(math.nan, math.nan, math.nan, 0)
        text = row.get("statement")
        label = ", ".join(str(row.get(key)) for key in rule.same if row.get(key) is not None)
        statements.append(
            Statement(
                statement=str(text) if text else rule.says + (f" ({label})" if label else ""),
                source=str(row.get("source") or source),
                measured=str(row.get("measured") or _measured(rule)),
                effect=effect,
                at_least=rule.low,
                at_most=rule.high,
            )
        )
    return statements


def region(rule: Rule) -> str:
    """`at least 1.2 and at most 2 tokens`."""
    bounds = {"at least": rule.at_least, "above": rule.above, "at most": rule.at_most, "below": rule.below}
    text = " and ".join(f"{word} {value:.4g}" for word, value in bounds.items() if value is not None)
    return f"{text} {rule.unit}".strip()


def _measured(rule: Rule) -> str:
    first = " ".join(str(value) for value in rule.where.values())
    second = " ".join(str(value) for value in (rule.minus or rule.over).values())
    word = " minus " if rule.minus else " over " if rule.over else ""
    how = {
        Spread.seeds: "Student's t over seeds" + (", paired" if second else ""),
        Spread.rounds: "Student's t over rounds" + (", paired" if second else ""),
        Spread.quartiles: "interval from the quartiles of repeated measurements",
        Spread.exact: "computed",
        Spread.interval: "",
    }[rule.spread]
    return f"{rule.quantity}: {first}{word}{second}" + (f"; {how}" if how else "")


def _rows(document: Any, path: str) -> list[Row]:
    for name in path.split(".") if path else []:
        document = document.get(name) if isinstance(document, Mapping) else None
    return [row for row in document if isinstance(row, Mapping)] if isinstance(document, list) else []


def _pairs(rows: Sequence[Row], rule: Rule) -> Iterator[tuple[Row, Row | None]]:
    second = rule.minus or rule.over
    for row in rows:
        if not _fits(row, rule.where):
            continue
        if not second:
            yield row, None
            continue
        wanted = {**rule.where, **second}
        for other in rows:
            if _fits(other, wanted) and all(row.get(key) == other.get(key) for key in rule.same):
                yield row, other
                break


def _fits(row: Row, where: Mapping[str, Any]) -> bool:
    return all(_equal(row.get(key), value) for key, value in where.items())


def _equal(found: Any, wanted: Any) -> bool:
    return fnmatchcase(found, wanted) if isinstance(found, str) and isinstance(wanted, str) else bool(found == wanted)


def _effect(rule: Rule, row: Row, other: Row | None) -> Interval:
    if rule.spread in (Spread.seeds, Spread.rounds):
        return _over_seeds(rule, row, other)
    value = float(_at(row, rule.value))
    if rule.spread is Spread.interval:
        low, high = row["interval"]
        missing = low is None or high is None
        return Interval(value, *((math.nan, math.nan) if missing else (float(low), float(high))), int(row["n"]))
    if rule.spread is Spread.quartiles:
        low, high = float(_at(row, f"{rule.value}_q1")), float(_at(row, f"{rule.value}_q3"))
        n = int(row.get("runs") or row.get("rounds") or 0)
        if other is None:
            return Interval(value, low, high, n)
        first, last = float(_at(other, f"{rule.value}_q1")), float(_at(other, f"{rule.value}_q3"))
        return Interval(value / float(_at(other, rule.value)), low / last, high / first, n)
    if other is not None:
        against = float(_at(other, rule.value))
        value = value - against if rule.minus else value / against
    return computed(value)


def _over_seeds(rule: Rule, row: Row, other: Row | None) -> Interval:
    """Without numbers by seed (evidence of an earlier version) there is a mean, and no interval."""
    try:
        own = _by_seed(row, rule.value)
        against = None if other is None else _by_seed(other, rule.value)
    except KeyError:
        value = float(row[rule.quantity])
        if other is not None:
            value = value - float(other[rule.quantity]) if rule.minus else value / float(other[rule.quantity])
        return Interval(value, math.nan, math.nan, int(row.get("seeds") or 0))
    if against is None:
        return student_interval(list(own.values()))
    seeds = sorted(set(own) & set(against))
    return student_interval([own[s] - against[s] if rule.minus else own[s] / against[s] for s in seeds])


def _by_seed(row: Row, path: str) -> dict[str, float]:
    found = _at(row, path)
    if isinstance(found, list):
        found = dict(enumerate(found))
    if not isinstance(found, Mapping):
        raise KeyError(path)
    return {str(seed): float(value) for seed, value in found.items()}


def _at(row: Any, path: str) -> Any:
    for name in path.split("."):
        row = row[name]
    if row is None or (isinstance(row, float) and not np.isfinite(row)):
        raise ValueError(path)
    return row


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
