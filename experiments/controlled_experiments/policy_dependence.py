"""Two reward models, two initial policies, opposite verdicts: a reward model is good for a policy, not by itself.

Source: What Makes a Reward Model a Good Teacher? (arXiv 2503.15477), Theorem 3; design D2.

Setting. Tabular policy, one prompt. Two outputs, a and b, have ground truth 1, all others 0. Reward model A pays 1
for a only, reward model B for b only: alike in every respect that does not look at the policy. Policy "a" starts with
probability 0.1 on a and `excluded` on b, policy "b" the other way round: equal expected ground truth. The remaining
outputs get random shares (the seeds). Exact gradient flow.

Measured. The time until the expected ground truth reward has risen by 0.5, for every pair and for `excluded` from 0.03
down to 1e-7; ratio of the two reward models on each policy; and what variance and accuracy say beforehand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from experiments.controlled_experiments.findings import Finding, Findings, Progress, number
from experiments.controlled_experiments.statements import statements_of
from experiments.policies.ascent import FirstCrossing, flow_until, reward_gradient
from experiments.policies.softmax import tabular_policy
from experiments.reports.style import BLUE, VERMILION, figure_style
from experiments.reward_metrics.accuracy import policy_accuracy
from experiments.reward_metrics.correlations import student_interval
from experiments.reward_metrics.variance import policy_reward_variance
from experiments.runs.seeds import SeedStreams

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAYS = statements_of("policy_dependence")
LIKELY = 0.1
NAMES = ("a", "b")  # of the policies, and in capitals of their reward models


def policy_dependence(
    *,
    outputs: int,
    seeds: int,
    excluded_points: int,
    lowest_excluded: float,
    gain: float,
    streams: SeedStreams,
    progress: Progress,
) -> Findings:
    """Every reward model on every policy, at every excluded probability."""
    # Arms [policy, reward model, excluded], seeds. Outputs: 0 is a, 1 is b, the rest is worthless.
    excluded = np.geomspace(0.03, lowest_excluded, excluded_points)
    rest = streams.numpy("initial policies").dirichlet(np.full(outputs - 2, 2.0), size=seeds)
    start = np.zeros((2, excluded_points, seeds, outputs))
    for policy in range(2):
        start[policy, ..., policy] = LIKELY
        start[policy, ..., 1 - policy] = excluded[:, None]
        start[policy, ..., 2:] = rest * (1 - LIKELY - excluded)[:, None, None]
    probabilities = torch.from_numpy(start)[:, None].expand(2, 2, -1, -1, -1)
    rewards = torch.eye(2, outputs, dtype=torch.float64)[None, :, None, None].expand_as(probabilities)
    ground_truth = rewards[0].sum(dim=0)[0, 0]

    def flat(values: torch.Tensor) -> torch.Tensor:
        return values.reshape(-1, seeds, 1, outputs)

    crossing = FirstCrossing(ground_truth, (flat(probabilities) * ground_truth).sum(-1)[..., 0] + gain)
    with progress("flow until the gain", 2000) as bar:
        times = flow_until(
            tabular_policy(flat(probabilities)),
            reward_gradient(flat(rewards)),
            crossing,
            longest=1e12,
            advance=bar.advance,
        ).reshape(2, 2, excluded_points, seeds)

    variance = policy_reward_variance(probabilities, rewards).mean(-1)
    accuracy = policy_accuracy(torch.full_like(rewards, 1 / outputs), rewards, ground_truth.expand_as(rewards)).mean(-1)
    log_ratio = (times[:, 1] / times[:, 0]).log10().numpy()  # [policy, excluded, seed]: reward model B over A

    statements = findings_of(log_ratio, excluded)
    agreement = float((accuracy[:, 0] - accuracy[:, 1]).abs().max())
    reading = (
        f"At an excluded probability of {number(lowest_excluded)}, policy a learns "
        f"{number(10 ** log_ratio[0, -1].mean())} times faster from reward model A, policy b "
        f"{number(10 ** -log_ratio[1, -1].mean())} times faster from B. Over all pairs of outputs the two have the "
        f"same accuracy (difference {agreement:.2g}); reward variance under the policy tells them apart beforehand "
        f"({float(variance[0, 0, -1]):.2g} against {float(variance[0, 1, -1]):.2g} on policy a)."
    )
    table = [
        {
            "policy": NAMES[policy],
            "reward_model": NAMES[model].upper(),
            "excluded_probability": float(excluded[point]),
            "median_time": float(times[policy, model, point].median()),
            "reward_variance": float(variance[policy, model, point]),
            "accuracy_over_all_pairs": float(accuracy[policy, model, point]),
            "seeds": seeds,
        }
        for policy in range(2)
        for model in range(2)
        for point in range(excluded_points)
    ]
    return Findings(
        reading=reading,
        statements=statements,
        tables={"times": table},
        figures={"policy_dependence": draw(excluded, times.numpy())},
        captions={
            "policy_dependence": "Median gradient flow time (updates x learning rate) until the expected ground truth "
            f"reward has risen by {gain:g}, bands 10 % to 90 %, n = {seeds} random initial "
            "policies per point."
        },
        summary={f"log10_ratio/policy_{NAMES[p]}": float(log_ratio[p, -1].mean()) for p in range(2)},
    )


def findings_of(log_ratio: np.ndarray, excluded: np.ndarray) -> list[Finding]:
    """Log10 of the time on reward model B over that on A [policy, excluded, seed]: each policy learns from its own."""
    rarer = slice(len(excluded) // 2, None)
    ratio = "log10 of the ratio of times, the other reward model over its own"
    own = [
        SAYS["own_teacher"].found(
            student_interval((1 - 2 * policy) * log_ratio[policy, -1]),
            f"{ratio}, at an excluded probability of {number(float(excluded[-1]))}",
            case=f"policy {name}",
        )
        for policy, name in enumerate(NAMES)
    ]
    slopes = [np.polyfit(np.log10(excluded[rarer]), np.abs(values[rarer]), 1)[0] for values in log_ratio]
    return own + [
        SAYS["no_bound"].found(
            student_interval(slope),
            "slope of log10 ratio against log10 excluded probability, rarer half of the points",
            case=f"policy {name}",
        )
        for slope, name in zip(slopes, NAMES, strict=True)
    ]


def draw(excluded: np.ndarray, times: np.ndarray) -> Figure:
    """Time against excluded probability, one panel per policy, coloured by reward model."""
    import matplotlib.pyplot as plt

    with figure_style():
        figure, axes = plt.subplots(1, 2, figsize=(6.6, 3.0), sharey=True)
        for policy, panel in enumerate(axes):
            for model, (name, colour) in enumerate((("A", BLUE), ("B", VERMILION))):
                low, middle, high = np.quantile(times[policy, model], [0.1, 0.5, 0.9], axis=-1)
                panel.plot(excluded, middle, marker=".", color=colour, label=f"reward model {name}")
                panel.fill_between(excluded, low, high, color=colour, alpha=0.2, linewidth=0)
            panel.set(
                xscale="log",
                yscale="log",
                title=f"policy {'ab'[policy]} (excludes {'ba'[policy]})",
                xlabel="initial probability of the excluded output",
            )
        axes[0].set_ylabel("flow time to the gain")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return figure
