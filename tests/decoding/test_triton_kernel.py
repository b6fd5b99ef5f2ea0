"""The Triton kernels in Triton's interpreter, against the fp64 oracle: correctness only, nothing about speed."""

import dataclasses
import sys

import pytest
import torch
from decode_cases import MECHANISMS, decode_case, oracle, small_shape
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.decoding.attention import attend
from experiments.decoding.cache import STORAGE_DTYPES, CacheLayer, DecodeCache
from experiments.decoding.triton_blocks import Blocks

pytest.importorskip("triton")

from experiments.decoding import triton_attend as launcher
from experiments.decoding.triton_attend import triton_attend

if not launcher.INTERPRETED:
    pytest.skip("triton was imported without TRITON_INTERPRET=1", allow_module_level=True)

BLOCKS = Blocks(rows=16, tokens=16, warps=4, depth=1)  # small, so that small cases have several tiles
KINDS = ("gqa", "tied_key_value", "gta", "gla")  # of the kernel: mha and mqa are gqa, mla is gla with one head
ONE_SPLIT, MANY_SPLITS = 1, 1000  # multiprocessors to fill


def two_groups(mechanism, **fields):
    """Two cached heads where a mechanism leaves them open: every program more takes the interpreter milliseconds."""
    return small_shape(mechanism, 2 if mechanism == "mha" else 4, heads=2, **fields)


def run(case, multiprocessors=MANY_SPLITS, blocks=BLOCKS):
    return triton_attend(
        case.shape, case.queries, case.layer, case.lengths, blocks=blocks, multiprocessors=multiprocessors
    )


def assert_matches_oracle(case, outputs, tolerance=2e-5):
    assert outputs.dtype == torch.float32
    assert outputs.shape == (*case.queries.shape[:3], case.shape.absorbed_value_dim)
    torch.testing.assert_close(outputs.double(), oracle(case), rtol=tolerance, atol=tolerance)


def contiguous(case):
    """The same case in a contiguous cache: one run of rows per sequence, in scrambled order, unused rows NaN."""
    batch, longest = len(case.rows), max([len(rows) for rows in case.rows] + [1])
    storage = torch.full((batch + 1, longest + 3, case.shape.cached_elements()), torch.nan).to(case.layer.storage.dtype)
    page_table = torch.arange(batch, 0, -1, dtype=torch.int32)[:, None].contiguous()
    for b, rows in enumerate(case.rows):
        storage[page_table[b, 0], : len(rows)] = rows
    return dataclasses.replace(case, layer=CacheLayer(storage, page_table))


# Every other one of all combinations: any two of a mechanism, a query length and a page size meet
EVERY_PAIR = [
    (mechanism, query_length, page_size)
    for m, mechanism in enumerate(MECHANISMS)
    for t, query_length in enumerate([1, 2, 4])
    for p, page_size in enumerate([None, 1, 16, 64])
    if (m + t + p) % 2 == 0
]


@pytest.mark.parametrize(("mechanism", "query_length", "page_size"), EVERY_PAIR)
def test_ragged_batches_match_the_oracle(mechanism, query_length, page_size):
    """Lengths 0 and 1, shorter than the query length, off the page grid; pages scrambled, unused slots NaN."""
    case = decode_case(two_groups(mechanism), [37, 0, 1, 3, 70], query_length=query_length, page_size=page_size or 8)
    if page_size is None:
        case = contiguous(case)
    assert_matches_oracle(case, run(case))


@pytest.mark.parametrize("mechanism", KINDS)
@pytest.mark.parametrize("multiprocessors", [ONE_SPLIT, 12, MANY_SPLITS])
def test_splits_do_not_change_the_result(mechanism, multiprocessors):
    """With many, the short sequence's splits are empty; with one, the kernel writes the outputs itself."""
    case = decode_case(two_groups(mechanism), [100, 20, 0], query_length=2, page_size=4)
    assert_matches_oracle(case, run(case, multiprocessors))


@pytest.mark.parametrize(("dtype", "multiprocessors"), [(torch.bfloat16, ONE_SPLIT), (torch.float16, MANY_SPLITS)])
@pytest.mark.parametrize("mechanism", KINDS)
def test_half_precision_storage_is_widened_exactly(mechanism, multiprocessors, dtype):
    """The oracle reads the same rounded rows, so only the arithmetic's own rounding is left."""
    case = decode_case(two_groups(mechanism), [40, 2], query_length=2, dtype=dtype)
    assert_matches_oracle(case, run(case, multiprocessors))


@pytest.mark.parametrize("mechanism", KINDS)
def test_extreme_logits_neither_overflow_nor_vanish(mechanism):
    case = decode_case(two_groups(mechanism), [90], query_length=2, scale=1e4)
    assert_matches_oracle(case, run(case))


@pytest.mark.parametrize("multiprocessors", [ONE_SPLIT, MANY_SPLITS])
def test_a_batch_without_tokens_gives_zeros(multiprocessors):
    case = decode_case(small_shape("mla"), [0, 0], query_length=3)
    assert run(case, multiprocessors).eq(0).all()


@pytest.mark.parametrize("multiprocessors", [ONE_SPLIT, MANY_SPLITS])
def test_queries_before_the_first_token_give_zeros(multiprocessors):
    outputs = run(decode_case(small_shape("gqa"), [2], query_length=4), multiprocessors)
    assert outputs[:, :2].eq(0).all()
    assert outputs[:, 2:].ne(0).any()


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_groups_of_several_row_blocks_match_the_oracle(mechanism):
    """17 query heads of a group times 2 new tokens, or 34 new tokens, are two whole blocks of 16 rows and one of 2."""
    heads = {"mha": 1}.get(mechanism, 17)
    case = decode_case(small_shape(mechanism, heads, heads=1), [40, 1], query_length=2 if heads == 17 else 34)
    assert_matches_oracle(case, run(case))


@pytest.mark.parametrize("rope_dim", [0, 8, 32])
def test_a_tied_state_that_is_all_key_or_all_value_matches_the_oracle(rope_dim):
    case = decode_case(small_shape("gta", head_dim=32, heads=2, rope_dim=rope_dim), [40, 3], query_length=2)
    assert_matches_oracle(case, run(case))


@pytest.mark.parametrize(
    ("mechanism", "dtype"), zip(["gqa", "gta", "mla", "gla"], [*STORAGE_DTYPES, torch.float16], strict=True)
)
def test_shapes_of_real_models_match_the_oracle_with_the_tables_blocks(mechanism, dtype):
    """12 heads of 64: groups of 3, 6 or 12, a latent of 256, all through the public interface."""
    case = decode_case(small_shape(mechanism, 12, 64), [140, 64], query_length=2, page_size=64, dtype=dtype)
    outputs = attend(case.shape, case.queries, case.layer, case.lengths, kernel="triton")
    assert_matches_oracle(case, outputs)


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_any_shape_matches_the_oracle(data):
    mechanism = data.draw(st.sampled_from(MECHANISMS))
    heads = data.draw(st.integers(1, 2))
    group = data.draw(st.sampled_from([1, 2, 3, 5, 6, 17]))
    head_dim = 2 * data.draw(st.integers(1, 24))
    fields = {}
    if mechanism in ("gta", "mla", "gla"):
        fields["rope_dim"] = 2 * data.draw(st.integers(1, head_dim // 2))
    if mechanism in ("mla", "gla"):
        fields["latent_dim"] = data.draw(st.integers(1, 70))
    case = decode_case(
        small_shape(mechanism, heads * group, head_dim, heads, **fields),
        data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=2)),
        query_length=data.draw(st.integers(1, 5)),
        page_size=data.draw(st.integers(1, 64)),
        dtype=data.draw(st.sampled_from(STORAGE_DTYPES)),
    )
    blocks = Blocks(data.draw(st.sampled_from([16, 32])), data.draw(st.sampled_from([16, 32, 64])), 4, 1)
    outputs = run(case, data.draw(st.sampled_from([ONE_SPLIT, 20, MANY_SPLITS])), blocks)
    assert_matches_oracle(case, outputs)


@pytest.mark.parametrize("page_size", [None, 16])
def test_a_decode_cache_is_read_as_it_was_written(page_size):
    shape = small_shape("gta", heads=2)
    cache = DecodeCache(shape, layers=1, batch_size=2, max_length=50, page_size=page_size)
    generator = torch.Generator().manual_seed(0)
    step = cache.reserve([41, 7])
    step.append_rows(0, torch.randn(48, shape.cached_elements(), generator=generator))
    queries = torch.randn(2, 3, shape.query_heads, shape.absorbed_key_dim, generator=generator)
    expected, outputs = (
        attend(shape, queries, step.layer(0), step.lengths, kernel=kernel) for kernel in ("reference", "triton")
    )
    torch.testing.assert_close(outputs, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("entry", "length"), [(99, 20), (-1, 20), (0, 1000)])
def test_the_interpreter_refuses_a_page_table_that_does_not_cover_a_sequence(entry, length):
    case = decode_case(small_shape("gqa"), [20, 20])
    case.layer.page_table[1, 0] = entry
    case.lengths[1] = length
    with pytest.raises(ValueError, match="sequence 1"):
        run(case)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": torch.zeros(1, 1, 4, 16, dtype=torch.float64)}, "queries in torch.float32"),
        ({"lengths": torch.tensor([3])}, "must be int32"),
        ({"lengths": torch.zeros(1, dtype=torch.int32, device="meta")}, "lengths on meta"),
    ],
)
def test_tensors_it_cannot_read_are_refused(change, message):
    case = dataclasses.replace(decode_case(small_shape("gqa"), [3]), **change)
    with pytest.raises(ValueError, match=message):
        run(case)


def test_storage_that_is_not_contiguous_is_refused():
    case = decode_case(small_shape("gqa"), [3])
    layer = CacheLayer(case.layer.storage.transpose(0, 1), case.layer.page_table)
    with pytest.raises(ValueError, match="contiguous storage"):
        run(dataclasses.replace(case, layer=layer))


def test_cpu_tensors_without_the_interpreter_are_refused_with_a_way_out(monkeypatch):
    monkeypatch.setattr(launcher, "INTERPRETED", False)
    case = decode_case(small_shape("gqa"), [3])
    with pytest.raises(ValueError, match=r"needs CUDA tensors.*kernel=cpu.*TRITON_INTERPRET=1"):
        attend(case.shape, case.queries, case.layer, case.lengths, kernel="triton")


def test_without_triton_the_kernel_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("experiments.decoding.triton_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "triton", None)
    case = decode_case(small_shape("gqa"), [3])
    with pytest.raises(ValueError, match=r"needs the package triton: install it.*rl-exp\[triton\]"):
        attend(case.shape, case.queries, case.layer, case.lengths, kernel="triton")


def test_a_device_that_takes_no_large_blocks_gets_smaller_ones(monkeypatch):
    """The estimate of shared memory may be too low for a GPU: what it refuses is tried smaller, and remembered."""
    case = decode_case(small_shape("gqa"), [40])
    monkeypatch.setattr(launcher, "_launched", {})
    launch = launcher._Problem.launch
    tried = []

    def refuse_large(problem, blocks, *arguments):
        tried.append(blocks)
        if blocks.tokens > 16:
            raise launcher.OutOfResources(2, 1, "shared memory")
        launch(problem, blocks, *arguments)

    monkeypatch.setattr(launcher._Problem, "launch", refuse_large)
    for _ in range(2):
        assert_matches_oracle(case, triton_attend(case.shape, case.queries, case.layer, case.lengths))
    assert [blocks.tokens for blocks in tried][-2:] == [16, 16]
    assert len(tried) > 2, "nothing was refused"
    assert tried.count(tried[-1]) == 2


def test_what_never_fits_is_refused(monkeypatch):
    monkeypatch.setattr(launcher, "_launched", {})

    def refuse(*_):
        raise launcher.OutOfResources(2, 1, "shared memory")

    monkeypatch.setattr(launcher._Problem, "launch", refuse)
    case = decode_case(small_shape("gqa"), [40])
    with pytest.raises(ValueError, match="no block size of the triton kernel fits gqa"):
        triton_attend(case.shape, case.queries, case.layer, case.lengths)
