"""The GPU that a benchmark measures on, as one small object: tests put another in its place."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch

from .gpu_machine import GpuCeilings, GraphTimer, Timer, clocks, describe_gpu, measure_gpu_ceilings

Result = TypeVar("Result")
PEAK_NAMES = {"fp32": "fp32", "bf16": "bf16", "fp16": "bf16"}  # fp32: exact products, in fp32 units or as three of tf32


class Gpu:
    """Where tensors live, what times calls on them, what the device is and can at most do."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.timer: Timer = GraphTimer(device)

    def ceilings(self) -> GpuCeilings:
        """Measured now, in a few seconds."""
        found = measure_gpu_ceilings(self.timer, self.device)
        self.release()
        return found

    def description(self) -> dict[str, Any]:
        """Name, memory and capability, as torch sees them."""
        return describe_gpu(self.device)

    def clocks(self) -> Mapping[str, str] | None:
        """Driver, clocks, power and temperature of this moment; None where nvidia-smi does not answer."""
        return clocks()

    def free_memory(self) -> int:
        """Bytes that can be allocated, what torch holds and does not use included."""
        self.release()
        free, _ = torch.cuda.mem_get_info(self.device)
        return int(free)

    def release(self) -> None:
        """Give back what torch holds and does not use."""
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class OnGpu:
    """A GPU with the ceilings that were measured on it for what comes now."""

    gpu: Gpu
    ceilings: GpuCeilings


def recorded(gpu: Gpu, measure: Callable[[OnGpu], Result]) -> tuple[Result, dict[str, Any]]:
    """What `measure` gives, and the record of the device: what it is, its ceilings, its clocks before and after."""
    record: dict[str, Any] = {"gpu": gpu.description(), "clocks": {"before": gpu.clocks()}}
    ceilings = gpu.ceilings()
    record["ceilings"] = [{"memory_bytes": ceilings.memory_bytes, **asdict(ceilings)}]
    record["clocks"]["after_ceilings"] = gpu.clocks()
    result = measure(OnGpu(gpu, ceilings))
    record["clocks"]["after"] = gpu.clocks()
    return result, record


def open_gpu(*, needs_triton: bool) -> Gpu:
    """The present CUDA device. Raises ValueError where there is none, or where Triton kernels cannot be timed on it."""
    if not torch.cuda.is_available():
        raise ValueError("no CUDA device is found by torch: use device=cpu, or install a CUDA build of torch")
    if needs_triton and importlib.util.find_spec("triton") is None:
        raise ValueError("bench.kernel=[triton] needs the package triton: pip install 'rl-exp[triton]'")
    if needs_triton and os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes"):
        raise ValueError("TRITON_INTERPRET is set, and interpreted kernels are no measurement: unset it")
    return Gpu(torch.device("cuda", torch.cuda.current_device()))
