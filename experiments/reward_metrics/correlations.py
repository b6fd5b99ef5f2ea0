"""Means and correlations that carry their uncertainty: how many independent draws, an interval, a permutation p.

The papers' correlations rest on 6 and 13 reward models. With n = 6, |Spearman| must reach .886 for a two-sided p of
.05, so a coefficient without n and interval says little. Every interval here was simulated at the n it is used for:
`interval_coverage.py` beside this module makes the table of docs/coverage.md.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]
Orders = NDArray[np.intp]


class CorrelationMethod(StrEnum):
    """Linear correlation, or correlation of ranks (ties get their mean rank)."""

    pearson = "pearson"
    spearman = "spearman"


@dataclass(frozen=True)
class Interval:
    """A point estimate with an interval; `n` counts what was drawn independently."""

    value: float
    low: float
    high: float
    n: int
    confidence: float = 0.95

    def excludes(self, reference: float) -> bool:
        """Whether the whole interval lies on one side of `reference`; False for an interval that is not a number."""
        return self.low > reference or self.high < reference

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}] (n={self.n})"


@dataclass(frozen=True)
class Correlation(Interval):
    """A correlation coefficient with its interval and a two-sided permutation p."""

    permutation_p: float = math.nan
    method: CorrelationMethod = CorrelationMethod.pearson

    def __str__(self) -> str:
        return f"{self.value:+.2f} [{self.low:+.2f}, {self.high:+.2f}] (n={self.n}, p={self.permutation_p:.3g})"


@dataclass(frozen=True)
class SeedCorrelation(Interval):
    """The mean over seeds of a correlation over items (reward models); the interval is over seeds, `n` counts them."""

    items: int = 0
    permutation_p: float = math.nan
    by_seed: tuple[float, ...] = ()


# Means ---------------------------------------------------------------------------------------------------------------


def student_interval(values: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Mean of one number per independent draw, with Student's t interval.

    One number, or an infinite one, has no interval (NaN). Raises ValueError for no values or NaN.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or sample.size == 0 or np.isnan(sample).any():
        raise ValueError(f"an interval needs a list of at least one number and no NaN, not shape {sample.shape}")
    value, n = float(sample.mean()), int(sample.size)
    if n < 2 or not math.isfinite(value):
        return Interval(value, math.nan, math.nan, n, confidence)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * sample.std(ddof=1) / math.sqrt(n))
    return Interval(value, value - half, value + half, n, confidence)


def chosen_by_other_seeds(values: Floats) -> Floats:
    """What the best arm reaches, [arms, S] -> [S], without the luck of having been chosen.

    For each seed the best arm is chosen by the other seeds, and read on this one. NaN with fewer than two seeds.
    """
    if values.shape[1] < 2:
        return np.full(values.shape[1], math.nan)
    others = (values.sum(axis=1, keepdims=True) - values) / (values.shape[1] - 1)
    return np.asarray(values[others.argmax(axis=0), np.arange(values.shape[1])])


def no_interval(value: float = math.nan, n: int = 0) -> Interval:
    """Of something that was not measured, or too little to say how well."""
    return Interval(value, math.nan, math.nan, n)


# Correlations --------------------------------------------------------------------------------------------------------


def correlations_of_many(
    xs: ArrayLike,
    y: ArrayLike,
    *,
    generator: np.random.Generator,
    method: CorrelationMethod = CorrelationMethod.pearson,
    confidence: float = 0.95,
    resamples: int = 1999,
) -> list[Correlation]:
    """Correlation of each row of `xs` [K, n] with y [n], with `fisher_limits` and a permutation p.

    The p is that of scipy's `pearsonr(..., method=PermutationMethod())`, for all rows on the same permutations: exact
    where there are no more than `resamples` orders. A constant list has no correlation: every number is then NaN.
    Raises ValueError for lists that do not fit, NaN, or fewer than 3 items.
    """
    rows, outcome = np.asarray(xs, dtype=np.float64), np.asarray(y, dtype=np.float64)
    _check(rows.ndim == 2 and rows.shape[1:] == outcome.shape, outcome.size, rows, outcome)
    n = int(outcome.size)
    orders, extra = _orders(n, resamples, generator)
    if method is CorrelationMethod.spearman:
        rows, outcome = _ranks(rows), _ranks(outcome)
    found = []
    for row in rows:
        if np.ptp(row) == 0 or np.ptp(outcome) == 0:
            found.append(Correlation(math.nan, math.nan, math.nan, n, confidence, math.nan, method))
            continue
        value = float(pearson(row, outcome))
        low, high = fisher_limits(value, n, confidence)
        permutation_p = _two_sided_p(value, pearson(row[orders], outcome), extra)
        found.append(Correlation(value, low, high, n, confidence, permutation_p, method))
    return found


def fisher_limits(value: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a correlation over n items by Fisher's transformation, with Student's quantile; NaN below 4 items.

    With the normal quantile it covers .95 of normal data and .89 of data with heavy tails (Student's t with 5 degrees
    of freedom); with Student's, n - 2 degrees of freedom, it is a little too wide for the first.
    """
    if n < 4:
        return math.nan, math.nan
    half = float(stats.t.ppf((1 + confidence) / 2, n - 2)) / math.sqrt(n - 3)
    z = math.atanh(min(max(value, -1 + 1e-12), 1 - 1e-12))
    return math.tanh(z - half), math.tanh(z + half)


def fisher_interval(x: ArrayLike, y: ArrayLike, *, n: int | None = None, confidence: float = 0.95) -> Interval:
    """Pearson's r of two lists with `fisher_limits`.

    `n` (default: the number of items) is lower where items are not independent: what was drawn independently. NaN for
    a constant list. Raises ValueError as `correlations_of_many`.
    """
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    _check(first.ndim == 1 and first.shape == second.shape, first.size, first, second)
    independent = int(first.size) if n is None else n
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return Interval(math.nan, math.nan, math.nan, independent, confidence)
    value = float(pearson(first, second))
    return Interval(value, *fisher_limits(value, independent, confidence), independent, confidence)


def correlation_difference(first: ArrayLike, second: ArrayLike, y: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Pearson's r of `first` with y minus that of `second` with y, over the same items.

    The interval combines those of the two coefficients, which depend on each other through y (Zou, Psychological
    Methods 12, 2007, equation 15; `fisher_limits` for each). Everything is NaN where a list is constant. Raises
    ValueError as `correlations_of_many`.
    """
    a, b, outcome = (np.asarray(values, dtype=np.float64) for values in (first, second, y))
    _check(a.ndim == 1 and a.shape == b.shape == outcome.shape, a.size, a, b, outcome)
    n = int(a.size)
    if any(np.ptp(values) == 0 for values in (a, b, outcome)):
        return Interval(math.nan, math.nan, math.nan, n, confidence)
    r1, r2, between = float(pearson(a, outcome)), float(pearson(b, outcome)), float(pearson(a, b))
    (low1, high1), (low2, high2) = fisher_limits(r1, n, confidence), fisher_limits(r2, n, confidence)
    spread = (1 - r1**2) * (1 - r2**2)
    shared = ((between - r1 * r2 / 2) * (1 - r1**2 - r2**2 - between**2) + between**3) / spread if spread > 0 else 0.0
    shared = min(max(shared, -1.0), 1.0)

    def distance(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one**2 + other**2 - 2 * shared * one * other))

    gap = r1 - r2
    low, high = gap - distance(r1 - low1, high2 - r2), gap + distance(high1 - r1, r2 - low2)
    return Interval(gap, low, high, n, confidence)


def correlation_over_seeds(
    x: ArrayLike,
    y: ArrayLike,
    *,
    generator: np.random.Generator,
    same_items: bool,
    method: CorrelationMethod = CorrelationMethod.pearson,
    confidence: float = 0.95,
    resamples: int = 1999,
) -> SeedCorrelation:
    """Correlation over items within each seed, [items, seeds] both; mean over seeds, Student's interval over seeds.

    The interval is about further seeds with these items, or with items drawn anew in each seed. The two-sided
    permutation p is for the mean: items are permuted, alike in all seeds where they are the `same_items` (all orders
    of them where there are few), else in every seed on its own. Raises ValueError as `correlations_of_many` does, and
    for a variable that is constant within a seed.
    """
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    _check(first.ndim == 2 and first.shape == second.shape, len(first), first, second)
    if (np.ptp(first, axis=0) == 0).any() or (np.ptp(second, axis=0) == 0).any():
        raise ValueError("a variable is the same for all items of a seed: it has no correlation")
    items, seeds = first.shape
    a, b = first.T, second.T
    if method is CorrelationMethod.spearman:
        a, b = _ranks(a), _ranks(b)
    by_seed = pearson(a, b)
    if same_items:
        orders, extra = _orders(items, resamples, generator)
        orders = orders[:, None, :]
    else:
        every = np.broadcast_to(np.arange(items), (resamples, seeds, items))
        orders, extra = generator.permuted(every, axis=-1), 1
    permuted = np.take_along_axis(a[None], np.broadcast_to(orders, (len(orders), seeds, items)), axis=-1)
    permutation_p = _two_sided_p(float(by_seed.mean()), pearson(permuted, b[None]).mean(axis=-1), extra)
    mean = student_interval(by_seed, confidence=confidence)
    return SeedCorrelation(
        mean.value, mean.low, mean.high, seeds, confidence, items, permutation_p, tuple(by_seed.tolist())
    )


def pearson(a: Floats, b: Floats) -> Floats:
    """Pearson's r along the last axis; NaN for a constant list."""
    a = a - a.mean(axis=-1, keepdims=True)
    b = b - b.mean(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((a * b).sum(axis=-1) / np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1)))


def _check(fits: bool, items: int, *lists: Floats) -> None:
    if not fits or items < 3:
        shapes = ", ".join(str(values.shape) for values in lists)
        raise ValueError(f"a correlation needs lists of the same length, at least 3 items, not {shapes}")
    if not all(np.isfinite(values).all() for values in lists):
        raise ValueError("a correlation needs finite numbers: drop the items with NaN or infinity first")


def _orders(n: int, resamples: int, generator: np.random.Generator) -> tuple[Orders, int]:
    """All orders of n items, else `resamples` random ones; and how many observed orders are to be added to them."""
    if math.factorial(n) <= resamples:
        return np.array(list(permutations(range(n)))), 0  # the observed order is among them
    return generator.permuted(np.broadcast_to(np.arange(n), (resamples, n)), axis=-1), 1


def _two_sided_p(value: float, null: Floats, extra: int) -> float:
    """Twice the smaller tail, as scipy's permutation tests; `extra` counts the observed order where it is not drawn."""
    margin = 1e-12 * abs(value)
    tail = min(int((null >= value - margin).sum()), int((null <= value + margin).sum()))
    return min(1.0, 2 * (tail + extra) / (len(null) + extra))


def _ranks(values: Floats) -> Floats:
    return np.asarray(stats.rankdata(values, axis=-1), dtype=np.float64)
