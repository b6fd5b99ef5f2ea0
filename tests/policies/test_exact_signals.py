"""Exact signals of finite policies against derivatives of the expectations themselves."""

import pytest
import torch

from experiments.policies.signals import exact_signals, fisher_product, learnable_variance
from experiments.policies.softmax import SoftmaxPolicy, expected
from experiments.reward_metrics.variance import policy_reward_variance

ARMS, SEEDS, PROMPTS, OUTPUTS, FEATURES = 2, 3, 4, 5, 6


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def policies(temperature=1.0):
    tabular = SoftmaxPolicy(drawn(ARMS, SEEDS, PROMPTS, OUTPUTS), None, temperature)
    features = drawn(1, SEEDS, PROMPTS, OUTPUTS, FEATURES, seed=1)
    return {"tabular": tabular, "log-linear": SoftmaxPolicy(drawn(ARMS, SEEDS, FEATURES), features, temperature)}


REWARD, TRUTH = drawn(ARMS, SEEDS, PROMPTS, OUTPUTS, seed=2), drawn(1, SEEDS, PROMPTS, OUTPUTS, seed=3)


def rate(policy, values, direction):
    """d/dt at 0 of the expected `values` [A, S] while the parameters move along `direction`, by autograd."""

    def moved(t):
        parameters = policy.parameters + t * direction
        return expected(SoftmaxPolicy(parameters, policy.features, policy.temperature).probabilities(), values).mean(-1)

    start = torch.zeros((), dtype=torch.float64)
    return torch.func.jacfwd(moved)(start)


def gradient(policy, values):
    parameters = policy.parameters.clone().requires_grad_()
    probabilities = SoftmaxPolicy(parameters, policy.features, policy.temperature).probabilities()
    return torch.autograd.grad(expected(probabilities, values).mean(-1).sum(), parameters)[0]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("name", ["tabular", "log-linear"])
def test_signals_are_the_rates_of_the_exact_expectations_under_gradient_flow(name, temperature):
    policy = policies(temperature)[name]
    signals, direction = exact_signals(policy, REWARD, TRUTH), gradient(policy, REWARD)
    torch.testing.assert_close(signals.learning_signal, rate(policy, REWARD, direction), rtol=0, atol=1e-10)
    truth = TRUTH.expand(ARMS, -1, -1, -1)
    torch.testing.assert_close(signals.teaching_signal, rate(policy, truth, direction), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["tabular", "log-linear"])
def test_the_fisher_product_is_the_curvature_of_the_kl_divergence(name):
    policy = policies()[name]
    direction = drawn(*policy.parameters.shape, seed=4)

    def divergence(t):
        moved = SoftmaxPolicy(policy.parameters + t * direction, policy.features)
        log_ratio = moved.log_probabilities() - policy.log_probabilities()
        return (moved.probabilities() * log_ratio).sum(-1).mean(-1)

    start = torch.zeros((), dtype=torch.float64)
    curvature = torch.func.jacfwd(torch.func.jacfwd(divergence))(start)
    flat = direction.flatten(2)
    product = (fisher_product(policy, policy.probabilities(), flat) * flat).sum(-1)
    torch.testing.assert_close(product, curvature, rtol=0, atol=1e-10)


def test_all_variance_of_a_tabular_policy_is_learnable():
    policy = policies()["tabular"]
    variance = policy_reward_variance(policy.probabilities(), REWARD).mean(-1)
    torch.testing.assert_close(exact_signals(policy, REWARD, TRUTH).learnable_variance, variance, rtol=0, atol=1e-12)


def test_with_features_less_is_learnable_than_varies_and_more_than_along_the_gradient_alone():
    policy = policies()["log-linear"]
    signals = exact_signals(policy, REWARD, TRUTH)
    assert (signals.learnable_variance < 0.9 * policy_reward_variance(policy.probabilities(), REWARD).mean(-1)).all()
    assert (signals.learnable_variance > signals.variance_along_gradient).all()


def test_a_reward_in_the_span_of_the_features_is_learnable_and_one_orthogonal_to_it_is_not():
    policy = policies()["log-linear"]
    inside = (policy.features * drawn(FEATURES, seed=5)).sum(-1)
    probabilities = policy.probabilities()
    variance = policy_reward_variance(probabilities, inside).mean(-1)
    torch.testing.assert_close(learnable_variance(policy, inside), variance, rtol=1e-10, atol=0)
    scores = policy.features - (probabilities[..., None] * policy.features).sum(-2, keepdim=True)
    weights = (probabilities / PROMPTS).sqrt()
    basis = torch.linalg.qr((scores * weights[..., None]).flatten(2, 3)).Q
    centred = ((REWARD - (probabilities * REWARD).sum(-1, keepdim=True)) * weights).flatten(2)[..., None]
    outside = (centred - basis @ (basis.mT @ centred))[..., 0].view_as(weights) / weights
    signals = exact_signals(policy, outside, TRUTH)
    torch.testing.assert_close(signals.learnable_variance, torch.zeros(ARMS, SEEDS).double(), rtol=0, atol=1e-20)
    torch.testing.assert_close(signals.learning_signal, torch.zeros(ARMS, SEEDS).double(), rtol=0, atol=1e-20)


@pytest.mark.parametrize("name", ["tabular", "log-linear"])
def test_signals_do_not_see_a_function_of_the_prompt_and_are_quadratic_in_scale(name):
    policy = policies()[name]
    plain = exact_signals(policy, REWARD, TRUTH)
    shifted = exact_signals(policy, REWARD + 10 * drawn(PROMPTS, 1, seed=6), TRUTH)
    scaled = exact_signals(policy, 3 * REWARD, TRUTH)
    for signal, power in (("learning_signal", 2), ("learnable_variance", 2), ("variance_along_gradient", 2),
                          ("teaching_signal", 1), ("cosine", 0), ("teaching_signal_per_root_kl", 0)):  # fmt: skip
        value = getattr(plain, signal)
        torch.testing.assert_close(getattr(shifted, signal), value, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(getattr(scaled, signal), 3**power * value, rtol=1e-9, atol=1e-12)
