"""The decode cache: preallocated rows of exactly the counted elements per token, contiguous or paged.

Legend: B sequences the cache has room for, b sequences of one step, T new tokens of a step, P pages, S page
size, E elements per row (see `layout`).

Storage of a layer is [P, S, E], fp32, bf16 or fp16; `page_table[sequence, i]` is the page of tokens i*S .. i*S +
S - 1. A contiguous cache is the same thing with one page of `max_length` tokens per sequence, so kernels
know one form only. Lengths and page tables are shared by all layers, for all layers cache the same tokens:

    step = cache.reserve(counts)                     # lengths now include the new tokens
    for layer in range(layers):
        step.append(layer, states)                   # write them
        attend(shape, queries, step.layer(layer), step.lengths)
    cache.roll_back(rejected)                        # speculative decoding: forget some of them
    cache.free(sequence)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..models.shapes import AttentionShape

STORAGE_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LARGEST_PAGE = 64


def storage_names() -> str:
    """What a cache stores, in words."""
    *others, last = map(str, STORAGE_DTYPES)
    return f"{', '.join(others)} or {last}"


class CacheFullError(RuntimeError):
    """A step asked for more pages or a longer sequence than the cache has; nothing was changed."""


@dataclass(frozen=True)
class CacheLayer:
    """What a kernel reads of one layer: `storage` [P, S, E] and `page_table` [b, pages per sequence] int32.

    Entries of the page table beyond a sequence's length, and rows beyond it, have no meaning and are never
    read.
    """

    storage: Tensor
    page_table: Tensor


class DecodeCache:
    """Cached states of up to `batch_size` sequences of up to `max_length` tokens for all layers of one model.

    `page_size` None gives a contiguous cache. A paged one takes `pages` pages (default: enough for every
    sequence at `max_length`) that sequences share; pages come from a free list as sequences grow. `lengths`
    [B] int32 counts the tokens of every sequence.
    """

    def __init__(
        self,
        shape: AttentionShape,
        *,
        layers: int,
        batch_size: int,
        max_length: int,
        page_size: int | None = None,
        pages: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        for name, value in (("layers", layers), ("batch_size", batch_size), ("max_length", max_length)):
            if value < 1:
                raise ValueError(f"{name}={value} is impossible: a cache needs at least 1")
        if dtype not in STORAGE_DTYPES:
            raise ValueError(f"a cache stores {storage_names()}, not {dtype}")
        if page_size is not None and not 1 <= page_size <= LARGEST_PAGE:
            raise ValueError(f"page_size={page_size} is impossible: use 1 to {LARGEST_PAGE}, or None for no pages")
        if page_size is None and pages is not None:
            raise ValueError(f"pages={pages} needs a page_size: a contiguous cache has one run of rows per sequence")

        self.shape = shape
        self.batch_size, self.max_length = batch_size, max_length
        self.page_size = max_length if page_size is None else page_size
        self.paged = page_size is not None
        pages_per_sequence = -(-max_length // self.page_size)
        self.pages = batch_size * pages_per_sequence if pages is None else pages
        if self.pages < 1:
            raise ValueError(f"pages={pages} is impossible: a cache needs at least 1")
        self.device = torch.device(device)
        self.storage = [
            torch.empty(self.pages, self.page_size, shape.cached_elements(), dtype=dtype, device=self.device)
            for _ in range(layers)
        ]
        self._lengths = np.zeros(batch_size, np.int32)
        self._page_table = np.full((batch_size, pages_per_sequence), -1, np.int32)
        if self.paged:
            self._free_pages = list(range(self.pages - 1, -1, -1))
        else:
            self._free_pages = []
            self._page_table[:, 0] = np.arange(batch_size)

    @property
    def lengths(self) -> Tensor:
        """Tokens of every sequence, [B] int32: a copy."""
        return torch.from_numpy(self._lengths.copy())

    @property
    def free_pages(self) -> int:
        """Pages that no sequence holds (0 for a contiguous cache, whose rows belong to their sequence)."""
        return len(self._free_pages)

    def allocated_bytes(self) -> int:
        """Bytes of all layers' storage, used or not."""
        return sum(storage.numel() * storage.element_size() for storage in self.storage)

    def can_reserve(self, counts: Sequence[int] | int, sequences: Sequence[int] | None = None) -> bool:
        """Whether `reserve` with the same arguments would succeed."""
        sequence_ids, new_tokens = self._requested(counts, sequences)
        grown = self._lengths[sequence_ids] + new_tokens
        return bool((grown <= self.max_length).all()) and self._missing_pages(sequence_ids, grown) <= self.free_pages

    def reserve(self, counts: Sequence[int] | int, sequences: Sequence[int] | None = None) -> CacheStep:
        """Make room for `counts[i]` new tokens of sequence `sequences[i]` (default: all sequences, in order).

        Lengths grow at once; every layer then writes its states through the returned step. Raises
        CacheFullError, and changes nothing, where a sequence would pass `max_length` or the pages do not
        suffice.
        """
        sequence_ids, new_tokens = self._requested(counts, sequences)
        before = self._lengths[sequence_ids]
        after = before + new_tokens
        if (after > self.max_length).any():
            worst = int(after.argmax())
            raise CacheFullError(
                f"sequence {int(sequence_ids[worst])} would have {int(after[worst])} tokens, the cache has room for "
                f"max_length={self.max_length}: make it longer or stop the sequence"
            )
        missing = self._missing_pages(sequence_ids, after)
        if missing > self.free_pages:
            raise CacheFullError(
                f"the step needs {missing} more pages of {self.page_size} tokens, {self.free_pages} are free: "
                "free a sequence first or give the cache more pages"
            )
        if missing:
            for sequence, old, new in zip(sequence_ids, before, after, strict=True):
                for page in range(-(-int(old) // self.page_size), -(-int(new) // self.page_size)):
                    self._page_table[sequence, page] = self._free_pages.pop()
        self._lengths[sequence_ids] = after
        return CacheStep(self, sequence_ids, before, new_tokens)

    def roll_back(self, counts: Sequence[int] | int, sequences: Sequence[int] | None = None) -> None:
        """Forget the last `counts[i]` tokens of sequence `sequences[i]` in all layers; whole pages become free."""
        sequence_ids, dropped = self._requested(counts, sequences)
        after = self._lengths[sequence_ids] - dropped
        if (after < 0).any():
            worst = int(after.argmin())
            raise ValueError(
                f"sequence {int(sequence_ids[worst])} has {int(self._lengths[sequence_ids[worst]])} tokens: "
                f"{int(dropped[worst])} cannot be rolled back"
            )
        if self.paged:
            for sequence, new in zip(sequence_ids, after, strict=True):
                first = -(-int(new) // self.page_size)
                last = -(-int(self._lengths[sequence]) // self.page_size)
                self._free_pages.extend(int(page) for page in self._page_table[sequence, first:last][::-1])
                self._page_table[sequence, first:last] = -1
        self._lengths[sequence_ids] = after

    def free(self, sequence: int) -> None:
        """Forget a whole sequence: its place and its pages serve the next one."""
        self.roll_back([int(self._lengths[sequence])], [sequence])

    def copy_prefix(self, source: int, targets: Sequence[int], count: int) -> None:
        """Give each of the empty sequences `targets` the first `count` tokens of `source`, in all layers.

        Samples of one prompt compute it once. Raises CacheFullError as `reserve` does.
        """
        step = self.reserve([count] * len(targets), targets)
        tokens = np.arange(count)
        pages = self._page_table[source, tokens // self.page_size].astype(np.int64)
        slots = torch.from_numpy(pages * self.page_size + tokens % self.page_size).to(self.device)
        for layer, storage in enumerate(self.storage):
            rows = storage.view(-1, storage.shape[-1]).index_select(0, slots)
            step.append_rows(layer, rows.repeat(len(targets), 1))

    def write_rows(self, layer: int, slots: Tensor, rows: Tensor) -> None:
        """Write whole rows [n, E] at `slots` [n] of a layer; one that is named twice must be given equal rows."""
        storage = self.storage[layer]
        storage.view(-1, storage.shape[-1]).index_copy_(0, slots, rows.to(storage.dtype))

    def _requested(self, counts: Sequence[int] | int, sequences: Sequence[int] | None) -> tuple[np.ndarray, np.ndarray]:
        sequence_ids = np.arange(self.batch_size) if sequences is None else np.asarray(sequences, np.int64)
        if len(np.unique(sequence_ids)) != len(sequence_ids):
            raise ValueError(f"a sequence is named twice in {sequence_ids.tolist()}")
        if ((sequence_ids < 0) | (sequence_ids >= self.batch_size)).any():
            raise ValueError(f"sequences {sequence_ids.tolist()} are not all within 0..{self.batch_size - 1}")
        tokens = np.full(len(sequence_ids), counts) if isinstance(counts, int) else np.asarray(counts)
        tokens = tokens.astype(np.int32)
        if tokens.shape != sequence_ids.shape or (tokens < 0).any():
            raise ValueError(f"{len(sequence_ids)} counts of at least 0 are needed, not {tokens.tolist()}")
        return sequence_ids, tokens

    def _missing_pages(self, sequence_ids: np.ndarray, after: np.ndarray) -> int:
        if not self.paged:
            return 0
        held = -(-self._lengths[sequence_ids] // self.page_size)
        return int((-(-after // self.page_size) - held).sum())


class CacheStep:
    """The new tokens of one model step: where every layer writes them, and what its kernel then reads.

    `lengths` [b] int32 include the new tokens. With ragged counts the states of a step are right-aligned,
    as the queries of a kernel are: of T = max(counts) columns, the last counts[i] of row i are new tokens,
    the others are ignored.

    It is worked out on the host (`host_*`, numpy); tensors on the cache's device are made when they are asked for.
    """

    def __init__(
        self, cache: DecodeCache, sequence_ids: np.ndarray, before: np.ndarray, new_tokens: np.ndarray
    ) -> None:
        self.cache = cache
        self.query_length = int(new_tokens.max(initial=0))
        columns = np.arange(self.query_length)
        is_new = columns >= self.query_length - new_tokens[:, None]  # [b, T]
        positions = (before - self.query_length + new_tokens)[:, None] + columns  # [b, T]
        rows, cells = sequence_ids[:, None], np.where(is_new, positions, 0)
        pages = cache._page_table[rows, cells // cache.page_size].astype(np.int64)
        self.host_slots = (pages * cache.page_size + cells % cache.page_size)[is_new]  # [new tokens]
        self.host_new = None if is_new.all() else np.flatnonzero(is_new)  # which of the b * T columns; None: all
        self.host_positions = positions  # [b, T] int32; negative where not a token
        self.host_lengths = cache._lengths[sequence_ids]
        self.host_page_table = cache._page_table[sequence_ids]
        self._states_shape = (len(sequence_ids), self.query_length)

    @property
    def longest(self) -> int:
        """Cached tokens of the longest sequence of the step, the new ones included."""
        return int(self.host_lengths.max(initial=0))

    @cached_property
    def slots(self) -> Tensor:
        """Rows of a layer's storage that the new tokens take, [new tokens]."""
        return torch.from_numpy(self.host_slots).to(self.cache.device)

    @cached_property
    def new(self) -> Tensor | None:
        """Which of the b * T columns are new tokens; None where all are."""
        return None if self.host_new is None else torch.from_numpy(self.host_new).to(self.cache.device)

    @cached_property
    def positions(self) -> Tensor:
        """[b, T] int32; negative where a column is no new token."""
        return torch.from_numpy(self.host_positions).to(self.cache.device)

    @cached_property
    def lengths(self) -> Tensor:
        """[b] int32, the new tokens included."""
        return torch.from_numpy(self.host_lengths).to(self.cache.device)

    @cached_property
    def page_table(self) -> Tensor:
        """[b, pages per sequence] int32."""
        return torch.from_numpy(self.host_page_table).to(self.cache.device)

    def layer(self, layer: int) -> CacheLayer:
        """The layer's storage with the page table of this step's sequences."""
        return CacheLayer(self.cache.storage[layer], self.page_table)

    def append(self, layer: int, states: Sequence[Tensor]) -> None:
        """Write the new tokens' states: one tensor [b, T, heads, dim] per `cached_states()`, in its order."""
        expected = self.cache.shape.cached_states()
        wanted = [(*self._states_shape, state.heads, state.dim) for state in expected]
        if [tuple(state.shape) for state in states] != wanted:
            names = ", ".join(f"{state.name} {size}" for state, size in zip(expected, wanted, strict=True))
            raise ValueError(f"the cache takes {names}, not {[tuple(state.shape) for state in states]}")
        storage = self.cache.storage[layer]
        rows = storage.view(-1, storage.shape[-1])
        offset = 0
        for state in states:
            columns = state.reshape(-1, state.shape[2] * state.shape[3])  # [b*T, heads*dim]
            if self.new is not None:
                columns = columns.index_select(0, self.new)
            target = rows[:, offset : offset + columns.shape[1]]
            target.index_copy_(0, self.slots, columns.to(storage.dtype))
            offset += columns.shape[1]

    def append_rows(self, layer: int, rows: Tensor) -> None:
        """Write whole rows of new tokens only, [sum(counts), E]: sequence by sequence, each in token order."""
        self.cache.write_rows(layer, self.slots, rows)
