"""The weights of one decoder block, prepared once for many small steps, and the arithmetic of a mechanism on them.

Norm weights are folded into the projection behind them, and what reads the same input is one matrix. With the C++
library (`compiled`) matrices lie in panels that stream through it, see `cpu_linear`; else they are torch's. Arithmetic
is fp32 and equals the model's to rounding, unless `dtype` says otherwise: then matrix products are in that type, the
residual stream between them in fp32, as under autocast. `refresh` takes the model's present weights again.

Rotated dimensions are stored with the two elements of a pair side by side (the model pairs dimension i with i + R/2):
a rotation is then one complex multiplication in place. Queries and keys are reordered alike, so no score changes.

Legend: N tokens, d hidden size, H query heads, K cached heads, D head dim, C latent dim, R rope dim, E elements of a
cache row (see `layout`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.attention import Attention
from ..models.decoder import Block
from ..models.grouped_query import GroupedQueryAttention
from ..models.grouped_tied import GroupedTiedAttention
from ..models.latent import LatentAttention, LatentNorm
from ..models.rotary import Rotation
from .cpu_linear import PanelBlock, PanelLinear


class TorchLinear:
    """The twin of `PanelLinear` in plain torch: norm(x) W^T + b + residual over rows x [N, inputs].

    The product is in the dtype of its weights, the norm in that of x, the sum with a residual in the wider of both.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        epsilon: float = -1.0,
        interleave: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.weight = weight.to(dtype, copy=True)
        self.bias, self.epsilon = None if bias is None else bias.to(dtype, copy=True), epsilon

    def __call__(self, inputs: Tensor, residual: Tensor | None = None) -> Tensor:
        if self.epsilon >= 0:
            inputs = F.rms_norm(inputs, inputs.shape[-1:], None, self.epsilon)
        outputs = F.linear(inputs.to(self.weight.dtype), self.weight, self.bias)
        return outputs if residual is None else outputs + residual

    def tensors(self) -> list[Tensor]:
        """Weight and bias."""
        return [self.weight] if self.bias is None else [self.weight, self.bias]


class TorchBlock:
    """The twin of `PanelBlock` in plain torch."""

    def __init__(self, output: TorchLinear, gate_and_up: TorchLinear, down: TorchLinear, epsilon: float) -> None:
        self.output, self.gate_and_up, self.down, self.epsilon = output, gate_and_up, down, epsilon

    def __call__(self, hidden: Tensor, heads: Tensor) -> Tensor:
        hidden = self.output(heads, hidden)
        normed = F.rms_norm(hidden, hidden.shape[-1:], None, self.epsilon)
        gates, values = self.gate_and_up(normed).chunk(2, dim=-1)
        return self.down(F.silu(gates).mul_(values), hidden)

    def tensors(self) -> list[Tensor]:
        """Those of the three matrices."""
        return [tensor for part in (self.output, self.gate_and_up, self.down) for tensor in part.tensors()]


class PreparedLayer:
    """One block. `project` and the feed-forward serve prompts and single steps alike; `expand` is the training form of
    attention, `absorb` and `release` surround the decode form."""

    def __init__(self, block: Block, *, compiled: bool, dtype: torch.dtype) -> None:
        self.block, self.dtype = block, dtype
        self.linear: Callable[..., Callable[..., Tensor]] = (
            PanelLinear if compiled else partial(TorchLinear, dtype=dtype)
        )
        self.block_end: Callable[..., Callable[..., Tensor]] = PanelBlock if compiled else TorchBlock
        self.attention: Attention = block.attention
        self.shape = self.attention.shape
        self.refresh()

    def refresh(self) -> None:
        """Prepare the model's present weights."""
        attention, block, feed_forward = self.attention, self.block, self.block.feed_forward
        self.prepare_input()
        gate_and_up = weights_of(feed_forward.input.weight) * weights_of(block.feed_forward_norm.weight)
        self.finish_block = self.block_end(
            self.linear(weights_of(attention.output.weight), bias_of(attention.output)),
            self.linear(gate_and_up, interleave=True),
            self.linear(weights_of(feed_forward.output.weight)),
            epsilon=block.feed_forward_norm.eps,
        )

    def prepare_input(self) -> None:
        """Norm, input projection and gate as one matrix."""
        attention, block = self.attention, self.block
        parts = [weights_of(cast(nn.Linear, attention.input).weight)[self.input_order()]]
        if attention.gate is not None:
            parts.append(weights_of(attention.gate.weight))
        weight = parts[0] if len(parts) == 1 else torch.cat(parts)
        weight *= weights_of(block.attention_norm.weight)
        self.input = self.linear(weight, self.input_bias(weight), epsilon=block.attention_norm.eps)

    def tensors(self) -> list[Tensor]:
        """What `refresh` has prepared, where that is plain torch."""
        return [*cast(TorchLinear, self.input).tensors(), *cast(TorchBlock, self.finish_block).tensors()]

    def input_order(self) -> Tensor:
        """The order in which the rows of the input projection are taken: pairs side by side."""
        raise NotImplementedError

    def input_bias(self, weight: Tensor) -> Tensor | None:
        return None

    def project(self, hidden: Tensor, rotation: Rotations) -> tuple[Tensor, Tensor, Tensor | None]:
        """Block input (N, d) to rotated queries (N, H, D_qk), cache rows (N, E) and the gate before its sigmoid."""
        projected = self.input(hidden)
        gate_width = self.shape.query_heads * self.shape.head_dim if self.attention.gate is not None else 0
        queries, rows = self.queries_and_rows(projected, projected.shape[1] - gate_width, rotation)
        return queries, rows, projected[:, -gate_width:] if gate_width else None

    def queries_and_rows(self, projected: Tensor, width: int, rotation: Rotations) -> tuple[Tensor, Tensor]:
        """The first `width` columns of the input projection to queries (N, H, D_qk) and cache rows (N, E)."""
        raise NotImplementedError

    def expand(self, rows: Tensor, rotation: Rotations) -> tuple[Tensor, Tensor]:
        """Training form: cache rows (N, E) to keys (N, K or H, D_qk) and values (N, K or H, D)."""
        raise NotImplementedError

    def absorb(self, queries: Tensor) -> Tensor:
        """Decode form: (N, H, D_qk) to queries that meet cache rows, (N, H, d_k)."""
        return queries

    def release(self, heads: Tensor) -> Tensor:
        """Decode form: what attention over cache rows gives, (N, H, d_v), to the heads' outputs (N, H * D)."""
        return heads.flatten(1)

    def finish(self, hidden: Tensor, heads: Tensor, gate: Tensor | None) -> Tensor:
        """The rest of the block: block input (N, d) and heads (N, H * D) to block output (N, d)."""
        if gate is not None:
            heads = heads * torch.sigmoid(gate)
        return self.finish_block(hidden, heads)


class PreparedGroupedQuery(PreparedLayer):
    """MHA, MQA, GQA: the projection is [queries | keys | values], its tail is the cache row."""

    def input_order(self) -> Tensor:
        shape = self.shape
        rotated = paired_heads(shape.query_heads + shape.key_value_heads, shape.head_dim, shape.rope_dim)
        values = torch.arange(shape.key_value_heads * shape.head_dim) + len(rotated)
        return torch.cat((rotated, values))

    def input_bias(self, weight: Tensor) -> Tensor | None:
        bias = bias_of(cast(nn.Linear, self.attention.input))
        return None if bias is None else padded_to(bias[self.input_order()], weight)

    def prepare_input(self) -> None:
        super().prepare_input()
        attention, shape = cast(GroupedQueryAttention, self.attention), self.shape
        self.norm = None  # the weights of the norms of queries and keys, head by head (1, H + K, D)
        if attention.query_norm is not None and attention.key_norm is not None:
            order, self.norm_epsilon = paired_heads(1, shape.head_dim, shape.rope_dim), attention.query_norm.eps
            counts = ((attention.query_norm, shape.query_heads), (attention.key_norm, shape.key_value_heads))
            parts = [weights_of(norm.weight)[order].expand(heads, -1) for norm, heads in counts]
            self.norm = torch.cat(parts)[None].to(self.dtype)

    def tensors(self) -> list[Tensor]:
        return super().tensors() + ([] if self.norm is None else [self.norm])

    def queries_and_rows(self, projected: Tensor, width: int, rotation: Rotations) -> tuple[Tensor, Tensor]:
        shape = self.shape
        rotated = (shape.query_heads + shape.key_value_heads) * shape.head_dim
        heads = projected[:, :rotated].unflatten(-1, (-1, shape.head_dim))
        if self.norm is not None:
            torch.mul(F.rms_norm(heads, (shape.head_dim,), None, self.norm_epsilon), self.norm, out=heads)
        rotation.of_heads(heads)
        queries = projected[:, : shape.query_heads * shape.head_dim].unflatten(-1, (shape.query_heads, shape.head_dim))
        return queries, projected[:, shape.query_heads * shape.head_dim : width]

    def expand(self, rows: Tensor, rotation: Rotations) -> tuple[Tensor, Tensor]:
        keys, values = rows.unflatten(-1, (2, self.shape.key_value_heads, self.shape.head_dim)).unbind(1)
        return keys, values


class PreparedGroupedTied(PreparedLayer):
    """GTA: the projection is [queries | tied states | RoPE key], its tail is the cache row."""

    def input_order(self) -> Tensor:
        shape = self.shape
        queries = paired_heads(shape.query_heads, shape.head_dim, shape.rope_dim)
        tied = torch.arange(shape.tied_heads * shape.head_dim) + len(queries)
        return torch.cat((queries, tied, paired_heads(1, shape.rope_dim, shape.rope_dim) + len(queries) + len(tied)))

    def input_bias(self, weight: Tensor) -> Tensor | None:
        bias = cast("Tensor | None", self.attention.rope_key_bias)
        if bias is None:
            return None
        shape = self.shape
        padded = weight.new_zeros(weight.shape[0])
        start = (shape.query_heads + shape.tied_heads) * shape.head_dim
        padded[start : start + shape.rope_dim] = weights_of(bias)[paired_heads(1, shape.rope_dim, shape.rope_dim)]
        return padded

    def queries_and_rows(self, projected: Tensor, width: int, rotation: Rotations) -> tuple[Tensor, Tensor]:
        shape = self.shape
        split = shape.query_heads * shape.head_dim
        queries = projected[:, :split].unflatten(-1, (shape.query_heads, shape.head_dim))
        if shape.rope_dim:
            rotation.of_heads(queries)
            rotation.of_heads(projected[:, width - shape.rope_dim : width].unsqueeze(1))
        return queries, projected[:, split:width]

    def expand(self, rows: Tensor, rotation: Rotations) -> tuple[Tensor, Tensor]:
        shape = self.shape
        tied, rope_key = rows.split([shape.tied_heads * shape.head_dim, shape.rope_dim], dim=-1)
        tied = tied.unflatten(-1, (shape.tied_heads, shape.head_dim))
        shared = tied[..., : shape.head_dim - shape.rope_dim]
        return torch.cat((shared, rope_key[:, None].expand(-1, shape.tied_heads, -1)), dim=-1), tied


class PreparedLatent(PreparedLayer):
    """MLA and GLA: the projection is [query latent | latents | RoPE key]; a cache row is [normed latents | RoPE key].

    The weights of both norms, and the factor of `latent_scaling`, are folded into the projections that read the
    latents, so that cached latents have unit root mean square.
    """

    def refresh(self) -> None:
        super().refresh()
        shape, attention = self.shape, cast(LatentAttention, self.attention)
        shares, share_dim = attention.query_shares, attention.share_dim
        order = paired_heads(shape.query_heads, shape.head_dim + shape.rope_dim, shape.rope_dim)
        query_up = weights_of(attention.query_up.weight)[order].unflatten(0, (shares, -1))
        query_up = query_up * folded(attention.query_norm).view(shares, 1, share_dim)
        bias = attention.query_up.bias
        biases = [None] * shares if bias is None else weights_of(bias)[order].chunk(shares)
        self.query_ups = [
            self.linear(*pair, epsilon=attention.query_norm.epsilon) for pair in zip(query_up, biases, strict=True)
        ]

        group = (shape.latent_heads, 2, shape.group_size, shape.head_dim)
        latent_up = weights_of(attention.latent_up.weight).unflatten(0, group)  # (K, 2, G, D, C)
        latent_up = latent_up * folded(attention.latent_norm).view(shape.latent_heads, 1, 1, 1, shape.latent_dim)
        self.key_up = latent_up[:, 0].flatten(0, 1).to(self.dtype).contiguous()  # (H, D, C)
        self.value_up = latent_up[:, 1].flatten(0, 1).transpose(1, 2).to(self.dtype).contiguous()  # (H, C, D)
        raised_bias: list[Tensor | None] = [None] * shape.latent_heads
        self.value_bias = None
        if attention.latent_up.bias is not None:
            grouped_bias = weights_of(attention.latent_up.bias).clone().unflatten(0, group)
            raised_bias = list(grouped_bias.flatten(1))
            self.value_bias = grouped_bias[:, 1].flatten().to(self.dtype).contiguous()  # (H * D)
        self.latent_ups = [self.linear(*pair) for pair in zip(latent_up.flatten(1, 3), raised_bias, strict=True)]

    def tensors(self) -> list[Tensor]:
        linears = cast("list[TorchLinear]", [*self.query_ups, *self.latent_ups])
        biases = [] if self.value_bias is None else [self.value_bias]
        of_linears = [tensor for linear in linears for tensor in linear.tensors()]
        return [*super().tensors(), *of_linears, self.key_up, self.value_up, *biases]

    def input_order(self) -> Tensor:
        shape = self.shape
        split = shape.query_latent_dim + shape.latent_heads * shape.latent_dim
        return torch.cat((torch.arange(split), paired_heads(1, shape.rope_dim, shape.rope_dim) + split))

    def input_bias(self, weight: Tensor) -> Tensor | None:
        bias = bias_of(cast(nn.Linear, self.attention.input))
        if bias is None:
            return None
        return padded_to(bias[self.input_order()], weight)

    def queries_and_rows(self, projected: Tensor, width: int, rotation: Rotations) -> tuple[Tensor, Tensor]:
        shape, epsilon = self.shape, cast(LatentAttention, self.attention).latent_norm.epsilon
        shares = projected[:, : shape.query_latent_dim].chunk(len(self.query_ups), dim=-1)
        raised = [up(share) for up, share in zip(self.query_ups, shares, strict=True)]
        queries = (raised[0] if len(raised) == 1 else torch.cat(raised, dim=-1)).unflatten(-1, (shape.query_heads, -1))
        rotation.of_heads(queries)
        latents = projected[:, shape.query_latent_dim : width - shape.rope_dim]
        latents = F.rms_norm(latents.unflatten(-1, (shape.latent_heads, -1)), (shape.latent_dim,), None, epsilon)
        rope_key = projected[:, width - shape.rope_dim : width].contiguous()
        rotation.of_heads(rope_key.unsqueeze(1))
        return queries, torch.cat((latents.flatten(1), rope_key), dim=-1)

    def expand(self, rows: Tensor, rotation: Rotations) -> tuple[Tensor, Tensor]:
        shape = self.shape
        latents, rope_key = rows.split([shape.latent_heads * shape.latent_dim, shape.rope_dim], dim=-1)
        raised = [
            up(latent).unflatten(-1, (2, shape.group_size, shape.head_dim))
            for up, latent in zip(self.latent_ups, latents.chunk(shape.latent_heads, dim=-1), strict=True)
        ]
        values = torch.cat([part[:, 1] for part in raised], dim=1)  # (N, H, D)
        rope_keys = rope_key[:, None].expand(-1, shape.query_heads, -1)
        return torch.cat((torch.cat([part[:, 0] for part in raised], dim=1), rope_keys), dim=-1), values

    def absorb(self, queries: Tensor) -> Tensor:
        still, rotated = queries.split([self.shape.head_dim, self.shape.rope_dim], dim=-1)
        return torch.cat((torch.bmm(still.transpose(0, 1), self.key_up).transpose(0, 1), rotated), dim=-1)

    def release(self, heads: Tensor) -> Tensor:
        heads = heads.to(self.dtype)
        values = torch.bmm(heads.transpose(0, 1), self.value_up).transpose(0, 1).flatten(1)  # (N, H * D)
        return values if self.value_bias is None else values + self.value_bias


class Rotations:
    """The rotation of N tokens as complex numbers, made for the layers of one pass."""

    def __init__(self, turns: Tensor) -> None:
        self.turns = turns  # (N, R/2) complex64
        self._widened: dict[int, Tensor] = {}

    def of_heads(self, heads: Tensor) -> None:
        """Rotate the last R dimensions of every head (N, any, D) in place, in fp32; pairs lie side by side."""
        if heads.dtype != torch.float32:
            turned = heads.float()
            self.of_heads(turned)
            heads.copy_(turned)
            return
        pairs = torch.view_as_complex(heads.unflatten(-1, (-1, 2)))
        pairs.mul_(self._wide(pairs.shape[-1]))

    def of_the_model(self) -> Rotation | None:
        """The same for one row of N tokens in the model's own form, which pairs dimension i with i + R/2."""
        if self.turns.shape[-1] == 0:
            return None
        return Rotation(self.turns.real[None, :, None], self.turns.imag[None, :, None])

    def _wide(self, pairs: int) -> Tensor:
        """(N, 1, pairs): dimensions before the last R are multiplied by one."""
        wide = self._widened.get(pairs)
        if wide is None:
            wide = F.pad(torch.view_as_real(self.turns), (0, 0, pairs - self.turns.shape[-1], 0))
            wide[:, : pairs - self.turns.shape[-1], 0] = 1.0
            wide = self._widened[pairs] = torch.view_as_complex(wide).unsqueeze(1)
        return wide


class ModuleLayer(PreparedLayer):
    """A block whose mechanism has no prepared form: projections and attention are a copy of the module's own.

    Slower than a prepared form with its kernel, and right for every mechanism, also one that rotates keys on reading.
    """

    def prepare_input(self) -> None:
        self.module = copy.deepcopy(self.attention).requires_grad_(False).to(self.dtype)
        self.norm = weights_of(self.block.attention_norm.weight).clone()

    def tensors(self) -> list[Tensor]:
        return [self.norm, *self.module.parameters(), *cast(TorchBlock, self.finish_block).tensors()]

    def project(self, hidden: Tensor, rotation: Rotations) -> tuple[Tensor, Tensor, Tensor | None]:
        normed = F.rms_norm(hidden, hidden.shape[-1:], self.norm, self.block.attention_norm.eps).to(self.dtype)
        queries, states, gate = self.module.project(normed[None], rotation.of_the_model())
        return queries[0], torch.cat(states, dim=-1)[0], None if gate is None else gate[0]

    def expand(self, rows: Tensor, rotation: Rotations) -> tuple[Tensor, Tensor]:
        keys, values = self.module.expand(self._states(rows[None]), rotation.of_the_model())
        return keys[0], values[0]

    def absorb(self, queries: Tensor) -> Tensor:
        return self.module.absorb(queries[None])[0]

    def attend(self, queries: Tensor, rows: Tensor, lengths: Tensor, rotation: Rotations) -> Tensor:
        """Absorbed queries (b, T, H, d_k) of the last T tokens over cache rows (b, S, E): (b, T, H, d_v).

        Rows beyond `lengths` (b) may hold anything finite; `rotation` is that of the S positions.
        """
        times = torch.arange(rows.shape[1], device=rows.device)
        newest = lengths[:, None] - queries.shape[1] + torch.arange(queries.shape[1], device=rows.device)  # (b, T)
        mask = (times <= newest.clamp(min=0)[..., None]).unsqueeze(1)
        states = self._states(rows.to(self.dtype))
        return self.module.attend(queries.to(self.dtype), states, mask, rotation.of_the_model())

    def release(self, heads: Tensor) -> Tensor:
        return self.module.release(heads[None].to(self.dtype))[0].flatten(1)

    def _states(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Cache rows (..., E) as the module's two states; the second has width 0 where the mechanism has one."""
        first = self.shape.cached_states()[0].elements
        return rows[..., :first], rows[..., first:]


# The exact class decides: a subclass, which may project otherwise, is never run as its parent.
PREPARED_FORMS: dict[type[Attention], type[PreparedLayer]] = {
    GroupedQueryAttention: PreparedGroupedQuery,
    GroupedTiedAttention: PreparedGroupedTied,
    LatentAttention: PreparedLatent,
}


def prepared_layer(block: Block, *, compiled: bool, dtype: torch.dtype) -> PreparedLayer:
    """The prepared form of a block, or its own where its mechanism has none."""
    kind = PREPARED_FORMS.get(type(block.attention), ModuleLayer)
    return kind(block, compiled=compiled, dtype=dtype)


def paired_heads(heads: int, dim: int, rope_dim: int) -> Tensor:
    """Indices that put dimension i of the last `rope_dim` of every head beside dimension i + rope_dim / 2."""
    still = torch.arange(dim - rope_dim)
    rotated = torch.arange(dim - rope_dim, dim).view(2, -1).t().flatten()
    return (torch.arange(heads)[:, None] * dim + torch.cat((still, rotated))).flatten()


def folded(norm: LatentNorm) -> Tensor:
    """The weight of a norm with its factor."""
    return weights_of(norm.weight) * norm.factor


def weights_of(parameter: Tensor) -> Tensor:
    """A parameter in fp32, cut off from the gradient."""
    return parameter.detach().float()


def bias_of(linear: nn.Linear) -> Tensor | None:
    """The bias of a layer like `weights_of`, None where it has none."""
    return None if linear.bias is None else weights_of(linear.bias)


def padded_to(bias: Tensor, weight: Tensor) -> Tensor:
    """`bias` with zeros behind it, for the rows of `weight` that have none."""
    return F.pad(bias, (0, weight.shape[0] - len(bias)))


def keep_memory(before: Sequence[Tensor], after: Sequence[Tensor]) -> None:
    """Put the tensors of `after`, with their values, where those of `before` lie: equal shapes, pair by pair."""
    for old, new in zip(before, after, strict=True):
        old.copy_(new)
        new.data = old
