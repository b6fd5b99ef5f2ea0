"""The machine's ceilings, measured: bytes read per second from memory and from cache, fp32 operations per second.

Every benchmark measures them in its own process and stores them with its results: on shared machines they move by a
factor of two within minutes, so a fraction of a limit means something only beside the limit it was taken with.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..decoding.cpu_library import cpu_library

MEMORY_BYTES = 256 * 2**20  # several times any last-level cache share of a small machine
CACHE_BYTES = 2 * 2**20  # per measurement, over all threads: stays in the last-level cache
MATMUL_SIZE = 1024
CACHE_SHARE = 0.25  # of the last-level cache: data up to this size stay there from call to call
USUAL_CACHE_BYTES = 32 * 2**20  # where the system does not say


@dataclass(frozen=True)
class Ceilings:
    """Per second, with `threads` threads.

    `fp32_flops` is what registers alone allow (multiply-adds with no memory access; needs the compiled library, else
    equal to the matmul's); `fp32_matmul_flops` is what torch's own matmul of 1024 x 1024 reaches.
    """

    threads: int
    memory_read_bytes: float
    cache_read_bytes: float
    fp32_flops: float
    fp32_matmul_flops: float


class CeilingProbe:
    """Measures ceilings again and again, so that a benchmark can interleave them with what it measures."""

    def __init__(self) -> None:
        self.threads = torch.get_num_threads()
        self._memory = torch.ones(MEMORY_BYTES // 4)
        self._left, self._right = torch.ones(MATMUL_SIZE, MATMUL_SIZE), torch.ones(MATMUL_SIZE, MATMUL_SIZE)
        self._library = cpu_library()
        self._sink = ctypes.c_float()
        if self._library is not None:
            self._library.rl_exp_multiply_add.restype = None
            self._library.rl_exp_multiply_add.argtypes = [ctypes.c_int64, ctypes.c_int, ctypes.c_void_p]
            self._library.rl_exp_read.restype = None
            self._library.rl_exp_read.argtypes = [
                *(ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int, ctypes.c_void_p)
            ]

    def memory_read(self) -> float:
        """Bytes per second of one pass over 256 MiB: the better of torch's sum and a plain loop."""
        rates = [MEMORY_BYTES / _seconds(self._memory.sum)]
        if self._library is not None:
            rates.append(MEMORY_BYTES / _seconds(lambda: self._read(MEMORY_BYTES, 1)))
        return max(rates)

    def cache_read(self) -> float:
        """Bytes per second over data that stays in cache."""
        repeats = 50
        if self._library is not None:
            return CACHE_BYTES * repeats / _seconds(lambda: self._read(CACHE_BYTES, repeats))
        part = self._memory[: CACHE_BYTES // 4]
        return CACHE_BYTES * repeats / _seconds(lambda: [part.sum() for _ in range(repeats)])

    def fp32(self) -> float:
        """Operations per second of multiply-adds in registers."""
        library = self._library
        if library is None:
            return self.matmul()
        rounds = 2_000_000
        operations = float(rounds * 12 * 2 * library.rl_exp_vector_width() * self.threads)
        sink = ctypes.addressof(self._sink)
        return operations / _seconds(lambda: library.rl_exp_multiply_add(rounds, self.threads, sink))

    def matmul(self) -> float:
        """Operations per second of torch's fp32 matmul."""
        return 2 * MATMUL_SIZE**3 / _seconds(lambda: self._left @ self._right)

    def _read(self, size: int, repeats: int) -> None:
        assert self._library is not None
        sink = ctypes.addressof(self._sink)
        self._library.rl_exp_read(self._memory.data_ptr(), size // 4, repeats, self.threads, sink)


def measure_ceilings(repeats: int = 7) -> Ceilings:
    """The best of `repeats` measurements of each ceiling with torch's current number of threads; about a second."""
    probe = CeilingProbe()
    measurements: dict[str, Callable[[], float]] = {
        "memory_read_bytes": probe.memory_read,
        "cache_read_bytes": probe.cache_read,
        "fp32_flops": probe.fp32,
        "fp32_matmul_flops": probe.matmul,
    }
    best = dict.fromkeys(measurements, 0.0)
    for _ in range(repeats + 1):  # the first round warms up, and cannot be the best by accident of doing less
        for name, measure in measurements.items():
            best[name] = max(best[name], measure())
    best["fp32_flops"] = max(best["fp32_flops"], best["fp32_matmul_flops"])
    return Ceilings(threads=probe.threads, **best)


def free_memory() -> int:
    """Bytes that can be allocated without swapping."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def last_level_cache_bytes() -> int:
    """Size of the processor's last-level cache."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        sizes.append(int(text[:-1]) * {"K": 2**10, "M": 2**20}.get(text[-1], 1))
    return max(sizes, default=USUAL_CACHE_BYTES)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
