"""The families of imperfect rewards that are made of the ground truth, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.rewards.credit import Credit
from experiments.rewards.graded_truth import Clipped, Coarse, Overpaying, PromptConstants, Suppressing
from experiments.rewards.low_variance import Scaled
from experiments.rewards.noisy import Noisy
from experiments.rewards.reward import GroundTruth, Reward
from experiments.tasks.task import Outputs

SYNTHETIC = ("ground_truth", "scaled", "noisy", "coarse", "clipped", "overpaying", "suppressing", "credit")


def synthetic_reward(
    family: str,
    name: str,
    settings: Mapping[str, Any],
    probe: Outputs,
    samples: int,
    seed: int,
    constants: PromptConstants | None = None,
) -> Reward:
    """A reward of `family` that calls itself `name`; its knobs are set on the initial policy's probe rollouts.

    `settings` are the family's knobs, named as in its class; `probe` has `samples` rows of every prompt beside each
    other; `constants` are what the task adds to its ground truth per prompt, if it does. ValueError for an unknown
    family, and where the probe rollouts leave nothing to set a knob on.
    """
    if family == "ground_truth":
        reward = GroundTruth()
        reward.name = name
        return reward
    if family == "scaled":
        return Scaled(name, probe, seed=seed, **settings)
    if family == "noisy":
        return Noisy(name, probe, samples, seed=seed, **settings)
    if family == "coarse":
        return Coarse(name, probe, samples, constants=constants, **settings)
    if family == "clipped":
        return Clipped(name, probe, constants=constants, **settings)
    if family == "overpaying":
        return Overpaying(name, probe, samples, seed=seed, constants=constants, **settings)
    if family == "suppressing":
        return Suppressing(name, probe, constants=constants, **settings)
    if family == "credit":
        return Credit(name, probe, **settings)
    raise ValueError(f"reward.family={family} is not made of the ground truth: use one of {', '.join(SYNTHETIC)}")
