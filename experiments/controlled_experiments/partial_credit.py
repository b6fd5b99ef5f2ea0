"""Should partially correct outputs be rewarded? Binary against partial credit over initial success probabilities.

Source: When Errors Can Be Beneficial (arXiv 2604.25872), section 5; design D4.

Setting. Two constraints, so four classes of output: both met, only the first (easy), only the second (hard), none.
Ground truth and binary credit pay 1 for both, else 0; partial credit pays 0.5 per constraint met. The feature of
"both" is `sharing` times the sum of its parts' plus a direction of its own: 0 is orthogonal, 1 would be compositional,
one feature per constraint, so that logits add up and meeting both is nothing but meeting each.

Arms. Initial probability of both x initial probability of only the easy constraint x sharing x credit x whether
advantages are divided by their std. Exact gradient flow for the map; GRPO with 16 samples per prompt, over seeds, for
a few of them.

Measured. Time until P(both) = 0.9: the penalty of partial credit is log10 of its time over that of binary credit.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from experiments.controlled_experiments.findings import Findings, Progress, Statement, computed, number
from experiments.policies.ascent import Advance, FirstCrossing, ascend, flow_until, reward_gradient
from experiments.policies.gradients import Estimator
from experiments.policies.softmax import SoftmaxPolicy, log_linear_policy
from experiments.reports.reward_styles import REWARD_COLOURS
from experiments.reports.style import figure_style
from experiments.reward_metrics.correlations import mean_interval, statistic_interval
from experiments.runs.seeds import SeedStreams

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER = "When Errors Can Be Beneficial, "
CREDITS = {"binary": (1.0, 0.0, 0.0, 0.0), "partial": (1.0, 0.5, 0.5, 0.0)}
BOTH = (1.0, 0.0, 0.0, 0.0)
HARD_PROBABILITY = 0.02
REACHED = 0.9
LONGEST = 1e9


def partial_credit(
    *,
    joint_points: int,
    lowest_joint: float,
    easy_probabilities: list[float],
    sharing: list[float],
    sampled_joint: list[float],
    sampled_seeds: int,
    sampled_steps: int,
    group_size: int,
    learning_rate: float,
    streams: SeedStreams,
    progress: Progress,
) -> Findings:
    """The exact map, and sampled GRPO where one constraint is easy."""
    joint = np.geomspace(lowest_joint, 0.1, joint_points)
    times = {}
    with progress("exact map", 4000) as bar:
        for divide_by_std in (False, True):
            times[divide_by_std] = exact_times(joint, easy_probabilities, sharing, divide_by_std, bar.advance)
    # penalty [sharing, easy, joint]: positive where partial credit is slower
    penalty = {std: np.log10(t[1] / t[0]) for std, t in times.items()}
    with progress("GRPO", 2 * sampled_steps) as bar:
        sampled = {
            std: sampled_times(
                sampled_joint,
                max(easy_probabilities),
                sharing,
                Estimator.grpo if std else Estimator.grpo_without_std,
                seeds=sampled_seeds,
                steps=sampled_steps,
                group_size=group_size,
                learning_rate=learning_rate,
                generator=streams.torch("sampling"),
                advance=bar.advance,
            )
            for std in (False, True)
        }  # [credit, sharing, joint, seeds]

        exact = {
            std: exact_times(np.array(sampled_joint), [max(easy_probabilities)], sharing, std, bar.advance)
            for std in (False, True)
        }  # the same settings, [credit, sharing, 1, joint]

    bootstrap = streams.numpy("bootstrap")
    statements = exact_statements(penalty, joint, easy_probabilities, sharing, bootstrap)
    statements += sampled_statements(sampled, exact, sharing, min(sampled_joint), bootstrap)
    orthogonal, compositional = int(np.argmin(sharing)), int(np.argmax(sharing))
    worst = {std: float(values[orthogonal].max()) for std, values in penalty.items()}
    reading = (
        f"With sharing {sharing[orthogonal]:g} partial credit is slower in "
        f"{(penalty[False][orthogonal] > 0).mean():.0%} of the settings, by up to {number(10 ** worst[False])} times "
        f"({number(10 ** worst[True])} times with advantages divided by their std); with sharing "
        f"{sharing[compositional]:g} in {(penalty[False][compositional] > 0).mean():.0%}, and it is up to "
        f"{number(10 ** float(-penalty[False][compositional].min()))} times faster. GRPO reaches the goal within "
        f"{sampled_steps:,} updates in "
        + ", ".join(
            f"{np.isfinite(sampled[std][credit]).mean():.0%} of runs ({name}{', std' if std else ''})"
            for std in (False, True)
            for credit, name in enumerate(CREDITS)
        )
        + "."
    )
    table = [
        {
            "divide_by_std": std,
            "sharing": share,
            "easy_probability": easy,
            "joint_probability": float(probability),
            "time_binary": float(times[std][0, i, j, k]),
            "time_partial": float(times[std][1, i, j, k]),
        }
        for std in (False, True)
        for i, share in enumerate(sharing)
        for j, easy in enumerate(easy_probabilities)
        for k, probability in enumerate(joint)
    ]
    sampled_table = [
        {
            "divide_by_std": std,
            "credit": name,
            "sharing": share,
            "joint_probability": probability,
            "share_that_reaches": float(np.isfinite(sampled[std][credit, i, k]).mean()),
            "median_steps": float(np.median(sampled[std][credit, i, k])),
            "seeds": sampled_seeds,
        }
        for std in (False, True)
        for credit, name in enumerate(CREDITS)
        for i, share in enumerate(sharing)
        for k, probability in enumerate(sampled_joint)
    ]
    return Findings(
        reading=reading,
        statements=statements,
        tables={"exact": table, "sampled": sampled_table},
        figures={
            "penalty": draw_map(penalty, joint, easy_probabilities, sharing),
            "sampled": draw_sampled(sampled, sampled_joint, sharing, sampled_steps),
        },
        captions={
            "penalty": (
                "log10 of the flow time to P(both) = 0.9 under partial credit over that under binary credit, exact "
                "gradients. Red: partial credit is slower; red and blue have scales of their own. "
                f"n = {penalty[False].size} settings per row."
            ),
            "sampled": (
                f"Share of n = {sampled_seeds} seeds in which GRPO ({group_size} samples per update) reaches P(both) "
                f"= 0.9 within {sampled_steps:,} updates; initial probability of only the easy one "
                f"{max(easy_probabilities):g}."
            ),
        },
        summary={f"largest_log10_penalty/{'with' if std else 'without'}_std": value for std, value in worst.items()},
    )


# Arms ----------------------------------------------------------------------------------------------------------------


def initial_probabilities(joint: Tensor, easy: Tensor) -> Tensor:
    """Both, only easy, only hard, none; what the first three leave is none, shrinking the easy one where they exceed
    1."""
    easy = torch.minimum(easy, 0.95 - joint - HARD_PROBABILITY)
    hard = torch.full_like(joint, HARD_PROBABILITY)
    return torch.stack([joint, easy, hard, 1 - joint - easy - hard], dim=-1)


def features(sharing: Tensor) -> Tensor:
    """Features of the four classes [..., 4, 4]: unit vectors, but "both" is made of its parts' to the degree
    `sharing`."""
    phi = torch.eye(4, dtype=torch.float64).expand(*sharing.shape, 4, 4).clone()
    phi[..., 0, 0] = torch.sqrt(1 - sharing.square())
    phi[..., 0, 1] = phi[..., 0, 2] = sharing
    return phi


def arms(joint: list[float], easy: list[float], sharing: list[float]) -> tuple[SoftmaxPolicy, Tensor, tuple[int, ...]]:
    """Policies and rewards of [credit, sharing, easy, joint] settings, flattened; and that shape."""
    share, easy_grid, joint_grid = torch.meshgrid(
        *(torch.tensor(values, dtype=torch.float64) for values in (sharing, easy, joint)), indexing="ij"
    )
    start = initial_probabilities(joint_grid.flatten(), easy_grid.flatten()).repeat(2, 1)
    phi = features(share.flatten()).repeat(2, 1, 1)
    rewards = torch.tensor(list(CREDITS.values()), dtype=torch.float64).repeat_interleave(joint_grid.numel(), 0)
    policy = log_linear_policy(start[:, None, None], phi[:, None, None])
    return policy, rewards[:, None, None], (2, *joint_grid.shape)


def exact_times(
    joint: np.ndarray, easy: list[float], sharing: list[float], divide_by_std: bool, advance: Advance
) -> np.ndarray:
    """Flow times [credit (binary, partial), sharing, easy, joint], at most LONGEST."""
    policy, rewards, shape = arms(list(joint), easy, sharing)
    estimator = Estimator.exact_std if divide_by_std else Estimator.exact
    crossing = FirstCrossing(torch.tensor(BOTH, dtype=torch.float64), REACHED)
    times = flow_until(
        policy, reward_gradient(rewards, estimator=estimator), crossing, longest=LONGEST, advance=advance
    )
    return times.clamp(max=LONGEST).reshape(shape).numpy()


def sampled_times(
    joint: list[float],
    easy: float,
    sharing: list[float],
    estimator: Estimator,
    *,
    seeds: int,
    steps: int,
    group_size: int,
    learning_rate: float,
    generator: torch.Generator,
    advance: Advance,
) -> np.ndarray:
    """Updates of sampled policy gradient until the goal [credit, sharing, joint, seed], inf where never."""
    policy, rewards, shape = arms(joint, [easy], sharing)
    policy = SoftmaxPolicy(policy.parameters.repeat(1, seeds, 1), policy.features)
    crossing = FirstCrossing(torch.tensor(BOTH, dtype=torch.float64), REACHED)
    ascend(
        policy,
        reward_gradient(rewards, estimator=estimator, samples=group_size, generator=generator),
        learning_rate=learning_rate,
        steps=steps,
        observers=[crossing],
        advance=advance,
    )
    assert crossing.step is not None
    return crossing.step.reshape(shape[0], shape[1], shape[3], seeds).numpy()


# Statements ----------------------------------------------------------------------------------------------------------


def exact_statements(
    penalty: dict[bool, np.ndarray],
    joint: np.ndarray,
    easy: list[float],
    sharing: list[float],
    generator: np.random.Generator,
) -> list[Statement]:
    """What the map says of section 5 and of design D4."""
    orthogonal, compositional = int(np.argmin(sharing)), int(np.argmax(sharing))
    easiest, hardest, plain = int(np.argmax(easy)), int(np.argmin(easy)), penalty[False]
    rare = joint <= 0.01
    stalling = plain[orthogonal] > math.log10(2)
    relief = penalty[True][orthogonal][stalling] / plain[orthogonal][stalling]
    return [
        Statement(
            "where one constraint is easy and both together are rare, partial credit stalls and binary credit is "
            "faster",
            PAPER + "section 5",
            f"smallest log10 of the ratio of times, partial over binary: easy {easy[easiest]:g}, joint at most 0.01, "
            f"sharing {sharing[orthogonal]:g}",
            computed(float(plain[orthogonal, easiest, rare].min())),
            at_least=math.ulp(0),
        ),
        Statement(
            "where the joint behaviour is rare and made of parts that are about equally rare, partial credit is faster",
            "design D4, after " + PAPER + "section 5",
            f"largest log10 of the ratio of times, partial over binary: easy {easy[hardest]:g}, joint at most 0.01, "
            f"sharing {sharing[compositional]:g}",
            computed(float(plain[compositional, hardest, rare].max())),
            at_most=-math.ulp(0),
        ),
        Statement(
            "shared features alone make partial credit faster, however easy one of the constraints is",
            "design D4",
            f"smallest log10 of the ratio of times, partial over binary: easy {easy[easiest]:g}, joint at most 0.01, "
            f"sharing {sharing[compositional]:g}",
            computed(float(plain[compositional, easiest, rare].min())),
            at_most=-math.ulp(0),
        ),
        Statement(
            "more sharing of features makes partial credit relatively faster where both together are rare",
            "design D4",
            f"median change of the log10 ratio from sharing {sharing[orthogonal]:g} to {sharing[compositional]:g}, "
            "over settings with joint at most 0.01 (interval over settings)",
            statistic_interval(
                (plain[compositional] - plain[orthogonal])[:, rare].ravel(), np.median, generator=generator
            ),
            at_most=0.0,
        ),
        Statement(
            "dividing advantages by their std leaves a half to a quarter of the log10 penalty of partial credit",
            "design D4",
            f"median share of the penalty left, over settings with sharing {sharing[orthogonal]:g} in which partial "
            "credit is more than twice as slow (interval over settings)",
            statistic_interval(relief, np.median, generator=generator) if relief.size else computed(math.nan),
            at_least=0.25,
            at_most=0.5,
        ),
    ]


def sampled_statements(
    sampled: dict[bool, np.ndarray],
    exact: dict[bool, np.ndarray],
    sharing: list[float],
    rarest: float,
    generator: np.random.Generator,
) -> list[Statement]:
    """Does the credit that is faster under exact gradients win under GRPO, too? Credits share their random numbers."""
    statements = []
    for i in {int(np.argmin(sharing)), int(np.argmax(sharing))}:
        for std, values in sampled.items():
            binary_first = (values[0, i] < values[1, i]).astype(float) - (values[1, i] < values[0, i])  # [joint, seed]
            log_ratio = np.log10(exact[std][1, i, 0] / exact[std][0, i, 0])  # positive: binary credit is faster
            clear = np.abs(log_ratio) >= 0.1  # below that exact gradients favour neither
            score = (np.sign(log_ratio)[:, None] * binary_first)[clear].mean(axis=0) if clear.any() else None
            statements.append(
                Statement(
                    f"the credit that exact gradients favour wins under sampled GRPO, too (sharing {sharing[i]:g}, "
                    f"{'with' if std else 'without'} std)",
                    PAPER + "section 5, sampled",
                    "share of runs in which the favoured credit is first minus share in which the other is; exact "
                    f"log10 ratios, partial over binary, {log_ratio.min():+.2f} to {log_ratio.max():+.2f}, counted "
                    "beyond 0.1",
                    computed(math.nan) if score is None else mean_interval(score, generator=generator),
                    at_least=math.ulp(0),
                )
            )
    # The rarest start, the most sharing, std: where updates without a single success teach binary credit nothing.
    reached = np.isfinite(sampled[True][:, int(np.argmax(sharing)), 0]).astype(float)  # [credit, seed]
    return [
        *statements,
        Statement(
            "where joint success is next to none, partial credit may be needed",
            PAPER + "section 5 and appendix C.3",
            f"share of seeds in which GRPO with std succeeds, partial ({reached[1].mean():.0%}) minus binary "
            f"({reached[0].mean():.0%}), initial P(both) = {number(rarest)}, sharing {max(sharing):g}",
            mean_interval(reached[1] - reached[0], generator=generator),
            at_least=math.ulp(0),
        ),
    ]


# Figures -------------------------------------------------------------------------------------------------------------


def draw_map(penalty: dict[bool, np.ndarray], joint: np.ndarray, easy: list[float], sharing: list[float]) -> Figure:
    """Rows: with and without std; columns: sharing."""
    import matplotlib.pyplot as plt
    from matplotlib.colors import TwoSlopeNorm

    lowest, highest = min(float(v.min()) for v in penalty.values()), max(float(v.max()) for v in penalty.values())
    scale = TwoSlopeNorm(0, min(-0.1, lowest), max(0.1, highest))
    with figure_style():
        figure, axes = plt.subplots(
            2, len(sharing), figsize=(2.3 * len(sharing) + 1, 4.4), sharex=True, sharey=True, squeeze=False
        )
        for row, (std, values) in enumerate(penalty.items()):
            for column, share in enumerate(sharing):
                panel = axes[row][column]
                panel.grid(False)
                image = panel.pcolormesh(
                    joint, easy, values[column], cmap="RdBu_r", norm=scale, shading="nearest", rasterized=True
                )
                panel.set(xscale="log")
                if row == 0:
                    panel.set_title(f"sharing {share:g}")
            axes[row][0].set_ylabel("advantages / std" if std else "plain advantages")
        figure.supxlabel("initial probability of meeting both")
        figure.supylabel("initial probability of only the easy one")
        figure.colorbar(image, ax=axes, shrink=0.8).set_label("log10 (time partial / time binary)")
    return figure


def draw_sampled(sampled: dict[bool, np.ndarray], joint: list[float], sharing: list[float], steps: int) -> Figure:
    """Share of seeds that reach the goal, against the initial joint probability."""
    import matplotlib.pyplot as plt

    with figure_style():
        figure, axes = plt.subplots(
            1, len(sharing), figsize=(2.4 * len(sharing) + 0.4, 2.9), sharey=True, squeeze=False
        )
        for column, share in enumerate(sharing):
            panel = axes[0][column]
            for std, values in sampled.items():
                for credit, name in enumerate(CREDITS):
                    reached = np.isfinite(values[credit, column]).mean(axis=-1)
                    label = f"{name} credit, {'advantages / std' if std else 'plain advantages'}"
                    style = "--" if std else "-"
                    colour = REWARD_COLOURS[f"{name}_credit"]
                    panel.plot(joint, reached, marker=".", ls=style, color=colour, label=label)
            panel.set(xscale="log", xlabel="initial P(both)", title=f"sharing {share:g}", ylim=(-0.03, 1.03))
        axes[0][0].set_ylabel(f"share of seeds that succeed\nwithin {steps:,} updates")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return figure
