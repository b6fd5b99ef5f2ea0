"""A GPU that is none, for tests of what is measured on one: tensors on the CPU, seconds and clocks made up."""

import torch

from experiments.benchmarks.gpu import CLOCK_FIELDS, GpuCeilings

CEILINGS = GpuCeilings(
    memory_read_bytes=3e12,
    memory_copy_bytes=2e12,
    bf16_matmul_flops=8e14,
    tf32_matmul_flops=3e14,
    fp32_matmul_flops=5e13,
)
CLOCKS = {name: f"made-up {name}" for name in CLOCK_FIELDS}


class CountingTimer:
    """Says that a call took a second the first time, two the second, ..., times `unit`."""

    def __init__(self, unit: float = 1.0):
        self.runs, self.unit = 0, unit

    def prepare(self, call):
        return call, True

    def seconds(self, prepared):
        self.runs += 1
        return self.runs * self.unit


class MadeUpGpu:
    """Has the methods of `benchmarks.gpu.Gpu`."""

    def __init__(self, free_bytes: int = 2**30, clocks: dict | None = CLOCKS):
        self.device, self.timer = torch.device("cpu"), CountingTimer(1e-6)
        self._free, self._clocks = free_bytes, clocks

    def ceilings(self):
        return CEILINGS

    def description(self):
        return {"name": "a GPU that is none"}

    def clocks(self):
        return self._clocks

    def free_memory(self):
        return self._free

    def release(self):
        pass
