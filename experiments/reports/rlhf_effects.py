"""The effects that statements on a sweep are judged by, with their intervals.

The interval is over what was drawn independently. Over reward models (correlations): Fisher's with Student's quantile,
and none from fewer than six. Over seeds (differences between arms): Student's t on differences within seeds, which
share prompts and sampling noise. Where there are two levels (pairs of constraints, policies), the means over seeds of
the upper one. "The best" arm is always chosen by the other seeds, so that its luck does not count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.reports.rlhf_correlations import FEWEST_FOR_AN_INTERVAL, increase_values, property_values
from experiments.reports.rlhf_increases import Outcome, Point, paired, points_of
from experiments.reports.rlhf_runs import Arm, Setting
from experiments.reward_metrics.correlations import (
    Interval,
    chosen_by_other_seeds,
    correlation_difference,
    fisher_interval,
    no_interval,
    student_interval,
)


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
    return student_interval(chosen_by_other_seeds(values[:-1]) - values[-1]) if len(seeds) >= 2 else no_interval()


def correlation_effect(setting: Setting, name: str, outcome: Outcome, point: Point) -> Interval:
    """Correlation of a property with an increase, over reward models."""
    first, second = property_values(setting, name), increase_values(setting, outcome, point)
    known = np.isfinite(first) & np.isfinite(second)
    return of_enough(fisher_interval(first[known], second[known])) if known.sum() >= 3 else no_interval()


def correlation_gap(setting: Setting, first: str, second: str, outcome: Outcome, point: Point) -> Interval:
    """Correlation of one property minus that of another, over reward models."""
    a, b = property_values(setting, first), property_values(setting, second)
    y = increase_values(setting, outcome, point)
    known = np.isfinite(a) & np.isfinite(b) & np.isfinite(y)
    return of_enough(correlation_difference(a[known], b[known], y[known])) if known.sum() >= 3 else no_interval()


def of_enough(effect: Interval) -> Interval:
    """The effect, without an interval where it rests on fewer than six."""
    return effect if effect.n >= FEWEST_FOR_AN_INTERVAL else no_interval(effect.value, effect.n)
