"""Which property of a reward model, measured before training, goes with how far rewards rise in training?

As in Table 2 of What Makes a Reward Model a Good Teacher? (arXiv 2503.15477): over the reward models of a setting,
without the ground truth itself, which is a baseline there.

Shapes: M reward models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.reports.rlhf_increases import Outcome, Point, mean_increase, points_of
from experiments.reports.rlhf_runs import Setting
from experiments.reward_metrics.correlations import Correlation, CorrelationMethod, correlation
from experiments.reward_metrics.properties import PROPERTIES

Floats = NDArray[np.float64]

FEWEST_REWARD_MODELS = 3
RESAMPLES = 1999
# Counts and log-scale companions of the accuracies: reported per arm, but no predictors.
NO_PREDICTORS = ("comparisons", "effective_comparisons")


def predictors(setting: Setting) -> list[str]:
    """Properties that differ between reward models, in the order of `properties.py`."""
    order = {name: place for place, name in enumerate(PROPERTIES)}
    names = [name for name in setting.property_names if not name.endswith(NO_PREDICTORS)]
    differing = []
    for name in sorted(names, key=lambda name: order.get(name, len(order))):
        values = property_values(setting, name)
        values = values[np.isfinite(values)]
        if len(values) >= FEWEST_REWARD_MODELS and np.ptp(values) > 1e-12:
            differing.append(name)
    return differing


def property_values(setting: Setting, name: str) -> Floats:
    """Of the reward models, [M]."""
    return np.array([arm.property_value(name) for arm in setting.reward_models])


def increase_values(setting: Setting, outcome: Outcome, point: Point) -> Floats:
    """Mean over seeds of the reward models, [M]; NaN where one does not get to the point."""
    return np.array([mean_increase(arm, outcome, point).value for arm in setting.reward_models])


def property_correlation(
    setting: Setting,
    name: str,
    outcome: Outcome,
    point: Point,
    generator: np.random.Generator,
    method: CorrelationMethod = CorrelationMethod.pearson,
) -> Correlation | None:
    """Over the reward models that have both; None where fewer than three have."""
    first, second = property_values(setting, name), increase_values(setting, outcome, point)
    whole = np.isfinite(first) & np.isfinite(second)
    if whole.sum() < FEWEST_REWARD_MODELS:
        return None
    return correlation(first[whole], second[whole], generator=generator, method=method, resamples=RESAMPLES)


def correlation_rows(settings: Sequence[Setting], generator: np.random.Generator) -> list[dict[str, Any]]:
    """One row for every setting, property, outcome, point and method; a p is of its own row, not corrected for many."""
    rows = []
    for setting in settings:
        for name in predictors(setting):
            for outcome in Outcome:
                for point in points_of(setting):
                    for method in CorrelationMethod:
                        result = property_correlation(setting, name, outcome, point, generator, method)
                        if result is not None:
                            rows.append(_row(setting, name, outcome, point, result))
    return rows


def _row(setting: Setting, name: str, outcome: Outcome, point: Point, result: Correlation) -> dict[str, Any]:
    return {
        "setting": setting.label,
        "property": name,
        "increase_of": outcome.value,
        "point": point.name,
        "at": point.label,
        "method": result.method.value,
        "coefficient": result.value,
        "low": result.low,
        "high": result.high,
        "permutation_p": result.permutation_p,
        "reward_models": result.n,
    }
