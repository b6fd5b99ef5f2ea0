"""Losses of policy gradient: clipped surrogates and KL penalties, as sums over sequences with given weights.

Sums, because a minibatch goes through the model in pieces: the losses of the pieces add up to that of the whole.

Shapes: n sequences in rows, L tokens of the longest; fp32 or fp64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DENOMINATORS = ("sequences", "tokens", "each_sequence")
KL_ESTIMATORS = ("k1", "k2", "k3")


@dataclass(frozen=True)
class PolicyLoss:
    """A loss with its gradient, and what there is to say of it. Means are over `units`: tokens, or whole sequences."""

    loss: Tensor  # scalar, with gradient
    units: int  # ratios: tokens, or sequences where the ratio is theirs
    clip_share: Tensor  # scalar; of the units whose gradient the clipping cut off
    approximate_kl: Tensor  # scalar >= 0; KL(old || policy) per unit: mean of ratio - 1 - log(ratio)
    mean_ratio: Tensor  # scalar; policy / old: 1 before the first update


def sequence_weights(lengths: Tensor, denominator: str) -> Tensor:
    """What each sequence's sum over tokens counts in the loss, [n], for sequences of `lengths` tokens [n].

    `sequences`: 1 / n (RLOO, Dr. GRPO). `tokens`: 1 / all tokens (DAPO). `each_sequence`: 1 / (n x own length), the
    mean over each sequence first (GRPO). The weights belong to a whole minibatch.
    """
    lengths = lengths.double()
    if denominator == "sequences":
        return torch.full_like(lengths, 1.0 / len(lengths))
    if denominator == "tokens":
        return torch.full_like(lengths, 1.0 / float(lengths.sum()))
    if denominator == "each_sequence":
        return 1.0 / (len(lengths) * lengths)
    raise ValueError(f"loss_denominator={denominator!r} is unknown: use one of {', '.join(DENOMINATORS)}")


def policy_loss(
    log_probabilities: Tensor,
    old_log_probabilities: Tensor,
    mask: Tensor,
    advantages: Tensor,
    weights: Tensor,
    *,
    clip: float,
    sequence_ratio: bool = False,
    reference_log_probabilities: Tensor | None = None,
    kl_estimator: str = "k3",
    kl_coefficient: float = 0.0,
    importance_weighted_kl: bool = False,
) -> PolicyLoss:
    """sum over sequences of weight * (PPO's clipped loss + kl_coefficient * KL estimate).

    `log_probabilities` [n, L] carry the gradient; `old_log_probabilities` [n, L] are those at sampling time and
    `reference_log_probabilities` [n, L] those of the reference policy. `mask` [n, L] is True at real tokens, whatever
    stands elsewhere is not read. `advantages` [n]; `weights` [n] as `sequence_weights` makes them.

    The unit is a token, or with `sequence_ratio` a whole sequence: its ratio policy / old is clipped to 1 +- `clip`
    where the advantage would push it further (PPO, 1707.06347, equation 7), and its log-ratio to the reference enters
    the KL estimate. Before the first update both give the gradient of REINFORCE.

    KL estimates, with d = log(policy / reference) of a unit (Schulman, "Approximating KL divergence"):

    - `k1` = d. Its value is unbiased, but its gradient is that of log policy, which is 0 in expectation: pure noise.
    - `k2` = d^2 / 2. Its gradient, d * grad log policy, is on-policy that of KL(policy || reference) in expectation.
    - `k3` = exp(-d) - 1 + d, as in GRPO. Unbiased and never negative; its gradient, (1 - exp(-d)) * grad log policy, is
      on-policy that of KL(reference || policy), the other direction. They agree to first order in d.

    So in the loss `k2` is what one means by a KL penalty. Exactly so for sequences; for tokens the gradient is that of
    the summed KLs of next-token distributions at the prefixes that were sampled, and leaves out that the policy also
    chooses its prefixes.

    Off-policy (later minibatches and epochs) samples come from the old policy, and estimates without importance weights
    are expectations under it. `importance_weighted_kl` multiplies with the ratio policy / old, unclipped. For `k1` and
    `k3` the ratio's own gradient is kept: it is the part that was missing, and both then have the gradient of
    KL(policy || reference), on- and off-policy. For `k2`, whose gradient is right already, the ratio is a constant.
    """
    if kl_estimator not in KL_ESTIMATORS:
        raise ValueError(f"kl_estimator={kl_estimator!r} is unknown: use one of {', '.join(KL_ESTIMATORS)}")
    if kl_coefficient and reference_log_probabilities is None:
        raise ValueError(f"kl_coefficient={kl_coefficient} needs the log-probabilities of the reference policy")
    log_ratios = (log_probabilities - old_log_probabilities).masked_fill(~mask, 0.0)  # [n, L]
    if sequence_ratio:
        log_ratios = log_ratios.sum(dim=1, keepdim=True)  # [n, 1]
        units = torch.ones_like(mask[:, :1])
    else:
        units = mask
    ratios = log_ratios.exp()
    advantages = advantages.to(ratios.dtype)[:, None]
    losses = -torch.minimum(ratios * advantages, ratios.clamp(1 - clip, 1 + clip) * advantages)
    if kl_coefficient and reference_log_probabilities is not None:
        divergences = (log_probabilities - reference_log_probabilities).masked_fill(~mask, 0.0)
        if sequence_ratio:
            divergences = divergences.sum(dim=1, keepdim=True)
        estimates = kl_estimates(divergences, kl_estimator)
        if importance_weighted_kl:
            estimates = estimates * (ratios.detach() if kl_estimator == "k2" else ratios)
        losses = losses + kl_coefficient * estimates
    loss = (losses.masked_fill(~units, 0.0).sum(dim=1) * weights.to(losses.dtype)).sum()

    with torch.no_grad():
        count = int(units.sum())
        clipped = ((ratios < 1 - clip) & (advantages < 0)) | ((ratios > 1 + clip) & (advantages > 0))
        return PolicyLoss(
            loss=loss,
            units=count,
            clip_share=(clipped & units).sum() / count,
            approximate_kl=(ratios - 1 - log_ratios).masked_fill(~units, 0.0).sum() / count,
            mean_ratio=ratios.masked_fill(~units, 0.0).sum() / count,
        )


def kl_estimates(log_ratios: Tensor, estimator: str) -> Tensor:
    """Estimates of KL(policy || reference) from log(policy / reference) of samples of the policy, in its shape."""
    if estimator == "k1":
        return log_ratios
    if estimator == "k2":
        return log_ratios.square() / 2
    return torch.expm1(-log_ratios) + log_ratios
