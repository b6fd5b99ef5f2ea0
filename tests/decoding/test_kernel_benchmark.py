import pytest
import torch
from decode_cases import MECHANISMS, small_shape

from experiments.decoding.kernel_benchmark import AttentionCell, Timing, cell_calls, measure_cells
from experiments.decoding.machine import measure_ceilings

EAGER_STOCK_PATHS = ("sdpa", "matmul_query_key", "matmul_key_query")  # flex attention compiles for many seconds


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("query_length", [1, 3])
def test_stock_paths_compute_what_our_kernels_compute(mechanism, query_length):
    """A comparison of speed is worth something only between equal results."""
    cell = AttentionCell(
        shape=small_shape(mechanism), batch=2, context_length=50, query_length=query_length, page_size=16
    )
    calls = cell_calls(cell, ["reference", "cpu"], EAGER_STOCK_PATHS)
    expected = calls["reference"]()
    torch.testing.assert_close(calls["cpu"](), expected, rtol=1e-5, atol=1e-5)
    for name in EAGER_STOCK_PATHS:
        torch.testing.assert_close(calls[name]().transpose(1, 2), expected, rtol=1e-5, atol=1e-5)


def test_cells_are_measured_with_their_limits():
    cells = {m: AttentionCell(shape=small_shape(m), batch=1, context_length=64) for m in ("gqa", "gta")}
    results = measure_cells(cells, stock=("sdpa",), rounds=3, warm_up=1)
    assert set(results) == {"gqa", "gta"}
    for result in results.values():
        assert set(result.timings) == {"cpu", "sdpa"}
        assert result.best_stock() == "sdpa"
        assert result.fraction_of_limit("cpu") == result.floor_seconds / result.timings["cpu"].median
        assert result.floor_seconds >= result.cost.bytes / result.memory_read_bytes


def test_timing_keeps_order_statistics():
    timing = Timing.of([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (timing.best, timing.lower_quartile, timing.median, timing.upper_quartile) == (1.0, 2.0, 3.0, 4.0)


def test_an_unknown_stock_path_is_refused_with_the_known_ones():
    cell = AttentionCell(shape=small_shape("gqa"), batch=1, context_length=4)
    with pytest.raises(ValueError, match="sdpa, flex"):
        cell_calls(cell, [], ["triton"])


def test_ceilings_are_measured_with_the_current_threads():
    ceilings = measure_ceilings(repeats=1)
    assert min(ceilings.memory_read_bytes, ceilings.cache_read_bytes, ceilings.fp32_matmul_flops) > 0
    assert ceilings.fp32_flops >= ceilings.fp32_matmul_flops
    assert ceilings.threads == torch.get_num_threads()
