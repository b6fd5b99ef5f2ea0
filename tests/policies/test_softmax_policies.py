"""Softmax policies: initial probabilities, gradients against autograd, refusals."""

import pytest
import torch

from experiments.policies.gradients import exact_gradient
from experiments.policies.softmax import SoftmaxPolicy, expected, log_linear_policy, tabular_policy


def draws(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_policies() -> list[SoftmaxPolicy]:
    """Tabular, and log-linear with features shared over arms, both with 2 arms, 3 seeds, 4 prompts, 5 outputs."""
    return [
        SoftmaxPolicy(draws(0, 2, 3, 4, 5), temperature=0.7),
        SoftmaxPolicy(draws(1, 2, 3, 6), draws(2, 1, 1, 4, 5, 6), temperature=1.3),
    ]


@pytest.mark.parametrize("policy", random_policies(), ids=["tabular", "log-linear"])
def test_the_exact_gradient_is_that_of_autograd(policy):
    rewards = draws(3, 2, 1, 4, 5)
    policy.parameters.requires_grad_()
    objective = expected(policy.log_probabilities().exp(), rewards)
    (autograd,) = torch.autograd.grad(objective.mean(-1).sum(), policy.parameters)
    with torch.no_grad():
        ours = policy.parameter_gradient(exact_gradient(policy.probabilities(), rewards))
    assert torch.allclose(ours, autograd, atol=1e-14)


def test_policies_start_at_the_given_probabilities():
    probabilities = torch.softmax(draws(0, 1, 1, 2, 4), -1)
    features = draws(1, 3, 1, 2, 4, 8)
    assert torch.allclose(tabular_policy(probabilities, 2.0).probabilities(), probabilities)
    log_linear = log_linear_policy(probabilities, features, 2.0).probabilities()
    assert torch.allclose(log_linear, probabilities.expand(3, 1, 2, 4))


def test_identity_features_are_the_tabular_policy():
    probabilities = torch.softmax(draws(0, 1, 1, 1, 5), -1)
    log_linear = log_linear_policy(probabilities, torch.eye(5, dtype=torch.float64)[None, None, None])
    gradient = draws(2, 1, 1, 1, 5)
    assert torch.allclose(log_linear.parameter_gradient(gradient), gradient[:, :, 0])


def test_logits_are_fitted_up_to_the_constant_of_a_prompt():
    """Two independent coins: log-probabilities need a constant, which their features do not have."""
    coins = torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0]], dtype=torch.float64)[None, None, None]
    probabilities = torch.tensor([[[[0.09, 0.21, 0.21, 0.49]]]], dtype=torch.float64)
    policy = log_linear_policy(probabilities, coins)
    assert torch.allclose(policy.probabilities(), probabilities)
    assert torch.allclose(policy.parameters, torch.tensor(0.3 / 0.7).double().log())


def test_impossible_policies_are_refused():
    with pytest.raises(ValueError, match=r"sum to 0\.9"):
        tabular_policy(torch.tensor([[[[0.5, 0.4]]]], dtype=torch.float64))
    with pytest.raises(ValueError, match="positive"):
        tabular_policy(torch.tensor([[[[1.0, 0.0]]]], dtype=torch.float64))
    with pytest.raises(ValueError, match="no weights give these probabilities"):
        log_linear_policy(torch.tensor([[[[0.7, 0.3]]]], dtype=torch.float64), torch.ones(1, 1, 1, 2, 1).double())
    with pytest.raises(ValueError, match="float64"):
        SoftmaxPolicy(torch.zeros(1, 1, 1, 2))
    with pytest.raises(ValueError, match="temperature"):
        SoftmaxPolicy(torch.zeros(1, 1, 1, 2).double(), temperature=0.0)
