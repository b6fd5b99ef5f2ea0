"""Reward variance: hand-computed cases and the invariances that its docstring states."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.reward_metrics.variance import (
    RewardScale,
    globally_normalised,
    policy_reward_variance,
    reward_variance,
    within_prompt_variance,
    zero_variance_share,
)


def rewards_from(seed: int, prompts: int = 5, samples: int = 4) -> torch.Tensor:
    return torch.randn(prompts, samples, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_two_prompts_by_hand():
    """Rewards 0, 2 and 4, 6: within-prompt variance 2 each, global variance 20/3, so 0.3."""
    rewards = torch.tensor([[0.0, 2.0], [4.0, 6.0]], dtype=torch.float64)
    assert reward_variance(rewards, RewardScale.none).item() == pytest.approx(2.0)
    assert reward_variance(rewards).item() == pytest.approx(2.0 / (20.0 / 3.0))
    assert within_prompt_variance(rewards, RewardScale.within_prompt_std).tolist() == pytest.approx([1.0, 1.0])


def test_global_normalisation_gives_mean_zero_and_std_one():
    normalised = globally_normalised(rewards_from(0) * 7 + 3)
    assert normalised.mean().item() == pytest.approx(0, abs=1e-12)
    assert normalised.std().item() == pytest.approx(1)
    assert reward_variance(normalised, RewardScale.none).item() == pytest.approx(
        reward_variance(rewards_from(0)).item()
    )


@given(st.integers(0, 10**6), st.floats(-50, 50).filter(lambda a: abs(a) > 0.01), st.floats(-100, 100))
@settings(max_examples=50, deadline=None)
def test_global_scale_is_invariant_to_affine_maps(seed, factor, shift):
    rewards = rewards_from(seed)
    assert torch.allclose(reward_variance(factor * rewards + shift), reward_variance(rewards), rtol=1e-6)


@given(st.integers(0, 10**6), st.integers(2, 8), st.integers(2, 6))
@settings(max_examples=50, deadline=None)
def test_bounds_and_permutation_invariance(seed, prompts, samples):
    """Within-prompt sums of squares are at most the total: variance <= (PN - 1) / (P (N - 1))."""
    rewards = rewards_from(seed, prompts, samples)
    variance = reward_variance(rewards).item()
    assert 0 <= variance <= (prompts * samples - 1) / (prompts * (samples - 1)) + 1e-12
    order = torch.randperm(prompts, generator=torch.Generator().manual_seed(seed))
    columns = torch.randperm(samples, generator=torch.Generator().manual_seed(seed + 1))
    assert reward_variance(rewards[order][:, columns]).item() == pytest.approx(variance)


def test_between_prompt_spread_lowers_the_normalised_variance_only():
    rewards = rewards_from(1, prompts=50)
    spread = rewards + 10 * torch.arange(50, dtype=torch.float64)[:, None]
    assert reward_variance(spread, RewardScale.none).item() == pytest.approx(
        reward_variance(rewards, RewardScale.none).item()
    )
    assert reward_variance(spread).item() < 0.01 < 0.9 < reward_variance(rewards).item()


def test_leading_dimensions_are_reward_models():
    models = torch.stack([rewards_from(seed) for seed in range(3)])
    assert torch.allclose(reward_variance(models), torch.stack([reward_variance(model) for model in models]))


def test_constant_rewards_have_variance_zero_whatever_rounding_does():
    constant = torch.full((3, 7), 0.1, dtype=torch.float32)
    for scale in RewardScale:
        assert reward_variance(constant, scale).item() < 1e-12


def test_policy_variance_is_half_the_expected_squared_gap():
    """Definition 2 and its second form, on a random policy."""
    probabilities = torch.softmax(rewards_from(3, 1, 6)[0], -1)
    rewards = rewards_from(4, 1, 6)[0]
    gap = (probabilities[:, None] * probabilities[None, :] * (rewards[:, None] - rewards[None, :]) ** 2).sum() / 2
    assert policy_reward_variance(probabilities, rewards).item() == pytest.approx(gap.item())


def test_zero_variance_share_ignores_float_noise_but_not_small_differences():
    rewards = torch.tensor([[0.1 + 0.2, 0.3, 0.3], [0.3, 0.3, 0.3], [0.3, 0.3, 0.3001], [0.0, 0.0, 0.0]])
    assert zero_variance_share(rewards.double()).item() == pytest.approx(0.75)


@pytest.mark.parametrize("bad", [torch.zeros(4), torch.zeros(3, 1), torch.tensor([[0.0, torch.nan]])])
def test_impossible_rewards_are_refused(bad):
    with pytest.raises(ValueError, match=r"rewards"):
        reward_variance(bad)
