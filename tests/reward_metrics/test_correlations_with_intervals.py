"""Correlations: agreement with scipy, coverage, exact permutation p, and edges."""

import math

import numpy as np
import pytest
from scipy import stats

from experiments.reward_metrics.correlations import (
    CorrelationMethod,
    correlation,
    correlation_difference,
    correlation_over_seeds,
    correlations_of_many,
    fisher_interval,
    mean_interval,
    statistic_interval,
    student_interval,
)


def test_coefficients_agree_with_scipy():
    generator = np.random.default_rng(0)
    x = generator.normal(size=20)
    y = x + generator.normal(size=20)
    y[3] = y[4]  # a tie
    pearson = correlation(x, y, generator=generator, resamples=200)
    spearman = correlation(x, y, generator=generator, method=CorrelationMethod.spearman, resamples=200)
    assert pearson.value == pytest.approx(stats.pearsonr(x, y)[0])
    assert spearman.value == pytest.approx(stats.spearmanr(x, y)[0])
    assert pearson.low < pearson.value < pearson.high
    assert pearson.n == 20


def test_permutation_p_of_six_points_is_exact():
    """Perfect rank agreement of six points: 2 of 720 orders are as extreme."""
    result = correlation(
        range(6), [1, 2, 3, 4, 5, 7], generator=np.random.default_rng(0), method=CorrelationMethod.spearman
    )
    assert result.value == pytest.approx(1)
    assert result.permutation_p == pytest.approx(2 / 720)


def test_the_interval_of_independent_data_usually_contains_zero():
    generator = np.random.default_rng(1)
    results = [correlation(*generator.normal(size=(2, 25)), generator=generator, resamples=400) for _ in range(60)]
    assert sum(not result.excludes(0) for result in results) >= 50
    assert sum(result.permutation_p < 0.05 for result in results) <= 8


def test_a_constant_list_has_no_correlation():
    result = correlation([1, 1, 1, 1], [1, 2, 3, 4], generator=np.random.default_rng(0))
    assert math.isnan(result.value)
    assert not result.excludes(0)


def test_mean_interval_covers_the_mean_and_degenerate_seeds_have_no_width():
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(60):
        interval = mean_interval(generator.normal(3, 1, size=20), generator=generator, resamples=400)
        covered += interval.low <= 3 <= interval.high
    assert covered >= 50
    same = mean_interval([2.0] * 5, generator=generator)
    assert (same.low, same.value, same.high, same.n) == (2, 2, 2, 5)
    alone = mean_interval([2.0], generator=generator)
    assert math.isnan(alone.low)
    median = statistic_interval([1.0, 2.0, 3.0, 4.0, 100.0], np.median, generator=generator)
    assert median.value == 3


def test_nan_short_and_unequal_lists_are_refused():
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match="same length"):
        correlation([1, 2, 3], [1, 2], generator=generator)
    with pytest.raises(ValueError, match="finite"):
        correlation([1, 2, math.nan], [1, 2, 3], generator=generator)
    with pytest.raises(ValueError, match="at least one number"):
        mean_interval([], generator=generator)


def test_correlation_over_seeds_is_the_mean_of_the_seeds_own():
    generator = np.random.default_rng(3)
    x = generator.normal(size=(8, 5))
    y = x + generator.normal(size=(8, 5))
    for method, reference in (
        (CorrelationMethod.pearson, stats.pearsonr),
        (CorrelationMethod.spearman, stats.spearmanr),
    ):
        result = correlation_over_seeds(x, y, generator=generator, same_items=False, method=method, resamples=300)
        own = [reference(x[:, seed], y[:, seed])[0] for seed in range(5)]
        assert result.by_seed == pytest.approx(own)
        assert result.value == pytest.approx(np.mean(own))
        assert (result.n, result.items) == (5, 8)


def test_few_shared_items_bound_the_permutation_p_however_many_seeds_there_are():
    """Four reward models seen in 50 seeds are still four: 24 orders, of which 2 are as extreme."""
    generator = np.random.default_rng(4)
    x = np.repeat(np.arange(4.0)[:, None], 50, axis=1)
    y = x + 0.01 * generator.normal(size=(4, 50))
    shared = correlation_over_seeds(x, y, generator=generator, same_items=True, resamples=500)
    assert shared.permutation_p == pytest.approx(2 / 24)
    own = correlation_over_seeds(x, y, generator=generator, same_items=False, resamples=500)
    assert own.permutation_p == pytest.approx(1 / 501)


def test_correlation_over_seeds_refuses_what_it_cannot_correlate():
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match="at least 3 items"):
        correlation_over_seeds(np.ones((2, 4)), np.ones((2, 4)), generator=generator, same_items=True)
    with pytest.raises(ValueError, match="same for all items"):
        correlation_over_seeds(np.ones((4, 2)), np.arange(8.0).reshape(4, 2), generator=generator, same_items=True)


@pytest.mark.parametrize("method", CorrelationMethod)
@pytest.mark.parametrize("items", [6, 14])
def test_many_correlations_at_once_are_those_of_one_at_a_time(method, items):
    generator = np.random.default_rng(0)
    y = generator.normal(size=items)
    xs = np.stack([y + scale * generator.normal(size=items) for scale in (0.3, 1.0, 5.0)] + [np.ones(items)])
    together = correlations_of_many(xs, y, generator=generator, method=method, resamples=4000)
    alone = [correlation(x, y, generator=generator, method=method, resamples=4000) for x in xs]
    for one, other in zip(together[:3], alone[:3], strict=True):
        assert one.value == pytest.approx(other.value)
        assert one.permutation_p == pytest.approx(other.permutation_p, abs=0.03)
        assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.15)
        assert one.n == items
    assert math.isnan(together[3].value)


def test_few_permutations_are_taken_all():
    (result,) = correlations_of_many([range(6)], [1, 2, 3, 4, 5, 7], generator=np.random.default_rng(0))
    spearman = correlations_of_many(
        [range(6)], [1, 2, 3, 4, 5, 7], generator=np.random.default_rng(0), method=CorrelationMethod.spearman
    )
    assert result.permutation_p == pytest.approx(2 / 720)
    assert spearman[0].permutation_p == pytest.approx(2 / 720)


def test_a_difference_of_correlations_is_taken_on_the_same_resamples():
    generator = np.random.default_rng(0)
    y = generator.normal(size=30)
    good, bad = y + 0.2 * generator.normal(size=30), generator.normal(size=30)
    difference = correlation_difference(good, bad, y, generator=generator)
    assert difference.value == pytest.approx(np.corrcoef(good, y)[0, 1] - np.corrcoef(bad, y)[0, 1])
    assert difference.low > 0
    same = correlation_difference(good, 2 * good, y, generator=generator)
    assert (same.value, same.low, same.high) == pytest.approx((0, 0, 0), abs=1e-12)
    assert math.isnan(correlation_difference(np.ones(30), good, y, generator=generator).value)


def test_students_interval_of_three_numbers():
    interval = student_interval([1.0, 2.0, 3.0])
    half = 4.302653 / 3**0.5
    assert (interval.value, interval.low, interval.high) == pytest.approx((2, 2 - half, 2 + half), abs=1e-5)
    assert math.isnan(student_interval([1.0]).low)


def test_fishers_interval_is_never_inside_the_bootstrap():
    generator = np.random.default_rng(0)
    x = generator.normal(size=12)
    y = x + generator.normal(size=12)
    interval = fisher_interval(x, y, generator=generator)
    z, half = math.atanh(interval.value), 1.959964 / 3
    assert interval.low <= math.tanh(z - half) + 1e-6
    assert interval.high >= math.tanh(z + half) - 1e-6
    wider = fisher_interval(x, y, generator=generator, degrees_of_freedom=4)
    assert wider.high - wider.low > interval.high - interval.low
    assert math.isnan(fisher_interval(x[:3], y[:3], generator=generator).low)


def test_a_null_is_outside_fishers_interval_about_as_often_as_it_says():
    generator = np.random.default_rng(4)
    draws = [fisher_interval(*generator.normal(size=(2, 8)), generator=generator, resamples=300) for _ in range(150)]
    assert sum(interval.excludes(0) for interval in draws) <= 14  # 5 % of 150 are 7.5
