"""A second device that is none: tensors on it are computed on the CPU, and refuse what a GPU refuses.

    with PretendDevice() as device:
        model.to(device.name)               # values are real
        ...
    device.host_reads                       # every wait for a number of the device: .item(), .tolist(), .cpu()

An operation on tensors of both devices raises as it does on CUDA, with the same exceptions: numbers (tensors of no
dimension) and index tensors may stay on the CPU, and copies go across. The device is of torch's type `lazy`, which
nothing registers on and for which autograd needs no thread of its own.
"""

from __future__ import annotations

from contextlib import ExitStack
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from experiments.decoding.cache import CacheLayer
from experiments.decoding.reference import reference_attend

aten = torch.ops.aten
CROSSING = {aten.copy_.default, aten._to_copy.default}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
READING = {aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default}
# What gives a result whose size is a number of the device: CUDA waits for it.
SIZED_BY_NUMBERS = {aten.nonzero.default, aten.masked_select.default, aten._unique2.default, aten.unique_dim.default}


class PretendTensor(torch.Tensor):
    """Holds a CPU tensor and says that it lies on the pretended device."""

    numbers: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> PretendTensor:
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=PretendDevice.name,
            requires_grad=inner.requires_grad,
        )
        tensor.numbers = inner
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} was called outside of `with PretendDevice()`")

    def __repr__(self) -> str:
        return f"PretendTensor({self.numbers!r})"


class _TensorFromNumbers(TorchFunctionMode):
    """torch.tensor(..., device=) and indexing by a list in two steps: they copy where no dispatch mode sees it."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.tensor and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return function(*args, **kwargs).to(device)
        if function is torch.Tensor.tolist:
            return args[0].cpu().tolist()
        if function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.tensor(part) if isinstance(part, list) else part for part in index)
            args = (args[0], index, *args[2:])
        return function(*args, **kwargs)


class _NoGradient:
    def __enter__(self) -> None:
        self._before = torch.is_grad_enabled()
        torch.set_grad_enabled(False)

    def __exit__(self, *error: object) -> None:
        torch.set_grad_enabled(self._before)


class PretendDevice(TorchDispatchMode):
    """Counts in `host_reads` what waits for the device, and keeps in `operations` what ran on it, with shapes."""

    name = "lazy"

    def __init__(self) -> None:
        super().__init__()
        self.host_reads: list[str] = []
        self.operations: list[tuple[str, tuple[tuple[int, ...], ...]]] = []

    def __enter__(self):
        self._around = ExitStack()
        self._around.enter_context(_TensorFromNumbers())
        # A wrapper cannot be an inference tensor: no_grad instead, which changes no number.
        for name in ("__enter__", "__exit__"):
            self._around.enter_context(patch.object(torch.inference_mode, name, getattr(_NoGradient, name)))
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._around.close()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        leaves = tree_flatten((args, kwargs))[0]
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        pretended = [tensor for tensor in tensors if isinstance(tensor, PretendTensor)]
        target = next((torch.device(leaf).type for leaf in leaves if isinstance(leaf, torch.device)), None)
        if not pretended and target != self.name:
            return function(*args, **kwargs)
        crosses = function in CROSSING or function.overloadpacket is aten.to
        if not crosses:
            self._refuse_mixed(function, args, tensors)
        writes_host = function is aten.copy_.default and not isinstance(args[0], PretendTensor)
        to_host = target not in (None, self.name)
        if function in READING or function in SIZED_BY_NUMBERS or to_host or writes_host:
            self.host_reads.append(str(function))
        self.operations.append((str(function), tuple(tuple(tensor.shape) for tensor in tensors)))
        on_cpu = tree_map(_on_cpu, (args, {name: value for name, value in kwargs.items() if name != "pin_memory"}))
        result = function(*on_cpu[0], **on_cpu[1])
        if writes_host or to_host:
            return args[0] if writes_host else result
        known = {id(tensor.numbers): tensor for tensor in pretended}  # in place: the tensor itself comes back

        def outside(leaf):
            if not isinstance(leaf, torch.Tensor):
                return leaf
            if any(leaf is tensor for tensor in tensors):  # "moved" from the CPU: the device has memory of its own
                leaf = leaf.clone()
            return known[id(leaf)] if id(leaf) in known else PretendTensor(leaf)

        return tree_map(outside, result)

    def _refuse_mixed(self, function, args, tensors) -> None:
        stray = [tensor for tensor in tensors if not isinstance(tensor, PretendTensor) and tensor.dim() > 0]
        if function in INDEXING:
            indices = [index for index in args[1] if isinstance(index, torch.Tensor)]
            stray = [tensor for tensor in stray if all(tensor is not index for index in indices)]
            if not isinstance(args[0], PretendTensor):
                stray.append(args[0])
        if stray:
            raise RuntimeError(
                f"{function} got tensors on two devices: {[tuple(tensor.shape) for tensor in stray]} on the CPU"
            )


def _on_cpu(leaf):
    return torch.device("cpu") if isinstance(leaf, torch.device) else getattr(leaf, "numbers", leaf)


def inner(tensor: torch.Tensor) -> torch.Tensor:
    """The numbers of a tensor of either device, for looking at them without being counted."""
    return getattr(tensor, "numbers", tensor)


def pretend_attend(shape, queries, layer, lengths, kernel):
    """In the place of a GPU's attention kernel: takes tensors of the device, gives one, waits for nothing.

    Of tensors on the CPU it is the reference.
    """
    numbers = CacheLayer(inner(layer.storage), inner(layer.page_table))
    heads = reference_attend(shape, inner(queries), numbers, inner(lengths))
    return PretendTensor(heads) if isinstance(queries, PretendTensor) else heads
