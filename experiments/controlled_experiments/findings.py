"""What a controlled experiment hands back."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from experiments.reward_metrics.statements import Finding as Finding
from experiments.reward_metrics.statements import Verdict as Verdict
from experiments.reward_metrics.statements import computed as computed

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass
class Findings:
    """The result of one experiment."""

    reading: str  # one paragraph, its numbers and comparisons filled in by code
    statements: list[Finding]
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)  # by figure
    trajectory: list[tuple[int, dict[str, float]]] = field(default_factory=list)  # step, metrics
    summary: dict[str, float] = field(default_factory=dict)


class Bar(Protocol):
    """A progress bar."""

    def advance(self, steps: int = 1, /) -> object: ...


Progress = Callable[[str, int], AbstractContextManager[Bar]]


def number(value: float) -> str:
    """A number for a sentence: 1,234 or 0.0123 or 3.2e+08 or "never"."""
    if math.isinf(value):
        return "never"
    return f"{value:,.0f}" if 999.5 <= abs(value) < 1e6 else f"{value:.3g}"


def counted(count: int, noun: str) -> str:
    """1 update, 2,000 updates."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
