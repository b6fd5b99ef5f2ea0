"""Where the ground truth is the better reward to train on, and where an erroneous proxy is: a map instead of three
points.

Source: When Errors Can Be Beneficial (arXiv 2604.25872): its main theorem and appendix A.1.

Setting. One best output y* (ground truth 1), one mediocre output (initial probability .5), bad outputs (-1) that
share the rest. Features are unit vectors, except that of y* with norm 1.5 (the paper's feature plan), and orthogonal,
except that of the mediocre output: it stands at `angle` degrees from orthogonality towards (+) or away from (-) that
of y*. The proxy pays the mediocre output -1. Exact gradient flow.

Arms. Initial probability of y* x ground truth reward of the mediocre output x angle x training reward.

Measured. The time until y* has probability 0.9. For the theorem's exponents: small initial probabilities, orthogonal
features, random initial policies as seeds, slope of log time against log initial probability per seed. Here the
number of bad outputs varies too: a calculation (`predicted_exponent`) says that it sets the exponent.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from experiments.controlled_experiments.findings import Finding, Findings, Progress, computed, counted, number
from experiments.controlled_experiments.statements import statements_of
from experiments.policies.ascent import Advance, FirstCrossing, flow_until, reward_gradient
from experiments.policies.softmax import SoftmaxPolicy, log_linear_policy, tabular_policy
from experiments.reports.reward_styles import REWARD_COLOURS
from experiments.reports.style import BLACK, GREY, figure_style
from experiments.reward_metrics.correlations import student_interval
from experiments.runs.seeds import SeedStreams

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAYS = statements_of("phase_diagram")
REACHED = 0.9
MEDIOCRE_PROBABILITY = 0.5
BAD_OUTPUTS = 3


def phase_diagram(
    *,
    probability_points: int,
    lowest_probability: float,
    highest_probability: float,
    mediocre_rewards: list[float],
    angles: list[float],
    optimum_feature_norm: float,
    longest_time: float,
    scaling_seeds: int,
    scaling_bad_outputs: list[int],
    streams: SeedStreams,
    progress: Progress,
) -> Findings:
    """Map the hitting times, and estimate the exponents of the theorem."""
    # The map -----------------------------------------------------------------------------------------------------
    probabilities = np.geomspace(lowest_probability, highest_probability, probability_points)
    shape = (len(angles), len(mediocre_rewards), probability_points)
    with progress("map of hitting times", 3000) as bar:
        times = map_of_times(
            probabilities, mediocre_rewards, angles, optimum_feature_norm, longest_time, bar.advance
        )  # [2, *shape]
    assert times.shape == (2, *shape)
    times = np.minimum(times, longest_time)
    log_ratio = np.log10(times[0] / times[1])

    # The exponents -----------------------------------------------------------------------------------------------
    generator = streams.numpy("initial policies")
    slopes, curves = {}, {}
    with progress("exponents", 3000 * len(scaling_bad_outputs)) as bar:
        for bad_outputs in scaling_bad_outputs:
            # Times grow as p*^-(bad + 1); beyond about 1e16 float64 no longer resolves the advantages.
            scaling = np.geomspace(max(1e-4, 10 ** (-16 / (bad_outputs + 1))), 1e-2, 9)
            flow = scaling_times(scaling, bad_outputs, scaling_seeds, generator, bar.advance)  # [2, points, seeds]
            curves[bad_outputs] = (scaling, flow)
            slopes[bad_outputs] = log_log_slopes(scaling, flow)  # [2, seeds]

    # Statements --------------------------------------------------------------------------------------------------
    statements = exponent_findings(slopes, {bad: scaling[0] for bad, (scaling, _) in curves.items()})
    statements += angle_findings(log_ratio, times, angles, mediocre_rewards, probabilities, optimum_feature_norm)

    better = log_ratio > 0
    reading = (
        f"Of {better.size:,} settings the erroneous proxy reaches y* before the ground truth reward in "
        f"{better.mean():.0%}. The ground truth needs up to {number(10 ** float(log_ratio.max()))} times the time of "
        f"the proxy and down to {number(10 ** float(log_ratio.min()))} times (times are cut at "
        f"{number(longest_time)}). "
        + " ".join(
            f"With {counted(bad, 'bad output')} the time grows as p*^{truth.mean():.2f} under the ground truth and as "
            f"p*^{proxy.mean():.2f} under the proxy."
            for bad, (truth, proxy) in slopes.items()
        )
    )
    return Findings(
        reading=reading,
        statements=statements,
        tables={"hitting_times": table(times, probabilities, mediocre_rewards, angles)},
        figures={
            "phase_diagram": draw_map(log_ratio, times[0] >= longest_time, probabilities, mediocre_rewards, angles),
            "exponents": draw_exponents(curves),
        },
        captions={
            "phase_diagram": (
                "Time that the ground truth reward needs until P(y*) = 0.9, over the time of the proxy, exact "
                f"gradient flow (time = updates x learning rate), n = {better.size:,} settings. Red: the erroneous "
                f"proxy is faster. Dotted: the ground truth had not arrived at {number(longest_time)}, so that the "
                "ratio is only a lower bound. Panels: degrees by which the mediocre output's features lean towards "
                "those of y* (0: orthogonal). Red and blue have scales of their own."
            ),
            "exponents": (
                f"Median flow time over initial policies, bands 10 % to 90 %, n = {scaling_seeds} seeds per point; "
                "dotted grey: predicted slopes, shifted upwards. Time = updates x learning rate."
            ),
        },
        summary={
            "share_of_settings_where_the_proxy_is_faster": float(better.mean()),
            **{f"exponent_ground_truth/{bad}_bad_outputs": float(s[0].mean()) for bad, s in slopes.items()},
            **{f"exponent_proxy/{bad}_bad_outputs": float(s[1].mean()) for bad, s in slopes.items()},
        },
    )


def map_of_times(
    probabilities: np.ndarray,
    mediocre_rewards: list[float],
    angles: list[float],
    optimum_feature_norm: float,
    longest: float,
    advance: Advance,
) -> np.ndarray:
    """Flow times [training reward (ground truth, proxy), angle, mediocre reward, probability], all arms at once."""
    angle, reward, start = torch.meshgrid(
        *(torch.tensor(values, dtype=torch.float64) for values in (angles, mediocre_rewards, list(probabilities))),
        indexing="ij",
    )
    shape, angle, reward, start = angle.shape, angle.flatten(), reward.flatten(), start.flatten()
    arms = len(start)
    policy_probabilities = torch.empty(arms, 2 + BAD_OUTPUTS, dtype=torch.float64)
    policy_probabilities[:, 0], policy_probabilities[:, 1] = start, MEDIOCRE_PROBABILITY
    policy_probabilities[:, 2:] = ((1 - MEDIOCRE_PROBABILITY - start) / BAD_OUTPUTS)[:, None]
    features = torch.eye(2 + BAD_OUTPUTS, dtype=torch.float64).repeat(arms, 1, 1)
    features[:, 0, 0] = optimum_feature_norm
    features[:, 1, 0], features[:, 1, 1] = torch.sin(torch.deg2rad(angle)), torch.cos(torch.deg2rad(angle))
    ground_truth = torch.full((arms, 2 + BAD_OUTPUTS), -1.0, dtype=torch.float64)
    ground_truth[:, 0] = 1
    proxy = ground_truth.clone()
    ground_truth[:, 1] = reward
    policy = log_linear_policy(
        policy_probabilities.repeat(2, 1)[:, None, None], features.repeat(2, 1, 1)[:, None, None]
    )
    times = times_to_optimum(policy, torch.cat([ground_truth, proxy]), longest, advance)
    return times.reshape(2, *shape)


def scaling_times(
    probabilities: np.ndarray, bad_outputs: int, seeds: int, generator: np.random.Generator, advance: Advance
) -> np.ndarray:
    """Flow times [training reward, probability, seed]; seeds draw the shares of the mediocre and the bad outputs."""
    mediocre = generator.uniform(0.4, 0.6, size=seeds)
    shares = generator.dirichlet(np.full(bad_outputs, 5.0), size=seeds) * (1 - mediocre)[:, None]
    rest = np.concatenate([mediocre[:, None], shares], axis=1)  # sums to one without y*
    start = np.empty((len(probabilities), seeds, 2 + bad_outputs))
    start[..., 0] = probabilities[:, None]
    start[..., 1:] = rest[None] * (1 - probabilities)[:, None, None]
    ground_truth = torch.tensor([1.0, 0.8] + [-1.0] * bad_outputs, dtype=torch.float64)
    proxy = torch.tensor([1.0, -1.0] + [-1.0] * bad_outputs, dtype=torch.float64)
    policy = tabular_policy(torch.from_numpy(start).repeat(2, 1, 1)[:, :, None])
    rewards = torch.stack([ground_truth, proxy]).repeat_interleave(len(probabilities), 0)
    return times_to_optimum(policy, rewards, 1e40, advance).reshape(2, len(probabilities), seeds)


def times_to_optimum(policy: SoftmaxPolicy, rewards: Tensor, longest: float, advance: Advance) -> np.ndarray:
    """Flow times [A, S] until output 0 has probability 0.9, for training rewards [A, O]."""
    best = torch.zeros(rewards.shape[-1], dtype=torch.float64)
    best[0] = 1
    crossing = FirstCrossing(best, REACHED)
    gradient = reward_gradient(rewards[:, None, None])
    return flow_until(policy, gradient, crossing, longest=longest, most_steps=20_000, advance=advance).numpy()


def predicted_exponent(bad_outputs: int) -> float:
    """The exponent of the time under the ground truth reward as p* tends to 0: -(bad outputs + 1), tabular policies.

    While the n bad outputs die out, each obeys d ln b / dt = -(1 - r_bad') b (n + 1), so that their total mass decays
    as n / ((n + 1) c t) with the reward gap c, and meanwhile y* loses d ln p*/ dt = -c n b = -(n / (n + 1)) / t: its
    probability falls as t^(-n / (n + 1)). It recovers when p* itself is of the order of what is left of the bad mass,
    1 / t, that is when p*_0 t^(-n / (n + 1)) ~ 1 / t, so t ~ p*_0^(-(n + 1)).
    """
    return -(bad_outputs + 1.0)


def log_log_slopes(probabilities: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Slope of log time against log probability, least squares: times [2, P, S] -> [2, S]."""
    x = np.log(probabilities) - np.log(probabilities).mean()
    return np.asarray(np.einsum("p,rps->rs", x, np.log(times)) / (x @ x))


def exponent_findings(slopes: dict[int, np.ndarray], lowest: dict[int, float]) -> list[Finding]:
    """Slopes [ground truth and proxy, seeds] by number of bad outputs, fitted from the lowest probability to 0.01."""
    findings = []
    for bad_outputs, (truth, proxy) in slopes.items():
        case = counted(bad_outputs, "bad output")
        over = (
            f"slope of log flow time against log initial probability of y* in {number(lowest[bad_outputs])} to 0.01, "
            "random initial policies"
        )
        predicted = predicted_exponent(bad_outputs)
        findings += [
            SAYS["truth_exponent"].found(student_interval(truth), over, case=case),
            SAYS["proxy_exponent"].found(student_interval(proxy), over, case=case),
            SAYS["derived_exponent"].found(
                student_interval(truth / predicted), f"{over}, over {predicted:g}", case=case
            ),
        ]
    return findings


def angle_findings(
    log_ratio: np.ndarray,
    times: np.ndarray,
    angles: list[float],
    mediocre_rewards: list[float],
    probabilities: np.ndarray,
    optimum_feature_norm: float,
) -> list[Finding]:
    """Feature geometry, read off the map."""
    findings = []
    # Rewarding the mediocre output lifts y* more than the mediocre output itself where <phi*, phi_med> > |phi_med|^2
    # = 1.
    for index, angle in enumerate(angles):
        if optimum_feature_norm * math.sin(math.radians(angle)) <= 1:
            continue
        j, k = np.unravel_index(int(log_ratio[index].argmin()), log_ratio[index].shape)
        findings.append(
            SAYS["reversal"].found(
                computed(float(log_ratio[index, j, k])),
                "smallest log10 ratio of flow times, ground truth over proxy, over the map at this angle: at "
                f"mediocre reward {mediocre_rewards[j]:g}, p* = {number(float(probabilities[k]))}; the ratio is below "
                f"0 in {(log_ratio[index] < 0).mean():.0%} of the map's {log_ratio[index].size} settings",
                case=f"{angle:g} degrees",
            )
        )
    lowest, flat = int(np.argmin(angles)), int(np.argmin(np.abs(angles)))
    if angles[lowest] < 0:
        stalls = log_ratio[flat] >= 1  # at orthogonal features the ground truth needs ten times as long as the proxy
        slower = (times[0, lowest] >= times[0, flat])[stalls]
        findings.append(
            SAYS["worse_stalling"].found(
                computed(float(slower.mean()) if slower.size else math.nan),
                f"share of the {slower.size} settings stalling at {angles[flat]:g} degrees (ground truth ten times "
                "slower than the proxy) in which ground truth training is no faster at this angle, or arrives at "
                "neither",
                case=f"{angles[lowest]:g} degrees",
            )
        )
    return findings


def table(
    times: np.ndarray, probabilities: np.ndarray, mediocre_rewards: list[float], angles: list[float]
) -> list[dict[str, float]]:
    """Every setting with both times."""
    return [
        {
            "angle_degrees": angle,
            "mediocre_reward": reward,
            "initial_probability": float(probability),
            "time_ground_truth": float(times[0, i, j, k]),
            "time_proxy": float(times[1, i, j, k]),
        }
        for i, angle in enumerate(angles)
        for j, reward in enumerate(mediocre_rewards)
        for k, probability in enumerate(probabilities)
    ]


def draw_map(
    log_ratio: np.ndarray,
    cut: np.ndarray,
    probabilities: np.ndarray,
    mediocre_rewards: list[float],
    angles: list[float],
) -> Figure:
    """One panel per angle: log10 of the ratio of times over initial probability and mediocre reward.

    Dotted where it is `cut`.
    """
    import matplotlib.pyplot as plt
    from matplotlib.colors import TwoSlopeNorm

    # Both directions use the whole range of their colour, although one spans many more decades.
    scale = TwoSlopeNorm(0, min(-0.1, float(log_ratio.min())), max(0.1, float(log_ratio.max())))
    with figure_style():
        columns = min(len(angles), 3)
        rows = -(-len(angles) // columns)
        figure, axes = plt.subplots(
            rows, columns, figsize=(2.5 * columns + 0.9, 2.2 * rows + 0.4), sharex=True, sharey=True, squeeze=False
        )
        for index, panel in enumerate(axes.flat):
            panel.grid(False)
            if index >= len(angles):
                panel.set_visible(False)
                continue
            image = panel.pcolormesh(
                probabilities,
                mediocre_rewards,
                log_ratio[index],
                cmap="RdBu_r",
                norm=scale,
                shading="nearest",
                rasterized=True,
            )
            j, k = np.nonzero(cut[index])
            panel.plot(probabilities[k], np.array(mediocre_rewards)[j], ls="", marker=".", ms=1.5, color=BLACK)
            panel.set(xscale="log", title=f"{angles[index]:+g}°")
        figure.supxlabel("initial probability of y*")
        figure.supylabel("ground truth reward of the mediocre output")
        bar = figure.colorbar(image, ax=axes, shrink=0.8)
        bar.set_label("log10 (time on ground truth / time on proxy)")
        low, high = float(log_ratio.min()), float(log_ratio.max())
        bar.set_ticks(
            [low, low / 2, 0, high / 3, 2 * high / 3, high],
            labels=[f"{t:.1f}" for t in (low, low / 2, 0, high / 3, 2 * high / 3, high)],
        )
    return figure


def draw_exponents(curves: dict[int, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Flow time against initial probability of y*, one panel per number of bad outputs."""
    import matplotlib.pyplot as plt

    with figure_style():
        figure, axes = plt.subplots(1, len(curves), figsize=(2.5 * len(curves) + 0.4, 2.9), sharey=True, squeeze=False)
        for panel, (bad_outputs, (probabilities, times)) in zip(axes[0], curves.items(), strict=True):
            for times_of_reward, reward, slope in zip(
                times, ("ground truth", "proxy"), (predicted_exponent(bad_outputs), -1.0), strict=True
            ):
                low, middle, high = np.quantile(times_of_reward, [0.1, 0.5, 0.9], axis=-1)
                colour = REWARD_COLOURS[reward.replace(" ", "_")]
                panel.plot(probabilities, middle, color=colour, marker=".", label=f"trained on {reward}")
                panel.fill_between(probabilities, low, high, color=colour, alpha=0.2, linewidth=0)
                guide = 8 * middle[0] * (probabilities / probabilities[0]) ** slope
                panel.plot(probabilities, guide, color=GREY, lw=0.9, ls=":", zorder=0)
            panel.set(
                xscale="log",
                yscale="log",
                xlabel="initial probability of y*",
                title=counted(bad_outputs, "bad output"),
            )
        axes[0][0].set_ylabel("flow time to P(y*) = 0.9")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return figure
