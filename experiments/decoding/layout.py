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
class RowLayout:
    """What cached head g gives to its group of query heads.

    Its key is, side by side, the first `width` elements of its head of each state in `key_segments` (a state of one
    head serves all); its value is its whole head of state `value_state`. States are numbered as in `cached_states()`.
    """

    state_heads: tuple[int, ...]
    state_dims: tuple[int, ...]
    key_segments: tuple[tuple[int, int], ...]  # (state, width), in the order in which a query's elements meet them
    value_state: int

    @property
    def cached_heads(self) -> int:
        """Groups of query heads (G)."""
        return self.state_heads[0]


def row_layout(shape: AttentionShape) -> RowLayout:
    """The states of a cache row of `shape` and who reads what of them."""
    states = shape.cached_states()
    key_segments = [(0, states[0].dim)]
    value_state = 0
    if shape.mechanism in PLAIN:
        value_state = 1
    elif shape.mechanism in LATENT:
        key_segments.append((1, shape.rope_dim))
    elif shape.mechanism is AttentionMechanism.gta:
        key_segments = [(0, shape.head_dim - shape.rope_dim), (1, shape.rope_dim)]
    return RowLayout(
        state_heads=tuple(state.heads for state in states),
        state_dims=tuple(state.dim for state in states),
        key_segments=tuple(segment for segment in key_segments if segment[1] > 0),
        value_state=value_state,
    )
