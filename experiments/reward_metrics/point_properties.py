"""The chief properties of a reward model for a policy, as plain numbers: cheap enough for every look during training.

`evaluation.py` has all of them, with intervals.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.reward_metrics.accuracy import on_policy_accuracy
from experiments.reward_metrics.harm_aware import (
    pairs_of_samples,
    pairwise_accuracy,
    pairwise_harm_aware_accuracy,
)
from experiments.reward_metrics.variance import RewardScale, reward_variance, zero_variance_share


def point_properties(rewards: NDArray[np.float64], ground_truth: NDArray[np.float64]) -> dict[str, float]:
    """Reward variance, accuracies and share of prompts without variance, from samples of the policy: [P, N] both.

    Accuracies are NaN where the ground truth ties in every pair.
    """
    proxy, truth = torch.from_numpy(rewards), torch.from_numpy(ground_truth)
    pairs = pairs_of_samples(truth)
    strict = harm_aware = math.nan
    if bool(pairs.mask.any()):
        chosen, rejected = pairs.of(proxy)
        strict = float(pairwise_accuracy(chosen, rejected, pairs.mask))
        harm_aware = float(pairwise_harm_aware_accuracy(chosen, rejected, proxy.mean(dim=-1), pairs.mask))
    return {
        "reward/variance": float(reward_variance(proxy)),
        "reward/raw_variance": float(reward_variance(proxy, RewardScale.none)),
        "reward/on_policy_accuracy": float(on_policy_accuracy(proxy, truth)),
        "reward/strict_accuracy": strict,
        "reward/harm_aware_accuracy": harm_aware,
        "reward/zero_variance_share": float(zero_variance_share(proxy)),
    }
