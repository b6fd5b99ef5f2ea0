"""What a ground truth pays for text that the reference policy finds likely: against degenerate completions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.tasks.task import Floats, Prompt

# (tokens of the prompts, tokens of the completions) -> mean log-probability per completion token, [n] in nats
Fluency = Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]]], Floats]


@dataclass(frozen=True)
class FluencyTerm:
    """`weight` times the mean log-probability per token under the reference policy."""

    weight: float
    score: Fluency
    reference: str  # address of the reference policy, for the recipe

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight) or self.weight <= 0:
            raise ValueError(f"task.fluency_weight={self.weight} is impossible: use a positive number, or 0 for none")

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[Sequence[int]]) -> Floats:
        """The mean log-probabilities [n], before the weight."""
        return np.asarray(self.score([prompt.tokens for prompt in prompts], completions), dtype=np.float64)

    def recipe(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"weight": self.weight, "reference": self.reference}
