"""Reward variance: how far a reward model tells a policy's own outputs apart.

Source: What Makes a Reward Model a Good Teacher? (arXiv 2503.15477), Definition 2 and appendix F.1.
Shapes: P prompts, N samples of the policy per prompt, O outputs of a finite policy; `...` are reward models, arms,
seeds.
"""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor


class RewardScale(StrEnum):
    """By what rewards are divided before their variance is taken; without it, variance measures the reward's unit."""

    none = "none"
    global_std = "global_std"  # std over all prompts and samples: the paper's choice (appendix F.1)
    within_prompt_std = "within_prompt_std"  # sqrt of the mean within-prompt variance (the paper's Table 9)


def reward_variance(rewards: Tensor, scale: RewardScale = RewardScale.global_std) -> Tensor:
    """Mean over prompts of the unbiased within-prompt variance of the rewards, after division by `scale`.

    `rewards` [..., P, N] are scores of samples from the policy; the result is [...]. With `global_std` it is the number
    of the paper's Tables 1, 3, 5 and 7: the share of all reward spread that lies within prompts, so it is invariant to
    r -> a r + b for any a != 0, about 1 for rewards without between-prompt spread, and at most PN - 1 over P(N - 1).
    With `within_prompt_std` it is 1 by definition: what then differs between prompts is `within_prompt_variance`.
    Rewards that are constant up to rounding have variance 0. Raises ValueError for fewer than two samples or NaN.
    """
    return within_prompt_variance(rewards, scale).mean(dim=-1)


def within_prompt_variance(rewards: Tensor, scale: RewardScale = RewardScale.global_std) -> Tensor:
    """The unbiased variance of each prompt's rewards [..., P, N] -> [..., P], after division by `scale`."""
    rewards = _checked(rewards)
    variance = rewards.var(dim=-1, unbiased=True)
    if scale is RewardScale.none:
        return variance
    if scale is RewardScale.global_std:
        squared_scale = rewards.flatten(-2).var(dim=-1, unbiased=True)
    else:
        squared_scale = variance.mean(dim=-1)
    constant = is_constant(rewards.flatten(-2))
    safe = torch.where(constant, torch.ones_like(squared_scale), squared_scale)
    return torch.where(constant[..., None], torch.zeros_like(variance), variance / safe[..., None])


def globally_normalised(rewards: Tensor) -> Tensor:
    """`rewards` [..., P, N] shifted by their mean and divided by their std over prompts and samples (appendix F.1).

    Constant rewards become 0.
    """
    rewards = _checked(rewards)
    flat = rewards.flatten(-2)
    centred = rewards - flat.mean(dim=-1)[..., None, None]
    constant = is_constant(flat)[..., None, None]
    std = flat.std(dim=-1, unbiased=True)[..., None, None]
    return torch.where(constant, torch.zeros_like(centred), centred / torch.where(constant, torch.ones_like(std), std))


def policy_reward_variance(probabilities: Tensor, rewards: Tensor) -> Tensor:
    """Var_{y ~ pi}[r(y)] of a finite policy, exactly (Definition 2): both [..., O] -> [...].

    Equal to half the expected squared reward gap of two independent outputs. Multiplying rewards by c multiplies it by
    c squared; adding a constant leaves it.
    """
    mean = (probabilities * rewards).sum(dim=-1, keepdim=True)
    return (probabilities * (rewards - mean).square()).sum(dim=-1)


def zero_variance_share(rewards: Tensor, relative_tolerance: float = 1e-6) -> Tensor:
    """Share of prompts all of whose samples have the same reward: [..., P, N] -> [...].

    Such a prompt gives no gradient to RLOO or GRPO. "Same" means that the range is at most `relative_tolerance` of the
    largest magnitude, because a mean or std of equal floats is often not exactly equal or zero.
    """
    return is_constant(_checked(rewards), relative_tolerance).to(rewards.dtype).mean(dim=-1)


def is_constant(rewards: Tensor, relative_tolerance: float = 1e-6) -> Tensor:
    """Whether the rewards along the last dimension are equal up to rounding: [..., N] -> bool [...]."""
    low, high = rewards.amin(dim=-1), rewards.amax(dim=-1)
    return (high - low) <= relative_tolerance * torch.maximum(low.abs(), high.abs())


def _checked(rewards: Tensor) -> Tensor:
    if rewards.ndim < 2 or rewards.shape[-1] < 2:
        raise ValueError(
            f"rewards of shape {tuple(rewards.shape)} have no within-prompt variance: "
            "they must be [..., prompts, samples] with at least 2 samples per prompt"
        )
    if not rewards.is_floating_point():
        rewards = rewards.to(torch.float64)
    if not bool(torch.isfinite(rewards).all()):
        raise ValueError("rewards contain NaN or infinity: drop those samples first")
    return rewards
