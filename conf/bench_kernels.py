"""Which decode kernels `rl-exp bench` can measure where, and which it takes where none is named."""

from __future__ import annotations

from collections.abc import Sequence

from conf.run_config import Device
from experiments.benchmarks.choices import BenchKernel

STOCK = (BenchKernel.sdpa, BenchKernel.matmul, BenchKernel.flex, BenchKernel.flashinfer)
OF_ONE_LAYER = {
    Device.cpu: (BenchKernel.cpu, BenchKernel.reference, *STOCK[:3]),
    Device.cuda: (BenchKernel.triton, *STOCK),
}
OF_WHOLE_MODELS = {
    Device.cpu: (BenchKernel.cpu, BenchKernel.reference),
    Device.cuda: (BenchKernel.triton, BenchKernel.reference),
}


def usual_kernels(device: Device, *, whole_model: bool, alone: bool = False) -> list[BenchKernel]:
    """Our kernel for `device`; beside it, for one layer that is not to be measured `alone`, torch's products."""
    ours = BenchKernel.triton if device is Device.cuda else BenchKernel.cpu
    return [ours] if whole_model or alone else [ours, BenchKernel.matmul]


def devices_of(kernels: Sequence[BenchKernel] | None, wanted: Device, *, whole_model: bool) -> tuple[Device, ...]:
    """The devices on which all of `kernels` run and that `wanted` allows, a GPU first; None are the usual ones.

    Raises ValueError where there is no such device.
    """
    table = OF_WHOLE_MODELS if whole_model else OF_ONE_LAYER
    allowed = (Device.cuda, Device.cpu) if wanted is Device.auto else (wanted,)
    if kernels is None:
        return allowed
    devices = tuple(device for device in allowed if set(kernels) <= set(table[device]))
    if not devices:
        names = ",".join(kernels)
        where = " or ".join(f"{', '.join(table[device])} on {device.value}" for device in allowed)
        raise ValueError(
            f"bench.kernel=[{names}] does not fit device={wanted.value}: use {where}, or null for the usual ones"
        )
    return devices
