"""Tensor-parallel decoding: every rank holds its query heads, the cached heads they read, and a share of the
feed-forward; the partial sums of both output projections are all-reduced.

A rank's model is an ordinary one of a smaller shape, its weights are slices of the whole model's, and its cache is
an ordinary `DecodeCache` of that shape. What cannot be split is held by all: the RoPE key of GTA, MLA and GLA, the
latent of MLA, a cached head that several ranks' query heads share. Only those copies separate the mechanisms: GLA
with a latent head per rank stores nothing twice, MLA stores everything on every rank.

    local = shard_model(model, rank, size)                       # on every rank
    decoder = TensorParallelDecoder(local, batch_size=8, max_length=4096)
    logits = decoder.step(tokens)                                # prompt first, then one or more tokens a step

Source: Hardware-Efficient Attention for Fast Decoding (arXiv 2505.21487), sections 3.2, 3.3.2 and Table 26.

Legend: B batch, T new tokens of a step, H query heads, D head dim, C latent dim, R rope dim, N ranks.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional  # what DTensor stands on; torch.compile sees through it
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

from ..models.attention import Attention
from ..models.configuration import RlExpConfig
from ..models.decoder import Block
from ..models.rotary import Rotation, rotation_at
from ..models.shapes import LATENT, AttentionShape
from ..models.transformer import RlExpForCausalLM
from .attention import DecodeKernel, attend
from .cache import CacheStep, DecodeCache
from .cost_model import device_shape


def shard_model(model: RlExpForCausalLM, rank: int, tensor_parallel: int) -> RlExpForCausalLM:
    """The model of one rank: an ordinary one of `device_shape`, whose weights are slices (copies) of `model`'s.

    Embedding, norms over the hidden size and head are on every rank. Its own outputs are partial: only
    `TensorParallelDecoder` sums them. Raises ValueError for impossible splits.
    """
    whole_shape, config = model.config.model_shape(), copy.deepcopy(model.config)
    shape, width = whole_shape.attention, whole_shape.feed_forward_dim
    if shape.output_bias:
        raise ValueError("output_bias=True is impossible with tensor_parallel: every rank would add the bias")
    if width % tensor_parallel:
        raise ValueError(f"tensor_parallel={tensor_parallel} is impossible: it must divide feed_forward_dim={width}")
    local = device_shape(shape, tensor_parallel)
    for name in ("query_heads", "query_latent_dim", shape.states_heads_name):
        setattr(config, name, getattr(local, name))
    config.feed_forward_dim = width // tensor_parallel
    sharded = RlExpForCausalLM(config).to(next(model.parameters()).dtype)
    slices = weight_slices(model.config, rank, tensor_parallel)
    whole = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in sharded.named_parameters():
            value: Tensor = whole[name]
            for dimension, index in slices.get(name.split(".", 3)[-1], {}).items():
                value = value.index_select(dimension, index)
            parameter.copy_(value)
    return sharded.eval()


def weight_slices(config: RlExpConfig, rank: int, tensor_parallel: int) -> dict[str, dict[int, Tensor]]:
    """For every weight of a block that is split: which indices of which dimension the rank holds."""
    shape = config.model_shape().attention
    query_heads, head_dim, rope_dim = shape.query_heads, shape.head_dim, shape.rope_dim
    cached_heads: int = getattr(shape, shape.states_heads_name)
    heads = torch.arange(query_heads).chunk(tensor_parallel)[rank]
    cached = torch.unique(heads // shape.group_size)  # the cached heads that the rank's query heads read
    columns = rows_of(heads, head_dim)
    feed_forward_dim = config.model_shape().feed_forward_dim
    share = torch.arange(feed_forward_dim).chunk(tensor_parallel)[rank]
    slices = {
        "attention.output.weight": {1: columns},
        "attention.gate.weight": {0: columns},
        "feed_forward.input.weight": {0: torch.cat((share, share + feed_forward_dim))},  # [W_gate, W_up]
        "feed_forward.output.weight": {1: share},
    }
    if shape.mechanism not in LATENT:
        parts, start = [columns], query_heads * head_dim
        for state in shape.cached_states():
            held = cached if state.heads == cached_heads and state.name != "rope_key" else torch.arange(state.heads)
            parts.append(start + rows_of(held, state.dim))
            start += state.elements
        rows = torch.cat(parts)
        return slices | {"attention.input.weight": {0: rows}, "attention.input.bias": {0: rows}}

    query_latent = torch.arange(shape.query_latent_dim)
    if shape.split_query_latent:  # a latent group's queries read that group's share of the query latent
        query_latent = rows_of(cached, shape.query_latent_dim // cached_heads)
    latents = rows_of(cached, shape.latent_dim)
    after_latents = shape.query_latent_dim + cached_heads * shape.latent_dim
    inputs = torch.cat((query_latent, shape.query_latent_dim + latents, after_latents + torch.arange(rope_dim)))
    queries = rows_of(heads, head_dim + rope_dim)
    group = shape.group_size
    raised = []  # [keys of the group's heads, their values], latent head by latent head
    for latent_head in cached.tolist():
        own = heads[heads // group == latent_head] - latent_head * group
        start = latent_head * 2 * group * head_dim
        raised += [start + rows_of(own, head_dim), start + (group * head_dim) + rows_of(own, head_dim)]
    for name, index in (("input", inputs), ("query_up", queries), ("latent_up", torch.cat(raised))):
        slices |= {f"attention.{name}.weight": {0: index}, f"attention.{name}.bias": {0: index}}
    return slices | {
        "attention.query_norm.weight": {0: query_latent},
        "attention.latent_norm.weight": {0: latents},
    }


def rows_of(heads: Tensor, dim: int) -> Tensor:
    """The rows of `heads` in a projection whose heads are `dim` rows each."""
    return (heads[:, None] * dim + torch.arange(dim)).flatten()


class TensorParallelDecoder:
    """One rank's side of decoding: the same calls with the same tokens on every rank, the same logits on all.

    `model` is the rank's own, from `shard_model`; `group` None is the default process group, and no process
    group at all is a single device. The cache is contiguous and has exactly the rank's predicted bytes.
    """

    def __init__(
        self,
        model: RlExpForCausalLM,
        *,
        batch_size: int,
        max_length: int,
        dtype: torch.dtype = torch.float32,
        kernel: DecodeKernel | str = DecodeKernel.cpu,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.model, self.kernel, self.group = model, kernel, group
        self.shape: AttentionShape = model.config.model_shape().attention
        self.cache = DecodeCache(
            self.shape, layers=model.config.layers, batch_size=batch_size, max_length=max_length, dtype=dtype
        )

    @torch.no_grad()
    def step(self, tokens: Tensor) -> Tensor:
        """Append `tokens` [B, T] to all sequences; returns their logits [B, T, vocabulary] in fp32."""
        step, rotation = self._reserve(tokens.shape[1])
        decoder = self.model.decoder
        hidden = decoder.embedding(tokens).float()
        for index, block in enumerate(decoder.blocks):
            hidden = hidden + self._sum(self._attention(block, hidden, rotation, step, index))
            hidden = hidden + self._sum(block.feed_forward(block.feed_forward_norm(hidden)))
        return self.model.head(decoder.norm(hidden))

    @torch.no_grad()
    def fill_attention(self, hidden: Tensor) -> None:
        """Append inputs [B, T, d] of the first layer to its cache without attending: a context to be read later."""
        step, rotation = self._reserve(hidden.shape[1])
        block = self.model.decoder.blocks[0]
        self._append(block.attention.project(block.attention_norm(hidden), rotation).states, step, 0)

    @torch.no_grad()
    def step_attention(self, hidden: Tensor, *, whole: bool = False) -> Tensor:
        """The first layer's attention alone, for inputs [B, T, d]: outputs [B, T, d], equal on every rank.

        `whole` is for a model that is not split: there is nothing to sum, whatever the process group.
        """
        step, rotation = self._reserve(hidden.shape[1])
        partial = self._attention(self.model.decoder.blocks[0], hidden, rotation, step, 0)
        return partial if whole else self._sum(partial)

    def _reserve(self, tokens: int) -> tuple[CacheStep, Rotation | None]:
        step = self.cache.reserve(tokens)
        return step, rotation_at(step.positions, self.model.config, torch.float32)

    def _append(self, states: tuple[Tensor, Tensor], step: CacheStep, index: int) -> None:
        kinds = self.shape.cached_states()
        by_head = [state.unflatten(-1, (kind.heads, kind.dim)) for state, kind in zip(states, kinds, strict=False)]
        step.append(index, by_head)

    def _attention(
        self, block: Block, hidden: Tensor, rotation: Rotation | None, step: CacheStep, index: int
    ) -> Tensor:
        """The rank's part of a layer's attention output, [B, T, d]."""
        attention: Attention = block.attention
        queries, states, gate = attention.project(block.attention_norm(hidden), rotation)
        self._append(states, step, index)
        if attention.rotates_on_reading:
            heads = self._attend_rotating(attention, queries, step, index)
        else:
            absorbed = attention.absorb(queries)
            heads = attend(self.shape, absorbed, step.layer(index), step.lengths, kernel=self.kernel)
        return attention.project_output(attention.release(heads), gate)

    def _attend_rotating(self, attention: Attention, queries: Tensor, step: CacheStep, index: int) -> Tensor:
        """Keys that are rotated when they are read (tied_key_value): the kernels know none, so the model's own form."""
        length = int(step.host_lengths[0])
        rows = step.layer(index).storage[:, :length].float()  # a contiguous cache: page b is sequence b
        slots = torch.arange(length)
        mask = slots <= step.positions[:1, None, :, None]  # (1, 1, T, S)
        rotation = rotation_at(slots[None], self.model.config, torch.float32)
        return attention.attend(queries, (rows, rows[..., :0]), mask, rotation)

    def _sum(self, partial: Tensor) -> Tensor:
        if not dist.is_initialized():
            return partial
        group = self.group or dist.group.WORLD
        assert group is not None
        return functional.wait_tensor(functional.all_reduce(partial, "sum", group))


def run_in_processes(
    function: Callable[..., Any], processes: int, arguments: Sequence[Any] = (), threads: int = 1
) -> list[Any]:
    """`function(rank, processes, *arguments)` in a gloo group of new processes on this machine; results by rank.

    `function` must be importable and its results values of JSON. An exception in any process ends the others and
    is raised here. On several machines, use torchrun and torch's own initialisation.
    """
    context = torch.multiprocessing.get_context("forkserver")  # heavy imports once, then quick forks without threads
    context.set_forkserver_preload([__name__])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            start_processes(
                _process,
                args=(processes, folder, function, tuple(arguments), threads),
                nprocs=processes,
                start_method="forkserver",
            )
        except Exception as error:
            # Ranks that lose their peer fail as well: the first failure is the cause.
            failed = sorted(folder.glob("*.error"), key=lambda path: path.stat().st_mtime_ns)
            if not failed:
                raise
            raise RuntimeError(f"rank {failed[0].stem} failed: {failed[0].read_text()}") from error
        return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]


def _process(
    rank: int, processes: int, folder: Path, function: Callable[..., Any], arguments: tuple[Any, ...], threads: int
) -> None:
    torch.set_num_threads(threads)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=processes)
    try:
        (folder / f"{rank}.json").write_text(json.dumps(function(rank, processes, *arguments)))
    except Exception as error:
        (folder / f"{rank}.error").write_text(f"{type(error).__name__}: {error}")
        raise
    finally:
        dist.destroy_process_group()
