"""The compiled linear layers of small batches; the C++ is in `cpu/linear.cpp`, its build in `cpu_library`."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .cpu_library import cpu_library


class _Linear(ctypes.Structure):
    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("inputs", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
    )


class _Rows(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("stride", ctypes.c_int64))


class _LinearCall(ctypes.Structure):
    _fields_ = (
        ("linear", _Linear),
        ("inputs", _Rows),
        ("residual", _Rows),
        *(("outputs", ctypes.c_void_p), ("output_stride", ctypes.c_int64)),
        *(("rows", ctypes.c_int64), ("threads", ctypes.c_int64), ("epsilon", ctypes.c_double)),
    )


class _BlockCall(ctypes.Structure):
    _fields_ = (
        *(("output", _Linear), ("gate_and_up", _Linear), ("down", _Linear)),
        *(("heads", _Rows), ("hidden", _Rows)),
        *(("outputs", ctypes.c_void_p), ("output_stride", ctypes.c_int64)),
        *(("rows", ctypes.c_int64), ("threads", ctypes.c_int64), ("epsilon", ctypes.c_double)),
    )


class PanelLinear:
    """norm(x) W^T + b + residual over rows x [N, inputs] fp32, with the weight in panels; the norm has no weight.

    `interleave` puts output i of the first half beside output i of the second, panel by panel, as the feed-forward
    wants its gates.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, *, epsilon: float = -1.0, interleave: bool = False
    ) -> None:
        functions = entry_points()
        assert functions is not None, "ask entry_points first"
        self.outputs, inputs = weight.shape
        size = functions.rl_exp_panel_outputs()
        halves = weight.chunk(2) if interleave else (weight,)
        width = size // len(halves)
        panels = -(-len(halves[0]) // width)
        self.weight = torch.empty(panels, inputs, size)
        for half, columns in zip(halves, self.weight.split(width, dim=-1), strict=True):
            if len(half) % width:
                half = F.pad(half, (0, 0, 0, -len(half) % width))  # else no copy: fresh memory is what costs most here
            columns.copy_(half.view(-1, width, inputs).transpose(1, 2))
        self.bias = None if bias is None else F.pad(bias, (0, -self.outputs % size)).contiguous()
        bias_pointer = None if self.bias is None else self.bias.data_ptr()
        self.linear = _Linear(self.weight.data_ptr(), bias_pointer, inputs, self.outputs)
        self._call = _LinearCall(linear=self.linear, epsilon=epsilon)
        self._function = functions.rl_exp_linear

    def __call__(self, inputs: Tensor, residual: Tensor | None = None) -> Tensor:
        call = self._call
        outputs = torch.empty(len(inputs), self.outputs)
        _point(call.inputs, inputs, len(inputs), self.linear.inputs)
        if residual is None:
            call.residual.data = None
        else:
            _point(call.residual, residual, len(inputs), self.outputs)
        call.outputs, call.output_stride = outputs.data_ptr(), self.outputs
        call.rows, call.threads = len(inputs), torch.get_num_threads()
        self._function(ctypes.byref(call))
        return outputs


class PanelBlock:
    """A block behind its attention: output projection, residual, norm, gated feed-forward, residual, in one call."""

    def __init__(self, output: PanelLinear, gate_and_up: PanelLinear, down: PanelLinear, epsilon: float) -> None:
        functions = entry_points()
        assert functions is not None, "ask entry_points first"
        self.parts = (output, gate_and_up, down)  # keeps the weights alive
        self._call = _BlockCall(output.linear, gate_and_up.linear, down.linear, epsilon=epsilon)
        self._function = functions.rl_exp_finish_block

    def __call__(self, hidden: Tensor, heads: Tensor) -> Tensor:
        call = self._call
        outputs = torch.empty_like(hidden)
        _point(call.hidden, hidden, len(hidden), call.output.outputs)
        _point(call.heads, heads, len(hidden), call.output.inputs)
        call.outputs, call.output_stride = outputs.data_ptr(), outputs.stride(0)
        call.rows, call.threads = len(hidden), torch.get_num_threads()
        self._function(ctypes.byref(call))
        return outputs


@functools.cache
def entry_points() -> Any | None:
    """The compiled functions; None where there is no compiler."""
    library = cpu_library()
    if library is None:
        return None
    library.rl_exp_panel_outputs.restype = ctypes.c_int64
    library.rl_exp_linear.argtypes, library.rl_exp_linear.restype = [ctypes.POINTER(_LinearCall)], None
    library.rl_exp_finish_block.argtypes, library.rl_exp_finish_block.restype = [ctypes.POINTER(_BlockCall)], None
    return library


def _point(rows: _Rows, tensor: Tensor, count: int, width: int) -> None:
    fits = tuple(tensor.shape) == (count, width) and (tensor.stride(1) == 1 or width == 1)
    if not fits or tensor.dtype != torch.float32 or tensor.device.type != "cpu":
        raise ValueError(
            f"{count} rows of {width} torch.float32 side by side on the cpu are needed, not {tensor.dtype} of shape "
            f"{tuple(tensor.shape)} and strides {tensor.stride()} on {tensor.device}"
        )
    rows.data, rows.stride = tensor.data_ptr(), tensor.stride(0)
