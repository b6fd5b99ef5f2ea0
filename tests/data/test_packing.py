"""Packing conserves tokens, keeps documents apart, and depends on seed and position only."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.data.packing import IGNORED, PackedSequences, held_out_batches


def text_of_lengths(lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens that name their own place in the text, and the documents' offsets."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return np.arange(offsets[-1], dtype=np.uint32), offsets


def document_of(token: int, offsets: np.ndarray) -> int:
    """The slow way: look through all documents."""
    return next(i for i in range(len(offsets) - 1) if offsets[i] <= token < offsets[i + 1])


LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=12).filter(lambda lengths: sum(lengths) > 20)


@given(LENGTHS, st.integers(1, 19), st.integers(0, 2**32 - 1))
def test_an_epoch_predicts_every_token_but_the_first_exactly_once(lengths, sequence_length, seed):
    tokens, offsets = text_of_lengths(lengths)
    sequences = PackedSequences(tokens, offsets, sequence_length, seed=seed)
    batch = sequences.batch(0, sequences.blocks)
    assert torch.equal(batch.targets, batch.inputs + 1)
    seen = sorted(batch.targets.flatten().tolist())
    assert seen == list(range(1, len(tokens) - sequences.left_over))
    assert 0 <= sequences.left_over < sequence_length


@given(LENGTHS, st.integers(1, 19), st.integers(1, 5), st.none() | st.integers(1, 100))
def test_held_out_text_is_read_once_in_order_with_its_tail(lengths, sequence_length, batch_size, most_tokens):
    tokens, offsets = text_of_lengths(lengths)
    targets = []
    for batch in held_out_batches(tokens, offsets, sequence_length, batch_size, most_tokens, document_ids=True):
        assert batch.inputs.shape == batch.targets.shape == (batch_size, sequence_length)
        counted = batch.targets != IGNORED
        assert torch.equal(batch.inputs[counted] + 1, batch.targets[counted])
        assert (batch.document_ids[~counted] == -1).all()
        targets += batch.targets[counted].tolist()
    expected = len(tokens) - 1
    if most_tokens is not None:
        expected = min(expected, -(-most_tokens // sequence_length) * sequence_length)
    assert targets == list(range(1, expected + 1))


@given(LENGTHS, st.integers(1, 19))
def test_document_ids_never_join_two_documents(lengths, sequence_length):
    tokens, offsets = text_of_lengths(lengths)
    sequences = PackedSequences(tokens, offsets, sequence_length, seed=0)
    batch = sequences.batch(0, sequences.blocks, document_ids=True)
    for token, document in zip(batch.inputs.flatten().tolist(), batch.document_ids.flatten().tolist(), strict=True):
        assert document == document_of(token, offsets)


@given(st.integers(0, 300), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_a_batch_depends_on_seed_and_position_only(position, batch_size, seed):
    """A fresh object at `position` reads what another reads there after any history: resume is exact."""
    tokens, offsets = text_of_lengths([30, 50, 21])
    worn = PackedSequences(tokens, offsets, 7, seed=seed)
    for earlier in range(0, position, 13):
        worn.batch(earlier, 3)
    fresh = PackedSequences(tokens, offsets, 7, seed=seed)
    one_by_one = [fresh.batch(place, 1).inputs for place in range(position, position + batch_size)]
    assert torch.equal(worn.batch(position, batch_size).inputs, torch.cat(one_by_one))


def test_every_epoch_is_another_permutation_of_all_blocks():
    tokens, offsets = text_of_lengths([1000])
    sequences = PackedSequences(tokens, offsets, 9, seed=3)
    assert sequences.blocks == 111
    epochs = [[sequences.block_at(epoch * 111 + place) for place in range(111)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(111)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_seeds_give_different_orders_and_a_seed_sequence_is_a_seed():
    tokens, offsets = text_of_lengths([1000])
    orders = [PackedSequences(tokens, offsets, 9, seed=seed).order(0).tolist() for seed in (1, 2)]
    assert orders[0] != orders[1]
    from_sequence = PackedSequences(tokens, offsets, 9, seed=np.random.SeedSequence(1))
    assert from_sequence.order(0).tolist() == orders[0]


def test_the_order_does_not_touch_global_random_state():
    tokens, offsets = text_of_lengths([1000])
    np.random.seed(0)
    before = np.random.get_state()[1].tolist()
    PackedSequences(tokens, offsets, 9, seed=3).batch(0, 8)
    assert np.random.get_state()[1].tolist() == before


@settings(max_examples=30)
@given(st.integers(0, 200), st.sampled_from([1, 2, 3, 4, 6]))
def test_processes_split_a_batch_without_changing_its_order(position, world_size):
    tokens, offsets = text_of_lengths([301])
    sequences = PackedSequences(tokens, offsets, 5, seed=1)
    whole = sequences.batch(position, 12, document_ids=True)
    parts = [
        sequences.batch(position, 12, rank=rank, world_size=world_size, document_ids=True) for rank in range(world_size)
    ]
    for number, values in enumerate(whole):
        assert torch.equal(torch.cat([part[number] for part in parts]), values)


def test_batches_are_int64_and_have_document_ids_on_request_only():
    tokens, offsets = text_of_lengths([100])
    batch = PackedSequences(tokens.astype(np.uint16), offsets, 10, seed=0).batch(0, 4)
    assert batch.inputs.dtype == batch.targets.dtype == torch.int64
    assert batch.inputs.shape == batch.targets.shape == (4, 10)
    assert batch.document_ids is None


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda t, o: PackedSequences(t, o, 0, seed=0), "sequence_length=0"),
        (lambda t, o: PackedSequences(t, o, 100, seed=0), "fewer than one block"),
        (lambda t, o: PackedSequences(t, o, 9, seed=0).batch(-1, 1), "position=-1"),
        (lambda t, o: PackedSequences(t, o, 9, seed=0).batch(0, 4, world_size=3), "batch_size=4"),
        (lambda t, o: PackedSequences(t, o, 9, seed=0).batch(0, 4, rank=2, world_size=2), "rank=2"),
        (lambda t, o: next(held_out_batches(t, o, 9, 0)), "batch_size=0"),
    ],
)
def test_impossible_requests_are_refused(mistake, message):
    with pytest.raises(ValueError, match=message):
        mistake(*text_of_lengths([100]))
