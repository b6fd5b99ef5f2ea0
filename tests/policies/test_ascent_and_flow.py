"""Training loops: vectorising changes nothing, hitting times are right, flow is the limit of small steps."""

import pytest
import torch

from experiments.policies.ascent import (
    FirstCrossing,
    Trajectory,
    ascend,
    flow_until,
    log_spaced_steps,
    reward_gradient,
)
from experiments.policies.gradients import Estimator
from experiments.policies.softmax import SoftmaxPolicy, log_linear_policy, tabular_policy


def draws(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_many_arms_at_once_equal_one_after_the_other():
    start, rewards = draws(0, 3, 2, 2, 4), draws(1, 3, 1, 2, 4)
    together = ascend(SoftmaxPolicy(start.clone()), reward_gradient(rewards), learning_rate=0.3, steps=50).parameters
    for arm in range(3):
        for seed in range(2):
            alone = SoftmaxPolicy(start[arm, seed][None, None].clone())
            ascend(alone, reward_gradient(rewards[arm][None]), learning_rate=0.3, steps=50)
            assert torch.equal(alone.parameters[0, 0], together[arm, seed])


def test_an_independent_loop_with_autograd_and_sgd_agrees():
    start, features, rewards = draws(0, 1, 1, 3), draws(1, 1, 1, 2, 4, 3), draws(2, 1, 1, 2, 4)
    policy = ascend(SoftmaxPolicy(start.clone(), features), reward_gradient(rewards), learning_rate=0.2, steps=100)
    weights = torch.nn.Parameter(start[0, 0].clone())
    optimizer = torch.optim.SGD([weights], lr=0.2)
    for _ in range(100):
        optimizer.zero_grad()
        (-(torch.softmax(features[0, 0] @ weights, -1) * rewards[0, 0]).sum(-1).mean()).backward()
        optimizer.step()
    assert torch.allclose(policy.parameters[0, 0], weights.detach(), atol=1e-13)


def test_hitting_time_is_that_of_the_stored_trajectory():
    probabilities = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)[None, None, None]
    rewards = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    crossing = FirstCrossing(rewards, 0.9)
    trajectory = Trajectory(range(201), {"best": lambda p: p[..., 0]})
    ascend(
        tabular_policy(probabilities),
        reward_gradient(rewards),
        learning_rate=0.3,
        steps=200,
        observers=[crossing, trajectory],
    )
    best = trajectory.stacked("best").flatten()
    first = int((best >= 0.9).nonzero()[0])
    assert 0 < first < 200
    assert crossing.step.item() == first
    assert trajectory.stacked("best")[0].item() == pytest.approx(0.2)  # step 0 is measured before the first update


def test_what_never_happens_takes_infinitely_long():
    crossing = FirstCrossing(torch.tensor([1.0, 0.0], dtype=torch.float64), 0.9)
    policy = tabular_policy(torch.full((1, 1, 1, 2), 0.5, dtype=torch.float64))
    ascend(policy, reward_gradient(torch.zeros(2).double()), learning_rate=1.0, steps=10, observers=[crossing])
    assert crossing.step.item() == float("inf")


def test_flow_time_of_two_outputs_has_its_closed_form():
    """Rewards 1 and 0, tabular: p' = 2 p^2 (1-p)^2, so t = [1/(1-p) - 1/p + 2 ln(p/(1-p))] / 2 between both."""
    start = torch.tensor([1e-4, 1e-2, 0.3], dtype=torch.float64)
    policy = tabular_policy(torch.stack([start, 1 - start], -1)[:, None, None, :])
    rewards = torch.tensor([1.0, 0.0], dtype=torch.float64)
    times = flow_until(policy, reward_gradient(rewards), FirstCrossing(rewards, 0.9), longest=1e9, tolerance=1e-4)

    def antiderivative(p: torch.Tensor) -> torch.Tensor:
        return (1 / (1 - p) - 1 / p + 2 * torch.log(p / (1 - p))) / 2

    closed = antiderivative(torch.tensor(0.9, dtype=torch.float64)) - antiderivative(start)
    assert torch.allclose(times[:, 0], closed, rtol=2e-3)


def test_flow_is_the_limit_of_small_steps():
    probabilities = torch.tensor([0.05, 0.5, 0.15, 0.15, 0.15], dtype=torch.float64)[None, None, None]
    rewards = torch.tensor([1.0, 0.3, -1.0, -1.0, -1.0], dtype=torch.float64)
    best = torch.tensor([1.0, 0, 0, 0, 0], dtype=torch.float64)
    features = draws(0, 1, 1, 1, 5, 5) * 0.3 + torch.eye(5, dtype=torch.float64)
    flow = flow_until(
        log_linear_policy(probabilities, features), reward_gradient(rewards), FirstCrossing(best, 0.9), longest=1e6
    )
    crossing = FirstCrossing(best, 0.9)
    ascend(
        log_linear_policy(probabilities, features),
        reward_gradient(rewards),
        learning_rate=0.02,
        steps=int(1.05 * flow.item() / 0.02),
        observers=[crossing],
    )
    assert flow.item() == pytest.approx(0.02 * crossing.step.item(), rel=0.02)


def test_same_generator_same_run_and_arms_share_their_random_numbers():
    rewards = draws(1, 1, 1, 2, 4)

    def run(seed: int) -> torch.Tensor:
        gradient = reward_gradient(
            rewards, estimator=Estimator.rloo, samples=2, generator=torch.Generator().manual_seed(seed)
        )
        return ascend(
            SoftmaxPolicy(draws(0, 1, 3, 2, 4).repeat(2, 1, 1, 1)), gradient, learning_rate=0.1, steps=20
        ).parameters

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))
    assert torch.equal(run(0)[0], run(0)[1])  # equal arms


def test_a_sampler_without_generator_is_refused():
    with pytest.raises(ValueError, match="generator"):
        reward_gradient(torch.zeros(2), estimator=Estimator.rloo)


def test_logged_steps_are_log_spaced_and_hold_both_ends():
    steps = log_spaced_steps(50_000)
    assert steps[0] == 0
    assert steps[-1] == 50_000
    assert len(steps) < 120
    assert log_spaced_steps(1) == [0, 1]
