"""Cache bytes per token, layer and device under tensor parallelism, counted on caches that are really allocated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..decoding.cache import DecodeCache
from ..decoding.cost_model import cached_bytes_per_token, device_shape, duplication_factor
from ..models.shapes import AttentionShape

TOKENS = 64  # of the caches that are allocated to be counted


def bytes_per_device(shapes: Mapping[str, AttentionShape], sizes: Sequence[int]) -> list[dict[str, Any]]:
    """A row per mechanism and number of devices, bf16; `bytes` is None where the heads do not split."""
    rows = []
    for mechanism, shape in shapes.items():
        alone = allocated_bytes_per_token(shape, 1)
        for size in sizes:
            row: dict[str, Any] = {"mechanism": mechanism, "tensor_parallel": size}
            try:
                allocated = allocated_bytes_per_token(shape, size)
            except ValueError as error:
                rows.append(row | {"bytes": None, "reason": str(error)})
                continue
            rows.append(
                row
                | {
                    "bytes": allocated,
                    "predicted_bytes": cached_bytes_per_token(shape, tensor_parallel=size),
                    "duplication_factor": duplication_factor(shape, size),
                    "stored": size * allocated / alone,
                }
            )
    return rows


def allocated_bytes_per_token(shape: AttentionShape, tensor_parallel: int) -> float:
    """Bytes that one device's bf16 cache takes per token and layer."""
    local = device_shape(shape, tensor_parallel)
    cache = DecodeCache(local, layers=1, batch_size=1, max_length=TOKENS, dtype=torch.bfloat16)
    return cache.allocated_bytes() / TOKENS
