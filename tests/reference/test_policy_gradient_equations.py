"""Advantages and losses against the papers' equations, written out as plain loops over Python floats.

RLOO: 2402.14740. GRPO: DeepSeekMath, 2402.03300, equations 3 and 4. Dr. GRPO: 2503.20783. DAPO: 2503.14476. PPO:
1707.06347.
"""

import math
import statistics

import numpy as np
import pytest
import torch

from experiments.training.advantages import advantages
from experiments.training.policy_losses import policy_loss, sequence_weights

EPSILON, BETA = 0.2, 0.04


def ragged_case(seed):
    """Rewards of 3 groups of 4, and log-probabilities of ragged completions under policy, old policy and reference."""
    random = np.random.default_rng(seed)
    rewards = [[float(reward) for reward in random.normal(size=4)] for _ in range(3)]
    lengths = [int(length) for length in random.integers(1, 7, size=12)]
    policy, old, reference = ([[float(-random.exponential(0.3)) for _ in range(n)] for n in lengths] for _ in range(3))
    return rewards, policy, old, reference


def padded(rows):
    width = max(map(len, rows))
    return torch.tensor([row + [0.0] * (width - len(row)) for row in rows], dtype=torch.float64)


def rloo_advantage(group, i):
    return group[i] - sum(reward for j, reward in enumerate(group) if j != i) / (len(group) - 1)


def grpo_advantage(group, i):
    return (group[i] - statistics.fmean(group)) / (statistics.stdev(group) + 1e-4)


def clipped(ratio, advantage):
    return min(ratio * advantage, max(1 - EPSILON, min(ratio, 1 + EPSILON)) * advantage)


def our_loss(case, values, denominator, **options):
    _, policy, old, reference = case
    lengths = torch.tensor([len(row) for row in policy])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    return policy_loss(
        padded(policy),
        padded(old),
        mask,
        values,
        sequence_weights(lengths, denominator),
        clip=EPSILON,
        reference_log_probabilities=padded(reference),
        **options,
    )


@pytest.mark.parametrize("seed", range(3))
def test_rloo_with_ratios_of_sequences(seed):
    case = ragged_case(seed)
    rewards, policy, old, _ = case
    total, shares = 0.0, []
    for row in range(12):
        advantage = rloo_advantage(rewards[row // 4], row % 4)
        ratio = math.exp(sum(policy[row]) - sum(old[row]))
        total -= clipped(ratio, advantage) / 12
        shares.append(ratio > 1.2 if advantage > 0 else ratio < 0.8)
    found = our_loss(
        case, advantages(torch.tensor(rewards, dtype=torch.float64), "rloo").flatten(), "sequences", sequence_ratio=True
    )
    assert float(found.loss) == pytest.approx(total, rel=1e-10)
    assert float(found.clip_share) == pytest.approx(sum(shares) / 12)
    assert 0 < sum(shares) < 12


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("denominator", ["each_sequence", "tokens", "sequences"])
def test_grpo_with_ratios_of_tokens_and_kl_in_the_loss(seed, denominator):
    case = ragged_case(seed)
    rewards, policy, old, reference = case
    tokens = sum(map(len, policy))
    total = 0.0
    for row in range(12):
        advantage = grpo_advantage(rewards[row // 4], row % 4)
        divisor = {"each_sequence": 12 * len(policy[row]), "tokens": tokens, "sequences": 12}[denominator]
        for new, before, ref in zip(policy[row], old[row], reference[row], strict=True):
            ratio = math.exp(new - before)
            kl = math.exp(ref) / math.exp(new) - math.log(math.exp(ref) / math.exp(new)) - 1
            total -= (clipped(ratio, advantage) - BETA * kl) / divisor
    values = advantages(torch.tensor(rewards, dtype=torch.float64), "grpo").flatten()
    found = our_loss(case, values, denominator, kl_estimator="k3", kl_coefficient=BETA)
    assert float(found.loss) == pytest.approx(total, rel=1e-10)
