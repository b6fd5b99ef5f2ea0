import pytest
import torch
from decode_cases import MECHANISMS, small_shape
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.decoding.cache import CacheFullError, DecodeCache
from experiments.decoding.reference import cached_rows


def random_states(shape, batch, tokens, generator):
    return [torch.randn(batch, tokens, s.heads, s.dim, generator=generator) for s in shape.cached_states()]


def rows_of(states):
    return torch.cat([state.flatten(2) for state in states], dim=-1)  # [b, T, E]


def cache_rows(cache, sequence, layer=0):
    step = cache.reserve(0, [sequence])
    return cached_rows(step.layer(layer), 0, int(cache.lengths[sequence]))


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_cache_allocates_exactly_the_counted_elements(mechanism):
    shape = small_shape(mechanism)
    for page_size in (None, 1, 8):
        cache = DecodeCache(shape, layers=3, batch_size=2, max_length=40, page_size=page_size, dtype=torch.bfloat16)
        assert cache.allocated_bytes() == 3 * 2 * 40 * shape.cached_elements() * 2


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("page_size", [None, 4])
def test_appended_states_are_found_in_token_order_in_every_layer(mechanism, page_size):
    shape, generator = small_shape(mechanism), torch.Generator().manual_seed(1)
    cache = DecodeCache(shape, layers=2, batch_size=2, max_length=11, page_size=page_size)
    expected = [[torch.empty(0, shape.cached_elements())] * 2 for _ in range(2)]
    for tokens in (5, 1, 3):
        step = cache.reserve(tokens)
        for layer in range(2):
            states = random_states(shape, 2, tokens, generator)
            step.append(layer, states)
            for b in range(2):
                expected[layer][b] = torch.cat([expected[layer][b], rows_of(states)[b]])
    for layer in range(2):
        for b in range(2):
            assert torch.equal(cache_rows(cache, b, layer), expected[layer][b])


def test_ragged_counts_keep_the_rightmost_tokens():
    shape, generator = small_shape("gta"), torch.Generator().manual_seed(2)
    cache = DecodeCache(shape, layers=1, batch_size=3, max_length=8, page_size=2)
    step = cache.reserve([3, 0, 1])
    states = random_states(shape, 3, 3, generator)
    step.append(0, states)
    rows = rows_of(states)
    assert cache.lengths.tolist() == [3, 0, 1]
    assert torch.equal(cache_rows(cache, 0), rows[0])
    assert torch.equal(cache_rows(cache, 2), rows[2, 2:])
    assert step.positions.tolist() == [[0, 1, 2], [-3, -2, -1], [-2, -1, 0]]


def test_a_step_may_name_some_sequences_in_any_order():
    shape, generator = small_shape("mla"), torch.Generator().manual_seed(3)
    cache = DecodeCache(shape, layers=1, batch_size=4, max_length=8)
    states = random_states(shape, 2, 2, generator)
    cache.reserve([2, 1], [3, 1]).append(0, states)
    assert cache.lengths.tolist() == [0, 1, 0, 2]
    assert torch.equal(cache_rows(cache, 3), rows_of(states)[0])
    assert torch.equal(cache_rows(cache, 1), rows_of(states)[1, 1:])


def test_pages_are_allocated_as_sequences_grow_and_come_back():
    cache = DecodeCache(small_shape("gqa"), layers=1, batch_size=2, max_length=16, page_size=4, pages=5)
    cache.reserve([4, 5])
    assert cache.free_pages == 2
    cache.reserve([1, 0])
    assert cache.free_pages == 1
    cache.roll_back([1, 1])
    assert cache.free_pages == 3
    assert cache.lengths.tolist() == [4, 4]
    cache.free(0)
    assert cache.free_pages == 4
    assert cache.lengths.tolist() == [0, 4]


def test_rolled_back_tokens_are_replaced_by_the_next_ones():
    shape, generator = small_shape("gla"), torch.Generator().manual_seed(4)
    cache = DecodeCache(shape, layers=1, batch_size=1, max_length=10, page_size=2)
    kept, wrong, right = (random_states(shape, 1, n, generator) for n in (3, 4, 2))
    cache.reserve(3).append(0, kept)
    cache.reserve(4).append(0, wrong)
    cache.roll_back(4)
    cache.reserve(2).append(0, right)
    assert torch.equal(cache_rows(cache, 0), torch.cat([rows_of(kept)[0], rows_of(right)[0]]))


def test_a_refused_reservation_changes_nothing():
    cache = DecodeCache(small_shape("gqa"), layers=1, batch_size=2, max_length=8, page_size=2, pages=3)
    cache.reserve([2, 2])
    for counts, message in (([7, 0], "max_length=8"), ([2, 2], "1 are free")):
        assert not cache.can_reserve(counts)
        with pytest.raises(CacheFullError, match=message):
            cache.reserve(counts)
        assert cache.lengths.tolist() == [2, 2]
        assert cache.free_pages == 1
    assert cache.can_reserve([2, 0])


@settings(max_examples=30, deadline=None)
@given(
    page_size=st.sampled_from([None, 1, 3, 8]),
    moves=st.lists(st.tuples(st.integers(0, 2), st.integers(-6, 6)), max_size=25),
)
def test_any_history_of_appends_and_rollbacks_leaves_the_surviving_tokens(page_size, moves):
    shape, generator = small_shape("gta", head_dim=4), torch.Generator().manual_seed(5)
    cache = DecodeCache(shape, layers=1, batch_size=3, max_length=20, page_size=page_size, pages=page_size and 30)
    expected = [torch.empty(0, shape.cached_elements()) for _ in range(3)]
    for sequence, count in moves:
        if count < 0:
            count = min(-count, len(expected[sequence]))
            cache.roll_back([count], [sequence])
            expected[sequence] = expected[sequence][: len(expected[sequence]) - count]
        elif cache.can_reserve([count], [sequence]):
            states = random_states(shape, 1, count, generator)
            cache.reserve([count], [sequence]).append(0, states)
            expected[sequence] = torch.cat([expected[sequence], rows_of(states)[0]])
    for sequence in range(3):
        assert torch.equal(cache_rows(cache, sequence), expected[sequence])
    if page_size:
        held = sum(-(-len(rows) // page_size) for rows in expected)
        assert cache.free_pages == 30 - held


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"page_size": 65}, "page_size=65"),
        ({"page_size": 0}, "page_size=0"),
        ({"dtype": torch.float64}, "float64"),
        ({"pages": 3}, "needs a page_size"),
        ({"max_length": 0}, "max_length=0"),
    ],
)
def test_impossible_caches_are_refused_with_the_reason(arguments, message):
    with pytest.raises(ValueError, match=message):
        DecodeCache(small_shape("mha"), **{"layers": 1, "batch_size": 1, "max_length": 8, **arguments})


def test_states_of_the_wrong_shape_are_refused():
    cache = DecodeCache(small_shape("gqa"), layers=1, batch_size=1, max_length=8)
    with pytest.raises(ValueError, match="key"):
        cache.reserve(1).append(0, [torch.zeros(1, 1, 4, 16)])
