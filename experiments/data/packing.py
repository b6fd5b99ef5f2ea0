"""Packing: documents end to end, cut into blocks; which block comes when is a pure function of seed and position.

Legend: B sequences of a batch, T sequence_length, N tokens of the corpus.

Block i is tokens[i T : i T + T + 1]: its inputs are the first T of them, its targets the last T. Neighbours share one
token, so that every token but the corpus's first is a target exactly once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

IGNORED = -100  # a target that no loss counts (torch's cross_entropy skips it by default)


class Batch(NamedTuple):
    """int64 tensors [B, T] on the CPU. Equal document ids in a row mean the same document."""

    inputs: torch.Tensor
    targets: torch.Tensor
    document_ids: torch.Tensor | None = None


class PackedSequences:
    """Blocks of a tokenised text in a seeded order, for training.

    `position` counts sequences since the start of training: epoch = position // blocks, and each epoch is a
    permutation of all blocks of its own. It is the whole state: continuing at a position is exact. The tail of fewer
    than T + 1 tokens, `left_over` of them, is not trained on.
    """

    def __init__(
        self,
        tokens: np.ndarray,  # [N] unsigned integers, may be memory-mapped
        offsets: np.ndarray,  # [documents + 1] where documents begin; the last is N
        sequence_length: int,
        *,
        seed: int | np.random.SeedSequence,
    ) -> None:
        _check_sequence_length(sequence_length)
        if len(tokens) < sequence_length + 1:
            raise ValueError(
                f"the corpus has {len(tokens)} tokens, fewer than one block of sequence_length + 1 = "
                f"{sequence_length + 1}: use a shorter sequence_length or more text"
            )
        self.tokens, self.offsets, self.sequence_length = tokens, offsets, sequence_length
        self.blocks = (len(tokens) - 1) // sequence_length
        self.left_over = len(tokens) - 1 - self.blocks * sequence_length
        self._seed = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
        self._orders: dict[int, np.ndarray] = {}  # epoch -> permutation; the two latest that were asked for

    def order(self, epoch: int) -> np.ndarray:
        """The permutation of the blocks in `epoch`: [blocks] block numbers."""
        if epoch not in self._orders:
            seed = np.random.SeedSequence(self._seed.entropy, spawn_key=(*self._seed.spawn_key, epoch))
            if len(self._orders) > 1:
                del self._orders[next(iter(self._orders))]
            self._orders[epoch] = np.random.Generator(np.random.PCG64(seed)).permutation(self.blocks)
        return self._orders[epoch]

    def block_at(self, position: int) -> int:
        """Which block is read at `position`."""
        if position < 0:
            raise ValueError(f"position={position} is impossible: it counts sequences from 0")
        epoch, place = divmod(position, self.blocks)
        return int(self.order(epoch)[place])

    def batch(
        self, position: int, batch_size: int, *, rank: int = 0, world_size: int = 1, document_ids: bool = False
    ) -> Batch:
        """The sequences at position .. position + batch_size - 1.

        With `world_size` processes, `batch_size` is of all of them together and `rank` gets its equal part, in order:
        the parts, joined, are the batch of one process.
        """
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(f"batch_size={batch_size} cannot be split over {world_size} processes: use a multiple")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank} is impossible among {world_size} processes")
        share = batch_size // world_size
        first = position + rank * share
        rows = np.array([self.block_at(place) for place in range(first, first + share)], dtype=np.int64)
        return _read(
            self.tokens, self.offsets if document_ids else None, rows * self.sequence_length, self.sequence_length
        )


def held_out_batches(
    tokens: np.ndarray,
    offsets: np.ndarray,
    sequence_length: int,
    batch_size: int,
    most_tokens: int | None = None,
    *,
    document_ids: bool = False,
) -> Iterator[Batch]:
    """The text once, in order, up to `most_tokens` targets (rounded up to a whole block), tail included.

    Every batch is [batch_size, T], so that a compiled model meets one shape: what is missing in the last one has the
    targets IGNORED (-100), which no loss counts, inputs 0 and document ids -1.
    """
    _check_sequence_length(sequence_length)
    if batch_size < 1 or (most_tokens is not None and most_tokens < 1):
        raise ValueError(f"batch_size={batch_size}, most_tokens={most_tokens}: use 1 or more")
    targets = len(tokens) - 1 if most_tokens is None else min(len(tokens) - 1, most_tokens)
    blocks = -(-targets // sequence_length)
    for first in range(0, blocks, batch_size):
        rows = np.arange(first, min(first + batch_size, blocks), dtype=np.int64)
        batch = _read(tokens, offsets if document_ids else None, rows * sequence_length, sequence_length)
        missing = batch_size - len(rows)
        if missing:
            batch = Batch(
                _fill_rows(batch.inputs, missing, 0),
                _fill_rows(batch.targets, missing, IGNORED),
                None if batch.document_ids is None else _fill_rows(batch.document_ids, missing, -1),
            )
        yield batch


def _read(tokens: np.ndarray, offsets: np.ndarray | None, starts: np.ndarray, length: int) -> Batch:
    """Blocks that begin at `starts` [B]; beyond the end of the tokens: inputs 0, targets IGNORED, ids -1."""
    block = np.zeros((len(starts), length + 1), dtype=np.int64)  # [B, T + 1]
    for row, start in enumerate(starts):
        piece = tokens[start : start + length + 1]
        block[row, : len(piece)] = piece
    places = starts[:, None] + np.arange(length)[None, :]  # [B, T] of the inputs
    inside = places + 1 < len(tokens)  # the target exists
    inputs = np.where(inside, block[:, :-1], 0)
    targets = np.where(inside, block[:, 1:], IGNORED)
    ids = None
    if offsets is not None:
        found = np.searchsorted(offsets, places, side="right") - 1
        ids = torch.from_numpy(np.where(inside, found, -1))
    return Batch(torch.from_numpy(inputs), torch.from_numpy(targets), ids)


def _fill_rows(values: torch.Tensor, count: int, value: int) -> torch.Tensor:
    return torch.cat([values, values.new_full((count, values.shape[1]), value)])


def _check_sequence_length(sequence_length: int) -> None:
    if sequence_length < 1:
        raise ValueError(f"sequence_length={sequence_length} is impossible: it must be at least 1")
