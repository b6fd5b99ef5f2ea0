"""Which property of a reward model, measured before training, goes with how far rewards rise in training?

As in Table 2 of What Makes a Reward Model a Good Teacher? (arXiv 2503.15477): over the reward models of a setting,
without the ground truth itself, which is a baseline there.

Shapes: M reward models.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.reports.rlhf_increases import Outcome, Point, mean_increase, points_of
from experiments.reports.rlhf_runs import Setting
from experiments.reward_metrics.correlations import Correlation, CorrelationMethod, correlations_of_many
from experiments.reward_metrics.properties import PROPERTIES

Floats = NDArray[np.float64]

FEWEST_REWARD_MODELS = 3
FEWEST_FOR_AN_INTERVAL = 6  # an interval of fewer reward models says nothing but that they are few
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


def correlation_rows(settings: Sequence[Setting], generator: np.random.Generator) -> list[dict[str, Any]]:
    """One row for every setting, property, outcome, point and method; a p is of its own row, not corrected for many."""
    return [
        _row(setting, name, outcome, point, result)
        for setting in settings
        for outcome in Outcome
        for point in points_of(setting)
        for method in CorrelationMethod
        for name, result in _correlations(setting, outcome, point, method, generator)
    ]


def _correlations(
    setting: Setting, outcome: Outcome, point: Point, method: CorrelationMethod, generator: np.random.Generator
) -> Iterator[tuple[str, Correlation]]:
    """Of every predictor; those that the same reward models have are taken together."""
    increase = increase_values(setting, outcome, point)
    groups: dict[tuple[bool, ...], list[tuple[str, Floats]]] = {}
    for name in predictors(setting):
        values = property_values(setting, name)
        groups.setdefault(tuple(np.isfinite(values) & np.isfinite(increase)), []).append((name, values))
    for pattern, entries in groups.items():
        whole = np.array(pattern)
        if whole.sum() < FEWEST_REWARD_MODELS:
            continue
        rows = np.stack([values[whole] for _, values in entries])
        results = correlations_of_many(rows, increase[whole], generator=generator, method=method, resamples=RESAMPLES)
        yield from ((name, result) for (name, _), result in zip(entries, results, strict=True))


def _row(setting: Setting, name: str, outcome: Outcome, point: Point, result: Correlation) -> dict[str, Any]:
    enough = result.n >= FEWEST_FOR_AN_INTERVAL
    return {
        "setting": setting.label,
        "property": name,
        "increase_of": outcome.value,
        "point": point.name,
        "at": point.label,
        "method": result.method.value,
        "coefficient": result.value,
        "low": result.low if enough else math.nan,
        "high": result.high if enough else math.nan,
        "permutation_p": result.permutation_p,
        "reward_models": result.n,
    }
