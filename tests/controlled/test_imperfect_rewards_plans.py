"""The imperfect-rewards plans against the official code's numbers, and against an independent loop with autograd."""

import contextlib
import json
from pathlib import Path

import pytest
import torch

from experiments.controlled_experiments.imperfect_rewards import (
    FEATURE_PLAN,
    GROUND_TRUTH,
    PROXY,
    Arms,
    exact_arms,
    feature_arms,
    imperfect_rewards,
)
from experiments.policies.ascent import Trajectory, ascend, reward_gradient
from experiments.policies.gradients import Estimator
from experiments.policies.softmax import SoftmaxPolicy, expected
from experiments.reward_metrics.variance import policy_reward_variance
from experiments.runs.seeds import SeedStreams

REFERENCE = json.loads(Path(__file__).with_name("imperfect_rewards_reference.json").read_text(encoding="utf-8"))


class SilentBar:
    def advance(self, steps: int = 1) -> None:
        pass


@contextlib.contextmanager
def silent(description: str, total: int):
    yield SilentBar()


def trajectory_of(arms: Arms, steps: list[int]) -> Trajectory:
    trajectory = Trajectory(
        steps,
        {
            "ground_truth_reward": lambda p: expected(p, arms.ground_truth)[:, 0, 0],
            "optimum_probability": lambda p: p[:, 0, 0, 0],
            "reward_variance": lambda p: policy_reward_variance(p, arms.rewards)[:, 0, 0],
        },
    )
    ascend(arms.policy, reward_gradient(arms.rewards), learning_rate=0.1, steps=max(steps), observers=[trajectory])
    return trajectory


def reference_arms(plan: str) -> list[dict]:
    return [arm for arm in REFERENCE["arms"] if arm["plan"] == plan]


@pytest.mark.parametrize("plan", ["exact", "features"])
def test_all_published_arms_match_the_official_code_to_one_in_ten_thousand(plan):
    """All 50,000 updates; the official code computes in float32, so rounding differs."""
    arms = exact_arms([0.05, 0.1, 0.15]) if plan == "exact" else feature_arms(0.05)
    official = reference_arms(plan)
    assert len(official) == len(arms.names)
    if plan == "exact":
        assert [arm["arm"] for arm in official] == arms.training_rewards
        assert [f"initial probability {arm['initial_probability']:g}" for arm in official] == arms.names
    else:
        assert [arm["arm"] for arm in official] == arms.names
    trajectory = trajectory_of(arms, REFERENCE["steps"])
    for name in trajectory.measures:
        theirs = torch.tensor([arm[name] for arm in official], dtype=torch.float64).T  # [T, A]
        assert float((trajectory.stacked(name) - theirs).abs().max()) < 1e-4, name


@pytest.mark.parametrize("training", [GROUND_TRUTH, PROXY])
@pytest.mark.parametrize("geometry", [None, "negative inner product"])
def test_an_independent_loop_with_autograd_gives_the_same_trajectory(training, geometry):
    """Written from the setting alone: softmax of features times weights, SGD on minus the expected reward."""
    start = torch.tensor([0.05, 0.5, 0.15, 0.15, 0.15], dtype=torch.float64)
    features = torch.eye(5, dtype=torch.float64)
    if geometry is not None:
        features[0, 0], features[1, :2] = 1.5, torch.tensor(FEATURE_PLAN[geometry], dtype=torch.float64)
    weights = torch.linalg.solve(features, start.log()).requires_grad_()
    optimizer = torch.optim.SGD([weights], lr=0.1)
    rewards, truth = torch.tensor(training, dtype=torch.float64), torch.tensor(GROUND_TRUTH, dtype=torch.float64)
    theirs = []
    for _ in range(400):
        probabilities = torch.softmax(features @ weights, 0)
        theirs.append(float((probabilities.detach() * truth).sum()))
        optimizer.zero_grad()
        (-(probabilities * rewards).sum()).backward()
        optimizer.step()

    arms = exact_arms([0.05]) if geometry is None else feature_arms(0.05)
    names = arms.training_rewards if geometry is None else arms.names
    arm = names.index(("ground truth" if training is GROUND_TRUTH else "proxy") if geometry is None else geometry)
    if geometry is not None:
        arms = Arms(arms.names, arms.training_rewards, arms.policy, rewards.expand(3, 1, 1, 5), arms.ground_truth)
    ours = trajectory_of(arms, list(range(400))).stacked("ground_truth_reward")[:, arm]
    assert torch.allclose(ours, torch.tensor(theirs, dtype=torch.float64), atol=1e-12)


def test_the_sampled_plan_follows_the_exact_one_on_average():
    """The mean over many seeds of a short sampled run lies close to exact gradients."""
    arms = exact_arms([0.1])
    exact = trajectory_of(exact_arms([0.1]), [20]).stacked("ground_truth_reward")[0]
    start = arms.policy.parameters.repeat(1, 4000, 1)
    policy = SoftmaxPolicy(start, arms.policy.features)
    gradient = reward_gradient(
        arms.rewards, estimator=Estimator.no_baseline, generator=torch.Generator().manual_seed(0)
    )
    ascend(policy, gradient, learning_rate=0.1, steps=20)
    values = expected(policy.probabilities(), arms.ground_truth)[..., 0]  # [A, S]
    error = values.std(dim=1) / 4000**0.5
    assert bool(((values.mean(dim=1) - exact).abs() < 5 * error + 0.01).all())


@pytest.mark.parametrize("plan", ["exact", "features", "sampled"])
def test_every_plan_reports_its_arms_statements_and_figure(plan):
    findings = imperfect_rewards(
        plan=plan,
        optimum_probabilities=[0.15],
        steps=300,
        learning_rate=0.1,
        seeds=8,
        problem=None,
        streams=SeedStreams(0),
        progress=silent,
    )
    assert findings.statements
    assert set(findings.figures) == set(findings.captions)
    assert findings.trajectory[-1][0] == 300
    rows = findings.tables["arms"]
    assert all(-1 <= row["final_ground_truth_reward"] <= 1 for row in rows)
