"""What a reward error does to policy gradient: harmful, benign or beneficial.

Source: When Errors Can Be Beneficial (arXiv 2604.25872), its categories of reward errors and the velocity of logits
that they are derived from. The conditions are stated there informally ("high", "mediocre", "likely"); this module
makes them a rule with two thresholds. What the rule adds to the paper is marked below.

Shapes: O outputs of a finite policy, D features; `...` are arms, seeds, prompts.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor


class RewardError(IntEnum):
    """The category of one output's reward error."""

    none = 0  # the proxy is right here
    harmful_hacking = 1  # high proxy for an output of low ground truth: the policy concentrates on it
    harmful_stalling = 2  # mediocre proxy for an output of low ground truth: the policy stays there for a while
    benign_unattractive = (
        3  # proxy below the initial expected proxy reward: attracts no probability, whatever its value
    )
    benign_unlikely = 4  # negligible initial probability: attracts no probability in the relevant time
    beneficial = 5  # low proxy for an output of mediocre ground truth: the policy does not stall on it

    @property
    def predicted_effect(self) -> int:
        """Sign of what the error does to the increase of ground truth reward, against the same proxy without it."""
        return {1: -1, 2: -1, 5: 1}.get(int(self), 0)


def categorise_reward_errors(
    probabilities: Tensor,
    ground_truth: Tensor,
    proxy: Tensor,
    features: Tensor | None = None,
    *,
    negligible_probability: float = 1e-3,
    tolerance: float = 1e-9,
) -> Tensor:
    """The `RewardError` of every output, as integers [..., O].

    `probabilities` (initial policy), `ground_truth` and `proxy` are [..., O]; `features` are [..., O, D], None for
    orthonormal (tabular) ones. Invariant to the order of outputs. Both rewards must be on one scale, because an error
    is a difference between them of more than `tolerance`.

    In this order:
      none                 |r_P(y) - r_G(y)| <= tolerance;
      benign_unlikely      pi_0(y) < negligible_probability: it cannot attract probability;
      benign_unattractive  y is not `attractive` under the proxy, nor would it be with its reward corrected;
      beneficial           the proxy underpays (r_P < r_G) an output that is attractive when corrected and mediocre
                           (r_G(y) below the best reachable ground truth): the error keeps the policy from stalling on
                           it;
      harmful_hacking      r_P(y) is the highest proxy reward among reachable outputs while r_G(y) is not the highest;
      harmful_stalling     any other overpaid attractive output of lower than the best ground truth.
    `attractive` means a positive initial logit velocity, where the velocity of y is
        sum_z pi_0(z) (r(z) - V_0) <phi(z), phi(y)>,
    for orthonormal features the paper's r(y) > V_0. "Reachable" outputs are those that are not negligible.

    Beyond the paper: an underpaid or overpaid BEST output. Its categories speak of outputs of low or mediocre ground
    truth. Underpaying the best output y* so that it is no longer the highest is called `harmful_hacking` (the policy
    concentrates elsewhere), lowering it less `harmful_stalling` (it takes longer), and overpaying it `beneficial`.
    """
    if not probabilities.shape[-1] == ground_truth.shape[-1] == proxy.shape[-1]:
        raise ValueError(
            "probabilities, ground truth and proxy must have one number per output, not "
            f"{probabilities.shape[-1]}, {ground_truth.shape[-1]} and {proxy.shape[-1]}"
        )
    error = proxy - ground_truth
    wrong, overpaid = error.abs() > tolerance, error > 0
    reachable = probabilities >= negligible_probability
    best_truth = torch.where(reachable, ground_truth, -torch.inf).amax(dim=-1, keepdim=True)
    highest_proxy = torch.where(reachable, proxy, -torch.inf).amax(dim=-1, keepdim=True)
    is_best, is_highest = ground_truth >= best_truth - tolerance, proxy >= highest_proxy - tolerance

    attractive = logit_velocity(probabilities, proxy, features) > 0
    attractive_corrected = _own_velocity_when_corrected(probabilities, ground_truth, proxy, features) > 0

    category = torch.full(wrong.shape, int(RewardError.harmful_stalling), dtype=torch.int64)
    category[overpaid & is_highest & ~is_best] = int(RewardError.harmful_hacking)
    category[~overpaid & ~is_best] = int(RewardError.beneficial)
    category[is_best & overpaid] = int(RewardError.beneficial)
    category[is_best & ~overpaid & ~is_highest] = int(RewardError.harmful_hacking)
    category[~attractive & ~attractive_corrected] = int(RewardError.benign_unattractive)
    category[~reachable] = int(RewardError.benign_unlikely)
    category[~wrong] = int(RewardError.none)
    return category


def logit_velocity(probabilities: Tensor, rewards: Tensor, features: Tensor | None = None) -> Tensor:
    """d/dt of every output's logit under gradient flow on the expected reward: [..., O] -> [..., O].

    sum_z pi(z) (r(z) - V) <phi(z), phi(y)>; with `features` None (orthonormal) just pi(y) (r(y) - V).
    """
    value = (probabilities * rewards).sum(dim=-1, keepdim=True)
    push = probabilities * (rewards - value)
    if features is None:
        return push
    return (features @ (features.transpose(-1, -2) @ push[..., None]))[..., 0]


def _own_velocity_when_corrected(
    probabilities: Tensor, ground_truth: Tensor, proxy: Tensor, features: Tensor | None
) -> Tensor:
    """For every output y, its initial logit velocity under the proxy whose reward at y alone is set to the truth."""
    outputs = proxy.shape[-1]
    here = torch.eye(outputs, dtype=torch.bool)
    corrected = torch.where(here, ground_truth[..., None, :], proxy[..., None, :])  # [..., corrected output, O]
    repeated = probabilities[..., None, :].expand_as(corrected)
    velocity = logit_velocity(repeated, corrected, None if features is None else features[..., None, :, :])
    return torch.diagonal(velocity, dim1=-2, dim2=-1)
