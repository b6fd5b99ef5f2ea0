"""The categories of reward errors on the paper's own example and its variations, and their invariances."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.reward_metrics.error_categories import RewardError, categorise_reward_errors, logit_velocity

# The paper's controlled problem: y*, a mediocre output that is likely, three bad ones.
START = torch.tensor([0.05, 0.5, 0.15, 0.15, 0.15], dtype=torch.float64)
TRUTH = torch.tensor([1.0, 0.8, -1.0, -1.0, -1.0], dtype=torch.float64)


def names(proxy: list[float], start: torch.Tensor = START, **thresholds: float) -> list[str]:
    category = categorise_reward_errors(start, TRUTH, torch.tensor(proxy, dtype=torch.float64), **thresholds)
    return [RewardError(int(value)).name for value in category]


def test_a_correct_proxy_has_no_errors():
    assert names(TRUTH.tolist()) == ["none"] * 5


def test_the_papers_proxy_makes_a_beneficial_error():
    """Low proxy for the mediocre output: training on it reaches y* a thousand times sooner."""
    assert names([1, -1, -1, -1, -1]) == ["none", "beneficial", "none", "none", "none"]


def test_the_highest_proxy_on_a_bad_output_is_hacking():
    assert names([1, 0.8, 2, -1, -1])[2] == "harmful_hacking"


def test_a_likely_bad_output_above_the_mean_but_not_the_highest_is_stalling():
    start = torch.tensor([0.1, 0.1, 0.6, 0.1, 0.1], dtype=torch.float64)
    assert names([1, 0.8, 0.7, -1, -1], start)[2] == "harmful_stalling"


def test_a_bad_output_that_stays_below_the_mean_is_benign():
    assert names([1, 0.8, -0.9, -1, -1])[2] == "benign_unattractive"


def test_an_overpaid_output_of_negligible_probability_is_benign():
    start = torch.tensor([0.05, 0.5, 1e-6, 0.15, 0.3 - 1e-6], dtype=torch.float64)
    assert names([1, 0.8, 5, -1, -1], start)[2] == "benign_unlikely"
    assert names([1, 0.8, 5, -1, -1], start, negligible_probability=0, negligible_velocity=0)[2] == "harmful_hacking"


def test_underpaying_the_best_output_sends_the_policy_to_its_rival():
    start = torch.tensor([0.4, 0.3, 0.1, 0.1, 0.1], dtype=torch.float64)
    assert names([0.5, 0.8, -1, -1, -1], start)[0] == "harmful_hacking"


def test_predicted_effects_have_the_signs_of_the_names():
    for label in RewardError:
        wanted = -1 if label.name.startswith("harmful") else 1 if label.name == "beneficial" else 0
        assert label.predicted_effect == wanted


@given(st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_order_of_outputs_batching_and_positive_maps_of_both_rewards_change_nothing(seed):
    generator = torch.Generator().manual_seed(seed)
    start = torch.softmax(torch.randn(3, 5, generator=generator, dtype=torch.float64), -1)
    truth, proxy = (torch.randn(3, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    features = torch.randn(3, 5, 4, generator=generator, dtype=torch.float64)
    category = categorise_reward_errors(start, truth, proxy, features)
    order = torch.randperm(5, generator=generator)
    shuffled = categorise_reward_errors(start[:, order], truth[:, order], proxy[:, order], features[:, order])
    assert torch.equal(shuffled, category[:, order])
    alone = [categorise_reward_errors(start[i], truth[i], proxy[i], features[i]) for i in range(3)]
    assert torch.equal(torch.stack(alone), category)
    assert torch.equal(categorise_reward_errors(start, 2 * truth + 3, 2 * proxy + 3, features), category)


def test_velocity_is_the_derivative_of_logits_under_gradient_flow():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    weights = torch.randn(3, generator=generator, dtype=torch.float64, requires_grad=True)
    rewards = torch.randn(5, generator=generator, dtype=torch.float64)
    probabilities = torch.softmax(features @ weights, -1)
    (gradient,) = torch.autograd.grad((probabilities * rewards).sum(), weights)
    assert torch.allclose(logit_velocity(probabilities.detach(), rewards, features), features @ gradient)


def test_unequal_and_single_outputs_are_refused():
    with pytest.raises(ValueError, match="one number per output"):
        categorise_reward_errors(START, TRUTH, TRUTH[:3])
    with pytest.raises(ValueError, match="two outputs"):
        categorise_reward_errors(START[:1], TRUTH[:1], TRUTH[:1])
