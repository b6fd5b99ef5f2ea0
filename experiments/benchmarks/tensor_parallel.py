"""One layer's attention split over ranks: bytes that each rank allocates, difference to the whole layer, slowest rank.

Every rank makes the same whole layer from the same seed, takes its slices, fills both caches with the same tokens and
steps both; the rank's partial output is all-reduced after the output projection.

Legend: B sequences, T query length, d hidden size.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from ..decoding.cost_model import cached_bytes_per_token, duplication_factor
from ..decoding.tensor_parallel import TensorParallelDecoder, shard_model
from ..models.configuration import RlExpConfig
from ..models.initialisation import initialise
from ..models.shapes import AttentionShape, ModelShape
from ..models.transformer import RlExpForCausalLM
from ..runs.ranks import Ranks
from .cells import AttentionCell


def measure_sharded(cell: AttentionCell, ranks: Ranks, *, rounds: int, seed: int) -> dict[str, Any]:
    """The same row on every rank. Bytes are per token and layer; seconds the median over rounds of the slowest rank."""
    generator = torch.Generator().manual_seed(seed)
    whole = _one_layer(cell.shape, ranks.size, generator)
    largest = cell.context + cell.query_length * rounds
    options: dict[str, Any] = {"batch_size": cell.batch, "max_length": largest, "dtype": cell.storage}
    expected = TensorParallelDecoder(whole, kernel=cell.kernel, **options)
    decoder = TensorParallelDecoder(shard_model(whole, ranks.rank, ranks.size), kernel=cell.kernel, **options)
    before = torch.randn(cell.batch, cell.context, cell.shape.hidden_size, generator=generator)
    decoder.fill_attention(before)
    expected.fill_attention(before)
    seconds, difference, scale = [], 0.0, 0.0
    for _ in range(rounds):
        hidden = torch.randn(cell.batch, cell.query_length, cell.shape.hidden_size, generator=generator)
        ranks.barrier()
        start = time.perf_counter()
        output = decoder.step_attention(hidden)
        seconds.append(time.perf_counter() - start)
        alone = expected.step_attention(hidden, whole=True)
        difference = max(difference, float((output - alone).abs().max()))
        scale = max(scale, float(alone.abs().max()))
    slowest = torch.tensor(ranks.largest(seconds))
    allocated = decoder.cache.allocated_bytes() / (cell.batch * largest)
    every = ranks.largest([allocated, -allocated, difference])
    element = cell.storage.itemsize
    median = float(slowest.median())
    return {
        **{name: value for name, value in cell.labels().items() if value is not None},
        "tensor_parallel": ranks.size,
        "status": "measured",
        "bytes": every[0],
        "least_bytes": -every[1],  # of any rank
        "predicted_bytes": cached_bytes_per_token(cell.shape, element_bytes=element, tensor_parallel=ranks.size),
        "whole_bytes": expected.cache.allocated_bytes() / (cell.batch * largest),
        "duplication_factor": duplication_factor(cell.shape, ranks.size),
        "largest_difference": every[2],  # of outputs in fp32
        "largest_output": scale,
        "seconds": median,
        "tokens_per_second": cell.batch * cell.query_length / median,
    }


def _one_layer(shape: AttentionShape, ranks: int, generator: torch.Generator) -> RlExpForCausalLM:
    """A model whose only layer has this attention, and as little else as there can be."""
    one_layer = ModelShape(attention=shape, layers=1, vocabulary_size=8, feed_forward_dim=ranks)
    model = RlExpForCausalLM(RlExpConfig.from_shape(one_layer))
    initialise(model, generator)
    return model.eval()
