"""Reward models of equal variance and equal accuracy that teach at different speeds, or in opposite directions.

Source: this project (docs/teaching_signal.md); the papers' theory, for tabular policies, is the case in which all
variance is learnable.

Setting. A log-linear policy over P prompts and O outputs, uniform at first, with fewer features than functions of
prompt and output. So rewards, centred within prompts, have a part in the span of the policy's score, which is
learnable, and a part orthogonal to it, which no step can follow. Features are random and orthonormal under the initial
policy: then gradient flow is natural gradient flow at the start, and the learning signal is the learnable variance. The
ground truth has half of its variance in each part.

- `share`: reward models of reward variance 1 and correlation 0.4 with the ground truth, whose learnable share of the
  variance goes from 0 to 1. The rest of each part is orthogonal to the ground truth.
- `direction`: two reward models of variance 1, correlation 0.4, and learnable variance 0.25; the learnable part of one
  points along the ground truth's (cosine .6), that of the other against it (-.6).

Measured. Expected rewards under exact gradient ascent; learning signal, teaching signal, accuracy under the initial
policy. Seeds are random features, ground truths and rewards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from experiments.controlled_experiments.findings import Findings, Progress
from experiments.controlled_experiments.statements import statements_of
from experiments.policies.ascent import Trajectory, ascend, log_spaced_steps, reward_gradient
from experiments.policies.signals import exact_signals
from experiments.policies.softmax import SoftmaxPolicy, expected
from experiments.reports.style import BLUE, DARK_GREY, VERMILION, figure_style
from experiments.reward_metrics.accuracy import policy_accuracy
from experiments.reward_metrics.correlations import student_interval
from experiments.reward_metrics.variance import policy_reward_variance
from experiments.runs.seeds import SeedStreams

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SAYS = statements_of("learnable_variance")
CORRELATION = 0.4  # of every reward model with the ground truth, under the initial policy
ALONG, ASIDE = 0.3, 0.4  # learnable parts of `direction`: along the ground truth's (plus or minus) and orthogonal to it
DIRECTIONS = ("aligned", "opposed")


def learnable_variance(
    *,
    shares: list[float],
    seeds: int,
    prompts: int,
    outputs: int,
    features: int,
    steps: int,
    learning_rate: float,
    streams: SeedStreams,
    progress: Progress,
) -> Findings:
    """Train on every reward model from the same policies, and compare with the signals beforehand."""
    generator = torch.Generator().manual_seed(streams.integer("problems"))
    basis, parts = random_parts(seeds, prompts, outputs, features, generator)
    truth = ((parts["learnable"] + parts["unlearnable"]) / 2**0.5)[None]
    rewards = torch.stack([*(share_reward(parts, share) for share in shares), *direction_rewards(parts)])
    policy = SoftmaxPolicy(torch.zeros(len(rewards), seeds, features, dtype=torch.float64), basis[None])
    start = policy.probabilities()
    signals = exact_signals(policy, rewards, truth)
    variance = policy_reward_variance(start, rewards).mean(-1)  # [A, S]
    accuracy = torch.stack([policy_accuracy(start[0], reward, truth[0]).mean(-1) for reward in rewards])

    trajectory = Trajectory(
        [0, *log_spaced_steps(steps)[1:]],
        {
            "proxy": lambda probabilities: expected(probabilities, rewards).mean(-1),
            "truth": lambda probabilities: expected(probabilities, truth).mean(-1),
        },
    )
    with progress("gradient ascent", steps) as bar:
        ascend(
            policy,
            reward_gradient(rewards),
            learning_rate=learning_rate,
            steps=steps,
            observers=[trajectory],
            advance=bar.advance,
        )
    increase = {
        name: trajectory.stacked(name) - trajectory.stacked(name)[0] for name in ("proxy", "truth")
    }  # [T, A, S]
    proxy, true = (increase[name][-1].numpy() for name in ("proxy", "truth"))

    # Statements --------------------------------------------------------------------------------------------------
    count = len(shares)
    learnable, teaching = signals.learnable_variance.numpy(), signals.teaching_signal.numpy()
    some = [place for place, share in enumerate(shares) if share > 0]
    aligned, opposed = true[count], true[count + 1]
    slopes = np.polyfit(np.log(np.array(shares)[some]), np.log(proxy[some]), 1)[0]
    predicted = np.array([np.corrcoef(teaching[:, seed], true[:, seed])[0, 1] for seed in range(seeds)])
    spread = float((variance - 1).abs().max())
    statements = [
        SAYS["speed"].found(
            student_interval(slopes),
            f"slope of log proxy increase after {steps} updates against log learnable share; all reward variances are "
            f"1 within {spread:.1g}, mean accuracies between {accuracy.mean(-1).min():.3f} and "
            f"{accuracy.mean(-1).max():.3f}",
        ),
        *(
            SAYS["unlearnable"].found(
                student_interval(true[place]), f"increase of the ground truth after {steps} updates, learnable share 0"
            )
            for place, share in enumerate(shares)
            if share == 0
        ),
        SAYS["aligned"].found(student_interval(aligned), "increase of the ground truth"),
        SAYS["opposed"].found(student_interval(opposed), "increase of the ground truth"),
        SAYS["signal_predicts"].found(
            student_interval(predicted),
            f"Pearson's r of teaching signal and increase of the ground truth over all {len(rewards)} reward models",
        ),
    ]
    labels = [f"learnable share {share:g}" for share in shares] + list(DIRECTIONS)
    table = [
        {
            "reward_model": label,
            "reward_variance": float(variance[place].mean()),
            "accuracy": float(accuracy[place].mean()),
            "learnable_variance": float(learnable[place].mean()),
            "learning_signal": float(signals.learning_signal[place].mean()),
            "teaching_signal": float(teaching[place].mean()),
            "proxy_increase": float(proxy[place].mean()),
            "truth_increase": float(true[place].mean()),
            "seeds": seeds,
        }
        for place, label in enumerate(labels)
    ]
    reading = (
        f"All {len(rewards)} reward models have variance 1 and order about {float(accuracy.mean()):.0%} of pairs like "
        f"the ground truth. After {steps} updates the proxy has risen by {proxy[0].mean():.3f} where a share of "
        f"{shares[0]:g} of that variance is learnable, and by {proxy[count - 1].mean():.3f} at {shares[-1]:g}. With "
        f"the same learning signal the ground truth changes by {aligned.mean():+.3f} if the learnable part is aligned "
        f"with it and by {opposed.mean():+.3f} if opposed."
    )
    return Findings(
        reading=reading,
        statements=statements,
        tables={"reward_models": table},
        figures={"learnable_variance": draw(shares, trajectory.steps, increase)},
        captions={
            "learnable_variance": f"Means and 10 % to 90 % bands over n = {seeds} random features, ground truths and "
            f"reward models; {prompts} prompts, {outputs} outputs, {features} features. All reward models have "
            f"variance 1 and correlation {CORRELATION} with the ground truth under the initial policy; the two on the "
            "right also have equal learning signals."
        },
        summary={
            "slope_of_speed_against_learnable_share": float(slopes.mean()),
            "truth_increase/aligned": float(aligned.mean()),
            "truth_increase/opposed": float(opposed.mean()),
        },
    )


def random_parts(
    seeds: int, prompts: int, outputs: int, features: int, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    """Features [S, P, O, D], orthonormal under the uniform policy, and four orthonormal functions [S, P, O].

    `learnable` and `learnable_aside` lie in the span of the features, the two `unlearnable` ones are orthogonal to it.
    All are centred within prompts and have mean square 1 over prompts and outputs.
    """
    drawn = torch.randn(seeds, prompts, outputs, features + 2, generator=generator, dtype=torch.float64)
    centred = (drawn - drawn.mean(dim=2, keepdim=True)).flatten(1, 2)
    columns = torch.linalg.qr(centred).Q * (prompts * outputs) ** 0.5  # [S, P O, D + 2]
    coefficients = torch.randn(seeds, features, 2, generator=generator, dtype=torch.float64)
    learnable = columns[..., :features] @ torch.linalg.qr(coefficients).Q

    def shaped(values: Tensor) -> Tensor:
        return values.reshape(seeds, prompts, outputs, *values.shape[2:])

    return shaped(columns[..., :features]), {
        "learnable": shaped(learnable[..., 0]),
        "learnable_aside": shaped(learnable[..., 1]),
        "unlearnable": shaped(columns[..., -2]),
        "unlearnable_aside": shaped(columns[..., -1]),
    }


def share_reward(parts: dict[str, Tensor], share: float) -> Tensor:
    """Variance 1, of which `share` is learnable, and the wanted correlation with the ground truth, [S, P, O]."""
    cosine = CORRELATION * 2**0.5 / (share**0.5 + (1 - share) ** 0.5)  # within each of the two parts
    return sum(
        (
            weight**0.5 * (cosine * parts[name] + (1 - cosine**2) ** 0.5 * parts[f"{name}_aside"])
            for name, weight in (("learnable", share), ("unlearnable", 1 - share))
        ),
        torch.zeros_like(parts["learnable"]),
    )


def direction_rewards(parts: dict[str, Tensor]) -> list[Tensor]:
    """The aligned and the opposed reward model, [S, P, O] each; unlearnable parts make their correlations equal."""
    rewards = []
    for along in (ALONG, -ALONG):
        unlearnable = CORRELATION * 2**0.5 - along
        rest = max(0.0, 1 - along**2 - ASIDE**2 - unlearnable**2) ** 0.5
        rewards.append(
            along * parts["learnable"]
            + ASIDE * parts["learnable_aside"]
            + unlearnable * parts["unlearnable"]
            + rest * parts["unlearnable_aside"]
        )
    return rewards


def _line(axis: Axes, x: Sequence[float], values: Tensor, **style: Any) -> None:
    """Mean and band of [points, S]."""
    low, high = np.quantile(values.numpy(), [0.1, 0.9], axis=1)
    axis.plot(x, values.mean(dim=1), **style)
    axis.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)


def draw(shares: list[float], steps: Sequence[int], increase: dict[str, Tensor]) -> Figure:
    """Proxy against updates by learnable share; both rewards' increase against the share; truth by direction."""
    import matplotlib.pyplot as plt

    with figure_style():
        figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.1))
        colours = plt.get_cmap("cividis")(np.linspace(0.9, 0.0, len(shares)))
        for place, (share, colour) in enumerate(zip(shares, colours, strict=True)):
            _line(axes[0], steps, increase["proxy"][:, place], color=colour, label=f"{share:g}")
        axes[0].set(xlabel="updates", ylabel="increase of the proxy", title="same variance, same accuracy")
        axes[0].legend(title="learnable share", fontsize=7, title_fontsize=7)
        for name, colour, label in (("proxy", DARK_GREY, "proxy"), ("truth", BLUE, "ground truth")):
            _line(axes[1], shares, increase[name][-1, : len(shares)], color=colour, label=label, marker="o", ms=4)
        axes[1].set(xlabel="learnable share of the variance", ylabel=f"increase after {steps[-1]} updates")
        axes[1].legend(fontsize=7)
        for place, (label, colour) in enumerate(zip(DIRECTIONS, (BLUE, VERMILION), strict=True), len(shares)):
            _line(axes[2], steps, increase["truth"][:, place], color=colour, label=f"{label}, ground truth")
            _line(axes[2], steps, increase["proxy"][:, place], color=colour, ls=":", label=f"{label}, proxy")
        axes[2].axhline(0, color=DARK_GREY, lw=0.6)
        axes[2].set(xlabel="updates", ylabel="increase", title="same variance, accuracy, learning signal")
        axes[2].legend(fontsize=7)
    return figure
