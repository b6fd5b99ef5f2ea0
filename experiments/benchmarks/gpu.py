"""The GPU that a benchmark measures on: how calls are timed there, its ceilings, its clocks.

Calls are timed by CUDA events around the replay of a CUDA graph, with the L2 cache overwritten before each. Triton's
`do_bench_cudagraph` times a graph of many calls in a row instead: later calls find their data in the L2 cache, and
cells cannot take turns in rounds, so that a change of clocks would favour some of them.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

import torch

Result = TypeVar("Result")
Call = Callable[[], object]

MEMORY_BYTES = 2 * 2**30  # of a bandwidth measurement: many times any L2
MATMUL_SIZE = 8192
CEILING_ROUNDS = 12
CLOCK_FIELDS = (
    *("name", "driver_version", "pstate", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem"),
    *("power.draw", "power.limit", "temperature.gpu"),
)
PEAK_NAMES = {"fp32": "fp32", "bf16": "bf16", "fp16": "bf16"}  # fp32: exact products, in fp32 units or as three of tf32


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
        """The better of reading and copying: the limit of a kernel that moves bytes."""
        return max(self.memory_read_bytes, self.memory_copy_bytes)

    def matmul_flops(self, dtype: torch.dtype) -> float:
        """The peak for numbers stored as `dtype`: fp32 is exact in fp32 units, or as three tf32 products."""
        if dtype == torch.float32:
            return max(self.fp32_matmul_flops, self.tf32_matmul_flops / 3)
        return self.bf16_matmul_flops


class Timer(Protocol):
    """Prepares a call once and times it again and again."""

    def prepare(self, call: Call) -> tuple[Call, bool]:
        """What to time in place of `call`, and whether that is a CUDA graph."""

    def seconds(self, prepared: Call) -> float:
        """One timed run."""


class GraphTimer:
    """Seconds on the device, without what launching costs the processor, from a cold L2 cache."""

    def __init__(self, device: torch.device) -> None:
        l2_bytes = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 64 * 2**20)
        self._flush = torch.empty(max(256 * 2**20, 4 * l2_bytes), dtype=torch.int8, device=device)
        self._start = torch.cuda.Event(enable_timing=True)
        self._end = torch.cuda.Event(enable_timing=True)

    def prepare(self, call: Call) -> tuple[Call, bool]:
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

    def seconds(self, prepared: Call) -> float:
        """Writing the flush buffer keeps the device busy while the events and the graph are queued."""
        self._flush.zero_()
        self._start.record()
        prepared()
        self._end.record()
        self._end.synchronize()
        return self._start.elapsed_time(self._end) / 1e3


class Gpu:
    """Where tensors live, what times calls on them, what the device is and can at most do."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.timer: Timer = GraphTimer(device)

    def ceilings(self) -> GpuCeilings:
        """Measured now, in a few seconds: 2 GiB read, 2 GiB copied, products of 8192 x 8192 in bf16, tf32 and fp32."""
        source = torch.ones(MEMORY_BYTES // 4, device=self.device)
        target = torch.empty_like(source)
        generator = torch.Generator(self.device).manual_seed(0)
        left, right = (  # random numbers: a product of zeros draws less power and runs faster
            torch.randn(MATMUL_SIZE, MATMUL_SIZE, generator=generator, device=self.device) for _ in range(2)
        )
        half_left, half_right = left.bfloat16(), right.bfloat16()
        product = 2 * MATMUL_SIZE**3
        calls: dict[str, tuple[Call, int]] = {
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
                prepared, _ = self.timer.prepare(call)
                best[name] = amount / min(self.timer.seconds(prepared) for _ in range(CEILING_ROUNDS))
        finally:
            torch.backends.cuda.matmul.allow_tf32 = allowed
        return GpuCeilings(**best)

    def description(self) -> dict[str, Any]:
        """What the device is, as torch sees it."""
        properties = torch.cuda.get_device_properties(self.device)
        return {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
            "l2_bytes": getattr(properties, "L2_cache_size", None),
            "shared_memory_per_block": getattr(properties, "shared_memory_per_block_optin", None),
            "cuda": torch.version.cuda,
        }

    def clocks(self) -> Mapping[str, str] | None:
        """Driver, clocks, power and temperature of this moment; None where nvidia-smi does not answer."""
        if shutil.which("nvidia-smi") is None:
            return None
        command = ["nvidia-smi", f"--query-gpu={','.join(CLOCK_FIELDS)}", "--format=csv,noheader"]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
        except (OSError, subprocess.SubprocessError):
            return None
        values = [value.strip() for value in (answer.splitlines() or [""])[0].split(",")]
        return dict(zip(CLOCK_FIELDS, values, strict=True)) if len(values) == len(CLOCK_FIELDS) else None

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
    gpu.release()
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
        raise ValueError("the kernel triton needs the package triton: pip install 'rl-exp[triton]'")
    if needs_triton and os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes"):
        raise ValueError("TRITON_INTERPRET is set, and interpreted kernels cannot be timed: unset it")
    return Gpu(torch.device("cuda", torch.cuda.current_device()))
