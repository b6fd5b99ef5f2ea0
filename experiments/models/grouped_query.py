"""Multi-head, multi-query and grouped-query attention: one class, `key_value_heads` tells them apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import Attention, Projected, States
from .cached_attention import key_value_attention
from .configuration import RlExpConfig
from .linear import Linear
from .rotary import Rotation, rotate


class GroupedQueryAttention(Attention):
    """q = R(W_Q x), k = R(W_K x), v = W_V x; query head h reads key and value head h // (H / K).

    Cached: rotated keys and values. (Hardware-Efficient Attention for Fast Decoding, section 2.1.) With
    `query_key_norm` the heads of queries and keys have a norm before their rotation, as in Qwen3.
    """

    def __init__(self, config: RlExpConfig, layer_index: int) -> None:
        super().__init__(config, layer_index)
        self.heads = self.shape.query_heads + 2 * self.shape.key_value_heads
        width = self.heads * self.shape.head_dim
        self.input = Linear(self.shape.hidden_size, width, bias=self.shape.input_bias)  # [W_Q, W_K, W_V]
        self.query_norm = self.key_norm = None
        if self.shape.query_key_norm:
            self.query_norm = nn.RMSNorm(self.shape.head_dim, eps=config.norm_epsilon)
            self.key_norm = nn.RMSNorm(self.shape.head_dim, eps=config.norm_epsilon)

    def project(self, hidden: Tensor, rotation: Rotation | None) -> Projected:
        query_heads, cached_heads = self.shape.query_heads, self.shape.key_value_heads
        heads = self.input(hidden).unflatten(-1, (self.heads, self.shape.head_dim))
        rotated, values = heads.split([query_heads + cached_heads, cached_heads], dim=2)
        if self.query_norm is not None and self.key_norm is not None:
            queries, keys = rotated.split([query_heads, cached_heads], dim=2)
            rotated = torch.cat((self.query_norm(queries), self.key_norm(keys)), dim=2)
        queries, keys = rotate(rotated, rotation).split([query_heads, cached_heads], dim=2)
        return Projected(queries, (keys.flatten(2), values.flatten(2)), self.project_gate(hidden))

    def expand(self, states: States, rotation: Rotation | None) -> tuple[Tensor, Tensor]:
        keys, values = states
        return self._heads(keys), self._heads(values)

    def attend(
        self, queries: Tensor, states: States, mask: Tensor | None, cached_rotation: Rotation | None = None
    ) -> Tensor:
        keys, values = states
        return key_value_attention(queries, self._heads(keys), self._heads(values), mask, self.scale)

    def _heads(self, state: Tensor) -> Tensor:
        return state.unflatten(-1, (self.shape.key_value_heads, self.shape.head_dim))
