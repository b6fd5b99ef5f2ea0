"""Ranking accuracy of a reward model as in What Makes a Reward Model a Good Teacher? (arXiv 2503.15477), Definition 1.

Two outputs are ranked correctly when sign(r(y) - r(y')) is the same for reward model and ground truth, with
sign(0) = 0: a tie in both counts as correct, a tie in one of them as wrong. This differs from the strict "chosen above
rejected" of the imperfect-rewards paper, which is in `harm_aware.py`.

Shapes: P prompts, N samples per prompt, Q given pairs per prompt; `...` are reward models, arms, seeds.
"""

from __future__ import annotations

import torch
from torch import Tensor


def accuracy_on_pairs(proxy: Tensor, ground_truth: Tensor) -> Tensor:
    """Share of given pairs that the proxy orders like the ground truth; prompts count equally.

    Both are [..., P, Q, 2] (the two outputs of each pair), broadcast against each other; the result is [...].
    On a preference dataset's own pairs this is the paper's off-policy accuracy. In [0, 1]; invariant to the order
    within a pair and to any increasing map of either reward per prompt.
    """
    if proxy.shape[-1] != 2 or ground_truth.shape[-1] != 2 or proxy.ndim < 3:
        raise ValueError(
            f"pairs must be [..., prompts, pairs, 2], not {tuple(proxy.shape)} and {tuple(ground_truth.shape)}"
        )
    _refuse_nan(proxy, ground_truth)
    proxy_order = torch.sign(proxy[..., 0] - proxy[..., 1])
    true_order = torch.sign(ground_truth[..., 0] - ground_truth[..., 1])
    return (proxy_order == true_order).double().mean(dim=-1).mean(dim=-1)


def on_policy_accuracy(proxy: Tensor, ground_truth: Tensor) -> Tensor:
    """Definition 1 over all N(N-1)/2 pairs of each prompt's samples, averaged over prompts: [..., P, N] -> [...].

    The samples come from the policy, so this accuracy belongs to a policy as much as to a reward model (appendix F.1
    takes 10 samples, 45 pairs). Invariant to the order of samples and to any increasing map of either reward per
    prompt.
    """
    if proxy.ndim < 2 or proxy.shape[-2:] != ground_truth.shape[-2:] or proxy.shape[-1] < 2:
        raise ValueError(
            "proxy and ground truth must be [..., prompts, samples] with the same prompts and at least 2 samples, "
            f"not {tuple(proxy.shape)} and {tuple(ground_truth.shape)}"
        )
    _refuse_nan(proxy, ground_truth)
    first, second = torch.triu_indices(proxy.shape[-1], proxy.shape[-1], offset=1, device=proxy.device)
    proxy_order = torch.sign(proxy[..., first] - proxy[..., second])
    true_order = torch.sign(ground_truth[..., first] - ground_truth[..., second])
    return (proxy_order == true_order).double().mean(dim=-1).mean(dim=-1)


def policy_accuracy(probabilities: Tensor, proxy: Tensor, ground_truth: Tensor) -> Tensor:
    """Definition 1 exactly, for two different outputs drawn from a finite policy: each [..., O] -> [...].

    The pair is two independent draws, given that they differ. NaN where the policy has all its mass on one output.
    Needs memory for O x O pairs.
    """
    agree = _order(proxy) == _order(ground_truth)
    weight = probabilities[..., :, None] * probabilities[..., None, :]
    weight = weight - torch.diag_embed(torch.diagonal(weight, dim1=-2, dim2=-1))
    return (weight * agree).sum(dim=(-2, -1)) / weight.sum(dim=(-2, -1))


def _order(rewards: Tensor) -> Tensor:
    return torch.sign(rewards[..., :, None] - rewards[..., None, :])


def _refuse_nan(*rewards: Tensor) -> None:
    if any(bool(torch.isnan(reward).any()) for reward in rewards):
        raise ValueError("rewards contain NaN: drop those outputs first")
