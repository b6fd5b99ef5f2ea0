"""Correlations and means that carry their uncertainty: n, a bootstrap interval, a permutation p.

The papers' correlations rest on 6 and 13 reward models. With n = 6, |Spearman| must reach .886 for a two-sided p of
.05, so a coefficient without n and interval says little.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]


class CorrelationMethod(StrEnum):
    """Linear correlation, or correlation of ranks (ties get their mean rank)."""

    pearson = "pearson"
    spearman = "spearman"


@dataclass(frozen=True)
class Interval:
    """A point estimate with a bootstrap interval."""

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
    """A correlation coefficient with a bootstrap interval and a two-sided permutation p."""

    permutation_p: float = math.nan
    method: CorrelationMethod = CorrelationMethod.pearson

    def __str__(self) -> str:
        return f"{self.value:+.2f} [{self.low:+.2f}, {self.high:+.2f}] (n={self.n}, p={self.permutation_p:.3g})"


def correlation(
    x: ArrayLike,
    y: ArrayLike,
    *,
    generator: np.random.Generator,
    method: CorrelationMethod = CorrelationMethod.pearson,
    confidence: float = 0.95,
    resamples: int = 9999,
) -> Correlation:
    """Correlation of two equally long lists, with a percentile bootstrap interval over pairs and a permutation p.

    The permutation test is exact for up to 7 pairs (all n! orders) and Monte Carlo beyond. A bootstrap resample in
    which one variable is constant has no coefficient and is left out of the interval. A constant list has no
    correlation: every number is then NaN. Raises ValueError for unequal lengths, NaN, or fewer than 3 pairs.
    """
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape or first.size < 3:
        raise ValueError(
            f"a correlation needs two lists of the same length, at least 3, not {first.shape} and {second.shape}"
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("a correlation needs finite numbers: drop the pairs with NaN or infinity first")
    n = int(first.size)
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return Correlation(math.nan, math.nan, math.nan, n, confidence, math.nan, method)

    def coefficient(a: Floats, b: Floats, axis: int = -1) -> Floats:
        a, b = np.moveaxis(np.asarray(a), axis, -1), np.moveaxis(np.asarray(b), -1 if b is second else axis, -1)
        return _pearson(_ranks(a), _ranks(b)) if method is CorrelationMethod.spearman else _pearson(a, b)

    with _degenerate_resamples_allowed():
        distribution = stats.bootstrap(
            (first, second),
            coefficient,
            paired=True,
            vectorized=True,
            n_resamples=resamples,
            batch=2000,
            method="percentile",
            rng=generator,
        ).bootstrap_distribution
        tail = 50 * (1 - confidence)
        low, high = np.nanpercentile(distribution, [tail, 100 - tail])
        permutation_p = stats.permutation_test(
            (first,),
            lambda permuted, axis=-1: coefficient(permuted, second, axis),
            permutation_type="pairings",
            vectorized=True,
            n_resamples=resamples,
            batch=2000,
            rng=generator,
        ).pvalue
    value = float(coefficient(first, second))
    return Correlation(value, float(low), float(high), n, confidence, float(permutation_p), method)


def correlations_of_many(
    xs: ArrayLike,
    y: ArrayLike,
    *,
    generator: np.random.Generator,
    method: CorrelationMethod = CorrelationMethod.pearson,
    confidence: float = 0.95,
    resamples: int = 1999,
) -> list[Correlation]:
    """`correlation` of each row of `xs` [K, n] with y [n], all on the same resamples and permutations: much faster.

    The permutation test is exact where there are no more than `resamples` orders. Raises ValueError as `correlation`.
    """
    rows, outcome = np.asarray(xs, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1:] != outcome.shape or outcome.size < 3:
        raise ValueError(
            f"correlations need [lists, items] and a list of as many items, at least 3, not {rows.shape} and "
            f"{outcome.shape}"
        )
    if not (np.isfinite(rows).all() and np.isfinite(outcome).all()):
        raise ValueError("a correlation needs finite numbers: drop the items with NaN or infinity first")
    n, ranked = int(outcome.size), method is CorrelationMethod.spearman
    drawn = generator.integers(n, size=(resamples, n))
    if math.factorial(n) <= resamples:
        orders = np.array(list(permutations(range(n))))
        extra = 0  # the observed order is among them
    else:
        orders = generator.permuted(np.broadcast_to(np.arange(n), (resamples, n)), axis=-1)
        extra = 1
    whole_outcome = _ranks(outcome) if ranked else outcome
    drawn_outcome = _ranks(outcome[drawn]) if ranked else outcome[drawn]
    tail = 50 * (1 - confidence)
    found = []
    for row in rows:
        if np.ptp(row) == 0 or np.ptp(outcome) == 0:
            found.append(Correlation(math.nan, math.nan, math.nan, n, confidence, math.nan, method))
            continue
        whole, resampled = (_ranks(row), _ranks(row[drawn])) if ranked else (row, row[drawn])
        with _degenerate_resamples_allowed():
            value = float(_pearson(whole, whole_outcome))
            low, high = np.nanpercentile(_pearson(resampled, drawn_outcome), [tail, 100 - tail])
            null = np.abs(_pearson(whole[orders], whole_outcome))
        extreme = int((null >= abs(value) * (1 - 1e-12)).sum())
        permutation_p = (extreme + extra) / (len(orders) + extra)
        found.append(Correlation(value, float(low), float(high), n, confidence, permutation_p, method))
    return found


def correlation_difference(
    first: ArrayLike,
    second: ArrayLike,
    y: ArrayLike,
    *,
    generator: np.random.Generator,
    method: CorrelationMethod = CorrelationMethod.pearson,
    confidence: float = 0.95,
    resamples: int = 9999,
) -> Interval:
    """Correlation of `first` with y minus that of `second`, with a percentile bootstrap interval over items.

    Both are taken on the same resamples. Everything is NaN where a list is constant. Raises ValueError as `correlation`
    does.
    """
    lists = [np.asarray(values, dtype=np.float64) for values in (first, second, y)]
    a, b, outcome = lists
    if a.ndim != 1 or not a.shape == b.shape == outcome.shape or a.size < 3:
        raise ValueError(
            f"a difference of correlations needs three lists of the same length, at least 3, not {a.shape}, {b.shape} "
            f"and {outcome.shape}"
        )
    if not all(np.isfinite(values).all() for values in lists):
        raise ValueError("a correlation needs finite numbers: drop the items with NaN or infinity first")
    n = int(a.size)
    if any(np.ptp(values) == 0 for values in lists):
        return Interval(math.nan, math.nan, math.nan, n, confidence)

    def difference(rows: NDArray[np.intp]) -> Floats:
        drawn = [values[rows] for values in lists]
        if method is CorrelationMethod.spearman:
            drawn = [_ranks(values) for values in drawn]
        return _pearson(drawn[0], drawn[2]) - _pearson(drawn[1], drawn[2])

    with _degenerate_resamples_allowed():
        distribution = difference(generator.integers(n, size=(resamples, n)))
        tail = 50 * (1 - confidence)
        low, high = np.nanpercentile(distribution, [tail, 100 - tail])
    return Interval(float(difference(np.arange(n)[None])[0]), float(low), float(high), n, confidence)


@dataclass(frozen=True)
class SeedCorrelation(Interval):
    """The mean over seeds of a correlation over items (reward models); the interval is over seeds, `n` counts them."""

    items: int = 0
    permutation_p: float = math.nan
    by_seed: tuple[float, ...] = ()


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
    """Correlation over items within each seed, [items, seeds] both; mean over seeds, bootstrap interval over seeds.

    The two-sided permutation p is for that mean: items are permuted, alike in all seeds where they are the `same_items`
    (all orders of them where there are few), else in every seed on its own. Raises ValueError as `correlation` does,
    and for a variable that is constant within a seed.
    """
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if first.ndim != 2 or first.shape != second.shape or first.shape[0] < 3:
        raise ValueError(f"give two [items, seeds] arrays with at least 3 items, not {first.shape} and {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("a correlation needs finite numbers: drop the items with NaN or infinity first")
    if (np.ptp(first, axis=0) == 0).any() or (np.ptp(second, axis=0) == 0).any():
        raise ValueError("a variable is the same for all items of a seed: it has no correlation")
    items, seeds = first.shape
    a, b = first.T, second.T
    if method is CorrelationMethod.spearman:
        a, b = _ranks(a), _ranks(b)
    by_seed = _pearson(a, b)
    if same_items and math.factorial(items) <= resamples:
        orders = np.array(list(permutations(range(items))))[:, None, :]
        extra = 0  # the observed order is among them
    else:
        shape = (resamples, 1 if same_items else seeds, items)
        orders = generator.permuted(np.broadcast_to(np.arange(items), shape), axis=-1)
        extra = 1
    permuted = np.take_along_axis(a[None], np.broadcast_to(orders, (len(orders), seeds, items)), axis=-1)
    null = np.abs(_pearson(permuted, b[None]).mean(axis=-1))
    extreme = int((null >= abs(by_seed.mean()) * (1 - 1e-12)).sum())
    interval = mean_interval(by_seed, generator=generator, confidence=confidence, resamples=resamples)
    return SeedCorrelation(
        interval.value,
        interval.low,
        interval.high,
        seeds,
        confidence,
        items,
        (extreme + extra) / (len(orders) + extra),
        tuple(float(value) for value in by_seed),
    )


@contextmanager
def _degenerate_resamples_allowed() -> Iterator[None]:
    """A bootstrap of few points draws constant resamples, whose coefficient is 0/0: they are left out on purpose."""
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        yield


def _ranks(values: Floats) -> Floats:
    return np.asarray(stats.rankdata(values, axis=-1), dtype=np.float64)


def _pearson(a: Floats, b: Floats) -> Floats:
    a = a - a.mean(axis=-1, keepdims=True)
    b = b - b.mean(axis=-1, keepdims=True)
    scale = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    return np.asarray((a * b).sum(axis=-1) / scale)


def mean_interval(
    values: ArrayLike, *, generator: np.random.Generator, confidence: float = 0.95, resamples: int = 9999
) -> Interval:
    """Mean of one number per seed, with a bias-corrected bootstrap interval over seeds.

    Equal values have the interval [value, value]. Raises ValueError for no values or NaN.
    """
    return statistic_interval(values, np.mean, generator=generator, confidence=confidence, resamples=resamples)


def statistic_interval(
    values: ArrayLike,
    statistic: Any,
    *,
    generator: np.random.Generator,
    confidence: float = 0.95,
    resamples: int = 9999,
) -> Interval:
    """Like `mean_interval` for another statistic that takes `axis` (np.median)."""
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or sample.size == 0 or np.isnan(sample).any():
        raise ValueError(f"an interval needs a list of at least one number and no NaN, not shape {sample.shape}")
    value = float(statistic(sample, axis=-1))
    if sample.size < 2 or not np.isfinite(sample).all() or np.ptp(sample) <= 1e-12 * np.abs(sample).max():
        spread = value if sample.size > 1 else math.nan  # one seed says nothing about the spread
        return Interval(value, spread, spread, int(sample.size), confidence)
    with _degenerate_resamples_allowed():
        result = stats.bootstrap(
            (sample,),
            statistic,
            vectorized=True,
            confidence_level=confidence,
            n_resamples=resamples,
            batch=2000,
            method="BCa" if statistic is np.mean else "percentile",
            rng=generator,
        ).confidence_interval
    return Interval(value, float(result.low), float(result.high), int(sample.size), confidence)


def student_interval(values: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Mean of a few numbers, one per seed, with Student's t interval.

    For two to five seeds, where a bootstrap of so few numbers covers far less than it says. One number has no interval
    (NaN). Raises ValueError for no values or NaN.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or sample.size == 0 or not np.isfinite(sample).all():
        raise ValueError(f"an interval needs a list of at least one finite number, not shape {sample.shape}")
    value, n = float(sample.mean()), int(sample.size)
    if n < 2:
        return Interval(value, math.nan, math.nan, n, confidence)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * sample.std(ddof=1) / math.sqrt(n))
    return Interval(value, value - half, value + half, n, confidence)


def fisher_interval(
    x: ArrayLike,
    y: ArrayLike,
    *,
    generator: np.random.Generator,
    degrees_of_freedom: int | None = None,
    confidence: float = 0.95,
    resamples: int = 1999,
) -> Interval:
    """Pearson's r with the wider of Fisher's interval and a percentile bootstrap over pairs, on either side.

    For a handful of points, where a bootstrap alone is too narrow and Fisher's interval rests on normality.
    `degrees_of_freedom` (default n - 2) is lower where means of groups were taken off. NaN for a constant list; no
    interval below 2 degrees of freedom. Raises ValueError as `correlation` does.
    """
    result = correlation(x, y, generator=generator, confidence=confidence, resamples=resamples)
    free = result.n - 2 if degrees_of_freedom is None else degrees_of_freedom
    if math.isnan(result.value) or free < 2:
        return Interval(result.value, math.nan, math.nan, result.n, confidence)
    half = float(stats.norm.ppf((1 + confidence) / 2)) / math.sqrt(free - 1)
    bounded = min(max(result.value, -1 + 1e-12), 1 - 1e-12)
    low, high = math.tanh(math.atanh(bounded) - half), math.tanh(math.atanh(bounded) + half)
    return Interval(result.value, min(low, result.low), max(high, result.high), result.n, confidence)
