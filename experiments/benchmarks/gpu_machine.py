"""A GPU's ceilings, measured, and calls timed on it: CUDA events around a CUDA graph, the L2 cache flushed before.

What `machine` is for a processor. Ceilings are measured in the same process as what is held against them, with the
driver and the clocks of that moment beside them.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

MEMORY_BYTES = 2 * 2**30  # of a bandwidth measurement: many times any L2
MATMUL_SIZE = 8192
CEILING_ROUNDS = 12
CLOCK_FIELDS = (
    *("name", "driver_version", "pstate", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem"),
    *("power.draw", "power.limit", "temperature.gpu"),
)


@dataclass(frozen=True)
class GpuCeilings:
    """Per second: the most that any of the measurements reached."""

    memory_read_bytes: float
    memory_copy_bytes: float  # bytes read plus bytes written
    bf16_matmul_flops: float
    tf32_matmul_flops: float
    fp32_matmul_flops: float

    @property
    def memory_bytes(self) -> float:
        """The better of reading and copying: what a kernel that moves bytes is held against."""
        return max(self.memory_read_bytes, self.memory_copy_bytes)

    def matmul_flops(self, dtype: torch.dtype) -> float:
        """The peak for numbers stored as `dtype`: fp32 is exact in fp32 units, or as three tf32 products."""
        if dtype == torch.float32:
            return max(self.fp32_matmul_flops, self.tf32_matmul_flops / 3)
        return self.bf16_matmul_flops


class Timer(Protocol):
    """Prepares a call once and times it again and again."""

    def prepare(self, call: Callable[[], object]) -> tuple[Callable[[], object], bool]: ...

    def seconds(self, prepared: Callable[[], object]) -> float: ...


class GraphTimer:
    """Seconds on the device, without what launching costs the processor, from a cold L2 cache."""

    def __init__(self, device: torch.device) -> None:
        l2_bytes = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 64 * 2**20)
        self._flush = torch.empty(max(256 * 2**20, 4 * l2_bytes), dtype=torch.int8, device=device)
        self._start = torch.cuda.Event(enable_timing=True)
        self._end = torch.cuda.Event(enable_timing=True)

    def prepare(self, call: Callable[[], object]) -> tuple[Callable[[], object], bool]:
        """The call as the replay of a graph and True, or, where it cannot be captured, itself and False."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # compiles and allocates outside the capture
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                call()
        except RuntimeError:
            torch.cuda.synchronize()
            return call, False
        return graph.replay, True

    def seconds(self, prepared: Callable[[], object]) -> float:
        """One timed run. Writing the flush buffer keeps the device busy while the events and the graph are queued."""
        self._flush.zero_()
        self._start.record()
        prepared()
        self._end.record()
        self._end.synchronize()
        return self._start.elapsed_time(self._end) / 1e3


def measure_gpu_ceilings(timer: Timer, device: torch.device) -> GpuCeilings:
    """A few seconds: 2 GiB read, 2 GiB copied, and products of 8192 x 8192 in bf16, tf32 and fp32."""
    source = torch.ones(MEMORY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    generator = torch.Generator(device).manual_seed(0)
    left, right = (  # random numbers: a product of zeros draws less power and runs faster
        torch.randn(MATMUL_SIZE, MATMUL_SIZE, generator=generator, device=device) for _ in range(2)
    )
    half_left, half_right = left.bfloat16(), right.bfloat16()
    product = 2 * MATMUL_SIZE**3
    calls: dict[str, tuple[Callable[[], object], int]] = {
        "memory_read_bytes": (source.sum, MEMORY_BYTES),
        "memory_copy_bytes": (lambda: target.copy_(source), 2 * MEMORY_BYTES),
        "bf16_matmul_flops": (lambda: half_left @ half_right, product),
        "tf32_matmul_flops": (lambda: left @ right, product),
        "fp32_matmul_flops": (lambda: left @ right, product),
    }
    best = {}
    allowed = torch.backends.cuda.matmul.allow_tf32
    try:
        for name, (call, amount) in calls.items():
            torch.backends.cuda.matmul.allow_tf32 = name == "tf32_matmul_flops"
            prepared, _ = timer.prepare(call)
            best[name] = amount / min(timer.seconds(prepared) for _ in range(CEILING_ROUNDS))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
    return GpuCeilings(**best)


def describe_gpu(device: torch.device) -> dict[str, Any]:
    """What the device is, as torch sees it."""
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": getattr(properties, "L2_cache_size", None),
        "shared_memory_per_block": getattr(properties, "shared_memory_per_block_optin", None),
        "cuda": torch.version.cuda,
    }


def clocks(run: Callable[[list[str]], str] | None = None) -> Mapping[str, str] | None:
    """Driver, clocks, power and temperature of this moment from nvidia-smi; None where it does not answer."""
    if run is None:
        if shutil.which("nvidia-smi") is None:
            return None
        run = _nvidia_smi
    try:
        answer = run(["nvidia-smi", f"--query-gpu={','.join(CLOCK_FIELDS)}", "--format=csv,noheader"])
    except (OSError, subprocess.SubprocessError):
        return None
    values = [value.strip() for value in (answer.splitlines() or [""])[0].split(",")]
    return dict(zip(CLOCK_FIELDS, values, strict=True)) if len(values) == len(CLOCK_FIELDS) else None


def _nvidia_smi(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
