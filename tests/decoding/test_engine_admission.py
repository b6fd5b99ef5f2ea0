"""Sequences share a budget of pages: it is kept, everybody is served, and texts do not depend on it."""

import torch
from engine_cases import VOCABULARY, case_model
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.decoding.engine import DecodeEngine, Request
from experiments.decoding.model_step import DecodeModel

MODEL = DecodeModel(case_model("gta", layers=1))
PLAIN = DecodeEngine(MODEL, batch_size=1, max_length=24)

requests = st.lists(
    st.builds(
        Request,
        prompt=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12),
        max_new_tokens=st.integers(1, 8),
        seed=st.integers(0, 2**64 - 1),
        stop_tokens=st.sampled_from([(), tuple(range(12))]),
        samples_per_prompt=st.integers(1, 3),
    ),
    max_size=6,
)


@settings(max_examples=40, deadline=None)
@given(requests, st.integers(1, 4), st.integers(1, 7), st.integers(0, 12), st.integers(1, 30))
def test_every_request_is_served_within_any_budget(drawn, batch_size, page_size, spare_pages, prefill_tokens):
    """Budgets from what one sequence may need upwards; a step never fails for want of pages."""
    pages = -(-19 // page_size) + spare_pages
    engine = DecodeEngine(
        MODEL, batch_size=batch_size, max_length=24, page_size=page_size, pages=pages, prefill_tokens=prefill_tokens
    )
    completions = engine.generate(drawn)
    assert [c.sample for c in completions] == [i for request in drawn for i in range(request.samples_per_prompt)]
    assert engine.cache.free_pages == pages
    assert not engine.cache.lengths.any()
    expected = [completion.tokens for request in drawn for completion in PLAIN.generate([request])]
    assert [c.tokens for c in completions] == expected


def test_a_budget_in_bytes_is_counted_in_elements_of_the_paper():
    """GTA caches 2 heads x 8 and a RoPE key of 4: 20 elements of 4 bytes, in one layer; bf16 halves them."""
    engine = DecodeEngine(MODEL, batch_size=4, max_length=24, page_size=4, cache_bytes=20 * 4 * 4 * 7 + 5)
    assert engine.cache.pages == 7
    assert engine.cache.allocated_bytes() == 20 * 4 * 4 * 7
    halved = {"page_size": 4, "cache_bytes": 20 * 4 * 4 * 7, "cache_dtype": torch.bfloat16}
    assert DecodeEngine(MODEL, batch_size=4, max_length=24, **halved).cache.pages == 14


def test_a_smaller_budget_admits_fewer_at_a_time():
    requests = [Request([1, 2, 3, 4, 5], 8) for _ in range(8)]
    most_running = []
    for pages in (3, 6, 24):  # each sequence may need 12 rows, 3 pages
        engine = DecodeEngine(MODEL, batch_size=8, max_length=24, page_size=4, pages=pages)
        for request in requests:
            engine.submit(request)
        running = []
        while not engine.finished:
            engine.step()
            running.append(len(engine.running))
        most_running.append(max(running))
    assert most_running == [1, 2, 8]


def test_prompts_of_one_step_keep_to_the_prefill_budget():
    engine = DecodeEngine(MODEL, batch_size=8, max_length=24, prefill_tokens=10)
    for length in (4, 4, 4, 12, 1):
        engine.submit(Request(list(range(length)), 6))
    assert [engine.step().prompt_tokens for _ in range(4)] == [8, 4, 12, 1]
