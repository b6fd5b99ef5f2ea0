"""The controlled experiments of When Errors Can Be Beneficial (arXiv 2604.25872), section 3.3 and appendix C.

Setting. One prompt, five outputs: the best y* (ground truth 1), a mediocre one (0.8), three bad ones (-1). The proxy
errs on the mediocre output only: it pays -1. Initially y* has probability .05, .10 or .15, the mediocre output .5,
the rest is shared equally. Policies are log-linear, updates plain SGD with learning rate 0.1, 50,000 of them.

Plans. `exact`: exact gradients, ground truth or proxy as the training reward. `features`: exact gradients on the ground
truth, with the feature of the mediocre output orthogonal to that of y*, or at a negative or positive inner product.
`sampled`: one sample per update, no baseline, over many seeds.

Measured. Ground truth reward and probabilities along training; the step at which y* reaches probability 0.9.
The value at step t is measured after t updates. The exact plans agree with the official code to 1e-4 (see tests).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from experiments.controlled_experiments.findings import Finding, Findings, Progress, computed, counted, number
from experiments.controlled_experiments.statements import statements_of
from experiments.policies.ascent import FirstCrossing, Trajectory, ascend, flow_until, log_spaced_steps, reward_gradient
from experiments.policies.gradients import Estimator
from experiments.policies.problems import Problem
from experiments.policies.softmax import SoftmaxPolicy, expected, log_linear_policy
from experiments.reports.reward_styles import REWARD_COLOURS
from experiments.reports.style import figure_style
from experiments.reward_metrics.correlations import student_interval
from experiments.reward_metrics.variance import policy_reward_variance
from experiments.runs.seeds import SeedStreams

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAYS = statements_of("imperfect_rewards")
GROUND_TRUTH = (1.0, 0.8, -1.0, -1.0, -1.0)
PROXY = (1.0, -1.0, -1.0, -1.0, -1.0)
MEDIOCRE_PROBABILITY = 0.5
FEATURE_PLAN = {  # the feature of the mediocre output; that of y* is 1.5 e_1 (official configuration)
    "negative inner product": (-0.70710678118, 0.70710678118),
    "orthogonal": (0.0, 1.0),
    "positive inner product": (0.70710678118, 0.70710678118),
}
REACHED = 0.9
LONGEST = 1e15  # flow times are cut here


@dataclass(frozen=True)
class Arms:
    """The settings that are trained side by side: A of them, P prompts, O outputs."""

    names: list[str]
    training_rewards: list[str]  # "ground truth" or "proxy", per arm
    policy: SoftmaxPolicy  # [A, 1, ...]
    rewards: Tensor  # [A, 1, P, O], trained on
    ground_truth: Tensor  # [1 or A, 1, P, O], judged by


def exact_arms(optimum_probabilities: list[float]) -> Arms:
    """Every initial probability of y*, with either training reward."""
    starts = torch.stack([initial_probabilities(p) for p in optimum_probabilities])
    count = len(optimum_probabilities)
    features = torch.eye(5, dtype=torch.float64).expand(2 * count, 1, 1, 5, 5)
    rewards = torch.tensor([GROUND_TRUTH] * count + [PROXY] * count, dtype=torch.float64)
    return Arms(
        names=[f"initial probability {p:g}" for p in optimum_probabilities] * 2,
        training_rewards=["ground truth"] * count + ["proxy"] * count,
        policy=log_linear_policy(starts.repeat(2, 1)[:, None, None], features),
        rewards=rewards[:, None, None],
        ground_truth=torch.tensor(GROUND_TRUTH, dtype=torch.float64)[None, None, None],
    )


def feature_arms(optimum_probability: float) -> Arms:
    """Three feature geometries, trained on the ground truth."""
    features = torch.eye(5, dtype=torch.float64).repeat(len(FEATURE_PLAN), 1, 1)
    features[:, 0, 0] = 1.5
    features[:, 1, :2] = torch.tensor(list(FEATURE_PLAN.values()), dtype=torch.float64)
    truth = torch.tensor(GROUND_TRUTH, dtype=torch.float64)[None, None, None]
    start = initial_probabilities(optimum_probability)[None, None, None]
    return Arms(
        names=list(FEATURE_PLAN),
        training_rewards=["ground truth"] * len(FEATURE_PLAN),
        policy=log_linear_policy(start, features[:, None, None]),
        rewards=truth.expand(len(FEATURE_PLAN), 1, 1, 5),
        ground_truth=truth,
    )


def problem_arms(problem: Problem) -> Arms:
    """A user's problem, trained on its ground truth and on its proxy."""
    policy = problem.initial_policy()
    shape = (2, *policy.parameters.shape[1:])
    return Arms(
        names=[problem.name] * 2,
        training_rewards=["ground truth", "proxy"],
        policy=SoftmaxPolicy(policy.parameters.expand(shape).clone(), policy.features, policy.temperature),
        rewards=torch.stack([problem.ground_truth, problem.proxy])[:, None],
        ground_truth=problem.ground_truth[None, None],
    )


def initial_probabilities(optimum_probability: float) -> Tensor:
    """y*, the mediocre output, and three bad outputs that share the rest."""
    rest = (1 - MEDIOCRE_PROBABILITY - optimum_probability) / 3
    return torch.tensor([optimum_probability, MEDIOCRE_PROBABILITY, rest, rest, rest], dtype=torch.float64)


def imperfect_rewards(
    *,
    plan: str,
    optimum_probabilities: list[float],
    steps: int,
    learning_rate: float,
    seeds: int,
    problem: Problem | None,
    streams: SeedStreams,
    progress: Progress,
) -> Findings:
    """Run one plan: `exact`, `features` or `sampled`; a `problem` replaces the paper's arms."""
    if problem is not None:
        arms = problem_arms(problem)
    else:
        arms = feature_arms(optimum_probabilities[0]) if plan == "features" else exact_arms(optimum_probabilities)
    estimator = Estimator.no_baseline if plan == "sampled" else Estimator.exact
    repeats = seeds if plan == "sampled" else 1
    start = arms.policy.parameters
    policy = SoftmaxPolicy(
        start.repeat(1, repeats, *([1] * (start.ndim - 2))), arms.policy.features, arms.policy.temperature
    )

    # Training ----------------------------------------------------------------------------------------------------
    best = (arms.ground_truth == arms.ground_truth.amax(dim=-1, keepdim=True)).double()
    crossing = FirstCrossing(best, REACHED)
    trajectory = Trajectory(
        log_spaced_steps(steps),
        {
            "ground_truth_reward": lambda p: expected(p, arms.ground_truth).mean(-1),
            "proxy_reward": lambda p: expected(p, arms.rewards).mean(-1),
            "reward_variance": lambda p: policy_reward_variance(p, arms.rewards).mean(-1),
            "optimum_probability": lambda p: expected(p, best).mean(-1),
        },
    )
    gradient = reward_gradient(arms.rewards, estimator=estimator, generator=streams.torch("sampling"))
    with progress(f"{plan} plan", steps) as bar:
        ascend(
            policy,
            gradient,
            learning_rate=learning_rate,
            steps=steps,
            observers=[crossing, trajectory],
            advance=bar.advance,
        )
    assert crossing.step is not None

    # Measurement -------------------------------------------------------------------------------------------------
    curves = {name: trajectory.stacked(name).numpy() for name in trajectory.measures}  # [T, A, S]
    table = [
        {
            "training_reward": arms.training_rewards[arm],
            "arm": name,
            "initial_ground_truth_reward": float(curves["ground_truth_reward"][0, arm].mean()),
            "initial_variance_of_training_reward": float(curves["reward_variance"][0, arm].mean()),
            "final_ground_truth_reward": float(curves["ground_truth_reward"][-1, arm].mean()),
            "median_steps_to_optimum": float(crossing.step[arm].median()),
            "share_of_seeds_that_reach_it": float(torch.isfinite(crossing.step[arm]).double().mean()),
            "seeds": repeats,
        }
        for arm, name in enumerate(arms.names)
    ]
    statements: list[Finding] = []
    if plan == "sampled":
        statements = sampled_findings(arms, crossing.step, steps)
    elif plan == "features" and problem is None:
        statements = feature_findings(arms, best)
    elif len(arms.names) > 1:
        statements = exact_findings(arms, best, curves, list(trajectory.steps), learning_rate)
    caption = (
        f"Ground truth reward along training (lines; {'median of' if repeats > 1 else 'exact gradients,'} n = "
        f"{counted(repeats, 'seed')} per arm"
        + ("; bands: 10 % to 90 % of seeds" if repeats > 1 else "")
        + f"). Learning rate {learning_rate:g}."
        + ("" if problem is not None or plan == "features" else " Panels: initial probability of the best output y*.")
    )
    return Findings(
        reading=reading_of(plan, table, steps),
        statements=statements,
        tables={"arms": table},
        figures={"trajectories": draw(arms, trajectory.steps, curves["ground_truth_reward"])},
        captions={"trajectories": caption},
        trajectory=rows_to_log(arms, trajectory.steps, curves),
        summary=summary_of(arms, curves, crossing.step),
    )


# Statements ----------------------------------------------------------------------------------------------------------


def exact_findings(
    arms: Arms, best: Tensor, curves: dict[str, np.ndarray], steps: list[int], learning_rate: float
) -> list[Finding]:
    """The ground truth reward against the proxy, for every initial probability of y*."""
    times = flow_times(arms, best)
    count, rewards = len(arms.names) // 2, curves["ground_truth_reward"][:, :, 0]
    early = min(range(len(steps)), key=lambda index: abs(steps[index] - 10))
    proxy_first, early_stop, higher_variance = [], [], []
    for arm, case in enumerate(arms.names[:count]):
        truth_time, proxy_time = times[arm], times[count + arm]
        proxy_first.append(
            SAYS["proxy_first"].found(
                computed(truth_time / proxy_time if 0 < proxy_time < math.inf else math.nan),
                f"ratio of gradient flow times to P(y*) = {REACHED}, ground truth over proxy; in updates of "
                f"{learning_rate:g} ground truth needs {number(truth_time / learning_rate)}, the proxy "
                f"{number(proxy_time / learning_rate)}",
                case=case,
            )
        )
        early_stop.append(
            SAYS["early_stop"].found(
                computed(float(rewards[early, arm] - rewards[early, count + arm])),
                f"ground truth reward after {counted(steps[early], 'update')}, trained on ground truth minus trained "
                "on proxy",
                case=case,
            )
        )
        truth_variance, proxy_variance = (float(curves["reward_variance"][0, i, 0]) for i in (arm, count + arm))
        slower, faster = (
            (truth_variance, proxy_variance) if proxy_time < truth_time else (proxy_variance, truth_variance)
        )
        higher_variance.append(
            SAYS["higher_variance"].found(
                computed(faster / slower if proxy_time != truth_time and slower > 0 else math.nan),
                "initial variance of the faster reward over that of the slower one",
                case=case,
            )
        )
    return proxy_first + early_stop + higher_variance


def feature_findings(arms: Arms, best: Tensor) -> list[Finding]:
    """Feature geometry moves the time that ground truth training needs."""
    negative, orthogonal, positive = (min(time, LONGEST) for time in flow_times(arms, best))
    measured = (
        f"ratio of gradient flow times (cut at {LONGEST:.0e}) to P(y*) = {REACHED} under the ground truth reward, "
    )
    return [
        SAYS["negative_product"].found(computed(negative / orthogonal), measured + "negative over orthogonal"),
        SAYS["positive_product"].found(computed(orthogonal / positive), measured + "orthogonal over positive"),
    ]


def flow_times(arms: Arms, best: Tensor) -> list[float]:
    """Gradient flow time of every arm until y* has probability 0.9."""
    crossing = FirstCrossing(best, REACHED)
    times = flow_until(arms.policy.copy(), reward_gradient(arms.rewards), crossing, longest=LONGEST)
    return [float(time) for time in times.flatten()]


def sampled_findings(arms: Arms, hits: Tensor, steps: int) -> list[Finding]:
    """Outcomes are shares of seeds. Arms share their random numbers, so that differences are paired."""
    reached = torch.isfinite(hits).double()
    count = len(arms.names) // 2
    return [
        SAYS["sampled_proxy"].found(
            student_interval((reached[count + arm] - reached[arm]).numpy()),
            f"share of seeds with P(y*) >= {REACHED} within {steps:,} updates, proxy minus ground truth "
            f"({float(reached[count + arm].mean()):.0%} - {float(reached[arm].mean()):.0%})",
            case=arms.names[arm],
        )
        for arm in range(count)
    ]


# Reading and figure --------------------------------------------------------------------------------------------------


def reading_of(plan: str, table: list[dict[str, Any]], steps: int) -> str:
    """One paragraph; its comparisons come from the numbers."""
    parts = []
    for arm in dict.fromkeys(row["arm"] for row in table):
        outcomes = []
        for row in (row for row in table if row["arm"] == arm):
            time, share = row["median_steps_to_optimum"], row["share_of_seeds_that_reach_it"]
            reaches = f"y* after {number(time)} updates" if math.isfinite(time) else "no y*"
            if plan == "sampled":
                reaches = f"y* in {share:.0%} of {counted(row['seeds'], 'seed')}"
            reward = row["final_ground_truth_reward"]
            outcomes.append(f"training on the {row['training_reward']} gives {reaches} (final reward {reward:.3f})")
        parts.append(f"{arm}: " + ", ".join(outcomes))
    return f"Within {counted(steps, 'update')}: " + "; ".join(parts) + "."


def draw(arms: Arms, steps: Sequence[int], rewards: np.ndarray) -> Figure:
    """Ground truth reward against updates, one panel per setting; `rewards` [T, A, S]."""
    settings = list(dict.fromkeys(arms.names))
    import matplotlib.pyplot as plt

    with figure_style():
        figure, axes = plt.subplots(
            1, len(settings), figsize=(3.1 * len(settings) + 0.4, 2.9), sharey=True, squeeze=False
        )
        x = np.asarray(steps)
        for panel, setting in zip(axes[0], settings, strict=True):
            for arm, name in enumerate(arms.names):
                if name != setting:
                    continue
                reward = arms.training_rewards[arm]
                low, middle, high = np.quantile(rewards[:, arm], [0.1, 0.5, 0.9], axis=-1)
                colour = REWARD_COLOURS[reward.replace(" ", "_")]
                panel.plot(x, middle, color=colour, label=f"trained on {reward}")
                if rewards.shape[-1] > 1:
                    panel.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            panel.set_xscale("symlog", linthresh=1)
            panel.set(title=setting, xlabel="updates", xlim=(0, x[-1]))
            panel.set_xticks([0, *(10**k for k in range(int(math.log10(max(x[-1], 1))) + 1))])
        axes[0][0].set_ylabel("expected ground truth reward")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return figure


def rows_to_log(arms: Arms, steps: Sequence[int], curves: dict[str, np.ndarray]) -> list[tuple[int, dict[str, float]]]:
    """Means over seeds, as `controlled/<measure>/<training reward>/<arm>`."""
    keys = [
        f"{reward}/{name}".replace(" ", "_") for reward, name in zip(arms.training_rewards, arms.names, strict=True)
    ]
    return [
        (
            int(step),
            {
                f"controlled/{measure}/{key}": float(values[index, arm].mean())
                for measure, values in curves.items()
                for arm, key in enumerate(keys)
            },
        )
        for index, step in enumerate(np.asarray(steps))
    ]


def summary_of(arms: Arms, curves: dict[str, np.ndarray], hits: Tensor) -> dict[str, float]:
    """Final ground truth reward of every arm."""
    return {
        f"final_ground_truth_reward/{arms.training_rewards[arm]}/{name}".replace(" ", "_"): float(
            curves["ground_truth_reward"][-1, arm].mean()
        )
        for arm, name in enumerate(arms.names)
    }
