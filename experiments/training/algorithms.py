"""The choices of a policy-gradient algorithm, by name. Light: configuration imports it."""

from __future__ import annotations

from enum import StrEnum


class Advantage(StrEnum):
    """How rewards of a group become advantages: see advantages.py."""

    reinforce = "reinforce"  # reward minus the mean of the batch
    rloo = "rloo"  # minus the mean of the other samples of its prompt
    grpo = "grpo"  # minus the group's mean, over its std
    grpo_without_std = "grpo_without_std"  # minus the group's mean (Dr. GRPO)


class KlPlace(StrEnum):
    """Where the KL divergence to the reference policy acts."""

    none = "none"
    reward = "reward"  # the summed log-ratio is taken off the reward, as in RLOO
    loss = "loss"  # an estimate with a gradient of its own is added to the loss


class KlEstimator(StrEnum):
    """Estimates of KL(policy || reference) from samples of the policy: see policy_losses.py."""

    k1 = "k1"
    k2 = "k2"
    k3 = "k3"


class LossDenominator(StrEnum):
    """What the sum of token losses is divided by."""

    sequences = "sequences"  # RLOO: the mean over sequences of the sum over tokens
    tokens = "tokens"  # DAPO: all tokens of the batch
    each_sequence = "each_sequence"  # GRPO: the mean over each sequence first


class PolicyOptimizer(StrEnum):
    """`sgd` keeps the scale of the gradient, and so of the reward; `adam` mostly divides it away."""

    adam = "adam"
    sgd = "sgd"
