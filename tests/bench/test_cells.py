"""Cells of `rl-exp bench`: what is compared computes the same, and ceilings belong to the present threads."""

import pytest
import torch

from experiments.benchmarks.ceilings import measure_ceilings
from experiments.benchmarks.cells import AttentionCell, Timing, cell_calls
from experiments.models.shapes import AttentionMechanism, AttentionShape

EAGER_STOCK_PATHS = ("sdpa", "matmul_query_key", "matmul_key_query")  # flex attention compiles for many seconds


def cell(mechanism: str, **fields) -> AttentionCell:
    shape = AttentionShape(mechanism=AttentionMechanism(mechanism), hidden_size=64, query_heads=4, head_dim=16)
    return AttentionCell(**({"shape": shape, "batch": 2, "context_length": 50} | fields))


@pytest.mark.parametrize("mechanism", AttentionMechanism)
@pytest.mark.parametrize("query_length", [1, 3])
def test_stock_paths_compute_what_our_kernels_compute(mechanism, query_length):
    """A comparison of speed is worth something only between equal results."""
    calls = cell_calls(
        cell(mechanism, query_length=query_length, page_size=16), ["reference", "cpu"], EAGER_STOCK_PATHS
    )
    expected = calls["reference"]()
    torch.testing.assert_close(calls["cpu"](), expected, rtol=1e-5, atol=1e-5)
    for name in EAGER_STOCK_PATHS:
        torch.testing.assert_close(calls[name]().transpose(1, 2), expected, rtol=1e-5, atol=1e-5)


def test_timing_keeps_order_statistics():
    timing = Timing.of([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (timing.best, timing.lower_quartile, timing.median, timing.upper_quartile) == (1.0, 2.0, 3.0, 4.0)


def test_an_unknown_stock_path_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="sdpa, flex"):
        cell_calls(cell("gqa", context_length=4), [], ["triton"])


def test_ceilings_are_measured_with_the_current_threads():
    ceilings = measure_ceilings(repeats=1)
    assert min(ceilings.memory_read_bytes, ceilings.cache_read_bytes, ceilings.fp32_matmul_flops) > 0
    assert ceilings.fp32_flops >= ceilings.fp32_matmul_flops
    assert ceilings.threads == torch.get_num_threads()
