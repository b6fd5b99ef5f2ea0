"""What one layer's decode attention must move and compute, in closed form. Standard library only.

Counting: every cached byte once, whether it serves as key, as value or both; queries and outputs in fp32; a
multiply-add is two operations; only visible query-key pairs count. Projections are not part of it. Under tensor
parallelism the numbers are those of one device: query heads are split evenly, cached heads are split where there are
enough and copied where there are not, a RoPE key is on every device.

Source: Hardware-Efficient Attention for Fast Decoding (arXiv 2505.21487), section 3 and Table 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..models.shapes import AttentionShape


@dataclass(frozen=True)
class AttentionCost:
    """One attention step of one layer on one device."""

    cache_bytes: int
    query_bytes: int
    output_bytes: int
    flops: int

    @property
    def bytes(self) -> int:
        """Everything that must move at least once."""
        return self.cache_bytes + self.query_bytes + self.output_bytes

    @property
    def arithmetic_intensity(self) -> float:
        """Operations per byte."""
        return self.flops / self.bytes

    def floor_seconds(self, bytes_per_second: float, flops_per_second: float) -> float:
        """The time below which no kernel can be, on a machine with these ceilings."""
        return max(self.bytes / bytes_per_second, self.flops / flops_per_second)

    def is_memory_bound(self, bytes_per_second: float, flops_per_second: float) -> bool:
        """Whether moving the bytes takes longer than the arithmetic."""
        return self.bytes / bytes_per_second >= self.flops / flops_per_second


def attention_cost(
    shape: AttentionShape,
    lengths: Sequence[int],
    *,
    query_length: int = 1,
    element_bytes: int = 4,
    tensor_parallel: int = 1,
) -> AttentionCost:
    """Cost of the newest `query_length` tokens of sequences of these lengths (which include them)."""
    device = device_shape(shape, tensor_parallel)
    key_dim, value_dim = device.absorbed_key_dim, device.absorbed_value_dim
    rows = len(lengths) * query_length * device.query_heads
    pairs = sum(_visible_pairs(length, query_length) for length in lengths)
    return AttentionCost(
        cache_bytes=sum(lengths) * device.cached_elements() * element_bytes,
        query_bytes=rows * key_dim * 4,
        output_bytes=rows * value_dim * 4,
        flops=2 * pairs * device.query_heads * (key_dim + value_dim),
    )


def _visible_pairs(length: int, query_length: int) -> int:
    """Query t of T sees length - T + t + 1 tokens, or none if that is negative."""
    queries = min(query_length, length)
    return queries * length - queries * (queries - 1) // 2


def cached_bytes_per_token(shape: AttentionShape, *, element_bytes: int = 2, tensor_parallel: int = 1) -> int:
    """Bytes per token and layer on each device (Tables 5, 15 and 26)."""
    return shape.cached_elements(tensor_parallel) * element_bytes


def duplication_factor(shape: AttentionShape, tensor_parallel: int) -> int:
    """How many devices hold the same cached head: D = ceil(N g_q / h_q), 1 without redundancy (section 3.2)."""
    return -(-tensor_parallel * shape.group_size // shape.query_heads)


def device_shape(shape: AttentionShape, tensor_parallel: int) -> AttentionShape:
    """The shape that each of `tensor_parallel` devices computes.

    Raises ValueError where query heads do not split evenly, or cached heads neither split nor copy evenly.
    """
    if tensor_parallel < 1 or shape.query_heads % tensor_parallel:
        raise ValueError(f"query_heads={shape.query_heads} do not split over tensor_parallel={tensor_parallel} devices")
    name = shape.states_heads_name
    whole_heads: int = getattr(shape, name)
    if whole_heads % tensor_parallel and tensor_parallel % whole_heads:
        raise ValueError(
            f"{name}={whole_heads} neither split nor copy evenly over tensor_parallel={tensor_parallel} devices: "
            "one must divide the other"
        )
    heads = max(1, whole_heads // tensor_parallel)
    fields: dict[str, Any] = {name: heads, "query_heads": shape.query_heads // tensor_parallel}
    if shape.split_query_latent:  # a group's share of the query latent goes with the group
        fields["query_latent_dim"] = shape.query_latent_dim * heads // whole_heads
    return replace(shape, **fields)
