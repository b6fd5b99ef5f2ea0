"""The families of imperfect rewards that are made of the ground truth, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.rewards.low_variance import Scaled
from experiments.rewards.noisy import Noisy
from experiments.rewards.reward import GroundTruth, Reward
from experiments.tasks.task import Outputs


def synthetic_reward(
    family: str, name: str, settings: Mapping[str, Any], probe: Outputs, samples: int, seed: int
) -> Reward:
    """A reward of `family` that calls itself `name`; its knobs are set on the initial policy's probe rollouts.

    `settings` are the family's knobs, named as in its class; `probe` has `samples` rows of every prompt beside each
    other. ValueError for an unknown family.
    """
    if family == "ground_truth":
        reward = GroundTruth()
        reward.name = name
        return reward
    if family == "scaled":
        return Scaled(name, probe, seed=seed, **settings)
    if family == "noisy":
        return Noisy(name, probe, samples, seed=seed, **settings)
    raise ValueError(f"reward.family={family} is not made of the ground truth: use ground_truth, scaled or noisy")
