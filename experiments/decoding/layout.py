"""Where a token's states lie in its cache row, and which parts of it a query head reads. Standard library only.

One token of one layer is one row of `AttentionShape.cached_elements()` elements: the states of
`AttentionShape.cached_states()` one after the other, each state head by head.

    mha, mqa, gqa     [ key head 0 | .. | key head G-1 | value head 0 | .. | value head G-1 ]
    tied_key_value    [ tied head 0 | .. | tied head G-1 ]
    gta               [ tied head 0 | .. | tied head G-1 | RoPE key ]
    mla, gla          [ latent head 0 | .. | latent head G-1 | RoPE key ]

A row is contiguous, so one pass over the rows of a sequence reads every cached byte once, whichever heads
use it: a latent or tied head serves its whole group of query heads as key and as value, the one RoPE key
serves all heads.

Source: Hardware-Efficient Attention for Fast Decoding (arXiv 2505.21487), sections 3.3.1 and 3.3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..models.shapes import LATENT, PLAIN, AttentionMechanism, AttentionShape


@dataclass(frozen=True)
class RowSegment:
    """`width` elements of a row: cached head g starts at `offset + g * head_stride` (stride 0: all heads share it)."""

    offset: int
    head_stride: int
    width: int


@dataclass(frozen=True)
class RowLayout:
    """What cached head g gives to its group: keys are its `key_segments` side by side, values its `value_segment`."""

    row_elements: int
    cached_heads: int
    group_size: int
    key_segments: tuple[RowSegment, ...]
    value_segment: RowSegment

    @property
    def key_dim(self) -> int:
        """Width of a query in decode form (d_k)."""
        return sum(segment.width for segment in self.key_segments)


def row_layout(shape: AttentionShape) -> RowLayout:
    """The segments of a cache row of `shape`, in the order in which a query's elements meet them."""
    states = shape.cached_states()
    heads, dim = states[0].heads, states[0].dim
    first = RowSegment(offset=0, head_stride=dim, width=dim)
    after = RowSegment(offset=heads * dim, head_stride=dim, width=dim)
    rope_key = RowSegment(offset=heads * dim, head_stride=0, width=shape.rope_dim)
    if shape.mechanism in PLAIN:
        key_segments, value_segment = (first,), after
    elif shape.mechanism is AttentionMechanism.tied_key_value:
        key_segments, value_segment = (first,), first
    elif shape.mechanism in LATENT:
        key_segments, value_segment = (first, rope_key), first
    else:
        unrotated = RowSegment(offset=0, head_stride=dim, width=dim - shape.rope_dim)
        key_segments, value_segment = (unrotated, rope_key), first
    return RowLayout(
        row_elements=shape.cached_elements(),
        cached_heads=heads,
        group_size=shape.group_size,
        key_segments=tuple(segment for segment in key_segments if segment.width > 0),
        value_segment=value_segment,
    )
