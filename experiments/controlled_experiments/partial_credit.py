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

Shapes: C credits (binary, partial), H degrees of sharing, E probabilities of the easy constraint, J of both, S seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.controlled_experiments.findings import Finding, Findings, Progress, computed, number
from experiments.controlled_experiments.partial_credit_figures import draw_map, draw_sampled
from experiments.controlled_experiments.statements import statements_of
from experiments.policies.ascent import Advance, FirstCrossing, ascend, flow_until, reward_gradient
from experiments.policies.gradients import Estimator
from experiments.policies.softmax import SoftmaxPolicy, log_linear_policy
from experiments.reward_metrics.correlations import no_interval, student_interval
from experiments.runs.seeds import SeedStreams

Floats = NDArray[np.float64]

SAYS = statements_of("partial_credit")
CREDITS = {"binary": (1.0, 0.0, 0.0, 0.0), "partial": (1.0, 0.5, 0.5, 0.0)}
BOTH = (1.0, 0.0, 0.0, 0.0)
HARD_PROBABILITY = 0.02
RARE = 0.01  # up to here meeting both is called rare
CLEAR = 0.1  # log10 of a ratio of times below which exact gradients favour neither credit
REACHED = 0.9
LONGEST = 1e9


@dataclass(frozen=True)
class Grid:
    """Settings that are crossed with each other, ascending."""

    sharing: list[float]  # [H]
    easy: list[float]  # [E]
    joint: list[float]  # [J]

    @property
    def rare(self) -> NDArray[np.bool_]:
        """Where meeting both is rare, [J]."""
        return np.array(self.joint) <= RARE


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
    sharing = sorted(sharing)
    grid = Grid(sharing, sorted(easy_probabilities), np.geomspace(lowest_joint, 0.1, joint_points).tolist())
    easiest = Grid(sharing, [max(easy_probabilities)], sampled_joint)
    with progress("exact map", 4000) as bar:
        times = {std: exact_times(grid, std, bar.advance) for std in (False, True)}
    with progress("GRPO", 2 * sampled_steps) as bar:
        sampled = {
            std: sampled_times(
                easiest,
                Estimator.grpo if std else Estimator.grpo_without_std,
                seeds=sampled_seeds,
                steps=sampled_steps,
                group_size=group_size,
                learning_rate=learning_rate,
                generator=streams.torch("sampling"),
                advance=bar.advance,
            )
            for std in (False, True)
        }
        expected = {std: penalty_of(exact_times(easiest, std, bar.advance))[:, 0] for std in (False, True)}  # [H, J]
    penalty = {std: penalty_of(values) for std, values in times.items()}
    return Findings(
        reading=reading_of(grid, penalty, sampled, sampled_steps),
        statements=[*exact_findings(grid, penalty), *sampled_findings(easiest, sampled, expected)],
        tables={"exact": exact_rows(grid, times), "sampled": sampled_rows(easiest, sampled)},
        figures={
            "penalty": draw_map(penalty, np.array(grid.joint), grid.easy, sharing),
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
        summary={
            f"largest_log10_penalty/{'with' if std else 'without'}_std": float(values[0].max())
            for std, values in penalty.items()
        },
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


def arms(grid: Grid) -> tuple[SoftmaxPolicy, Tensor]:
    """Policies and rewards of the grid's settings under either credit, [C x H x E x J] arms."""
    share, easy, joint = torch.meshgrid(
        *(torch.tensor(values, dtype=torch.float64) for values in (grid.sharing, grid.easy, grid.joint)), indexing="ij"
    )
    start = initial_probabilities(joint.flatten(), easy.flatten()).repeat(2, 1)
    phi = features(share.flatten()).repeat(2, 1, 1)
    rewards = torch.tensor(list(CREDITS.values()), dtype=torch.float64).repeat_interleave(joint.numel(), 0)
    return log_linear_policy(start[:, None, None], phi[:, None, None]), rewards[:, None, None]


# Training ------------------------------------------------------------------------------------------------------------


def exact_times(grid: Grid, divide_by_std: bool, advance: Advance) -> Floats:
    """Flow times [C, H, E, J], at most LONGEST."""
    policy, rewards = arms(grid)
    estimator = Estimator.exact_std if divide_by_std else Estimator.exact
    crossing = FirstCrossing(torch.tensor(BOTH, dtype=torch.float64), REACHED)
    times = flow_until(
        policy, reward_gradient(rewards, estimator=estimator), crossing, longest=LONGEST, advance=advance
    )
    shape = (len(CREDITS), len(grid.sharing), len(grid.easy), len(grid.joint))
    return np.asarray(times.clamp(max=LONGEST).reshape(shape).numpy())


def sampled_times(
    grid: Grid,
    estimator: Estimator,
    *,
    seeds: int,
    steps: int,
    group_size: int,
    learning_rate: float,
    generator: torch.Generator,
    advance: Advance,
) -> Floats:
    """Updates of sampled policy gradient until the goal [C, H, J, S] at the grid's one easy probability; inf: never."""
    policy, rewards = arms(grid)
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
    return np.asarray(crossing.step.reshape(len(CREDITS), len(grid.sharing), len(grid.joint), seeds).numpy())


def penalty_of(times: Floats) -> Floats:
    """log10 of the time under partial credit over that under binary credit: [C, ...] -> [...]."""
    return np.asarray(np.log10(times[1] / times[0]))


# Findings ------------------------------------------------------------------------------------------------------------


def exact_findings(grid: Grid, penalty: dict[bool, Floats]) -> list[Finding]:
    """What the map of penalties [H, E, J], by division by std, says of section 5 and of design D4."""
    plain, rare = penalty[False], grid.rare
    ratio = "log10 of the ratio of times, partial over binary"
    least, most = (f"joint at most {RARE:g}, sharing {grid.sharing[place]:g}" for place in (0, -1))
    change = (plain[-1] - plain[0])[:, rare]
    stalling = plain[0] > math.log10(2)
    left = penalty[True][0][stalling] / plain[0][stalling]
    return [
        SAYS["easy_and_rare"].found(
            computed(float(plain[0, -1, rare].min())), f"smallest {ratio}: easy {grid.easy[-1]:g}, {least}"
        ),
        SAYS["both_rare"].found(
            computed(float(plain[-1, 0, rare].max())),
            f"largest {ratio}: easy {grid.easy[0]:g} beside hard {HARD_PROBABILITY:g}, {most}; over all joint "
            f"probabilities up to {grid.joint[-1]:g} it is {plain[-1, 0].max():+.3f}",
        ),
        SAYS["sharing_alone"].found(
            computed(float(plain[-1, -1, rare].min())), f"smallest {ratio}: easy {grid.easy[-1]:g}, {most}"
        ),
        SAYS["more_sharing"].found(
            computed(float((change <= 0).mean())),
            f"share of the {change.size} settings with joint at most {RARE:g} in which the log10 ratio does not rise "
            f"from sharing {grid.sharing[0]:g} to {grid.sharing[-1]:g}; median change {np.median(change):+.2f}, "
            f"largest {change.max():+.2f}",
        ),
        SAYS["std_relief"].found(
            computed(float(np.median(left))) if left.size else no_interval(),
            f"median share of the penalty left, over the {left.size} settings with sharing {grid.sharing[0]:g} in "
            f"which partial credit is more than twice as slow; between .25 and .5 in "
            f"{((left >= 0.25) & (left <= 0.5)).mean() if left.size else 0:.0%} of them",
        ),
    ]


def sampled_findings(grid: Grid, sampled: dict[bool, Floats], expected: dict[bool, Floats]) -> list[Finding]:
    """Does the credit that is faster under exact gradients win under GRPO, too? Credits share their random numbers."""
    findings = []
    for i in {0, len(grid.sharing) - 1}:
        for std, times in sampled.items():
            binary_first = (times[0, i] < times[1, i]).astype(float) - (times[1, i] < times[0, i])  # [J, S]
            log_ratio = expected[std][i]  # positive: binary credit is faster
            clear = np.abs(log_ratio) >= CLEAR
            score = (np.sign(log_ratio)[:, None] * binary_first)[clear]
            findings.append(
                SAYS["sampled_agrees"].found(
                    student_interval(score.mean(axis=0)) if len(score) else no_interval(),
                    "share of runs in which the favoured credit is first minus share in which the other is; exact "
                    f"log10 ratios, partial over binary, {log_ratio.min():+.2f} to {log_ratio.max():+.2f}, counted "
                    f"beyond {CLEAR:g}",
                    case=f"sharing {grid.sharing[i]:g}, {'with' if std else 'without'} std",
                )
            )
    # The rarest start, the most sharing, std: where updates without a single success teach binary credit nothing.
    binary, partial = np.isfinite(sampled[True][:, -1, 0]).astype(float)  # [S] each
    return [
        *findings,
        SAYS["next_to_none"].found(
            student_interval(partial - binary),
            f"share of seeds in which GRPO with std succeeds, partial ({partial.mean():.0%}) minus binary "
            f"({binary.mean():.0%}), initial P(both) = {number(grid.joint[0])}, sharing {grid.sharing[-1]:g}",
        ),
    ]


# Reading and tables --------------------------------------------------------------------------------------------------


def reading_of(grid: Grid, penalty: dict[bool, Floats], sampled: dict[bool, Floats], steps: int) -> str:
    """One paragraph; its comparisons come from the numbers."""
    plain = penalty[False]
    reached = ", ".join(
        f"{np.isfinite(times[credit]).mean():.0%} of runs ({name}{', std' if std else ''})"
        for std, times in sampled.items()
        for credit, name in enumerate(CREDITS)
    )
    return (
        f"With sharing {grid.sharing[0]:g} partial credit is slower in {(plain[0] > 0).mean():.0%} of the settings, by "
        f"up to {number(10 ** float(plain[0].max()))} times ({number(10 ** float(penalty[True][0].max()))} times with "
        f"advantages divided by their std); with sharing {grid.sharing[-1]:g} in {(plain[-1] > 0).mean():.0%}, and it "
        f"is up to {number(10 ** float(-plain[-1].min()))} times faster. GRPO reaches the goal within {steps:,} "
        f"updates in {reached}."
    )


def exact_rows(grid: Grid, times: dict[bool, Floats]) -> list[dict[str, Any]]:
    """Every setting of the map with both times."""
    return [
        {
            "divide_by_std": std,
            "sharing": share,
            "easy_probability": easy,
            "joint_probability": joint,
            "time_binary": float(values[0, i, j, k]),
            "time_partial": float(values[1, i, j, k]),
        }
        for std, values in times.items()
        for i, share in enumerate(grid.sharing)
        for j, easy in enumerate(grid.easy)
        for k, joint in enumerate(grid.joint)
    ]


def sampled_rows(grid: Grid, sampled: dict[bool, Floats]) -> list[dict[str, Any]]:
    """How often, and how fast, sampled updates reach the goal."""
    return [
        {
            "divide_by_std": std,
            "credit": name,
            "sharing": share,
            "joint_probability": joint,
            "share_that_reaches": float(np.isfinite(times[credit, i, k]).mean()),
            "median_steps": float(np.median(times[credit, i, k])),
            "seeds": times.shape[-1],
        }
        for std, times in sampled.items()
        for credit, name in enumerate(CREDITS)
        for i, share in enumerate(grid.sharing)
        for k, joint in enumerate(grid.joint)
    ]
