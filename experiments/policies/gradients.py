"""Policy gradients with respect to logits: exact, and estimated from samples.

Shapes: A arms, S seeds, P prompts, O outputs, N samples per prompt. All gradients are per prompt and point uphill;
`SoftmaxPolicy.parameter_gradient` takes them to the parameters.
"""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor


class Estimator(StrEnum):
    """How the gradient of the expected reward is obtained; `N` is the number of samples per prompt."""

    exact = "exact"  # the expectation itself
    exact_std = (
        "exact_std"  # the expectation divided by the std of the reward under the policy (GRPO for N to infinity)
    )
    no_baseline = "no_baseline"  # advantage = reward; `advantage=reinforce` of `rl-exp rlhf` takes off the batch mean
    rloo = "rloo"  # advantage = reward - mean of the other samples
    grpo = "grpo"  # advantage = (reward - mean) / (std + 1e-4), std with N - 1 as in TRL
    grpo_without_std = "grpo_without_std"  # advantage = reward - mean (Dr. GRPO)

    @property
    def is_exact(self) -> bool:
        """Whether no samples are drawn."""
        return self in (Estimator.exact, Estimator.exact_std)


GRPO_EPSILON = 1e-4


def exact_gradient(probabilities: Tensor, rewards: Tensor, *, divide_by_std: bool = False) -> Tensor:
    """d/d logit(y) of E_{y ~ pi}[r(y)], which is pi(y) (r(y) - E[r]): [A, S, P, O].

    With `divide_by_std`, divided by the std of the reward under the policy, as normalised advantages do on average.
    """
    weighted = probabilities * rewards
    mean = weighted.sum(dim=-1, keepdim=True)
    gradient = weighted.addcmul_(probabilities, mean, value=-1.0)
    if divide_by_std:
        variance = (probabilities * (rewards - mean).square()).sum(dim=-1, keepdim=True)
        gradient = gradient / (variance.sqrt() + GRPO_EPSILON)
    return gradient


def sample_outputs(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Outputs drawn by inverting the cumulative distribution: probabilities [A, S, P, O], uniforms [1 or A, S, P, N].

    Arms given the same `uniforms` use common random numbers. Returns integers [A, S, P, N].
    """
    cumulative = probabilities.cumsum(dim=-1)
    cumulative[..., -1] = 1.0  # rounding must not leave a gap at the top
    uniforms = uniforms.expand(*probabilities.shape[:-1], uniforms.shape[-1])
    if probabilities.shape[-1] <= 8:  # comparing with every edge is faster than a search in a short list
        return (cumulative[..., None, :] <= uniforms[..., None]).sum(dim=-1)
    return torch.searchsorted(cumulative, uniforms.contiguous(), right=True).clamp_(max=probabilities.shape[-1] - 1)


def advantages(rewards: Tensor, estimator: Estimator) -> Tensor:
    """Advantages of N sampled rewards per prompt, [A, S, P, N] -> [A, S, P, N]. ValueError for too few samples."""
    samples = rewards.shape[-1]
    if estimator is Estimator.no_baseline:
        return rewards
    if samples < 2:
        raise ValueError(f"{estimator} compares the samples of a prompt: it needs at least 2 samples, not {samples}")
    centred = rewards - rewards.mean(dim=-1, keepdim=True)
    if estimator is Estimator.rloo:
        return centred * (samples / (samples - 1))
    if estimator is Estimator.grpo_without_std:
        return centred
    if estimator is Estimator.grpo:
        return centred / (rewards.std(dim=-1, keepdim=True) + GRPO_EPSILON)
    raise ValueError(f"{estimator} draws no samples: it has no advantages")


def sampled_gradient(probabilities: Tensor, outputs: Tensor, sample_advantages: Tensor) -> Tensor:
    """Score-function gradient: mean over samples of advantage * d log pi(y) / d logit = onehot(y) - pi. [A, S, P, O].

    `outputs` and `sample_advantages` are [A, S, P, N].
    """
    per_sample = sample_advantages / outputs.shape[-1]
    gradient = probabilities * -per_sample.sum(dim=-1, keepdim=True)
    return gradient.scatter_add_(-1, outputs, per_sample)
