"""Keys and values tied outright (the ablation next to GTA): one cached state, rotated when read as a key."""

from __future__ import annotations

from torch import Tensor

from .attention import Attention, Projected, States
from .cached_attention import key_value_attention
from .configuration import RlExpConfig
from .linear import Linear
from .rotary import Rotation, rotate


class TiedKeyValueAttention(Attention):
    """q = R(W_Q x), kv = W_KV x; the value is kv, the key is R(kv), rotated at the position of its own token.

    Cached: kv before rotation, half the bytes of grouped-query attention. (Q-K=V, arXiv 2606.04032.)
    """

    rotates_on_reading = True

    def __init__(self, config: RlExpConfig, layer_index: int) -> None:
        super().__init__(config, layer_index)
        self.heads = self.shape.query_heads + self.shape.key_value_heads
        self.input = Linear(self.shape.hidden_size, self.heads * self.shape.head_dim, bias=False)  # [W_Q, W_KV]

    def project(self, hidden: Tensor, rotation: Rotation | None) -> Projected:
        heads = self.input(hidden).unflatten(-1, (self.heads, self.shape.head_dim))
        queries, tied = heads.split([self.shape.query_heads, self.shape.key_value_heads], dim=2)
        nothing = tied.flatten(2)[..., :0]
        return Projected(rotate(queries, rotation), (tied.flatten(2), nothing), self.project_gate(hidden))

    def expand(self, states: States, rotation: Rotation | None) -> tuple[Tensor, Tensor]:
        tied = states[0].unflatten(-1, (self.shape.key_value_heads, self.shape.head_dim))
        return rotate(tied, rotation), tied

    def attend(
        self, queries: Tensor, states: States, mask: Tensor | None, cached_rotation: Rotation | None = None
    ) -> Tensor:
        keys, values = self.expand(states, cached_rotation)
        return key_value_attention(queries, keys, values, mask, self.scale)
