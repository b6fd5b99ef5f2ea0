"""Definition 1 of the good-teacher paper: sign agreement with ties."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.reward_metrics.accuracy import accuracy_on_pairs, on_policy_accuracy, policy_accuracy


def draws(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_ties_agree_with_ties_only():
    proxy = torch.tensor([[[1.0, 1.0], [1.0, 1.0], [2.0, 1.0], [1.0, 2.0]]])
    truth = torch.tensor([[[3.0, 3.0], [3.0, 4.0], [5.0, 5.0], [0.0, 9.0]]])
    assert accuracy_on_pairs(proxy, truth).item() == 0.5  # first and last


def test_prompts_count_equally_and_pairs_are_all_pairs():
    """Prompt 1: 3 of 3 pairs right; prompt 2: 1 of 3 (only its first and last sample are ordered as in truth)."""
    proxy = torch.tensor([[1.0, 2.0, 3.0], [2.0, 1.0, 4.0]])
    truth = torch.tensor([[4.0, 5.0, 6.0], [1.0, 2.0, 1.5]])
    assert on_policy_accuracy(proxy, truth).item() == pytest.approx((1 + 1 / 3) / 2)


@given(st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_bounds_reversal_order_and_monotone_maps(seed):
    proxy, truth = draws(seed, 4, 6), draws(seed + 1, 4, 6)
    accuracy = on_policy_accuracy(proxy, truth).item()
    assert 0 <= accuracy <= 1
    assert on_policy_accuracy(-proxy, truth).item() == pytest.approx(1 - accuracy)  # no ties here
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    assert on_policy_accuracy(proxy[:, order], truth[:, order]).item() == pytest.approx(accuracy)
    assert on_policy_accuracy(proxy.exp() + 5, truth**3).item() == pytest.approx(accuracy)
    assert on_policy_accuracy(truth, truth).item() == 1


def test_scaling_half_the_prompts_keeps_accuracy_perfect():
    """The paper's perfectly accurate low-variance reward: factor 0.001 on half of the prompts."""
    truth = draws(0, 10, 5)
    low = truth * torch.where(torch.arange(10) % 2 == 0, 0.001, 1.0)[:, None]
    assert on_policy_accuracy(low, truth).item() == 1


def test_exact_accuracy_is_the_limit_of_sampled_pairs():
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.softmax(draws(1, 5), -1)
    proxy, truth = torch.tensor([0.0, 1.0, 1.0, 2.0, 3.0]), torch.tensor([1.0, 0.0, 0.0, 2.0, 2.0])
    pairs = torch.multinomial(probabilities, 400_000, replacement=True, generator=generator).view(-1, 2)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    sampled = accuracy_on_pairs(proxy[pairs][None], truth[pairs][None]).item()
    assert policy_accuracy(probabilities, proxy, truth).item() == pytest.approx(sampled, abs=0.005)


def test_nan_and_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        on_policy_accuracy(torch.tensor([[0.0, torch.nan]]), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="same prompts"):
        on_policy_accuracy(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="pairs"):
        accuracy_on_pairs(torch.zeros(2, 3), torch.zeros(2, 3))
