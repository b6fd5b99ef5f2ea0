"""What a reward model is asked to order, as one list: pairs of samples, best against the rest, pairs of a dataset.

The eight accuracies of When Errors Can Be Beneficial (arXiv 2604.25872, section 4), each for pairs and for one chosen
output against many rejected ones, are made of such comparisons (`accuracies` of `evaluation.py`). A comparison has one
chosen output c (higher ground truth) and one or more rejected ones r, all scored by the proxy:
  Acc    counts 1[r_P(c) > r_P(r)] for every r, strictly: a tie is an error;
  HAcc   also forgives a misranking whose rejected outputs lie below m, the mean proxy reward of the policy's own
         samples, because such an output cannot attract probability (benign error, type I): 1[r_P(r) < max(r_P(c), m)];
  -W     weighs comparisons by how likely the policy makes them, softmax over ALL comparisons of ALL prompts of the sum
         of log pi over their outputs, because an unlikely output cannot attract probability in the relevant time
         (benign error, type II).

Known limits, which belong beside the numbers: HAcc >= Acc always; a constant proxy scores 0 on both; one sample with a
huge reward raises m and so HAcc; best against the rest of the same samples, the two differ only where several are best;
none of the eight sees reward variance. The weights of long outputs collapse onto one pair unless log-probabilities are
divided by length: `effective_comparisons` stands beside each weighted number. With unequal numbers of rejected outputs
a prompt with fewer of them weighs more. Ties of the ground truth are no comparisons (the official code keeps them and
calls the second sample chosen, which makes its accuracy depend on the order of samples).

Shapes: R reward models, P prompts, N samples per prompt, Q given pairs, I comparisons.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.integer]


@dataclass(frozen=True)
class Comparisons:
    """Comparisons in a row, whatever prompt they belong to."""

    prompt: Integers  # [I]
    strict: NDArray[np.bool_]  # [R, I] whether the chosen output's proxy reward is above that of every rejected one
    harm_aware: NDArray[np.bool_]  # [R, I] the same, or every rejected one is below the policy's mean proxy reward
    log_probability: Floats  # [I] of all outputs of a comparison together
    length_normalised: Floats  # [I] the same, each output's divided by its length
    unit: Floats  # [I] 1, or 1/k where k items are one comparison together


def pairs_of_samples(
    rewards: Floats, ground_truth: Floats, log_probabilities: Floats, per_token: Floats
) -> Comparisons:
    """All pairs of each prompt's samples between which the ground truth decides: [R, P, N] and [P, N] each."""
    first, second = np.triu_indices(ground_truth.shape[-1], k=1)
    gap = ground_truth[:, first] - ground_truth[:, second]  # [P, N(N-1)/2]
    prompt, pair = np.nonzero(gap)
    chosen = np.where(gap > 0, first, second)[prompt, pair]
    rejected = np.where(gap > 0, second, first)[prompt, pair]
    lost = rewards[:, prompt, rejected]
    won, mean = rewards[:, prompt, chosen], rewards.mean(axis=-1)[:, prompt]
    return Comparisons(
        prompt=prompt,
        strict=lost < won,
        harm_aware=lost < np.maximum(won, mean),
        log_probability=log_probabilities[prompt, chosen] + log_probabilities[prompt, rejected],
        length_normalised=per_token[prompt, chosen] + per_token[prompt, rejected],
        unit=np.ones(len(prompt)),
    )


def best_against_rest(
    rewards: Floats, ground_truth: Floats, log_probabilities: Floats, per_token: Floats
) -> Comparisons:
    """Each prompt's best sample against all that are worse: can the proxy pick it out?

    Where several samples are best, each is chosen in turn, and together they count as one comparison. A prompt whose
    samples all tie has none.
    """
    best = ground_truth == ground_truth.max(axis=1, keepdims=True)  # [P, N]
    decided = ~best.all(axis=1)
    prompt, chosen = np.nonzero(best & decided[:, None])
    highest = np.where(best, -np.inf, rewards).max(axis=-1)[:, prompt]  # [R, I] of the rejected
    won, mean = rewards[:, prompt, chosen], rewards.mean(axis=-1)[:, prompt]
    return Comparisons(
        prompt=prompt,
        strict=highest < won,
        harm_aware=highest < np.maximum(won, mean),
        log_probability=log_probabilities[prompt, chosen] + _sum_where(~best, log_probabilities)[prompt],
        length_normalised=per_token[prompt, chosen] + _sum_where(~best, per_token)[prompt],
        unit=1 / best.sum(axis=1)[prompt],
    )


def given_pairs(
    rewards: Floats,
    ground_truth: Floats,
    log_probabilities: Floats,
    per_token: Floats,
    prompt: Integers,
    mean_rewards: Floats,
) -> Comparisons:
    """Pairs that are not samples of the policy, [R, Q, 2] and [Q, 2] each; `mean_rewards` [R, P] are the policy's."""
    gap = ground_truth[:, 0] - ground_truth[:, 1]
    (pair,) = np.nonzero(gap)
    chosen = np.where(gap > 0, 0, 1)[pair]
    won, lost = rewards[:, pair, chosen], rewards[:, pair, 1 - chosen]
    return Comparisons(
        prompt=prompt[pair],
        strict=lost < won,
        harm_aware=lost < np.maximum(won, mean_rewards[:, prompt[pair]]),
        log_probability=log_probabilities[pair].sum(axis=1),
        length_normalised=per_token[pair].sum(axis=1),
        unit=np.ones(len(pair)),
    )


def sign_agreement(rewards: Floats, ground_truth: Floats) -> Floats:
    """Share of each prompt's pairs of samples whose order (or tie) is the ground truth's: [R, P]."""
    first, second = np.triu_indices(ground_truth.shape[-1], k=1)
    proxy_order = np.sign(rewards[..., first] - rewards[..., second])
    return np.asarray((proxy_order == np.sign(ground_truth[..., first] - ground_truth[..., second])).mean(axis=-1))


def _sum_where(mask: NDArray[np.bool_], values: Floats) -> Floats:
    return np.asarray(np.where(mask, values, 0.0).sum(axis=1))
