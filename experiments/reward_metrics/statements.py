"""Statements about the papers' claims: the region in which each holds, and what was found of it.

The one rule of all verdicts: a statement is reproduced where the whole interval of the measured effect lies in its
region, not reproduced where all of it lies outside, else inconclusive. A number without an interval decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from experiments.reward_metrics.correlations import Interval, no_interval
from experiments.runs.files import finite

DAMAGE = (KeyError, TypeError, ValueError, ZeroDivisionError, IndexError, OverflowError, AttributeError)


class Verdict(StrEnum):
    """What a measurement says of a statement."""

    reproduced = "reproduced"
    not_reproduced = "not reproduced"
    inconclusive = "inconclusive"


class Kind(StrEnum):
    """Whose a statement is; only the paper's own decide on its claim, and rules on a claim of ours."""

    paper = "paper"
    rule = "rule"  # of a claim of our own, fixed before its evidence was made
    ours = "ours"  # of our own making, in addition to what the paper claims
    check = "check"  # follows from how the experiment is built: it can fail only where the code is wrong


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What is said, what decides on it, and since when.

    It holds where the measured effect lies in the region that at_least, at_most, above and below leave. `measure` finds
    it in the evidence: the document of a result file; `recorded`, the default, takes what the run itself recorded under
    this id. ValueError for an empty region or none.
    """

    id: str
    says: str
    source: str
    unit: str  # what was drawn independently, in the plural, and is what intervals are over; empty: computed, exact
    ruled: str  # the day since which region and measurement are what they are; older evidence is exploratory
    kind: Kind = Kind.paper
    aside: str = ""  # why it is no part of the verdict on its claim
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None  # as at_least, the bound itself excluded
    below: float | None = None
    measured_in: str = ""  # nats per token; empty for plain numbers
    measure: Callable[[Statement, Any], list[Finding]] | None = None

    def __post_init__(self) -> None:
        if self.low == -math.inf and self.high == math.inf:
            raise ValueError(f"statement {self.id} has no region: give at_least, at_most, above or below")
        if self.low > self.high:
            raise ValueError(f"statement {self.id} has an empty region: no number is {self.region}")

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

    @property
    def region(self) -> str:
        """`at least 1.2 and at most 2 tokens`."""
        bounds = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        text = " and ".join(f"{word} {value:.4g}" for word, value in bounds.items() if value is not None)
        return f"{text} {self.measured_in}".strip()

    @property
    def counts(self) -> bool:
        """Whether it decides on the claim that lists it."""
        return self.kind in (Kind.paper, Kind.rule) and not self.aside

    @property
    def why_not_counted(self) -> str:
        """Empty where it counts."""
        reasons = {Kind.ours: "ours, not the paper's", Kind.check: "a check of the code: it cannot fail otherwise"}
        return self.aside or reasons.get(self.kind, "")

    def found(self, effect: Interval, measured: str, *, case: str = "", sample: str = "") -> Finding:
        """What was measured; `case` tells several findings apart, `sample` says what n is of where it is not plain."""
        return Finding(self, measured, effect, case, sample)

    def found_in(self, document: Any) -> list[Finding]:
        """What the evidence has of it; damage in it is a finding without numbers, never an exception."""
        try:
            return (self.measure or recorded)(self, document)
        except DAMAGE:
            return [self.found(no_interval(), "the evidence is damaged")]


@dataclass(frozen=True)
class Finding:
    """What was measured of a statement."""

    statement: Statement
    measured: str
    effect: Interval
    case: str = ""
    sample: str = ""

    @property
    def says(self) -> str:
        """The statement, with the case."""
        return self.statement.says + (f" ({self.case})" if self.case else "")

    @property
    def drawn(self) -> str:
        """What the interval is over: `4 reward models`, `2 pairs x 3 seeds`, `exact`."""
        if self.sample or not self.statement.unit:
            return self.sample or "exact"
        return f"{self.effect.n:,} {self.statement.unit}" if self.effect.n else ""

    @property
    def verdict(self) -> Verdict:
        """By the one rule; an interval that is not a number is inconclusive."""
        low, high = self.effect.low, self.effect.high
        if math.isnan(low) or math.isnan(high):
            return Verdict.inconclusive
        if self.statement.low <= low and high <= self.statement.high:
            return Verdict.reproduced
        if high < self.statement.low or low > self.statement.high:
            return Verdict.not_reproduced
        return Verdict.inconclusive

    def as_dict(self) -> dict[str, Any]:
        """One row of `statements.json`; infinite bounds are null."""
        return {
            "id": self.statement.id,
            "case": self.case,
            "statement": self.says,
            "source": self.statement.source,
            "kind": str(self.statement.kind),
            "ruled": self.statement.ruled,
            "measured": self.measured,
            "effect": finite(self.effect.value),
            "interval": [finite(self.effect.low), finite(self.effect.high)],
            "n": self.effect.n,
            "unit": self.statement.unit or "exact",
            "sample": self.sample,
            "holds_from": finite(self.statement.low),
            "holds_to": finite(self.statement.high),
            "verdict": str(self.verdict),
        }


def recorded(statement: Statement, document: Any) -> list[Finding]:
    """The rows that a run recorded under the statement's id; judged by today's region, not by the row's verdict."""
    rows = [row for row in document if isinstance(row, Mapping)] if isinstance(document, list) else []
    findings = []
    for row in rows:
        if row.get("id") != statement.id:
            continue
        value, low, high = (
            math.nan if number is None else float(number) for number in (row["effect"], *row["interval"])
        )
        effect = Interval(value, low, high, int(row["n"]))
        findings.append(statement.found(effect, str(row["measured"]), case=row["case"], sample=row["sample"]))
    return findings


def computed(value: float) -> Interval:
    """A number that was computed exactly, not sampled: its interval has no width and n = 1."""
    return Interval(value, value, value, 1)
