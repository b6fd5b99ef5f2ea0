"""Grouped-tied attention (GTA): one state is value and half of the key, the other half is one rotated key."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import Attention, Projected, States
from .cached_attention import shared_state_attention
from .configuration import RlExpConfig
from .linear import Linear
from .rotary import Rotation, rotate


class GroupedTiedAttention(Attention):
    """kv_i = W_KV,i x for every tied head i, k_R = R(W_R x) once for all; the value is the whole kv_i, never
    rotated.

    A key is [first D - R dimensions of kv_i, k_R], a query [D - R still dimensions, R rotated ones]; the
    scale is 1/sqrt(D). Cached: kv and k_R. R may be 0: then nothing is rotated and the key is the value.
    (Hardware-Efficient Attention for Fast Decoding, section 3.3.1.)
    """

    def __init__(self, config: RlExpConfig, layer_index: int) -> None:
        super().__init__(config, layer_index)
        head_dim, rope_dim = self.shape.head_dim, self.shape.rope_dim
        self.widths = [self.shape.query_heads * head_dim, self.shape.tied_heads * head_dim, rope_dim]
        self.input = Linear(self.shape.hidden_size, sum(self.widths), bias=False)  # [W_Q, W_KV, W_R]
        biased = self.shape.low_rank_bias and rope_dim > 0
        self.rope_key_bias = nn.Parameter(torch.zeros(rope_dim)) if biased else None

    def project(self, hidden: Tensor, rotation: Rotation | None) -> Projected:
        queries, tied, rope_key = self.input(hidden).split(self.widths, dim=-1)
        queries = rotate(queries.unflatten(-1, (self.shape.query_heads, self.shape.head_dim)), rotation)
        if self.rope_key_bias is not None:
            rope_key = rope_key + self.rope_key_bias
        rope_key = rotate(rope_key[:, :, None], rotation)[:, :, 0]
        return Projected(queries, (tied, rope_key), self.project_gate(hidden))

    def expand(self, states: States, rotation: Rotation | None) -> tuple[Tensor, Tensor]:
        tied, rope_key = self._heads(states[0]), states[1]
        shared = tied[..., : self.shape.head_dim - self.shape.rope_dim]
        keys = torch.cat((shared, rope_key[:, :, None].expand(-1, -1, self.shape.tied_heads, -1)), dim=-1)
        return keys, tied

    def attend(
        self, queries: Tensor, states: States, mask: Tensor | None, cached_rotation: Rotation | None = None
    ) -> Tensor:
        tied, rope_key = states
        return shared_state_attention(queries, self._heads(tied), rope_key, mask, self.scale)

    def _heads(self, tied: Tensor) -> Tensor:
        return tied.unflatten(-1, (self.shape.tied_heads, self.shape.head_dim))
