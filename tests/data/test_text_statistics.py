"""Entropies against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from experiments.data.text_statistics import (
    bits_per_byte,
    unigram_cross_entropy,
    unigram_entropy,
    vocabulary_coverage,
)


def test_unigram_entropy_by_hand():
    """Frequencies 1/2, 1/4, 1/4: 1.5 bits."""
    assert unigram_entropy(np.array([2, 1, 0, 1])) == pytest.approx(1.5 * math.log(2), rel=1e-12)
    assert unigram_entropy(np.array([0, 7, 0])) == 0
    assert unigram_entropy(np.full(8, 5)) == pytest.approx(math.log(8), rel=1e-12)


def test_unigram_cross_entropy_by_hand():
    """Training counts (3, 0, 1) smoothed to 4/7, 1/7, 2/7; held-out text: tokens 0, 1, 1, 2."""
    expected = -(math.log(4 / 7) + 2 * math.log(1 / 7) + math.log(2 / 7)) / 4
    assert unigram_cross_entropy(np.array([3, 0, 1]), np.array([1, 2, 1])) == pytest.approx(expected, rel=1e-12)


def test_vocabulary_coverage_counts_tokens_that_occur():
    assert vocabulary_coverage(np.array([3, 0, 1, 9])) == 0.75


def test_bits_per_byte_of_uniform_bytes_is_eight():
    assert bits_per_byte(math.log(256), 1.0) == pytest.approx(8, rel=1e-12)
    assert bits_per_byte(math.log(16), 0.5) == pytest.approx(2, rel=1e-12)


@pytest.mark.parametrize("function", [unigram_entropy, lambda counts: unigram_cross_entropy(np.ones(3), counts)])
def test_empty_text_has_no_entropy(function):
    with pytest.raises(ValueError, match="empty text"):
        function(np.zeros(3, dtype=np.int64))
