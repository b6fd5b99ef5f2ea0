"""The main properties of a reward model for a policy, as plain numbers: cheap enough for every look during training.

`evaluation.py` has all of them, with intervals.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.reward_metrics.accuracy import on_policy_accuracy
from experiments.reward_metrics.comparisons import pairs_of_samples
from experiments.reward_metrics.variance import RewardScale, reward_variance, zero_variance_share


def point_properties(rewards: NDArray[np.float64], ground_truth: NDArray[np.float64]) -> dict[str, float]:
    """Reward variance, accuracies and share of prompts without variance, from samples of the policy: [P, N] both.

    Accuracies are NaN where the ground truth ties in every pair, on-policy accuracy where the rewards do.
    """
    proxy, truth = torch.from_numpy(rewards), torch.from_numpy(ground_truth)
    unweighted = np.zeros_like(ground_truth)
    pairs = pairs_of_samples(rewards[None], ground_truth, unweighted, unweighted)
    silent = float(zero_variance_share(proxy))
    decided = pairs.strict.size > 0
    return {
        "reward/variance": float(reward_variance(proxy)),
        "reward/raw_variance": float(reward_variance(proxy, RewardScale.none)),
        "reward/on_policy_accuracy": float(on_policy_accuracy(proxy, truth)) if silent < 1 else math.nan,
        "reward/strict_accuracy": float(pairs.strict.mean()) if decided else math.nan,
        "reward/harm_aware_accuracy": float(pairs.harm_aware.mean()) if decided else math.nan,
        "reward/zero_variance_share": silent,
    }
