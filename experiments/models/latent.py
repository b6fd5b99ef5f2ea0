"""Multi-head latent attention (MLA) and grouped latent attention (GLA): MLA is GLA with one latent head.

Legend: B batch, T time, H query heads, K latent heads, G = H / K, D head dim, C latent dim of one latent
head, R rope dim, Q query latent dim.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Attention, Projected, States
from .cached_attention import shared_state_attention
from .configuration import RlExpConfig
from .linear import Linear
from .rotary import Rotation, rotate


class LatentAttention(Attention):
    """c_Q = norm(W_DQ x), q = W_UQ c_Q; c_i = norm(W_DKV,i x) for every latent head i, k_R = R(W_R x) once
    for all.

    Query head h of group i has the key [W_UK,h c_i, k_R] and the value W_UV,h c_i; its query is [D still, R
    rotated] dimensions; the scale is 1/sqrt(D + R). Cached: the c_i after their norm, and k_R after rotation.
    Decode form: q~ = W_UK,h^T q meets c_i itself, and W_UV,h follows the weighted sum of the c_i. A bias of
    W_UK adds the same to all scores of a query and drops out; a bias of W_UV is added after the sum, for the
    weights sum to 1. (Hardware-Efficient Attention for Fast Decoding, section 3.3.2; `split_query_latent` is
    its GLA_q, where group i reads its own share of the query latent, normed by itself.)
    """

    def __init__(self, config: RlExpConfig, layer_index: int) -> None:
        super().__init__(config, layer_index)
        shape = self.shape
        bias = shape.low_rank_bias
        self.query_shares = shape.latent_heads if shape.split_query_latent else 1
        self.share_dim = shape.query_latent_dim // self.query_shares
        self.widths = [shape.query_latent_dim, shape.latent_heads * shape.latent_dim, shape.rope_dim]
        self.input = Linear(shape.hidden_size, sum(self.widths), bias=bias)  # [W_DQ, W_DKV, W_R]
        self.query_norm = LatentNorm(self.query_shares, self.share_dim, config)
        self.latent_norm = LatentNorm(shape.latent_heads, shape.latent_dim, config)
        query_width = shape.query_heads * (shape.head_dim + shape.rope_dim)
        self.query_up = GroupedLinear(self.share_dim, query_width, self.query_shares, bias=bias)
        # Rows by latent head, in each first the keys of its G query heads, then their values.
        key_value_width = 2 * shape.query_heads * shape.head_dim
        self.latent_up = GroupedLinear(shape.latent_dim, key_value_width, shape.latent_heads, bias=bias)

    def project(self, hidden: Tensor, rotation: Rotation | None) -> Projected:
        query_latent, latent, rope_key = self.input(hidden).split(self.widths, dim=-1)
        queries = self.query_up(self.query_norm(query_latent))
        queries = rotate(queries.unflatten(-1, (self.shape.query_heads, -1)), rotation)
        rope_key = rotate(rope_key[:, :, None], rotation)[:, :, 0]
        return Projected(queries, (self.latent_norm(latent), rope_key), self.project_gate(hidden))

    def expand(self, states: States, rotation: Rotation | None) -> tuple[Tensor, Tensor]:
        latent, rope_key = states
        shape = self.shape
        raised = self.latent_up(latent)
        raised = raised.unflatten(-1, (shape.latent_heads, 2, shape.group_size, shape.head_dim))
        keys, values = (half.flatten(2, 3) for half in raised.unbind(3))  # each (B, T, H, D)
        keys = torch.cat((keys, rope_key[:, :, None].expand(-1, -1, shape.query_heads, -1)), dim=-1)
        return keys, values

    def absorb(self, queries: Tensor) -> Tensor:
        still, rotated = queries.split([self.shape.head_dim, self.shape.rope_dim], dim=-1)
        key_up = self._up(self.latent_up.weight)[0]  # (H, D, C)
        return torch.cat((torch.einsum("bthd,hdc->bthc", still, key_up), rotated), dim=-1)

    def attend(
        self, queries: Tensor, states: States, mask: Tensor | None, cached_rotation: Rotation | None = None
    ) -> Tensor:
        latent, rope_key = states
        latents = latent.unflatten(-1, (self.shape.latent_heads, self.shape.latent_dim))
        return shared_state_attention(queries, latents, rope_key, mask, self.scale)

    def release(self, heads: Tensor) -> Tensor:
        value_up = self._up(self.latent_up.weight)[1]  # (H, D, C)
        values = torch.einsum("bthc,hdc->bthd", heads, value_up)
        if self.latent_up.bias is not None:
            values = values + self._up(self.latent_up.bias)[1]
        return values

    def _up(self, parameter: Tensor) -> tuple[Tensor, Tensor]:
        """W_UK and W_UV (or their biases) by query head, (H, D, ...) each."""
        shape = self.shape
        keys, values = parameter.unflatten(0, (shape.latent_heads, 2, shape.group_size, shape.head_dim)).unbind(1)
        return keys.flatten(0, 1), values.flatten(0, 1)


class LatentNorm(nn.Module):
    """RMSNorm of every latent head by itself, (B, T, K * C) -> (B, T, K * C), times sqrt(d / C) where asked
    for.

    The factor gives latents of any width the variance of a projection of the hidden state (MLRA, arXiv
    2603.02188).
    """

    def __init__(self, heads: int, dim: int, config: RlExpConfig) -> None:
        super().__init__()
        self.heads, self.dim, self.epsilon = heads, dim, config.norm_epsilon
        self.factor = math.sqrt(config.hidden_size / dim) if config.latent_scaling else 1.0
        self.weight = nn.Parameter(torch.ones(heads * dim))

    def forward(self, latent: Tensor) -> Tensor:
        weight = self.weight.to(latent.dtype)  # under autocast the latent is narrower than its weight
        if self.factor != 1.0:
            weight = weight * self.factor
        if self.heads == 1:
            return F.rms_norm(latent, (self.dim,), weight, self.epsilon)
        heads = F.rms_norm(latent.unflatten(-1, (self.heads, self.dim)), (self.dim,), None, self.epsilon)
        return heads.flatten(-2) * weight


class GroupedLinear(Linear):
    """A block-diagonal projection: group i of the inputs (B, T, K * C) meets the i-th block of rows of the weight.

    The weight (K * rows, C) stays one matrix, the shape that optimizers of matrices expect. -> (B, T, K * rows).
    """

    def __init__(self, group_dim: int, outputs: int, groups: int, *, bias: bool) -> None:
        super().__init__(group_dim, outputs, bias=bias)
        self.groups = groups

    def forward(self, inputs: Tensor) -> Tensor:
        if self.groups == 1:
            return super().forward(inputs)
        blocks = self.weight.unflatten(0, (self.groups, -1))  # (K, rows, C)
        raised = torch.einsum("btkc,krc->btkr", inputs.unflatten(-1, (self.groups, -1)), blocks).flatten(2)
        return raised if self.bias is None else raised + self.bias
