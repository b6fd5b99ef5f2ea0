"""Statements of the papers beside what was measured, and the rule by which they are judged."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from experiments.reward_metrics.correlations import Interval
from experiments.runs.files import finite


class Verdict(StrEnum):
    """What a measurement says of a statement."""

    reproduced = "reproduced"
    not_reproduced = "not reproduced"
    inconclusive = "inconclusive"


@dataclass(frozen=True)
class Statement:
    """One statement of a paper beside what was measured.

    The statement holds where the measured effect lies in [at_least, at_most]. The verdict is a rule: reproduced when
    the whole interval lies inside, not reproduced when all of it lies outside, else inconclusive.
    """

    statement: str
    source: str
    measured: str
    effect: Interval
    at_least: float = -math.inf
    at_most: float = math.inf

    @property
    def verdict(self) -> Verdict:
        """See the class; an interval that is not a number is inconclusive."""
        low, high = self.effect.low, self.effect.high
        if math.isnan(low) or math.isnan(high):
            return Verdict.inconclusive
        if self.at_least <= low and high <= self.at_most:
            return Verdict.reproduced
        if high < self.at_least or low > self.at_most:
            return Verdict.not_reproduced
        return Verdict.inconclusive

    def as_dict(self) -> dict[str, Any]:
        """One row of `statements.json`; infinite bounds are null."""
        return {
            "statement": self.statement,
            "source": self.source,
            "measured": self.measured,
            "effect": finite(self.effect.value),
            "interval": [finite(self.effect.low), finite(self.effect.high)],
            "n": self.effect.n,
            "holds_from": finite(self.at_least),
            "holds_to": finite(self.at_most),
            "verdict": str(self.verdict),
        }


def computed(value: float) -> Interval:
    """A number that was computed exactly, not sampled: its interval has no width and n = 1."""
    return Interval(value, value, value, 1)
