"""What a controlled experiment hands back, and the rule by which a statement of a paper is judged."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from experiments.reward_metrics.correlations import Interval
from experiments.runs.files import finite

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Verdict(StrEnum):
    """What a measurement says of a statement."""

    reproduced = "reproduced"
    not_reproduced = "not reproduced"
    inconclusive = "inconclusive"


@dataclass(frozen=True)
class Statement:
    """One statement of theory beside what was measured.

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


@dataclass
class Findings:
    """The result of one experiment."""

    reading: str  # one paragraph, its numbers and comparisons filled in by code
    statements: list[Statement]
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)  # by figure
    trajectory: list[tuple[int, dict[str, float]]] = field(default_factory=list)  # step, metrics
    summary: dict[str, float] = field(default_factory=dict)


class Bar(Protocol):
    """A progress bar."""

    def advance(self, steps: int = 1, /) -> object: ...


Progress = Callable[[str, int], AbstractContextManager[Bar]]


def number(value: float, digits: int = 3) -> str:
    """A number for a sentence: 1,234 or 0.0123 or 3.2e+08 or "never"."""
    if math.isinf(value):
        return "never"
    return f"{value:,.0f}" if 999.5 <= abs(value) < 1e6 else f"{value:.{digits}g}"


def counted(count: int, noun: str) -> str:
    """1 update, 2,000 updates."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
