"""The eight accuracies of When Errors Can Be Beneficial (arXiv 2604.25872, section 4): Acc, Acc-W, HAcc, HAcc-W,
each for pairs and for one chosen output against many rejected ones.

A pair is a chosen output c (higher ground truth) and a rejected one r, both scored by the proxy:
  Acc    counts 1[r_P(c) > r_P(r)], strictly: a tie is an error;
  HAcc   also forgives a misranking whose rejected output lies below m, the mean proxy reward of the policy's own
         samples, because such an output cannot attract probability (benign error, type I): 1[r_P(r) < max(r_P(c), m)];
  -W     weighs pairs by how likely the policy makes them, softmax of log pi(c) + log pi(r) over ALL pairs of ALL
  prompts,
         because an unlikely output cannot attract probability in the relevant time (benign error, type II).
One against many: c must exceed every r; harm-aware, every r must lie below max(r_P(c), m).

Known limits, which belong beside the numbers: HAcc >= Acc always; a constant proxy scores 0 on both; one sample with a
huge reward raises m and so HAcc; none of the eight sees reward variance. The weights of long outputs collapse onto one
pair unless log-probabilities are divided by length: report `effective_sample_size` beside each weighted number.

Shapes: P prompts, Q pairs per prompt, K rejected outputs per prompt; `...` are reward models, arms, seeds.
Masks are True where there is a pair or a rejected output, so that ragged data can be padded with anything finite.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Pairs ---------------------------------------------------------------------------------------------------------------


def pairwise_accuracy(chosen: Tensor, rejected: Tensor, mask: Tensor | None = None) -> Tensor:
    """Acc: [..., P, Q] -> [...]. Invariant to any increasing map of the proxy per prompt."""
    return _uniform_mean(_below(rejected, chosen), mask)


def pairwise_harm_aware_accuracy(
    chosen: Tensor, rejected: Tensor, mean_reward: Tensor, mask: Tensor | None = None
) -> Tensor:
    """HAcc: pairs [..., P, Q] and the policy's mean proxy reward [..., P] -> [...].

    Invariant to positive affine maps of the proxy per prompt (which move `mean_reward` along).
    """
    return _uniform_mean(_below(rejected, torch.maximum(chosen, mean_reward[..., None])), mask)


def pairwise_weighted_accuracy(
    chosen: Tensor,
    rejected: Tensor,
    chosen_log_probability: Tensor,
    rejected_log_probability: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """Acc-W: all [..., P, Q] -> [...]."""
    weights = pair_weights(chosen_log_probability, rejected_log_probability, mask)
    return (weights * _below(rejected, chosen)).sum(dim=(-2, -1))


def pairwise_weighted_harm_aware_accuracy(
    chosen: Tensor,
    rejected: Tensor,
    chosen_log_probability: Tensor,
    rejected_log_probability: Tensor,
    mean_reward: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """HAcc-W: pairs [..., P, Q] and the policy's mean proxy reward [..., P] -> [...]."""
    weights = pair_weights(chosen_log_probability, rejected_log_probability, mask)
    return (weights * _below(rejected, torch.maximum(chosen, mean_reward[..., None]))).sum(dim=(-2, -1))


def pair_weights(
    chosen_log_probability: Tensor, rejected_log_probability: Tensor, mask: Tensor | None = None
) -> Tensor:
    """softmax over all pairs of all prompts of log pi(c) + log pi(r): [..., P, Q], summing to 1 for each [...].

    Shifted by the maximum first, so log-probabilities of thousands neither overflow nor vanish together; -inf is an
    impossible output with weight 0. Invariant to adding one constant to all log-probabilities.
    """
    return _softmax_over_last_two(chosen_log_probability + rejected_log_probability, mask)


# One against many ----------------------------------------------------------------------------------------------------


def one_vs_many_accuracy(chosen: Tensor, rejected: Tensor, mask: Tensor | None = None) -> Tensor:
    """Acc: chosen [..., P] against every rejected [..., P, K] -> [...]."""
    return _correct_against_many(chosen, rejected, mask).double().mean(dim=-1)


def one_vs_many_harm_aware_accuracy(
    chosen: Tensor, rejected: Tensor, mean_reward: Tensor, mask: Tensor | None = None
) -> Tensor:
    """HAcc: chosen and mean_reward [..., P], rejected [..., P, K] -> [...]."""
    return _correct_against_many(torch.maximum(chosen, mean_reward), rejected, mask).double().mean(dim=-1)


def one_vs_many_weighted_accuracy(
    chosen: Tensor,
    rejected: Tensor,
    chosen_log_probability: Tensor,
    rejected_log_probability: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """Acc-W: chosen [..., P], rejected [..., P, K] -> [...]."""
    weights = one_vs_many_weights(chosen_log_probability, rejected_log_probability, mask)
    return (weights * _correct_against_many(chosen, rejected, mask)).sum(dim=-1)


def one_vs_many_weighted_harm_aware_accuracy(
    chosen: Tensor,
    rejected: Tensor,
    chosen_log_probability: Tensor,
    rejected_log_probability: Tensor,
    mean_reward: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """HAcc-W: chosen and mean_reward [..., P], rejected [..., P, K] -> [...]."""
    weights = one_vs_many_weights(chosen_log_probability, rejected_log_probability, mask)
    correct = _correct_against_many(torch.maximum(chosen, mean_reward), rejected, mask)
    return (weights * correct).sum(dim=-1)


def one_vs_many_weights(
    chosen_log_probability: Tensor, rejected_log_probability: Tensor, mask: Tensor | None = None
) -> Tensor:
    """softmax over prompts of log pi(c) + sum_k log pi(r_k): [..., P] and [..., P, K] -> [..., P].

    A padded rejected output adds nothing to the sum, as in the official code (log-probability 0). Note that with ragged
    K a prompt with fewer rejected outputs therefore weighs more.
    """
    if mask is not None:
        rejected_log_probability = torch.where(mask, rejected_log_probability, 0.0)
    joint = chosen_log_probability + rejected_log_probability.sum(dim=-1)
    return _softmax_over_last_two(joint[..., None], None)[..., 0]


# Inputs and company --------------------------------------------------------------------------------------------------


def length_normalised(log_probability: Tensor, length: Tensor) -> Tensor:
    """Log-probability per token; an empty output counts as one token, as in the official code."""
    return log_probability / length.clamp(min=1)


def effective_sample_size(weights: Tensor, dims: tuple[int, ...] = (-2, -1)) -> Tensor:
    """How many equally weighted pairs a weighted mean rests on: 1 / sum w^2 (Kish), for weights that sum to 1.

    Between 1 (one pair decides everything) and the number of pairs.
    """
    return 1.0 / weights.square().sum(dim=dims)


@dataclass(frozen=True)
class SamplePairs:
    """All pairs of each prompt's samples: indices of the chosen and the rejected sample, [..., P, Q]."""

    chosen: Tensor
    rejected: Tensor
    mask: Tensor  # False where the ground truth ties, so that there is no chosen output

    def of(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The values [..., P, N] of chosen and rejected samples, each [..., P, Q]."""
        batch = (values[..., 0] + self.chosen[..., 0]).shape  # reward models may share one ground truth
        values = values.expand(*batch, values.shape[-1])
        index_shape = (*values.shape[:-1], self.chosen.shape[-1])
        return values.gather(-1, self.chosen.expand(index_shape)), values.gather(-1, self.rejected.expand(index_shape))


def pairs_of_samples(ground_truth: Tensor) -> SamplePairs:
    """All N(N-1)/2 pairs of samples, the one with the higher ground truth [..., P, N] as chosen.

    Ties of the ground truth are masked out. (The official code keeps them and calls the second sample chosen, which
    makes its accuracy depend on the order of samples.)
    """
    first, second = torch.triu_indices(ground_truth.shape[-1], ground_truth.shape[-1], offset=1)
    gap = ground_truth[..., first] - ground_truth[..., second]
    first, second = first.expand(gap.shape), second.expand(gap.shape)
    return SamplePairs(torch.where(gap > 0, first, second), torch.where(gap > 0, second, first), gap != 0)


def _correct_against_many(threshold: Tensor, rejected: Tensor, mask: Tensor | None) -> Tensor:
    below = _below(rejected, threshold[..., None])
    if mask is not None:
        if not bool(mask.any(dim=-1).all()):
            raise ValueError("a prompt has no rejected output at all: drop it before scoring one against many")
        below = below | ~mask
    return below.all(dim=-1)


def _below(rejected: Tensor, threshold: Tensor) -> Tensor:
    if bool(torch.isnan(rejected).any()) or bool(torch.isnan(threshold).any()):
        raise ValueError("rewards contain NaN: drop those outputs first (a comparison with NaN counts as an error)")
    return rejected < threshold


def _uniform_mean(correct: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return correct.double().mean(dim=(-2, -1))
    counted = mask.double().expand_as(correct)
    if not bool((counted.sum(dim=(-2, -1)) > 0).all()):
        raise ValueError("no pair is left: the mask excludes all of them (do all ground truth rewards tie?)")
    return (correct * counted).sum(dim=(-2, -1)) / counted.sum(dim=(-2, -1))


def _softmax_over_last_two(scores: Tensor, mask: Tensor | None) -> Tensor:
    if bool(torch.isnan(scores).any()) or bool((scores == torch.inf).any()):
        raise ValueError("log-probabilities contain NaN or +inf: they must be numbers at most 0, or -inf")
    if mask is not None:
        scores = torch.where(mask, scores, -torch.inf)
    highest = scores.amax(dim=(-2, -1), keepdim=True)
    if bool((highest == -torch.inf).any()):
        raise ValueError("no pair has positive probability: there is nothing to weigh")
    weights = torch.exp(scores.double() - highest.double())
    return weights / weights.sum(dim=(-2, -1), keepdim=True)
