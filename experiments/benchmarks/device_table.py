"""Accelerators as their makers specify them, for planning: peaks, which no program reaches. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class Device:
    """One device. Operations per second by the name of the dtype, without sparsity; the link in one direction.

    `link_bytes_per_second` None: nothing is known of a link to others.
    """

    name: str
    memory_bytes: float
    bytes_per_second: float
    flops_per_second: Mapping[str, float]
    link_bytes_per_second: float | None
    source: str


# Gigabytes are taken as 10^9 bytes. NVLink is specified as the sum of both directions: half of it counts.
H100 = Device(
    name="h100",
    memory_bytes=80e9,
    bytes_per_second=3.35e12,
    flops_per_second={"bf16": 989e12, "fp8": 1979e12},
    link_bytes_per_second=450e9,
    source="NVIDIA H100 SXM5 datasheet: 80 GB, 3.35 TB/s, 989 and 1,979 TFLOP/s dense, NVLink 900 GB/s; "
    "arXiv 2505.21487, section 3.1, takes the same",
)
H200 = replace(
    H100,
    name="h200",
    memory_bytes=141e9,
    bytes_per_second=4.8e12,
    source="NVIDIA H200 SXM datasheet: 141 GB, 4.8 TB/s, 989 and 1,979 TFLOP/s dense, NVLink 900 GB/s",
)
B200 = Device(
    name="b200",
    memory_bytes=180e9,
    bytes_per_second=8e12,
    flops_per_second={"bf16": 2250e12, "fp8": 4500e12},
    link_bytes_per_second=900e9,
    source="NVIDIA DGX B200 datasheet, an eighth of the system: 180 of 1,440 GB, 8 of 64 TB/s, fp8 4.5 PFLOP/s "
    "dense (72 PFLOP/s with sparsity for eight), bf16 half of it, NVLink 1.8 of 14.4 TB/s",
)
DEVICES = {device.name: device for device in (H100, H200, B200)}


def physical_memory() -> int | None:
    """Bytes of this machine's memory, or None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
