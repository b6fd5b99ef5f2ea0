"""The effects that statements on a sweep are judged by, with their intervals.

Over reward models (correlations): the wider of a percentile bootstrap and Fisher's interval, because a bootstrap of a
dozen points is too narrow. Over seeds (differences between arms): Student's t on differences within seeds, which share
prompts and sampling noise. "The best" arm is always chosen by the other seeds, so that its luck does not count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from experiments.reports.rlhf_correlations import FEWEST_FOR_AN_INTERVAL, increase_values, property_values
from experiments.reports.rlhf_increases import Outcome, Point, best_arm_values, no_interval, paired, points_of
from experiments.reports.rlhf_runs import Arm, Setting
from experiments.reward_metrics.correlations import (
    Interval,
    correlation_difference,
    fisher_interval,
    student_interval,
)

ABOVE_ZERO = math.ulp(0)  # "is positive": an effect of exactly 0 is none


def steps_of(setting: Setting) -> list[Point]:
    """The points at equal numbers of steps, the end last."""
    return [point for point in points_of(setting) if not point.at_kl]


def early_point(setting: Setting) -> Point:
    """The first quarter of training: the paper's correlations are after one of six epochs."""
    return steps_of(setting)[0]


def last_kl_point(setting: Setting) -> Point | None:
    """The largest KL divergence that enough reward models reach, else the one that all reach."""
    points = [point for point in points_of(setting) if point.at_kl]
    for point in reversed(points):
        reached = np.isfinite(increase_values(setting, Outcome.ground_truth, point)).sum()
        if reached >= FEWEST_FOR_AN_INTERVAL:
            return point
    return points[0] if points else None


def best_minus(arms: Sequence[Arm], other: Arm, outcome: Outcome, point: Point) -> Interval:
    """The best of some arms, chosen by the other seeds, minus another arm, within seeds."""
    seeds, values = paired([*arms, other], outcome, point)
    return student_interval(best_arm_values(values[:-1]) - values[-1]) if len(seeds) >= 2 else no_interval()


def correlation_effect(
    setting: Setting, name: str, outcome: Outcome, point: Point, generator: np.random.Generator
) -> Interval:
    """Over reward models, with the wider of the two intervals on either side."""
    first, second = property_values(setting, name), increase_values(setting, outcome, point)
    whole = np.isfinite(first) & np.isfinite(second)
    if whole.sum() < 3:
        return no_interval()
    return fisher_interval(first[whole], second[whole], generator=generator)


def correlation_gap(
    setting: Setting, first: str, second: str, outcome: Outcome, point: Point, generator: np.random.Generator
) -> Interval:
    """Correlation of one property minus that of another; no interval from fewer than six reward models."""
    a, b = property_values(setting, first), property_values(setting, second)
    y = increase_values(setting, outcome, point)
    whole = np.isfinite(a) & np.isfinite(b) & np.isfinite(y)
    if whole.sum() < 3:
        return no_interval()
    gap = correlation_difference(a[whole], b[whole], y[whole], generator=generator)
    if gap.n < FEWEST_FOR_AN_INTERVAL:
        return Interval(gap.value, math.nan, math.nan, gap.n)
    return gap
