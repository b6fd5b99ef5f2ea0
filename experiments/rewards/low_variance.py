"""Perfectly accurate, and yet a slow teacher: the ground truth, shrunk on a share of the prompts.

Source: What Makes a Reward Model a Good Teacher? (arXiv 2503.15477), section 4.1 and appendix F.1: the ground truth
times 0.001 on half of the prompts. Normalised variance falls below that of the ground truth only because raw rewards
have a mean far from 0: shrunk and whole prompts are then far apart, which the global std divides by. `offset` brings
that mean to tasks whose rewards are centred.
"""

from __future__ import annotations

import numpy as np

from experiments.rewards.hashed_draws import prompt_is_chosen
from experiments.rewards.reward import Reward
from experiments.tasks.task import Floats, Outputs


class Scaled(Reward):
    """(ground truth + offset std) x factor on a share of the prompts, x 1 on the others; std over the probe."""

    def __init__(self, name: str, probe: Outputs, *, share: float, factor: float, offset: float, seed: int) -> None:
        self.share, self.factor, self.seed = share, factor, seed
        self.shift = offset * float(probe.ground_truth.std(ddof=1))
        super().__init__(name, {"share": share, "factor": factor, "shift": self.shift})

    def score(self, outputs: Outputs) -> Floats:
        shrunk = prompt_is_chosen(outputs.prompts, self.share, self.seed, "scaled")
        return (outputs.ground_truth + self.shift) * np.where(shrunk, self.factor, 1.0)
