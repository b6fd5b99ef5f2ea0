"""What is logged of every step of policy gradient.

Shapes: P prompts of the step, N samples of each (a group), n = P N rows; L tokens of the longest completion.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from experiments.reward_metrics.variance import is_constant
from experiments.tasks.task import Floats, Outputs
from experiments.training.rollouts import Rollouts


def step_metrics(
    rollouts: Rollouts,
    outputs: Outputs,
    rewards: Mapping[str, Floats],
    normalised: Floats,
    training_rewards: Floats,
    log_probabilities: Tensor,
    reference_log_probabilities: Tensor,
) -> dict[str, float]:
    """Of the policy that drew the rollouts, by name.

    `rewards` [n] by reward model, the proxy first, as they score; `normalised` [n] are the proxy's in the scale of the
    initial policy's probe, as those of probes are; `training_rewards` [n] are what trains the policy: normalised as
    configured, less the penalty of completions that were cut off. Log-probabilities [n, L] are those of the
    completions' tokens under the policy and the initial policy.
    """
    proxy, *others = rewards
    log_ratio = (log_probabilities - reference_log_probabilities).sum(dim=1).double()
    return {
        "proxy_reward": float(rewards[proxy].mean()),
        "normalised_proxy_reward": float(normalised.mean()),
        "training_reward": float(training_rewards.mean()),
        "ground_truth_reward": float(outputs.ground_truth.mean()),
        "kl": float(log_ratio.mean()),
        "entropy": -float(log_probabilities.sum() / rollouts.lengths.sum()),
        "length": float(rollouts.lengths.mean()),
        "finished_share": float(rollouts.finished.mean()),
        **{f"reward/{name}": float(rewards[name].mean()) for name in others},
        **{f"part/{name}": float(values.mean()) for name, values in outputs.parts.items()},
    }


def group_metrics(rewards: Floats, low: float, high: float) -> dict[str, float]:
    """How far the rewards [P, N] tell the completions of a prompt apart, before any KL is taken off.

    `zero_variance_share` of the groups have equal rewards and teach nothing. Of these, the rewards of
    `all_bottom_share` are at most `low` and those of `all_top_share` at least `high`, the ends of the reward's range;
    `mixed_share` are the groups that are neither. `within_prompt_std_p10` and so on are quantiles over the groups.
    """
    constant = is_constant(torch.from_numpy(rewards)).numpy()
    bottom, top = (constant & (rewards <= low).all(axis=1)), (constant & (rewards >= high).all(axis=1))
    deviations = rewards.std(axis=1, ddof=1) if rewards.shape[1] > 1 else np.zeros(len(rewards))
    quantiles = np.quantile(deviations, [0.1, 0.5, 0.9])
    return {
        "zero_variance_share": float(constant.mean()),
        "all_bottom_share": float(bottom.mean()),
        "all_top_share": float(top.mean()),
        "mixed_share": float((~(bottom | top)).mean()),
        **{f"within_prompt_std_p{p}": float(value) for p, value in zip((10, 50, 90), quantiles, strict=True)},
    }
