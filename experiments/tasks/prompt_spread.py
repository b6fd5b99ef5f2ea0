"""A constant per prompt in the ground truth: some prompts are graded high, some low, whatever the output.

It changes no gradient of the ground truth itself and no accuracy within a prompt. It decides which share of a reward's
spread lies within prompts, which is the reward variance of What Makes a Reward Model a Good Teacher? (Definition 2,
normalised as in appendix F.1): ArmoRM has .256 (Table 1), a reward without spread between prompts about 1.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from experiments.tasks.task import Floats, Prompt


@dataclass(frozen=True)
class PromptSpread:
    """`offset + spread * z`, with z standard normal by a hash of the prompt's text."""

    spread: float = 0.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.spread) or self.spread < 0:
            raise ValueError(f"task.prompt_spread={self.spread} is impossible: a standard deviation is 0 or more")
        if not math.isfinite(self.offset):
            raise ValueError(f"task.reward_offset={self.offset} is impossible: use a finite number")

    def constants(self, prompts: Sequence[Prompt]) -> Floats:
        """What is added to the ground truth, [n] of n rows' prompts."""
        return np.array([self.offset + self.spread * standard_normal(prompt.text) for prompt in prompts])

    def recipe(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def standard_normal(text: str) -> float:
    """A number that is distributed as N(0, 1) over texts and always the same for one text."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return NormalDist().inv_cdf((int.from_bytes(digest[:6], "little") + 0.5) / 2**48)
