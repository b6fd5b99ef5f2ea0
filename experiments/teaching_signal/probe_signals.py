"""Signals of reward models on a probe, normalised as they train."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from experiments.reward_metrics.variance import RewardScale
from experiments.rewards.normalisation import Normalisation, Normaliser
from experiments.rewards.reward import Reward
from experiments.teaching_signal.estimates import Signals
from experiments.teaching_signal.measure import FEWEST_PROMPTS, measure_signals
from experiments.training.algorithms import Advantage
from experiments.training.probe import Probe


def probe_signals(
    model: nn.Module,
    probe: Probe,
    rewards: Sequence[Reward],
    *,
    advantage: Advantage = Advantage.rloo,
    last_layers: int | None = None,
    precision: str = "fp32",
) -> Signals | None:
    """The signals of `rewards` for the policy `model`, which drew the probe; None for fewer than three prompts.

    Each is normalised as in training; the ground truth by its mean and std over the probe.
    """
    if probe.prompts < FEWEST_PROMPTS:
        return None
    outputs, truth = probe.outputs, probe.outputs.ground_truth
    normalised = [probe.by_prompt(reward.normalise(reward(outputs), outputs)) for reward in rewards]
    truth_normaliser = Normaliser.fitted(Normalisation.global_std, probe.ground_truth)
    return measure_signals(
        model,
        [prompt.tokens for prompt in probe.rollouts.prompts],
        probe.rollouts.tokens,
        np.stack(normalised),
        probe.by_prompt(truth_normaliser(truth, outputs)),
        names=[reward.name for reward in rewards],
        advantage=advantage,
        scale=RewardScale.none,
        last_layers=last_layers,
        precision=precision,
    )
