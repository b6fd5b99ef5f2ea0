"""Correlations: agreement with scipy, coverage, exact permutation p, and edges."""

import math

import numpy as np
import pytest
from scipy import stats

from experiments.reward_metrics.correlations import (
    CorrelationMethod,
    correlation_difference,
    correlation_over_seeds,
    correlations_of_many,
    fisher_interval,
    student_interval,
)


def one(x, y, generator, **settings):
    (found,) = correlations_of_many([x], y, generator=generator, **settings)
    return found


def test_coefficients_agree_with_scipy():
    generator = np.random.default_rng(0)
    x = generator.normal(size=20)
    y = x + generator.normal(size=20)
    y[3] = y[4]  # a tie
    pearson = one(x, y, generator, resamples=200)
    spearman = one(x, y, generator, method=CorrelationMethod.spearman, resamples=200)
    assert pearson.value == pytest.approx(stats.pearsonr(x, y)[0])
    assert spearman.value == pytest.approx(stats.spearmanr(x, y)[0])
    assert pearson.low < pearson.value < pearson.high
    assert pearson.n == 20


@pytest.mark.parametrize("seed", range(4))
def test_the_permutation_p_is_scipys(seed):
    """Skewed numbers, whose two tails differ: twice the smaller one."""
    generator = np.random.default_rng(seed)
    x, y = generator.exponential(size=(2, 6)) ** 2
    exact = stats.pearsonr(x, y, method=stats.PermutationMethod()).pvalue
    assert one(x, y, generator).permutation_p == pytest.approx(exact)
    seeds = correlation_over_seeds(x[:, None], y[:, None], generator=generator, same_items=True)
    assert seeds.permutation_p == pytest.approx(exact)


def test_permutation_p_of_six_points_is_exact():
    """Perfect rank agreement of six points: 2 of 720 orders are as extreme."""
    for method in CorrelationMethod:
        result = one(range(6), [1, 2, 3, 4, 5, 7], np.random.default_rng(0), method=method)
        assert result.permutation_p == pytest.approx(2 / 720)


def test_the_interval_of_independent_data_usually_contains_zero():
    generator = np.random.default_rng(1)
    results = [one(*generator.normal(size=(2, 25)), generator, resamples=400) for _ in range(60)]
    assert sum(not result.excludes(0) for result in results) >= 50
    assert sum(result.permutation_p < 0.05 for result in results) <= 8


def test_a_constant_list_has_no_correlation():
    found = correlations_of_many([[1, 1, 1, 1], [1, 2, 3, 5]], [1, 2, 3, 4], generator=np.random.default_rng(0))
    assert math.isnan(found[0].value)
    assert not found[0].excludes(0)
    assert found[1].value > 0.9


def test_equal_seeds_have_an_interval_of_no_width_and_one_seed_has_none():
    same = student_interval([2.0] * 5)
    assert (same.low, same.value, same.high, same.n) == (2, 2, 2, 5)
    assert math.isnan(student_interval([1.0]).low)
    assert math.isnan(student_interval([1.0, math.inf]).low)


def test_nan_short_and_unequal_lists_are_refused():
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match="same length"):
        correlations_of_many([[1, 2, 3]], [1, 2], generator=generator)
    with pytest.raises(ValueError, match="finite"):
        correlations_of_many([[1, 2, math.nan]], [1, 2, 3], generator=generator)
    with pytest.raises(ValueError, match="at least one number"):
        student_interval([])


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
    assert own.permutation_p == pytest.approx(2 / 501)


def test_correlation_over_seeds_refuses_what_it_cannot_correlate():
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match="at least 3 items"):
        correlation_over_seeds(np.ones((2, 4)), np.ones((2, 4)), generator=generator, same_items=True)
    with pytest.raises(ValueError, match="same for all items"):
        correlation_over_seeds(np.ones((4, 2)), np.arange(8.0).reshape(4, 2), generator=generator, same_items=True)


def test_a_difference_of_correlations_knows_that_both_share_the_outcome():
    generator = np.random.default_rng(0)
    y = generator.normal(size=30)
    good, bad = y + 0.2 * generator.normal(size=30), generator.normal(size=30)
    difference = correlation_difference(good, bad, y)
    assert difference.value == pytest.approx(np.corrcoef(good, y)[0, 1] - np.corrcoef(bad, y)[0, 1])
    assert difference.low > 0
    twin = correlation_difference(bad, bad + 0.01 * generator.normal(size=30), y)
    assert twin.low < 0 < twin.high
    assert twin.high - twin.low < 0.1  # alone, each coefficient has an interval of about .7
    assert math.isnan(correlation_difference(np.ones(30), good, y).value)


def test_students_interval_of_three_numbers():
    interval = student_interval([1.0, 2.0, 3.0])
    half = 4.302653 / 3**0.5
    assert (interval.value, interval.low, interval.high) == pytest.approx((2, 2 - half, 2 + half), abs=1e-5)


def test_fishers_interval_is_scipys_with_students_quantile():
    generator = np.random.default_rng(0)
    x = generator.normal(size=200)
    y = x + generator.normal(size=200)
    reference = stats.pearsonr(x, y).confidence_interval()
    interval = fisher_interval(x, y)
    assert (interval.low, interval.high) == pytest.approx((reference.low, reference.high), abs=0.002)
    few = stats.pearsonr(x[:8], y[:8]).confidence_interval()
    small = fisher_interval(x[:8], y[:8])
    assert small.low < few.low < few.high < small.high
    dependent = fisher_interval(x[:12], y[:12], n=6)
    assert dependent.n == 6
    assert dependent.low < fisher_interval(x[:12], y[:12]).low
    assert math.isnan(fisher_interval(x[:3], y[:3]).low)


def test_a_null_is_outside_fishers_interval_no_more_often_than_it_says():
    generator = np.random.default_rng(4)
    draws = [fisher_interval(*generator.normal(size=(2, 8))) for _ in range(400)]
    assert sum(interval.excludes(0) for interval in draws) <= 28  # 5 % of 400 are 20
