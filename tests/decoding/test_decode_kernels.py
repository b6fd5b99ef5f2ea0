import dataclasses

import pytest
import torch
from decode_cases import MECHANISMS, decode_case, oracle, small_shape
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.decoding.attention import attend
from experiments.decoding.cache import STORAGE_DTYPES, CacheLayer

KERNELS = ("reference", "cpu")


def run(case, kernel):
    return attend(case.shape, case.queries, case.layer, case.lengths, kernel=kernel)


def assert_matches_oracle(case, kernel, tolerance=2e-5):
    outputs = run(case, kernel)
    assert outputs.dtype == torch.float32
    assert outputs.shape == (*case.queries.shape[:3], case.shape.absorbed_value_dim)
    torch.testing.assert_close(outputs.double(), oracle(case), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("query_length", [1, 2, 4])
def test_ragged_batches_match_the_oracle(kernel, mechanism, query_length):
    """Lengths 0 and 1, shorter than the query length, off the page grid; pages scrambled, unused slots NaN."""
    case = decode_case(small_shape(mechanism), [37, 0, 1, 16, 3, 150], query_length=query_length, page_size=16)
    assert_matches_oracle(case, kernel)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("page_size", [1, 2, 7, 64, 500])
def test_page_size_does_not_change_the_result(kernel, page_size):
    case = decode_case(small_shape("gta"), [130, 5], query_length=2, page_size=page_size)
    assert_matches_oracle(case, kernel)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_half_precision_storage_is_widened_exactly(kernel, mechanism, dtype):
    """The oracle reads the same rounded rows, so only the arithmetic's own rounding is left."""
    case = decode_case(small_shape(mechanism), [70, 2, 33], query_length=2, dtype=dtype)
    assert_matches_oracle(case, kernel)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("head_dim", [64, 62])
def test_every_fp16_number_is_read_exactly(kernel, head_dim):
    """Subnormals and the largest ones too: attention over one token gives its value."""
    numbers = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(torch.float16)
    numbers = numbers[numbers.isfinite()][: 900 * head_dim].view(-1, 1, head_dim)
    batch = len(numbers)
    layer = CacheLayer(
        torch.cat((torch.zeros_like(numbers), numbers), dim=-1), torch.arange(batch, dtype=torch.int32)[:, None]
    )
    queries, lengths = torch.zeros(batch, 1, 1, head_dim), torch.ones(batch, dtype=torch.int32)
    outputs = attend(small_shape("mha", 1, head_dim), queries, layer, lengths, kernel=kernel)
    assert torch.equal(outputs[:, 0], numbers.float())


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_extreme_logits_neither_overflow_nor_vanish(kernel, mechanism):
    case = decode_case(small_shape(mechanism), [90, 300], query_length=2, scale=1e4)
    assert_matches_oracle(case, kernel)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_batch_without_tokens_gives_zeros(kernel):
    case = decode_case(small_shape("mla"), [0, 0], query_length=3)
    assert run(case, kernel).eq(0).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_queries_before_the_first_token_give_zeros(kernel):
    case = decode_case(small_shape("gqa"), [2], query_length=4)
    outputs = run(case, kernel)
    assert outputs[:, :2].eq(0).all()
    assert outputs[:, 2:].ne(0).any()


@pytest.mark.parametrize("kernel", KERNELS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_shape_matches_the_oracle(kernel, data):
    mechanism = data.draw(st.sampled_from(MECHANISMS))
    heads = data.draw(st.integers(1, 3))
    group = data.draw(st.sampled_from([1, 2, 3, 5, 6, 8, 17]))
    head_dim = 2 * data.draw(st.integers(1, 24))
    fields = {}
    if mechanism in ("gta", "mla", "gla"):
        fields["rope_dim"] = 2 * data.draw(st.integers(1, head_dim // 2))
    if mechanism in ("mla", "gla"):
        fields["latent_dim"] = data.draw(st.integers(1, 70))
    lengths = data.draw(st.lists(st.integers(0, 90), min_size=1, max_size=4))
    query_length = data.draw(st.integers(1, 5))
    page_size = data.draw(st.integers(1, 70))
    dtype = data.draw(st.sampled_from(STORAGE_DTYPES))
    shape = small_shape(mechanism, heads * group, head_dim, heads, **fields)
    case = decode_case(shape, lengths, query_length=query_length, page_size=page_size, dtype=dtype)
    assert_matches_oracle(case, kernel)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize(("query_heads", "head_dim"), [(12, 64), (8, 128)])
@pytest.mark.parametrize("query_length", [1, 3])
def test_shapes_of_real_models_match_the_oracle(kernel, mechanism, query_heads, head_dim, query_length):
    """Whole vectors, rows read where they lie, groups that need several blocks, sequences of several chunks."""
    shape = small_shape(mechanism, query_heads, head_dim)
    assert_matches_oracle(decode_case(shape, [301, 64, 7], query_length=query_length, page_size=400), kernel)
    assert_matches_oracle(
        decode_case(shape, [140, 2], query_length=query_length, page_size=64, dtype=torch.bfloat16), kernel
    )


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_sequence_of_many_chunks_matches_the_oracle(mechanism):
    case = decode_case(small_shape(mechanism, 2), [2500], query_length=2, page_size=64)
    assert_matches_oracle(case, "cpu")


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("dtype", STORAGE_DTYPES)
def test_threads_and_neighbours_do_not_change_a_bit_of_a_sequences_result(mechanism, dtype):
    case = decode_case(small_shape(mechanism, 8), [700, 40, 1300], query_length=2, dtype=dtype)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = [
            attend(
                case.shape,
                case.queries[b : b + 1],
                CacheLayer(case.layer.storage, case.layer.page_table[b : b + 1]),
                case.lengths[b : b + 1],
                kernel="cpu",
            )
            for b in range(3)
        ]
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            assert torch.equal(run(case, "cpu"), torch.cat(alone))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(("entry", "length"), [(99, 20), (-1, 20), (0, 1000)])
def test_a_page_table_that_does_not_cover_a_sequence_is_refused(entry, length):
    """The compiled kernel checks what it would read before it reads."""
    case = decode_case(small_shape("gqa"), [20, 20])
    case.layer.page_table[1, 0] = entry
    case.lengths[1] = length
    with pytest.raises(ValueError, match="sequence 1"):
        run(case, "cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": torch.zeros(1, 1, 4, 15)}, "do not fit gqa"),
        ({"queries": torch.zeros(2, 1, 4, 16)}, "1 sequences"),
        ({"shape": small_shape("gta")}, "which caches 72"),
        (
            {"lengths": torch.zeros(2, dtype=torch.int32), "queries": torch.zeros(2, 1, 4, 16)},
            "page table of 1",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(change, message):
    case = dataclasses.replace(decode_case(small_shape("gqa"), [3]), **change)
    with pytest.raises(ValueError, match=message):
        run(case, "reference")


def test_an_unknown_kernel_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="reference, cpu"):
        run(decode_case(small_shape("gqa"), [3]), "cuda")
