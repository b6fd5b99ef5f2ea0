import pytest
import torch
from decode_cases import MECHANISMS, decode_case, small_shape
from hypothesis import given
from hypothesis import strategies as st

from experiments.decoding.cache import DecodeCache
from experiments.decoding.cost_model import (
    attention_cost,
    cached_bytes_per_token,
    device_shape,
    duplication_factor,
)


def large(mechanism, query_heads=16, head_dim=128, heads=None):
    return small_shape(mechanism, query_heads, head_dim, heads)


@pytest.mark.parametrize(
    ("mechanism", "bytes_at"),
    [
        ("mha", (8192, 4096, 2048)),
        ("gqa", (2048, 1024, 512)),
        ("gta", (1152, 640, 384)),
        ("gla", (1152, 640, 640)),
        ("mla", (1152, 1152, 1152)),
    ],
)
def test_bytes_per_token_and_device_are_those_of_the_papers_tables(mechanism, bytes_at):
    """Tables 5 and 15: the XL model, bf16, tensor parallelism of 1, 2 and 4; the shard's own shape agrees."""
    for devices, expected in zip((1, 2, 4), bytes_at, strict=True):
        assert cached_bytes_per_token(large(mechanism), tensor_parallel=devices) == expected
        assert cached_bytes_per_token(device_shape(large(mechanism), devices)) == expected


@pytest.mark.parametrize(
    ("mechanism", "heads", "in_head_dims"),
    [
        ("mha", None, (64, 32, 16, 8)),
        ("gqa", 8, (16, 8, 4, 2)),
        ("gta", 8, (8.5, 4.5, 2.5, 1.5)),
        ("gla", 2, (4.5, 2.5, 2.5, 2.5)),
        ("mla", None, (4.5, 4.5, 4.5, 4.5)),
        ("mqa", None, (2, 2, 2, 2)),
    ],
)
def test_llama_sized_example_of_table_26(mechanism, heads, in_head_dims):
    shape = large(mechanism, query_heads=32, heads=heads)
    for devices, expected in zip((1, 2, 4, 8), in_head_dims, strict=True):
        assert shape.cached_elements(devices) / 128 == expected


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_predicted_cache_bytes_are_the_allocated_ones(mechanism, dtype):
    shape, size = small_shape(mechanism, 8), torch.empty(0, dtype=dtype).element_size()
    for devices in (1, 2, 4):
        cache = DecodeCache(device_shape(shape, devices), layers=1, batch_size=3, max_length=20, dtype=dtype)
        cost = attention_cost(shape, [20] * 3, element_bytes=size, tensor_parallel=devices)
        assert cost.cache_bytes == cache.allocated_bytes()


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_query_and_output_bytes_and_operations_follow_from_the_tensors(mechanism):
    case = decode_case(small_shape(mechanism), [9, 2, 0], query_length=3)
    cost = attention_cost(case.shape, [9, 2, 0], query_length=3)
    assert cost.query_bytes == case.queries.nbytes
    heads, d_k, d_v = case.shape.query_heads, case.shape.absorbed_key_dim, case.shape.absorbed_value_dim
    assert cost.output_bytes == 3 * 3 * heads * d_v * 4
    pairs = sum(max(0, n - 3 + t + 1) for n in (9, 2, 0) for t in range(3))
    assert cost.flops == 2 * pairs * heads * (d_k + d_v)


@pytest.mark.parametrize(
    ("mechanism", "query_heads", "head_dim", "heads", "flops_per_token", "intensity"),
    [
        ("gqa", 128, 128, 8, 65_536, 16),
        ("gta", 128, 128, 8, 65_536, 30.1),
        ("mla", 128, 128, None, 278_528, 241.8),
        ("gla", 128, 128, 2, 147_456, 128),
        ("mha", 16, 64, None, 4096, 1),
        ("gqa", 16, 64, 4, 4096, 4),
        ("gta", 16, 64, 4, 4096, 7.1),
        ("mla", 16, 64, None, 17_408, 30.2),
        ("gla", 16, 64, 2, 9216, 16),
        ("gta", 12, 64, 4, 3072, 5.3),
    ],
)
def test_operations_and_intensity_of_known_shapes(mechanism, query_heads, head_dim, heads, flops_per_token, intensity):
    shape = large(mechanism, query_heads, head_dim, heads)
    cost = attention_cost(shape, [1000], element_bytes=2)
    assert cost.flops == 1000 * flops_per_token
    assert cost.flops / cost.cache_bytes == pytest.approx(intensity, abs=0.05)


@given(st.sampled_from(MECHANISMS), st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4, 8]))
def test_duplication_is_how_often_a_cached_head_exists(mechanism, devices, heads):
    shape = small_shape(mechanism, 8, heads=heads)
    held = devices * device_shape(shape, devices).cached_states()[0].heads
    assert held == duplication_factor(shape, devices) * shape.cached_states()[0].heads


def test_the_floor_is_the_slower_of_moving_and_computing():
    cost = attention_cost(large("gqa"), [1000])
    assert cost.floor_seconds(1e9, 1e18) == cost.bytes / 1e9
    assert cost.floor_seconds(1e18, 1e9) == cost.flops / 1e9
    assert cost.is_memory_bound(1e9, 1e18)
    assert not cost.is_memory_bound(1e18, 1e9)


@pytest.mark.parametrize(("devices", "message"), [(3, "query_heads=16"), (0, "tensor_parallel=0")])
def test_impossible_splits_are_refused(devices, message):
    with pytest.raises(ValueError, match=message):
        device_shape(large("gqa"), devices)
