"""Advantages of hand-made rewards, and what they must not depend on."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experiments.training.advantages import advantages, reward_with_kl
from experiments.training.algorithms import Advantage

REWARDS = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]], dtype=torch.float64)
GROUPED = ("rloo", "grpo", "grpo_without_std")


def test_reinforce_takes_off_the_batch_mean():
    assert advantages(REWARDS, "reinforce").tolist() == [[-1.0, 0.0, 4.0], [-2.0, -2.0, 1.0]]


def test_rloo_takes_off_the_mean_of_the_others():
    expected = torch.tensor([[1 - 4.0, 2 - 3.5, 6 - 1.5], [0 - 1.5, 0 - 1.5, 3 - 0.0]], dtype=torch.float64)
    torch.testing.assert_close(advantages(REWARDS, "rloo"), expected, rtol=0, atol=1e-15)


def test_grpo_divides_by_the_std_of_n_minus_one_plus_epsilon():
    # 1, 2, 6: mean 3, squares 4 + 1 + 9 = 14, std with N - 1: sqrt(7); with N: sqrt(14 / 3)
    first = torch.tensor([-2.0, -1.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(advantages(REWARDS, "grpo")[0], first / (7**0.5 + 1e-4), rtol=1e-14, atol=0)
    other = advantages(REWARDS, "grpo", ddof=0, epsilon=1e-8)[0]
    torch.testing.assert_close(other, first / ((14 / 3) ** 0.5 + 1e-8), rtol=1e-14, atol=0)


def test_grpo_without_std_is_rloo_times_n_minus_one_over_n():
    torch.testing.assert_close(advantages(REWARDS, "grpo_without_std"), advantages(REWARDS, "rloo") * 2 / 3)


@pytest.mark.parametrize("kind", list(Advantage))
@given(value=st.floats(-1e6, 1e6), samples=st.integers(2, 9))
def test_equal_rewards_have_advantages_of_exactly_zero(kind, value, samples):
    """Also where their mean is not the value itself in floating point, and however small the std's epsilon."""
    equal = torch.full((1, samples), value, dtype=torch.float64)
    assert advantages(equal, kind, epsilon=1e-300).tolist() == [[0.0] * samples]


def test_an_equal_group_is_silent_beside_others():
    rewards = torch.cat([REWARDS, torch.full((1, 3), 0.1, dtype=torch.float64)])
    for kind in GROUPED:
        assert advantages(rewards, kind)[2].tolist() == [0.0, 0.0, 0.0]
        assert (advantages(rewards, kind)[:2] == advantages(REWARDS, kind)).all()


@pytest.mark.parametrize("kind", GROUPED)
@given(seed=st.integers(0, 1000), shift=st.floats(-50, 50))
def test_a_prompts_offset_does_not_matter_to_groups(kind, seed, shift):
    rewards = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    offsets = torch.tensor([[shift], [0.0], [-shift]], dtype=torch.float64)
    torch.testing.assert_close(advantages(rewards + offsets, kind), advantages(rewards, kind), rtol=0, atol=1e-10)


def test_a_prompts_offset_matters_to_reinforce():
    offsets = torch.tensor([[5.0], [0.0]], dtype=torch.float64)
    assert not torch.allclose(advantages(REWARDS + offsets, "reinforce"), advantages(REWARDS, "reinforce"))


def test_scale_passes_through_all_but_grpo():
    """Why a perfectly accurate reward of low variance is a slow teacher, and why GRPO hides it."""
    for kind in ("reinforce", "rloo", "grpo_without_std"):
        torch.testing.assert_close(advantages(REWARDS * 1e-3, kind), advantages(REWARDS, kind) * 1e-3)
    torch.testing.assert_close(
        advantages(REWARDS * 1e-3, "grpo", epsilon=0.0), advantages(REWARDS, "grpo", epsilon=0.0)
    )


@pytest.mark.parametrize("kind", GROUPED)
def test_groups_of_one_are_refused(kind):
    with pytest.raises(ValueError, match=r"group size is 1: use groups of 2 or more, or advantage=reinforce"):
        advantages(REWARDS[:, :1], kind)


def test_reinforce_takes_groups_of_one():
    assert advantages(REWARDS[:, :1], "reinforce").tolist() == [[0.5], [-0.5]]


def test_wrong_kinds_shapes_and_values_are_refused():
    with pytest.raises(ValueError, match=r"give \[prompts, samples per prompt\]"):
        advantages(REWARDS[0], "rloo")
    broken = REWARDS.clone()
    broken[1, 2] = torch.nan
    with pytest.raises(ValueError, match="sample 2 of prompt 1 is nan"):
        advantages(broken, "rloo")


def test_kl_comes_off_the_reward():
    log_ratios = torch.tensor([[0.5, -1.0, 0.0], [2.0, 0.0, 0.0]], dtype=torch.float64)
    assert reward_with_kl(REWARDS, log_ratios, 0.1).tolist() == [[0.95, 2.1, 6.0], [-0.2, 0.0, 3.0]]
    with pytest.raises(ValueError, match="differ in shape"):
        reward_with_kl(REWARDS, log_ratios[0], 0.1)


@pytest.mark.parametrize("kind", list(Advantage))
def test_equal_rewards_and_log_ratios_that_differ_by_rounding_have_advantages_of_exactly_zero(kind):
    noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1e-7
    rewards = torch.full((2, 3), 0.3, dtype=torch.float64)
    assert (advantages(rewards, kind, log_ratios=noise, kl_coefficient=0.05, rounding=1e-5) == 0).all()


@pytest.mark.parametrize("kind", list(Advantage))
def test_equal_rewards_leave_the_kl_of_a_policy_that_has_moved_in_its_own_size(kind):
    log_ratios = torch.tensor([[0.3, -0.2, 0.5], [0.1, 0.0, 0.2]], dtype=torch.float64)
    found = advantages(torch.ones(2, 3), kind, log_ratios=log_ratios, kl_coefficient=0.05, rounding=1e-5)
    assert 0 < found.abs().max() < 0.05


@pytest.mark.parametrize("kind", GROUPED)
def test_rewards_that_differ_by_rounding_count_as_equal(kind):
    rewards = 0.1 + 1e-12 * torch.arange(4, dtype=torch.float64)[None]
    assert (advantages(rewards, kind) == 0).all()
