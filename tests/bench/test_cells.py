"""Cells of `rl-exp bench`: what is compared computes the same, and ceilings belong to the present threads."""

import pytest
import torch

from experiments.benchmarks.attention import cell_calls
from experiments.benchmarks.ceilings import measure_ceilings
from experiments.benchmarks.cells import AttentionCell
from experiments.models.shapes import AttentionMechanism, AttentionShape

EAGER_STOCK_KERNELS = ("sdpa", "matmul")  # flex attention compiles for many seconds


def cell(mechanism: str, **fields) -> AttentionCell:
    shape = AttentionShape(mechanism=AttentionMechanism(mechanism), hidden_size=64, query_heads=4, head_dim=16)
    return AttentionCell(**({"mechanism": mechanism, "shape": shape, "batch": 2, "context": 50} | fields))


@pytest.mark.parametrize("mechanism", AttentionMechanism)
@pytest.mark.parametrize("query_length", [1, 3])
def test_stock_kernels_compute_what_our_kernels_compute(mechanism, query_length):
    """A comparison of speed is worth something only between equal results."""
    size = {"query_length": query_length, "page_size": 16}
    expected = cell_calls(cell(mechanism, kernel="reference", **size))["reference"]()
    ours = cell_calls(cell(mechanism, kernel="cpu", **size))["cpu"]()
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    for kernel in EAGER_STOCK_KERNELS:
        for call in cell_calls(cell(mechanism, kernel=kernel, **size)).values():
            torch.testing.assert_close(call().transpose(1, 2), expected, rtol=1e-5, atol=1e-5)


def test_a_time_stands_beside_its_floor_and_its_quartiles():
    row = cell("gqa").speed_columns([5.0, 1.0, 3.0, 2.0, 4.0], bandwidth=1.0, peak_flops=1e9)
    assert (row["seconds_best"], row["seconds_q1"], row["seconds"], row["seconds_q3"]) == (1.0, 2.0, 3.0, 4.0)
    assert (row["bound"], row["floor_seconds"]) == ("memory", cell("gqa").cost().bytes)


def test_an_unknown_stock_kernel_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="sdpa, flex"):
        cell_calls(cell("gqa", kernel="vllm"))


def test_ceilings_are_measured_with_the_current_threads():
    ceilings = measure_ceilings(repeats=1)
    assert min(ceilings.memory_read_bytes, ceilings.cache_read_bytes, ceilings.fp32_matmul_flops) > 0
    assert ceilings.fp32_flops >= ceilings.fp32_matmul_flops
    assert ceilings.threads == torch.get_num_threads()
