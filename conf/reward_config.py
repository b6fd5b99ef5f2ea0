"""The schema of `reward`: a reward model, its knob, and how its scores are normalised."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class RewardFamily(Enum):
    """How the reward errs: see experiments/rewards/."""

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


class Normalisation(Enum):
    """What rewards are divided by before they train a policy; statistics come from the probe rollouts."""

    none = "none"
    global_std = "global_std"  # mean and std over all probe rollouts: the papers' choice
    per_prompt = "per_prompt"
    batch = "batch"  # whitened in every batch


@dataclass
class TrainedRewardConfig:
    """Bradley-Terry training on pairs that the ground truth labels (good-teacher paper, section 4.1)."""

    pairs: int = 1024
    on_policy_share: float = 1.0  # share of prompts whose pair the initial policy sampled
    label_noise: float = 0.0  # share of labels turned round
    epochs: int = 1
    batch_size: int = 32
    learning_rate: float = 1e-3
    centre_coefficient: float = 0.01  # pulls the sum of a pair's rewards to 0


@dataclass
class RewardConfig:
    """One reward model. Knobs of other families than the chosen one are not looked at."""

    name: str = "ground_truth"  # of the arm, in tables and figures
    family: RewardFamily = RewardFamily.ground_truth
    normalisation: Normalisation = Normalisation.global_std
    prompt_spread: float = 0.0  # std of a constant per prompt, in units of the reward's std within prompts
    seed: int = 0  # of pairs, noise and initialisation
    trained: TrainedRewardConfig = field(default_factory=TrainedRewardConfig)
