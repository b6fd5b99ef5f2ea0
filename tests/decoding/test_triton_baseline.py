"""The baseline kernel in Triton's interpreter, against the fp64 oracle."""

import pytest
import torch
from decode_cases import MECHANISMS, decode_case, oracle, small_shape

from experiments.decoding.cache import STORAGE_DTYPES

pytest.importorskip("triton")

from experiments.benchmarks.triton_baseline import baseline_attend
from experiments.decoding import triton_attend as launcher

if not launcher.INTERPRETED:
    pytest.skip("triton was imported without TRITON_INTERPRET=1", allow_module_level=True)


def assert_matches_oracle(case, tolerance=2e-5):
    outputs = baseline_attend(case.shape, case.queries, case.layer, case.lengths)
    assert outputs.dtype == torch.float32
    torch.testing.assert_close(outputs.double(), oracle(case), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("dtype", STORAGE_DTYPES)
def test_ragged_batches_match_the_oracle(mechanism, dtype):
    """Lengths 0 and 1, shorter than the query length, several tiles; pages scrambled, unused slots NaN."""
    case = decode_case(small_shape(mechanism, heads=2), [70, 0, 1, 3], query_length=2, page_size=7, dtype=dtype)
    assert_matches_oracle(case)


def test_widths_that_are_no_powers_of_two_match_the_oracle():
    case = decode_case(small_shape("gla", 6, 24, 2, latent_dim=33, rope_dim=6), [40, 2], query_length=3)
    assert_matches_oracle(case)


def test_tensors_it_cannot_read_are_refused():
    case = decode_case(small_shape("gqa"), [3])
    with pytest.raises(ValueError, match="must be int32"):
        baseline_attend(case.shape, case.queries, case.layer, case.lengths.long())
