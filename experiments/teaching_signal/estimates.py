"""From products of scores with gradients to signals with intervals.

A product of two gradients is estimated from pairs of different prompts only, whose noise is independent, so it is
unbiased. Intervals come from the jackknife over prompts: every signal is computed again without each prompt.

Shapes: R reward models, K = R + 1 rewards (the ground truth is the last), P prompts, N samples of each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from experiments.reward_metrics.correlations import Interval

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Signals:
    """Signals by name: of every reward model a value, and its values without each of the prompts."""

    reward_models: tuple[str, ...]  # [R]
    values: dict[str, Floats]  # [R]; NaN where a signal is not defined
    without: dict[str, Floats]  # [P, R]
    confidence: float = 0.95

    @property
    def prompts(self) -> int:
        """Number of prompts."""
        return len(next(iter(self.without.values())))

    def interval(self, name: str, reward_model: int) -> Interval:
        """A signal with its jackknife interval."""
        return self._interval(self.values[name][reward_model], self.without[name][:, reward_model], self.confidence)

    def difference(self, name: str, first: int, second: int, confidence: float | None = None) -> Interval:
        """The signal of one reward model minus that of another, on the same prompts."""
        values, without = self.values[name], self.without[name]
        return self._interval(
            values[first] - values[second],
            without[:, first] - without[:, second],
            self.confidence if confidence is None else confidence,
        )

    def rows(self) -> list[dict[str, Any]]:
        """One row per reward model: `<signal>`, `<signal>_low`, `<signal>_high`."""
        rows = []
        for place in range(len(self.reward_models)):
            row: dict[str, Any] = {}
            for name in self.values:
                interval = self.interval(name, place)
                row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
            rows.append(row)
        return rows

    def best_teachers(self, name: str = "teaching_signal") -> tuple[list[int], list[int]]:
        """All reward models from the highest signal down, and those that cannot be told from the highest.

        Two are separable where the interval of their difference leaves out 0, with the confidence divided among the
        comparisons with the highest (Bonferroni).
        """
        order = sorted(range(len(self.reward_models)), key=lambda place: -self.values[name][place])
        confidence = 1 - (1 - self.confidence) / max(1, len(order) - 1)
        best, *others = order
        return order, [place for place in others if not self.difference(name, best, place, confidence).low > 0]

    def _interval(self, value: float, without: Floats, confidence: float) -> Interval:
        prompts = len(without)
        spread = without - without.mean()
        error = math.sqrt((prompts - 1) / prompts * float(spread @ spread))
        reach = float(stats.t.ppf((1 + confidence) / 2, prompts - 1)) * error
        return Interval(float(value), float(value) - reach, float(value) + reach, prompts, confidence)


def estimate_signals(
    names: Sequence[str], advantages: Floats, plain: Floats, adam: Floats | None = None, confidence: float = 0.95
) -> Signals:
    """Signals from advantages [K, P, N] and products of scores with the gradients of other prompts [K, P, N].

    `plain` and `adam` are those of `gradient_products`. In the intervals of what is divided by root KL, and of the
    learnable variance, the Fisher matrix is taken without each prompt and the direction as it is.
    """
    size = plain.shape[1]
    truth = len(names)
    learning, learning_without = _products(advantages, plain, range(truth), range(truth))
    teaching, teaching_without = _products(advantages, plain, range(truth), [truth] * truth)
    (true,), true_without = _products(advantages, plain, [truth], [truth])
    fisher, fisher_without = _mean_squares(plain[:truth])
    measured = {
        "learning_signal": (learning, learning_without),
        "teaching_signal": (teaching, teaching_without),
        "signal_cosine": (
            _over_root(teaching, learning * true, both=learning),
            _over_root(teaching_without, learning_without * true_without, both=learning_without),
        ),
        "teaching_signal_per_root_kl": (_over_root(teaching, fisher), _over_root(teaching_without, fisher_without)),
    }
    if adam is not None:
        gain, gain_without = _products(advantages, adam, range(truth), [truth] * truth)
        squares, squares_without = _mean_squares(adam[:truth])
        measured["teaching_signal_per_root_kl_adam"] = (
            _over_root(gain, squares),
            _over_root(gain_without, squares_without),
        )
    measured["learnable_variance"] = (
        np.sign(learning) * _over_root(learning, fisher) ** 2,
        np.sign(learning_without) * _over_root(learning_without, fisher_without) ** 2,
    )
    assert all(without.shape == (size, truth) for _, without in measured.values())
    return Signals(
        reward_models=tuple(names),
        values={name: value for name, (value, _) in measured.items()},
        without={name: without for name, (_, without) in measured.items()},
        confidence=confidence,
    )


def _products(
    advantages: Floats, products: Floats, first: Sequence[int], second: Sequence[int]
) -> tuple[Floats, Floats]:
    """<g of `first`, g of `second`> over pairs of different prompts, [R]; and without each prompt, [P, R]."""
    prompts = advantages.shape[1]
    a, b = list(first), list(second)
    rows = (advantages[a] * products[b]).mean(axis=-1)  # [R, P]: <g(a, p), mean over other prompts of g(b)>
    columns = (advantages[b] * products[a]).mean(axis=-1)
    total = rows.sum(axis=1, keepdims=True)
    without = (total - rows - columns) / (prompts - 2)
    return total[:, 0] / prompts, without.T


def _mean_squares(products: Floats) -> tuple[Floats, Floats]:
    """d' F d for the K directions, [R]; and without each prompt, [P, R]."""
    squares = (products**2).mean(axis=-1)  # [R, P]
    total, prompts = squares.sum(axis=1, keepdims=True), squares.shape[1]
    return total[:, 0] / prompts, ((total - squares) / (prompts - 1)).T


def _over_root(numerator: Floats, square: Floats, both: Floats | None = None) -> Floats:
    """numerator / sqrt(square); 0 where both are 0, NaN where the square (or `both`) is estimated as 0 or less."""
    defined = square > 0 if both is None else (square > 0) & (both > 0)
    result = np.full(numerator.shape, np.nan)
    np.divide(numerator, np.sqrt(np.where(defined, square, 1.0)), out=result, where=defined)
    return np.where((numerator == 0) & (square == 0), 0.0, result)
