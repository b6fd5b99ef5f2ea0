"""A constant per prompt on top of a reward model: how generously it grades each prompt, whatever the answer.

Pairs of one prompt never teach it to a Bradley-Terry model, and no advantage within a prompt's group sees it. But mean
and std over probe rollouts do: the more a reward model's scores differ between prompts, the smaller is what is left
within prompts after division by the global std, which is the reward variance of What Makes a Reward Model a Good
Teacher? (Definition 2 with appendix F.1). Large reward models have such a spread by themselves (Table 1: variances of
.31 to .63); a tiny one has hardly any, so here it is a knob.
"""

from __future__ import annotations

import math

import numpy as np

from experiments.rewards.hashed_draws import prompt_normals
from experiments.rewards.probe_statistics import within_prompt_std
from experiments.rewards.reward import Reward
from experiments.tasks.task import Floats, Outputs


class WithPromptConstants(Reward):
    """A reward plus `std` times a standard normal per prompt. Ranks every prompt's outputs as before."""

    def __init__(self, reward: Reward, std: float, seed: int) -> None:
        super().__init__(reward.name, {**reward.facts, "prompt_constants_std": std})
        self.reward, self.std, self.seed = reward, std, seed

    def score(self, outputs: Outputs) -> Floats:
        return self.reward(outputs) + self.std * prompt_normals(outputs.prompts, self.seed, "prompt constants")


def with_prompt_spread(
    reward: Reward, probe: Outputs, samples: int, *, spread: float, target_variance: float | None, seed: int
) -> Reward:
    """`reward` with constants per prompt: `spread` in units of its within-prompt std on the probe rollouts, or as many
    as bring its normalised variance there down to `target_variance`.

    Nothing is added where `spread` is 0 and no target is given, nor where the reward's variance is below the target
    already: constants can only lower it. `probe` has `samples` rows of every prompt beside each other.
    """
    values = reward(probe)
    within = within_prompt_std(values, samples)
    if target_variance is None:
        return WithPromptConstants(reward, spread * within, seed) if spread else reward
    std = _std_for_variance(
        values, prompt_normals(probe.prompts, seed, "prompt constants"), within**2 / target_variance
    )
    return WithPromptConstants(reward, std, seed) if std > 0 else reward


def _std_for_variance(values: Floats, draws: Floats, wanted_total: float) -> float:
    """The s >= 0 with Var(values + s draws) = wanted_total over all rows; 0 where they vary more than that already."""
    (a, b), (_, c) = np.cov(np.stack([values, draws]))
    if wanted_total <= a or c == 0:
        return 0.0
    return float((-b + math.sqrt(b * b + c * (wanted_total - a))) / c)
