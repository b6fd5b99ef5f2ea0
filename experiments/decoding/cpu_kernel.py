"""The compiled CPU kernel behind the decode interface; the C++ is in `cpu/`, its build in `cpu_library`."""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor

from ..models.shapes import AttentionShape
from .cache import STORAGE_DTYPES, CacheLayer
from .cpu_library import cpu_library
from .layout import row_layout
from .reference import reference_attend

_NUMBERS = (
    *("batch", "query_length", "query_heads", "cached_heads"),
    *("n_states", "state_heads", "state_dims"),
    *("n_segments", "segment_states", "segment_widths", "value_state"),
    *("pages", "page_size", "pages_per_sequence", "element_type", "threads"),
)
_PAIRS = ("state_heads", "state_dims", "segment_states", "segment_widths")
_POINTERS = ("storage", "page_table", "lengths", "queries", "outputs")


class _Problem(ctypes.Structure):
    """`struct Problem` of `cpu/decode_attention.cpp`."""

    _fields_ = (
        *((name, ctypes.c_int64 * 2 if name in _PAIRS else ctypes.c_int64) for name in _NUMBERS),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        ("softmax_scale", ctypes.c_double),
    )


def cpu_attend(shape: AttentionShape, queries: Tensor, layer: CacheLayer, lengths: Tensor) -> Tensor:
    """See `attention.attend`; uses `torch.get_num_threads()` threads.

    A sequence's outputs are the same bits for any number of threads and in any batch.
    """
    attend = _entry_point()
    if attend is None:
        return reference_attend(shape, queries, layer, lengths)
    storage, page_table = layer.storage, layer.page_table
    if not storage.is_contiguous():
        raise ValueError("the cpu kernel reads contiguous storage [pages, page size, elements] only")
    for name, tensor in (("queries", queries), ("storage", storage), ("page_table", page_table), ("lengths", lengths)):
        if tensor.device.type != "cpu":
            raise ValueError(f"the cpu kernel needs {name} on the cpu, not on {tensor.device}: use kernel=reference")
    if queries.dtype != torch.float32:
        raise ValueError(f"the cpu kernel takes queries in torch.float32, not {queries.dtype}")
    if page_table.dtype != torch.int32 or lengths.dtype != torch.int32:
        raise ValueError(f"page_table and lengths must be int32, not {page_table.dtype} and {lengths.dtype}")
    queries, page_table, lengths = queries.contiguous(), page_table.contiguous(), lengths.contiguous()
    batch, query_length = queries.shape[:2]
    outputs = torch.empty(batch, query_length, shape.query_heads, shape.absorbed_value_dim)
    if outputs.numel() == 0:
        return outputs

    problem = _Problem.from_buffer_copy(_problem_of(shape))
    problem.batch, problem.query_length = batch, query_length
    problem.pages, problem.page_size, problem.pages_per_sequence = *storage.shape[:2], page_table.shape[1]
    problem.element_type = STORAGE_DTYPES.index(storage.dtype)  # `enum ElementType` has their order
    problem.threads = torch.get_num_threads()
    problem.storage, problem.page_table = storage.data_ptr(), page_table.data_ptr()
    problem.lengths, problem.queries, problem.outputs = lengths.data_ptr(), queries.data_ptr(), outputs.data_ptr()
    if bad := attend(ctypes.byref(problem)):
        sequence = bad - 1
        raise ValueError(
            f"sequence {sequence} of length {int(lengths[sequence])} does not fit its page table of "
            f"{page_table.shape[1]} pages of {storage.shape[1]} tokens, or that names a page outside 0.."
            f"{storage.shape[0] - 1}"
        )
    return outputs


@functools.cache
def _entry_point() -> ctypes._NamedFuncPointer | None:
    library = cpu_library()
    if library is None:
        return None
    function = library.rl_exp_decode_attention
    function.argtypes, function.restype = [ctypes.POINTER(_Problem)], ctypes.c_int64
    return function


@functools.lru_cache(maxsize=64)
def _problem_of(shape: AttentionShape) -> bytes:
    """The fields that depend on the shape alone, as the bytes of a `_Problem`."""
    layout = row_layout(shape)
    problem = _Problem(
        query_heads=shape.query_heads,
        cached_heads=layout.cached_heads,
        n_states=len(layout.state_heads),
        state_heads=layout.state_heads,
        state_dims=layout.state_dims,
        n_segments=len(layout.key_segments),
        segment_states=tuple(state for state, _ in layout.key_segments),
        segment_widths=tuple(width for _, width in layout.key_segments),
        value_state=layout.value_state,
        softmax_scale=shape.softmax_scale,
    )
    return bytes(problem)
