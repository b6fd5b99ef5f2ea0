"""Tensor-parallel decoding in real processes: outputs are the single device's, bytes are the predicted ones."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from experiments.decoding.cost_model import device_shape
from experiments.decoding.tensor_parallel import TensorParallelDecoder, run_in_processes, shard_model
from experiments.models.configuration import RlExpConfig
from experiments.models.shapes import AttentionMechanism, AttentionShape
from experiments.models.transformer import RlExpForCausalLM, build_model

SIZES = {"hidden_size": 32, "layers": 2, "query_heads": 8, "head_dim": 8, "vocab_size": 61, "feed_forward_dim": 48}
MODELS = {
    "mha": {"attention": "mha"},
    "mqa": {"attention": "mqa"},
    "gqa": {"attention": "gqa"},
    "gqa-gated": {"attention": "gqa", "key_value_heads": 2, "output_gate": True},
    "gta": {"attention": "gta"},
    "gta-biased": {"attention": "gta", "tied_heads": 2, "rope_dim": 6, "low_rank_bias": True},
    "mla": {"attention": "mla", "low_rank_bias": True},
    "gla": {"attention": "gla", "low_rank_bias": True, "latent_scaling": True},
    "gla-4": {"attention": "gla", "latent_heads": 4, "latent_dim": 6},
    "gla-split-query": {"attention": "gla", "split_query_latent": True, "low_rank_bias": True},
    "tied": {"attention": "tied_key_value"},
}
BATCH, PROMPT, STEPS, MAX_LENGTH = 3, 7, (1, 2, 4), 20


def case_model(name: str) -> RlExpForCausalLM:
    config = RlExpConfig(**{**SIZES, "initializer_range": 0.15, **MODELS[name]})
    generator = torch.Generator().manual_seed(0)
    model = build_model(config, generator).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # biases and norms away from their neutral starting values
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def decode_on_ranks(rank: int, processes: int) -> dict[str, dict[str, list[float]]]:
    """On every rank, for every model and for 2 and 4 devices: error against the whole model, and cache bytes."""
    pair = dist.new_group([0, 1])
    tokens = torch.randint(0, SIZES["vocab_size"], (BATCH, PROMPT + sum(STEPS)), generator=torch.manual_seed(1))
    found: dict[str, dict[str, list[float]]] = {}
    for name in MODELS:
        whole = case_model(name)
        with torch.no_grad():
            expected = whole(tokens).logits
        for size, group in ((2, pair), (processes, dist.group.WORLD)):
            if rank >= size:
                continue
            decoder = TensorParallelDecoder(
                shard_model(whole, rank, size), batch_size=BATCH, max_length=MAX_LENGTH, group=group, kernel="reference"
            )
            parts = tokens.split([PROMPT, *STEPS], dim=1)
            logits = torch.cat([decoder.step(part) for part in parts], dim=1)
            error = float((logits - expected).abs().max() / expected.abs().max())
            found.setdefault(name, {})[str(size)] = [error, decoder.cache.allocated_bytes()]
    return found


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, dict[str, list[float]]]]:
    return run_in_processes(decode_on_ranks, 4)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", MODELS)
def test_every_rank_gets_the_whole_models_logits(ranks, name, size):
    for rank in range(size):
        assert ranks[rank][name][str(size)][0] < 1e-5


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", MODELS)
def test_every_rank_allocates_exactly_the_predicted_bytes(ranks, name, size):
    shape = RlExpConfig(**{**SIZES, **MODELS[name]}).model_shape().attention
    predicted = 4 * SIZES["layers"] * BATCH * MAX_LENGTH * shape.cached_elements(tensor_parallel=size)
    assert [ranks[rank][name][str(size)][1] for rank in range(size)] == [predicted] * size


def test_splitting_costs_copies_for_mla_and_none_for_gla():
    """XL, Table 15: bytes in bf16 per token and layer on each of 1, 2 and 4 devices."""
    table = {
        "mha": (8192, 4096, 2048),
        "gqa": (2048, 1024, 512),
        "gta": (1152, 640, 384),
        "gla": (1152, 640, 640),
        "mla": (1152, 1152, 1152),
    }
    for mechanism, expected in table.items():
        shape = AttentionShape(mechanism=AttentionMechanism(mechanism), hidden_size=2048, query_heads=16, head_dim=128)
        assert tuple(2 * device_shape(shape, size).cached_elements() for size in (1, 2, 4)) == expected


def test_a_split_that_would_cut_a_head_is_refused():
    shape = AttentionShape(mechanism=AttentionMechanism.gqa, hidden_size=96, query_heads=12, head_dim=8)
    with pytest.raises(ValueError, match="key_value_heads=4 neither split nor copy evenly over tensor_parallel=3"):
        device_shape(shape, 3)
    with pytest.raises(ValueError, match="query_heads=12 do not split"):
        device_shape(shape, 8)


def test_one_rank_without_a_process_group_is_the_whole_model():
    model = case_model("gla")
    decoder = TensorParallelDecoder(shard_model(model, 0, 1), batch_size=2, max_length=9, kernel="reference")
    tokens = torch.arange(18).view(2, 9)
    logits = torch.cat([decoder.step(part) for part in tokens.split([5, 4], dim=1)], dim=1)
    torch.testing.assert_close(logits, model(tokens).logits, rtol=1e-4, atol=1e-5)


def fail_on_rank_one(rank: int, processes: int) -> None:
    if rank == 1:
        raise ValueError("rank 1 cannot")
    dist.barrier()


def test_a_failing_rank_ends_the_others_and_is_told():
    with pytest.raises(RuntimeError, match="rank 1 failed: ValueError: rank 1 cannot"):
        run_in_processes(fail_on_rank_one, 2)
