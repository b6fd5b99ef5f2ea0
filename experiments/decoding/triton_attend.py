"""Launches the Triton kernels: checks, block sizes, split count, buffers. The kernels are in `triton_kernel`.

Legend: B sequences, T query length, H query heads, G cached heads, S splits, d_v value dim.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from triton.runtime.errors import OutOfResources

from ..models.shapes import LATENT, AttentionMechanism, AttentionShape
from .cache import CacheLayer
from .layout import row_layout
from .triton_blocks import Blocks, Device, TileWidths, candidates, padded, shared_memory, split_count
from .triton_kernel import INTERPRETED, PER_PROGRAM, PER_TILE, PER_TOKEN, attend_split, combine

LOG2_E = math.log2(math.e)  # the kernels' exponentials are powers of two
COMBINED_ELEMENTS = 2048  # of the outputs, by one program of the combining kernel
INTERPRETER_DEVICE = Device(capability=(0, 0), shared_bytes=2**20, multiprocessors=4)

# Blocks that were launched, by everything that decides whether a device can hold them
_launched: dict[tuple[Any, ...], Blocks] = {}


def triton_attend(
    shape: AttentionShape,
    queries: Tensor,
    layer: CacheLayer,
    lengths: Tensor,
    *,
    blocks: Blocks | None = None,
    multiprocessors: int | None = None,
) -> Tensor:
    """See `attention.attend`. CUDA tensors, or CPU tensors in Triton's interpreter.

    On a GPU the products run in the storage's type on tensor cores: with a bf16 or fp16 cache, queries and
    probabilities are rounded to that type (fp16 queries must stay below 65504); with an fp32 cache they are split into
    parts of tf32 (three products). Sums and the softmax are fp32 throughout. The interpreter widens everything to fp32
    first.

    `blocks` overrides the table of `triton_blocks`, `multiprocessors` the device's own count; both change how the work
    is divided, not the result beyond rounding. Outputs of a sequence depend on its batch only through the split count.

    Raises ValueError for tensors that it cannot read. On a GPU it does not look into `lengths` and `page_table`, for
    that would wait for the device: entries within a sequence's length must name pages of the storage.
    """
    check_tensors(queries, layer, lengths)
    queries, page_table, lengths = queries.contiguous(), layer.page_table.contiguous(), lengths.contiguous()
    batch, query_length = queries.shape[:2]
    outputs = torch.empty(
        *(batch, query_length, shape.query_heads, shape.absorbed_value_dim),
        dtype=torch.float32,
        device=queries.device,
    )
    if outputs.numel() == 0:
        return outputs
    problem = _Problem(shape, query_length, layer.storage, page_table)
    device = INTERPRETER_DEVICE if INTERPRETED else cuda_device(queries.device.index)
    if multiprocessors is not None:
        device = Device(device.capability, device.shared_bytes, multiprocessors)
    with torch.cuda.device(queries.device) if queries.is_cuda else nullcontext():  # Triton launches on the current one
        if blocks is not None:
            problem.launch(blocks, device, queries, lengths, outputs)
        else:
            problem.launch_what_fits(device, queries, lengths, outputs)
    return outputs


def first_blocks(shape: AttentionShape, queries: Tensor, layer: CacheLayer) -> Blocks:
    """What `triton_attend` tries first for such tensors."""
    problem = _Problem(shape, queries.shape[1], layer.storage, layer.page_table)
    device = INTERPRETER_DEVICE if INTERPRETED else cuda_device(queries.device.index)
    return next(problem.candidates(device))


def launched_blocks() -> list[dict[str, Any]]:
    """What was launched so far in this process without being asked for: a record for results."""
    return [
        {
            "mechanism": str(shape.mechanism),
            "query_heads": shape.query_heads,
            "head_dim": shape.head_dim,
            "query_length": query_length,
            "page_size": page_size,
            "dtype": str(dtype).removeprefix("torch."),
            **asdict(blocks),
        }
        for (shape, query_length, page_size, dtype, _), blocks in _launched.items()
    ]


@functools.cache
def cuda_device(index: int) -> Device:
    """What the GPU of this index offers."""
    properties = torch.cuda.get_device_properties(index)
    shared = getattr(properties, "shared_memory_per_block_optin", 48 * 1024)
    return Device((properties.major, properties.minor), shared, properties.multi_processor_count)


def tile_widths(shape: AttentionShape) -> TileWidths:
    """The padded widths of what a program loads of a token."""
    layout = row_layout(shape)
    separate = layout.value_state != 0
    return TileWidths(
        state=max(16, padded(layout.state_dims[0])),
        rope_key=max(16, padded(rope_key_dim(shape))) if rope_key_dim(shape) else 0,
        value=max(16, padded(layout.state_dims[1])) if separate else 0,
    )


def rope_key_dim(shape: AttentionShape) -> int:
    """Width of the separate RoPE key, 0 where a mechanism has none."""
    return shape.rope_dim if shape.mechanism in (*LATENT, AttentionMechanism.gta) else 0


@dataclass
class _Problem:
    """What is to be computed, apart from the numbers: everything that decides how to launch."""

    shape: AttentionShape
    query_length: int
    storage: Tensor
    page_table: Tensor

    def __post_init__(self) -> None:
        self.page_size: int = self.storage.shape[1]
        self.contiguous = self.page_table.shape[1] == 1
        self.widths = tile_widths(self.shape)
        self.query_rows = self.query_length * self.shape.group_size

    @property
    def page_size_or_none(self) -> int | None:
        """None for a contiguous cache, whose length a compiled kernel does not depend on."""
        return None if self.contiguous else self.page_size

    def candidates(self, device: Device) -> Iterator[Blocks]:
        """Block sizes to try, the table's first."""
        element_bytes = self.storage.element_size()
        return candidates(device, self.widths, self.query_rows, element_bytes, self.page_size_or_none)

    def launch_what_fits(self, device: Device, queries: Tensor, lengths: Tensor, outputs: Tensor) -> None:
        """Launch with the table's blocks, or with the largest smaller ones that the device takes."""
        key = (self.shape, self.query_length, self.page_size_or_none, self.storage.dtype, device)
        refusal: Exception | None = None
        known = [_launched[key]] if key in _launched else None
        for blocks in known or self.candidates(device):
            try:
                self.launch(blocks, device, queries, lengths, outputs)
            except OutOfResources as error:  # the estimate of shared memory was too low
                refusal = error
                continue
            _launched[key] = blocks
            return
        raise ValueError(
            f"no block size of the triton kernel fits {self.shape.mechanism} with {self.widths} on this GPU "
            f"({refusal}): use kernel=reference"
        )

    def launch(self, blocks: Blocks, device: Device, queries: Tensor, lengths: Tensor, outputs: Tensor) -> None:
        """Fill `outputs` [B, T, H, d_v]."""
        shape, batch = self.shape, queries.shape[0]
        programs = self.row_blocks(blocks) * row_layout(shape).cached_heads
        most_tiles = -(-self.page_table.shape[1] * self.page_size // blocks.tokens)
        splits = split_count(programs * batch, most_tiles, self._slots(blocks, device))
        partial, log_sums = outputs, outputs
        if splits > 1:
            partial = outputs.new_empty(batch, splits, *outputs.shape[1:])
            log_sums = outputs.new_empty(partial.shape[:-1])
        stages = blocks.pipeline_stages(looks_up_pages=not self.contiguous)
        options = {} if INTERPRETED else {"num_warps": blocks.warps, "num_stages": stages}
        attend_split[(programs, splits, batch)](
            queries,
            self.storage,
            self.page_table,
            lengths,
            partial,
            log_sums,
            shape.softmax_scale * LOG2_E,
            splits,
            self.page_table.shape[1],
            self.page_size,
            **self.constants(blocks, device, combined=splits > 1),
            **options,
        )
        if splits > 1:
            query_rows = self.query_length * shape.query_heads
            value_block = self.widths.value or self.widths.state
            combined_rows = max(1, COMBINED_ELEMENTS // value_block)
            combine[(-(-query_rows // combined_rows), batch)](
                partial,
                log_sums,
                lengths,
                outputs,
                splits,
                QUERY_ROWS=query_rows,
                VALUE_DIM=shape.absorbed_value_dim,
                VALUE_BLOCK=value_block,
                ROWS=combined_rows,
                TOKENS=blocks.tokens,
            )

    def row_blocks(self, blocks: Blocks) -> int:
        """Programs that share one cached head."""
        return -(-self.query_rows // blocks.rows)

    def constants(self, blocks: Blocks, device: Device, *, combined: bool) -> dict[str, Any]:
        """What `attend_split` is compiled for."""
        shape, layout = self.shape, row_layout(self.shape)
        rope_dim = rope_key_dim(shape)
        second_state = layout.state_heads[0] * layout.state_dims[0]  # where it begins in a row: RoPE key or values
        lookup = PER_TOKEN
        if self.contiguous:
            lookup = PER_PROGRAM
        elif self.page_size % blocks.tokens == 0:
            lookup = PER_TILE
        splits_fp32 = self.storage.dtype == torch.float32 and device.capability >= (8, 0)
        return {
            "QUERY_LENGTH": self.query_length,
            "GROUP_SIZE": shape.group_size,
            "CACHED_HEADS": layout.cached_heads,
            "ROW_BLOCKS": self.row_blocks(blocks),
            "COMBINED": combined,
            "KEY_DIM": shape.absorbed_key_dim - rope_dim,
            "STATE_DIM": layout.state_dims[0],
            "STATE_BLOCK": self.widths.state,
            "ROPE_OFFSET": second_state,
            "ROPE_DIM": rope_dim,
            "ROPE_BLOCK": self.widths.rope_key,
            "VALUE_OFFSET": second_state,
            "VALUE_DIM": shape.absorbed_value_dim,
            "VALUE_BLOCK": self.widths.value or self.widths.state,
            "SEPARATE_VALUES": layout.value_state != 0,
            "ROW_ELEMENTS": shape.cached_elements(),
            "LOOKUP": lookup.value,
            "PAGE_SIZE": 1 if self.contiguous else self.page_size,
            "ROWS": blocks.rows,
            "TOKENS": blocks.tokens,
            "WIDEN": INTERPRETED,
            "PRECISION": "tf32x3" if splits_fp32 else "ieee",
        }

    def _slots(self, blocks: Blocks, device: Device) -> int:
        """Programs that the device runs at a time: as many per multiprocessor as its shared memory holds, at most 2."""
        used = shared_memory(blocks, self.widths, self.storage.element_size(), device)
        return device.multiprocessors * (2 if 2 * used <= device.shared_bytes else 1)


def check_tensors(queries: Tensor, layer: CacheLayer, lengths: Tensor) -> None:
    storage, page_table = layer.storage, layer.page_table
    tensors = {"queries": queries, "storage": storage, "page_table": page_table, "lengths": lengths}
    if not INTERPRETED and queries.device.type != "cuda":
        raise ValueError(
            f"kernel=triton needs CUDA tensors, queries are on {queries.device}: move model and cache to a GPU, use "
            "kernel=cpu, or set TRITON_INTERPRET=1 before Python starts to run it in Triton's interpreter (for tests)"
        )
    for name, tensor in tensors.items():
        if tensor.device != queries.device:
            raise ValueError(
                f"the triton kernel needs everything on one device: queries are on {queries.device}, {name} on "
                f"{tensor.device}"
            )
    if not storage.is_contiguous():
        raise ValueError("the triton kernel reads contiguous storage [pages, page size, elements] only")
    if queries.dtype not in (torch.float32, storage.dtype):
        raise ValueError(f"the triton kernel takes queries in torch.float32 or {storage.dtype}, not {queries.dtype}")
    if page_table.dtype != torch.int32 or lengths.dtype != torch.int32:
        raise ValueError(f"page_table and lengths must be int32, not {page_table.dtype} and {lengths.dtype}")
    if INTERPRETED:
        _check_page_table(storage, page_table, lengths)


def _check_page_table(storage: Tensor, page_table: Tensor, lengths: Tensor) -> None:
    """The interpreter reads whatever an address says: look before it does."""
    page_size = storage.shape[1]
    for sequence, length in enumerate(lengths.tolist()):
        pages = page_table[sequence, : -(-length // page_size)]
        covered = length <= page_table.shape[1] * page_size
        if not covered or ((pages < 0) | (pages >= storage.shape[0])).any():
            raise ValueError(
                f"sequence {sequence} of length {length} does not fit its page table of {page_table.shape[1]} pages of "
                f"{page_size} tokens, or that names a page outside 0..{storage.shape[0] - 1}"
            )
