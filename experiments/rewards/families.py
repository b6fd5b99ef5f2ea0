"""The families of imperfect rewards: those that are made of the ground truth are made here, by name."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from experiments.rewards.credit import Credit
from experiments.rewards.graded_truth import Clipped, Coarse, Overpaying, PromptConstants, Suppressing
from experiments.rewards.low_variance import Scaled
from experiments.rewards.noisy import Noisy
from experiments.rewards.reward import GroundTruth, Reward
from experiments.tasks.task import Outputs


class RewardFamily(StrEnum):
    """How the reward errs."""

    ground_truth = "ground_truth"
    scaled = "scaled"  # perfectly accurate, low variance on a share of the prompts
    noisy = "noisy"  # noise per output up to a target accuracy
    coarse = "coarse"  # few levels
    clipped = "clipped"
    overpaying = "overpaying"  # a bad output overpaid: reward hacking
    suppressing = "suppressing"  # mediocre outputs pushed down: the beneficial error
    credit = "credit"  # partial or binary credit for the parts of the ground truth
    trained = "trained"  # a Bradley-Terry reward model
    ensemble = "ensemble"
    hub = "hub"  # any sequence-classification model of transformers
    python = "python"  # a function of the user's own


def synthetic_reward(
    family: RewardFamily,
    name: str,
    settings: Mapping[str, Any],
    probe: Outputs,
    samples: int,
    seed: int,
    constants: PromptConstants | None = None,
) -> Reward:
    """A reward of `family` that calls itself `name`; its knobs are set on the initial policy's probe rollouts.

    `settings` are the family's knobs, named as in its class; `probe` has `samples` rows of every prompt beside each
    other; `constants` are what the task adds to its ground truth per prompt, if it does. ValueError for a family that
    is not made of the ground truth, and where the probe rollouts leave nothing to set a knob on.
    """
    match family:
        case RewardFamily.ground_truth:
            return GroundTruth(name)
        case RewardFamily.scaled:
            return Scaled(name, probe, seed=seed, **settings)
        case RewardFamily.noisy:
            return Noisy(name, probe, samples, seed=seed, **settings)
        case RewardFamily.coarse:
            return Coarse(name, probe, samples, constants=constants, **settings)
        case RewardFamily.clipped:
            return Clipped(name, probe, constants=constants, **settings)
        case RewardFamily.overpaying:
            return Overpaying(name, probe, samples, seed=seed, constants=constants, **settings)
        case RewardFamily.suppressing:
            return Suppressing(name, probe, constants=constants, **settings)
        case RewardFamily.credit:
            return Credit(name, probe, **settings)
    raise ValueError(f"reward.family={family} is not made of the ground truth")
