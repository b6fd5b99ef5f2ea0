"""Low reward variance makes a flat objective, whatever the accuracy: gradient norm and time against reward variance.

Source: What Makes a Reward Model a Good Teacher? (arXiv 2503.15477), Theorems 1 and 2.

Setting. Tabular policies, one prompt, random initial policies and ground truths as seeds. Exact gradient flow on a
reward model; judged by the time until the expected ground truth reward has risen by `gain` of the way to its maximum.

Arms. Three families of reward models, each with a knob that lowers variance:
  shrunk    ground truth times c: perfectly accurate;
  rare      1 for the best output, 0 else, with the best output ever less likely initially: variance p (1 - p);
  inverted  1 for the best output, and the order of all others inverted with amplitude 0.01: accuracy at most 2/|Y|,
            again with the best output ever less likely (Theorem 2's accurate-nowhere but fast teacher).

Best-of-N (Proposition 1) is computed beside it, on the policies of the last two families.

Measured. Initial variance under the policy, gradient norm, time. Slopes of log time and log norm against log
variance, per seed. Theorem 1 bounds the time from below by variance^(-1/3), so the slope must be at most -1/3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from experiments.controlled_experiments.findings import Finding, Findings, Progress, computed, number
from experiments.controlled_experiments.statements import statements_of
from experiments.policies.ascent import Advance, FirstCrossing, flow_until, reward_gradient
from experiments.policies.gradients import exact_gradient
from experiments.policies.softmax import expected, tabular_policy
from experiments.reports.reward_styles import REWARD_COLOURS
from experiments.reports.style import BLACK, GREEN, ORANGE, figure_style
from experiments.reward_metrics.accuracy import policy_accuracy
from experiments.reward_metrics.correlations import student_interval
from experiments.reward_metrics.variance import policy_reward_variance
from experiments.runs.seeds import SeedStreams

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAYS = statements_of("reward_variance")
SAMPLES = 16  # of best-of-N
FAMILIES = ("shrunk", "rare", "inverted")
COLOURS = {"shrunk": REWARD_COLOURS["perfect_low_variance"], "rare": ORANGE, "inverted": GREEN}


def reward_variance(
    *,
    outputs: int,
    seeds: int,
    knob_points: int,
    gain: float,
    streams: SeedStreams,
    progress: Progress,
) -> Findings:
    """Measure every family at every knob and seed."""
    probabilities, ground_truth, rewards = families(outputs, seeds, knob_points, streams.numpy("problems"))
    variance = policy_reward_variance(probabilities, rewards)  # [families, knobs, seeds]
    norm = exact_gradient(probabilities, rewards).norm(dim=-1)
    accuracy = policy_accuracy(torch.full_like(probabilities, 1 / outputs), rewards, ground_truth)
    with progress("flow until the gain", 3000) as bar:
        times = times_to_gain(probabilities, ground_truth, rewards, gain, bar.advance)

    slope = {
        name: (log_log_slopes(variance[i], times[i]), log_log_slopes(variance[i], norm[i]))
        for i, name in enumerate(FAMILIES)
    }
    statements = exponent_findings(slope)
    statements += accuracy_findings(accuracy, times, probabilities)
    statements.append(best_of_finding(probabilities[2], ground_truth[2], rewards[2]))

    ratio = times[0].amax(dim=0) / times[0].amin(dim=0)  # shrunk: accuracy 1 at every knob
    reading = (
        f"At perfect accuracy the slowest reward model takes {number(float(ratio.median()))} times as long as the "
        f"fastest (median over {seeds} random problems). Time falls with variance as "
        + ", ".join(f"variance^{time.mean():.2f} ({name})" for name, (time, _) in slope.items())
        + f"; the theorem's bound is -0.33. The inverted rewards rank {float(accuracy[2].mean()):.0%} of pairs "
        f"correctly and need {number(float((times[2] / times[1]).median()))} times the time of perfectly aimed ones."
    )
    table = [
        {
            "family": name,
            "knob": knob,
            "median_variance": float(variance[i, knob].median()),
            "median_gradient_norm": float(norm[i, knob].median()),
            "median_time": float(times[i, knob].median()),
            "accuracy": float(accuracy[i, knob].mean()),
            "seeds": seeds,
        }
        for i, name in enumerate(FAMILIES)
        for knob in range(knob_points)
    ]
    return Findings(
        reading=reading,
        statements=statements,
        tables={"families": table},
        figures={"flatness": draw(variance, norm, times, accuracy)},
        captions={
            "flatness": (
                f"Every point is one reward model and one random problem (n = {seeds} per knob and family). Dotted: "
                "the slopes of the bounds. Time is gradient flow time (updates x learning rate) until the expected "
                f"ground truth reward has covered {gain:.0%} of its way."
            )
        },
        summary={f"time_exponent/{name}": float(time.mean()) for name, (time, _) in slope.items()}
        | {"slowest_over_fastest_at_perfect_accuracy": float(ratio.median())},
    )


def families(
    outputs: int, seeds: int, knob_points: int, generator: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Initial probabilities, ground truth and rewards, each [families, knobs, seeds, outputs]; output 0 is the best."""
    start = torch.from_numpy(generator.dirichlet(np.full(outputs, 5.0), size=seeds))
    truth = torch.from_numpy(np.sort(generator.uniform(-1, 1, size=(seeds, outputs)), axis=1)[:, ::-1].copy())
    truth[:, 0], truth[:, -1] = 1.0, -1.0
    shape = (len(FAMILIES), knob_points, seeds, outputs)
    probabilities, ground_truth = start.expand(shape).clone(), truth.expand(shape).clone()
    rewards = torch.empty(shape, dtype=torch.float64)

    shrink = torch.logspace(0, -3, knob_points, dtype=torch.float64)[:, None, None]
    rewards[0] = truth * shrink

    rarity = torch.logspace(-0.5, -3.5, knob_points, dtype=torch.float64)[:, None, None]
    rare = torch.cat(
        [rarity.expand(-1, seeds, 1), start[:, 1:] / start[:, 1:].sum(-1, keepdim=True) * (1 - rarity)], -1
    )
    probabilities[1], probabilities[2] = rare, rare
    aimed = torch.zeros(outputs, dtype=torch.float64)
    aimed[0] = 1
    rewards[1] = aimed
    inverted = 0.01 * torch.arange(outputs, dtype=torch.float64) / outputs  # worse outputs get more
    inverted[0] = 1
    rewards[2] = inverted
    return probabilities, ground_truth, rewards


def times_to_gain(
    probabilities: Tensor, ground_truth: Tensor, rewards: Tensor, gain: float, advance: Advance
) -> Tensor:
    """Flow times [families, knobs, seeds] until the expected ground truth reward covers `gain` of its way to 1."""
    shape = probabilities.shape
    start, truth, reward = (
        values.reshape(-1, shape[2], 1, shape[3]) for values in (probabilities, ground_truth, rewards)
    )
    initial = expected(start, truth)[..., 0]
    crossing = FirstCrossing(truth, initial + gain * (1 - initial))
    times = flow_until(tabular_policy(start), reward_gradient(reward), crossing, longest=1e12, advance=advance)
    return times.reshape(shape[:3])


def log_log_slopes(x: Tensor, y: Tensor) -> np.ndarray:
    """Slope of log y against log x over knobs, least squares, infinite y left out: [knobs, seeds] -> [seeds]."""
    log_x, log_y = x.log(), y.log()
    counted = torch.isfinite(log_y).double()
    weight = counted / counted.sum(dim=0)
    log_y = torch.where(counted.bool(), log_y, 0.0)
    dx, dy = log_x - (weight * log_x).sum(0), log_y - (weight * log_y).sum(0)
    return ((weight * dx * dy).sum(0) / (weight * dx * dx).sum(0)).numpy()


def exponent_findings(slopes: dict[str, tuple[np.ndarray, np.ndarray]]) -> list[Finding]:
    """Theorem 1: slopes of time and of gradient norm against variance, by family."""
    findings = []
    for name, (time, norm) in slopes.items():
        of_time = SAYS["shrunk_time"] if name == "shrunk" else SAYS["time_exponent"]
        of_norm = SAYS["shrunk_gradient"] if name == "shrunk" else SAYS["gradient_exponent"]
        against = "against log initial reward variance"
        findings += [
            of_time.found(student_interval(time), f"slope of log time {against}", case=f"{name} rewards"),
            of_norm.found(student_interval(norm), f"slope of log gradient norm {against}", case=f"{name} rewards"),
        ]
    return findings


def accuracy_findings(accuracy: Tensor, times: Tensor, probabilities: Tensor) -> list[Finding]:
    """Theorem 2: perfect accuracy can be slow, hardly any accuracy can be fast."""
    bound = 2 / probabilities.shape[-1]
    perfect = times[0]  # [knobs, seeds]
    product = (times[2] * probabilities[2, ..., 0]).log10()
    return [
        SAYS["shrunk_slow"].found(
            student_interval((perfect[-1] / perfect[0]).numpy()),
            "ratio of times of the perfectly accurate rewards times 0.001 and times 1 (accuracy "
            f"{float(accuracy[0].min()):.2f})",
        ),
        SAYS["fast_inaccurate"].found(
            student_interval(log_log_slopes(probabilities[2, ..., 0], times[2])),
            f"slope of log time against log pi_0(best output), accuracy {float(accuracy[2].max()):.3f} (2/|Y| = "
            f"{bound:.3f}); times x pi_0 between {10 ** float(product.min()):.2f} and {10 ** float(product.max()):.2f}",
        ),
        SAYS["inaccurate"].found(
            computed(float(accuracy[2].max()) / bound), "largest share of all pairs that it orders correctly"
        ),
    ]


def best_of_finding(probabilities: Tensor, ground_truth: Tensor, inverted: Tensor) -> Finding:
    """Proposition 1: selection, unlike gradients, does not mind low variance."""
    accurate = best_of(probabilities, 0.001 * ground_truth, ground_truth)
    fast = best_of(probabilities, inverted, ground_truth)  # [knobs, seeds]
    return SAYS["best_of"].found(
        student_interval((accurate - fast).amin(dim=0).numpy()),
        f"expected ground truth of best-of-{SAMPLES}, perfectly accurate rewards times 0.001 minus inverted rewards "
        "(the fast teacher above), the smallest difference over knobs",
    )


def best_of(probabilities: Tensor, rewards: Tensor, ground_truth: Tensor) -> Tensor:
    """E[ground truth of the best of SAMPLES draws by `rewards`], exactly, rewards without ties: [..., O] -> [...]."""
    order = rewards.argsort(dim=-1)
    below = probabilities.gather(-1, order).cumsum(dim=-1).clamp(max=1.0).pow(SAMPLES)  # P(all draws up to here)
    chosen = torch.diff(below, dim=-1, prepend=torch.zeros_like(below[..., :1]))
    return (chosen * ground_truth.gather(-1, order)).sum(dim=-1)


def draw(variance: Tensor, norm: Tensor, times: Tensor, accuracy: Tensor) -> Figure:
    """Time and gradient norm against variance, coloured by family."""
    import matplotlib.pyplot as plt

    with figure_style():
        figure, axes = plt.subplots(1, 2, figsize=(7.6, 3.3))
        for panel, values, label, bound in (
            (axes[0], times, "flow time to the gain", -1 / 3),
            (axes[1], norm, "initial gradient norm", 1 / 3),
        ):
            for i, name in enumerate(FAMILIES):
                text = f"{name} (accuracy {float(accuracy[i].mean()):.2f})"
                size, face = (16, "none") if name == "rare" else (5, COLOURS[name])  # rare and inverted nearly coincide
                panel.scatter(
                    variance[i].flatten(),
                    values[i].flatten(),
                    s=size,
                    facecolor=face,
                    color=COLOURS[name],
                    lw=0.6,
                    label=text,
                    rasterized=True,
                )
            low, high = float(variance.min()), float(variance.max())
            middle = float(np.exp(np.log(values[torch.isfinite(values)]).mean()))
            x = np.geomspace(low, high, 2)
            panel.plot(x, middle * (x / np.sqrt(low * high)) ** bound, color=BLACK, ls=":", label="slope of the bound")
            panel.set(xscale="log", yscale="log", xlabel="initial reward variance", ylabel=label)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, markerscale=1.5)
    return figure
