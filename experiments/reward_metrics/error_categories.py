"""What a reward error does to policy gradient: harmful, benign or beneficial.

Source: When Errors Can Be Beneficial (arXiv 2604.25872), its categories of reward errors and the velocity of logits
that they are derived from. The conditions are stated there informally ("high", "mediocre", "likely"); this module
makes them a rule with two thresholds, and `rl-exp controlled experiment=error_categories` tries it on random problems.

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
    negligible_velocity: float = 0.3,
    tolerance: float = 1e-9,
) -> Tensor:
    """The `RewardError` of every output, as integers [..., O].

    `probabilities` (initial policy), `ground_truth` and `proxy` are [..., O]; `features` are [..., O, D], None for
    orthonormal (tabular) ones. Invariant to the order of outputs. Both rewards must be on one scale, because an error
    is a difference between them of more than `tolerance`.

    Two notions make the paper's words a rule. The velocity of y is its initial logit velocity,
        sum_z pi_0(z) (r(z) - V_0) <phi(z), phi(y)>   (orthonormal features: positive where r(y) > V_0),
    under the proxy or under the proxy corrected at y, whichever is larger. The rival of y is the other output of
    highest velocity under the proxy: it attracts the probability that y does not.

    In this order:
      none                 |r_P(y) - r_G(y)| <= tolerance;
      benign_unattractive  the velocity of y is not positive: it attracts no probability, with or without its error;
      benign_unlikely      pi_0(y) < negligible_probability, or the velocity of y is below negligible_velocity of the
                           fastest output's: it attracts no probability before another output has;
      beneficial           underpaid, and r_G(y) below the rival's: the error keeps the policy from stalling on y;
      harmful_hacking      overpaid, r_G(y) below the rival's, and r_P(y) the highest among likely outputs: the policy
                           concentrates on y;
      harmful_stalling     overpaid, r_G(y) below the rival's, r_P(y) not the highest: the policy stays at y for a
      while.

    "Below the rival's" includes a tie, unless y is among the best outputs. Beyond the paper, whose categories speak of
    outputs of low or mediocre ground truth: where r_G(y) is not below the rival's, an overpaid y is called `beneficial`
    (the policy goes where it should) and an underpaid one `harmful_hacking` (the policy goes to the worse rival).
    """
    if not probabilities.shape[-1] == ground_truth.shape[-1] == proxy.shape[-1]:
        raise ValueError(
            "probabilities, ground truth and proxy must have one number per output, not "
            f"{probabilities.shape[-1]}, {ground_truth.shape[-1]} and {proxy.shape[-1]}"
        )
    if proxy.shape[-1] < 2:
        raise ValueError("a reward error needs at least two outputs: with one there is nothing to choose")
    error = proxy - ground_truth
    overpaid, likely = error > 0, probabilities >= negligible_probability
    highest = proxy >= torch.where(likely, proxy, -torch.inf).amax(dim=-1, keepdim=True)

    under_proxy = logit_velocity(probabilities, proxy, features)
    velocity = torch.maximum(under_proxy, _own_velocity_when_corrected(probabilities, ground_truth, proxy, features))
    fastest = under_proxy.amax(dim=-1, keepdim=True)
    rival_truth = _ground_truth_of_rivals(ground_truth, under_proxy)
    best = ground_truth >= ground_truth.amax(dim=-1, keepdim=True)
    below_rival = (ground_truth < rival_truth) | ((ground_truth == rival_truth) & ~best)

    category = torch.full_like(overpaid, int(RewardError.harmful_stalling), dtype=torch.int64)
    category[overpaid & highest] = int(RewardError.harmful_hacking)
    category[overpaid & ~below_rival] = int(RewardError.beneficial)
    category[~overpaid & below_rival] = int(RewardError.beneficial)
    category[~overpaid & ~below_rival] = int(RewardError.harmful_hacking)
    category[~likely | (velocity < negligible_velocity * fastest)] = int(RewardError.benign_unlikely)
    category[velocity <= 0] = int(RewardError.benign_unattractive)
    category[error.abs() <= tolerance] = int(RewardError.none)
    return category


def _ground_truth_of_rivals(ground_truth: Tensor, velocity: Tensor) -> Tensor:
    """For every output, the ground truth of the fastest other output: [..., O] -> [..., O]."""
    outputs = ground_truth.shape[-1]
    itself = torch.eye(outputs, dtype=torch.bool)
    rival = velocity[..., None, :].expand(*velocity.shape, outputs).masked_fill(itself, -torch.inf).argmax(dim=-1)
    return ground_truth.gather(-1, rival)


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
