"""How far rewards rose, at equal numbers of steps and at equal KL divergence to the initial policy.

Shapes: S seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from experiments.reports.rlhf_runs import Arm, Curve, RlhfRun, Setting
from experiments.reward_metrics.correlations import Interval, no_interval, student_interval

Floats = NDArray[np.float64]

STEP_SHARES = (0.25, 0.5, 1.0)


class Outcome(StrEnum):
    """What rises."""

    proxy = "proxy"
    ground_truth = "ground_truth"

    @property
    def words(self) -> str:
        """For sentences and axes."""
        return self.value.replace("_", " ")


@dataclass(frozen=True)
class Point:
    """Where increases are compared: after a number of steps, or at a KL divergence."""

    name: str  # steps_25, steps_50, steps_100, kl_all, kl_half
    label: str
    level: float
    at_kl: bool


def points_of(setting: Setting) -> list[Point]:
    """Shares of the length that all runs have; the KL that all runs reach, and the one that half of the arms reach.

    A slow arm keeps the first KL small, so the second is there too, where it is larger; runs that do not reach it have
    no increase there.
    """
    runs = [run for arm in setting.arms for run in arm.runs]
    length = min(run.probe.steps[-1] for run in runs)
    points = [
        Point(f"steps_{share:.0%}".rstrip("%"), f"step {share * length:,.0f}", share * length, False)
        for share in STEP_SHARES
    ]
    common = min(float(run.probe.kl.max()) for run in runs)
    half = float(np.median([min(float(run.probe.kl.max()) for run in arm.runs) for arm in setting.arms]))
    if common > 0:
        points.append(Point("kl_all", f"KL {common:.2g}", common, True))
    if half > common > 0:
        points.append(Point("kl_half", f"KL {half:.2g}", half, True))
    return points


def increase(run: RlhfRun, outcome: Outcome, point: Point) -> float:
    """Of the mean reward on the probe prompts since step 0; NaN where a run does not get to the point."""
    values = run.probe.proxy if outcome is Outcome.proxy else run.probe.ground_truth
    gained = values - values[0]
    return value_at_kl(run.probe, gained, point.level) if point.at_kl else value_at_step(run.probe, gained, point.level)


def value_at_step(curve: Curve, values: Floats, step: float) -> float:
    """Linear between two looks; NaN beyond the last."""
    return float(np.interp(step, curve.steps, values)) if step <= curve.steps[-1] else math.nan


def value_at_kl(curve: Curve, values: Floats, kl: float) -> float:
    """Where the curve first reaches this KL, linear between two looks; NaN where it never does."""
    reached = np.flatnonzero(curve.kl >= kl)
    if not len(reached):
        return math.nan
    after = int(reached[0])
    if after == 0:
        return float(values[0])
    share = (kl - curve.kl[after - 1]) / (curve.kl[after] - curve.kl[after - 1])
    return float(values[after - 1] + share * (values[after] - values[after - 1]))


def increases(arm: Arm, outcome: Outcome, point: Point) -> Floats:
    """Of every seed, [S]."""
    return np.array([increase(run, outcome, point) for run in arm.runs])


def mean_increase(arm: Arm, outcome: Outcome, point: Point) -> Interval:
    """Mean over seeds with Student's t interval; NaN unless every seed gets to the point."""
    values = increases(arm, outcome, point)
    if not np.isfinite(values).all():
        return Interval(math.nan, math.nan, math.nan, len(values))
    return student_interval(values)


def paired(arms: Sequence[Arm], outcome: Outcome, point: Point) -> tuple[list[int], Floats]:
    """Seeds that all arms have, and the increases [arms, S] on them; seeds that do not get to the point are left out.

    Arms share prompts and sampling noise of a seed, so differences are taken within seeds.
    """
    seeds = sorted(set.intersection(*(set(arm.seeds) for arm in arms))) if arms else []
    values = np.array(
        [[increase(arm.runs[arm.seeds.index(seed)], outcome, point) for seed in seeds] for arm in arms]
    ).reshape(len(arms), len(seeds))
    whole = np.isfinite(values).all(axis=0)
    return [seed for seed, good in zip(seeds, whole, strict=True) if good], values[:, whole]


def paired_difference(first: Arm, second: Arm, outcome: Outcome, point: Point) -> Interval:
    """Increase of the first arm minus that of the second, mean over the seeds that both have."""
    seeds, values = paired([first, second], outcome, point)
    return student_interval(values[0] - values[1]) if seeds else no_interval()
