"""What all attention mechanisms share: one forward pass in two forms that agree to rounding.

Training form: the cached states are expanded to keys and values, and torch's fused kernel runs over the
sequence. Decode form: a few new tokens attend straight to the cached states, with the queries absorbed where
the mechanism allows it. A mechanism says what it projects, what it caches and how the two forms read it.

Legend: B batch, T time, S cached tokens, H query heads, D head dim, E elements of one cached state, d hidden
size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import Cache

from .causal_attention import causal_attention
from .configuration import RlExpConfig
from .linear import Linear
from .rotary import Rotation

States = tuple[Tensor, Tensor]  # what a cache holds, each (B, T, E); the second has width 0 where there is one state


class Projected(NamedTuple):
    """What one layer makes of its input."""

    queries: Tensor  # (B, T, H, D_qk), rotated
    states: States  # as cached: latents after their norm, RoPE keys after rotation
    gate: Tensor | None  # (B, T, H * D), before the sigmoid


class Context(NamedTuple):
    """What every layer of one forward pass shares."""

    rotation: Rotation | None  # of the tokens of this pass
    mask: Tensor | None  # (B or 1, 1, T, T or S), True where a query may look; None is causal
    cached_rotation: Rotation | None = None  # of every cached slot, for mechanisms that rotate keys on reading
    decoding: bool = False  # there are earlier tokens in the cache


class Attention(nn.Module):
    """One attention layer. A mechanism defines `project`, `expand` and `attend`, latent ones also absorb."""

    rotates_on_reading = False  # the cached state is not rotated, and needs the rotation of its own slots

    def __init__(self, config: RlExpConfig, layer_index: int) -> None:
        super().__init__()
        self.layer_index = layer_index
        self.shape = config.model_shape().attention
        self.scale = self.shape.softmax_scale
        width = self.shape.query_heads * self.shape.head_dim
        self.output = Linear(width, self.shape.hidden_size, bias=self.shape.output_bias)
        self.gate = Linear(self.shape.hidden_size, width, bias=False) if self.shape.output_gate else None

    def project(self, hidden: Tensor, rotation: Rotation | None) -> Projected:
        """From the layer input (B, T, d) to the queries and to what is cached."""
        raise NotImplementedError

    def expand(self, states: States, rotation: Rotation | None) -> tuple[Tensor, Tensor]:
        """Training form: keys (B, T, K, D_qk) and values (B, T, K, D), where K divides H."""
        raise NotImplementedError

    def absorb(self, queries: Tensor) -> Tensor:
        """Decode form: queries that meet the cached states directly, (B, T, H, D_qk) -> (B, T, H, d_k)."""
        return queries

    def attend(
        self, queries: Tensor, states: States, mask: Tensor | None, cached_rotation: Rotation | None = None
    ) -> Tensor:
        """Decode form: absorbed queries (B, T, H, d_k) over cached states (B, S, E) -> (B, T, H, d_v)."""
        raise NotImplementedError

    def release(self, heads: Tensor) -> Tensor:
        """Decode form: undo the absorption on the value side, (B, T, H, d_v) -> (B, T, H, D)."""
        return heads

    def project_output(self, heads: Tensor, gate: Tensor | None) -> Tensor:
        """From the heads (B, T, H, D) to the layer output (B, T, d)."""
        heads = heads.flatten(2)
        if gate is not None:
            heads = heads * torch.sigmoid(gate)
        return self.output(heads)

    def forward(self, hidden: Tensor, context: Context, cache: Cache | None = None) -> Tensor:
        """(B, T, d) -> (B, T, d); new states are appended to `cache`."""
        queries, states, gate = self.project(hidden, context.rotation)
        cached = states
        if cache is not None:
            # One head per state: the layout that every cache class of transformers stores as it is.
            stored = cache.update(states[0][:, None], states[1][:, None], self.layer_index)
            cached = (stored[0][:, 0], stored[1][:, 0])
        if context.decoding:
            heads = self.attend(self.absorb(queries), cached, context.mask, context.cached_rotation)
            heads = self.release(heads)
        else:  # also for a prompt: absorbed attention over a whole prompt is right, but far more work
            keys, values = self.expand(states, context.rotation)
            heads = causal_attention(queries, keys, values, context.mask, self.scale)
        return self.project_output(heads, gate)

    def project_gate(self, hidden: Tensor) -> Tensor | None:
        """The output gate before its sigmoid, (B, T, H * D)."""
        return None if self.gate is None else self.gate(hidden)
