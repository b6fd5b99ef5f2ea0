"""The cost of a whole model's step: hand-computed cases, real models' weights, and what must grow with what."""

import pytest
import torch
from decode_cases import MECHANISMS, small_shape
from hypothesis import given
from hypothesis import strategies as st

from experiments.benchmarks.device_table import DEVICES
from experiments.decoding.tensor_parallel import shard_model
from experiments.decoding.whole_model_cost import (
    Experts,
    Placement,
    cache_bytes_per_token,
    device_weights,
    largest_batch,
    prompt_cost,
    step_cost,
)
from experiments.models.configuration import RlExpConfig
from experiments.models.shapes import AttentionMechanism, AttentionShape, ModelShape
from experiments.models.transformer import build_model

LLAMA_8B = ModelShape(
    attention=AttentionShape(
        mechanism=AttentionMechanism.gqa, hidden_size=4096, query_heads=32, head_dim=128, key_value_heads=8
    ),
    layers=32,
    vocabulary_size=128256,
    feed_forward_dim=14336,
    tie_embeddings=False,
)
DEEPSEEK_V2 = ModelShape(
    attention=AttentionShape(
        mechanism=AttentionMechanism.mla, hidden_size=5120, query_heads=128, head_dim=128, query_latent_dim=1536
    ),
    layers=60,
    vocabulary_size=102400,
    feed_forward_dim=12288,
    tie_embeddings=False,
)
DEEPSEEK_EXPERTS = Experts(routed=160, active=6, shared=2, dim=1536, dense_layers=1)
BF16 = Placement(weight_bytes=2, cache_bytes=2)


def small_model(mechanism, query_heads=8, **fields):
    shape = small_shape(mechanism, query_heads, heads=4)
    return ModelShape(attention=shape, layers=3, vocabulary_size=64, feed_forward_dim=48, **fields)


def test_llama_3_8b_by_hand():
    """8,030,261,248 weights; 2 x 8 heads x 128 x 2 bytes x 32 layers = 131,072 bytes a token; no embedding read."""
    weights = device_weights(LLAMA_8B, BF16)
    assert weights.total == LLAMA_8B.parameters() == 8_030_261_248
    assert cache_bytes_per_token(LLAMA_8B, BF16) == 131_072
    cost = step_cost(LLAMA_8B, 4, 1000, BF16)
    read = 8_030_261_248 - 128256 * 4096
    assert cost.weight_bytes == 2 * read
    assert cost.cache_bytes == 4 * 1000 * 131_072
    assert cost.weight_flops == 2 * read * 4
    assert cost.attention_flops == 4 * 1000 * 32 * (4 * 32 * 128)
    assert cost.link_bytes == 0


def test_llama_3_8b_on_eight_devices_by_hand():
    placement = Placement(tensor_parallel=8, weight_bytes=2, cache_bytes=2)
    norms = 65 * 4096
    assert device_weights(LLAMA_8B, placement).total == (8_030_261_248 - norms) // 8 + norms
    assert cache_bytes_per_token(LLAMA_8B, placement) == 131_072 // 8
    # two all-reduces a layer of 4 tokens of 4096 elements
    assert step_cost(LLAMA_8B, 4, 1000, placement).link_bytes == 2 * 32 * 4 * 4096 * 2


def test_deepseek_v2_has_236_billion_weights_of_which_a_token_uses_21():
    weights = device_weights(DEEPSEEK_V2, BF16, DEEPSEEK_EXPERTS)
    assert weights.total == pytest.approx(235.7e9, rel=1e-3)
    cost = step_cost(DEEPSEEK_V2, 1, 1, BF16, experts=DEEPSEEK_EXPERTS)
    # a lone token reads its own experts and multiplies with them: the 21 billion, less the embedding
    assert cost.weight_bytes / 2 == pytest.approx(cost.weight_flops / 2) == pytest.approx(20.9e9, rel=1e-2)


def test_experts_of_many_tokens_are_all_read_and_of_few_only_some():
    assert DEEPSEEK_EXPERTS.expected_share(1) == pytest.approx(6 / 160)
    assert DEEPSEEK_EXPERTS.expected_share(2) == pytest.approx(12 / 160 - (6 / 160) ** 2)
    assert DEEPSEEK_EXPERTS.expected_share(10_000) == pytest.approx(1)


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("devices", [1, 2, 4])
def test_the_weights_of_a_block_are_those_that_a_sharded_model_holds(mechanism, devices):
    """Our own tensor-parallel models, but for embedding and head, which they hold whole."""
    model = small_model(mechanism)
    config = RlExpConfig(
        attention=mechanism, hidden_size=128, query_heads=8, head_dim=16, layers=3, vocab_size=64, feed_forward_dim=48,
        **({} if mechanism in ("mha", "mqa", "mla") else {model.attention.states_heads_name: 4}),
    )  # fmt: skip
    local = shard_model(build_model(config, torch.Generator().manual_seed(0)), 0, devices)
    held = sum(parameter.numel() for parameter in local.decoder.blocks.parameters()) + 128
    weights = device_weights(model, Placement(tensor_parallel=devices))
    assert held == weights.attention + weights.norms + weights.feed_forward


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_tied_head_is_stored_and_read_once(mechanism):
    tied, untied = small_model(mechanism), small_model(mechanism, tie_embeddings=False)
    assert device_weights(tied, BF16).total == tied.parameters()
    assert device_weights(untied, BF16).total == untied.parameters() == tied.parameters() + 64 * 128
    assert step_cost(tied, 2, 9, BF16) == step_cost(untied, 2, 9, BF16)


def test_data_parallel_attention_copies_attention_and_shares_the_rest():
    """Section B.6: 8 devices as 4 copies of attention over 2; a copy serves a quarter of the sequences."""
    together, apart = Placement(tensor_parallel=8), Placement(tensor_parallel=2, data_parallel=4)
    for experts in (None, DEEPSEEK_EXPERTS):
        whole, copied = (device_weights(DEEPSEEK_V2, placement, experts) for placement in (together, apart))
        assert (whole.feed_forward, whole.routed_experts) == (copied.feed_forward, copied.routed_experts)
        assert (whole.embedding, whole.head) == (copied.embedding, copied.head)
        assert whole.attention < copied.attention
    # MLA's cache is on all devices of a group: with four groups a device reads a quarter of it
    costs = [step_cost(DEEPSEEK_V2, 64, 8192, placement) for placement in (together, apart)]
    assert costs[0].cache_bytes == 4 * costs[1].cache_bytes


@given(st.sampled_from(MECHANISMS), st.sampled_from([1, 2, 4]), st.integers(1, 40), st.integers(4, 5000))
def test_more_sequences_longer_contexts_and_more_queries_never_cost_less(mechanism, devices, sequences, context):
    model, placement = small_model(mechanism), Placement(tensor_parallel=devices)
    cost = step_cost(model, sequences, context, placement)
    for more in (
        step_cost(model, sequences + 1, context, placement),
        step_cost(model, sequences, context + 1, placement),
        step_cost(model, sequences, context, placement, query_length=2),
    ):
        assert more.bytes >= cost.bytes
        assert more.flops > cost.flops
        assert more.link_bytes >= cost.link_bytes


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_the_largest_batch_fits_and_one_more_does_not(mechanism):
    model, memory = small_model(mechanism), 2_000_000
    for tensor_parallel, data_parallel in ((1, 1), (4, 1), (2, 2)):
        placement = Placement(tensor_parallel=tensor_parallel, data_parallel=data_parallel)
        batch = largest_batch(model, 100, placement, memory)
        weights = 4 * device_weights(model, placement).total
        for sequences, fits in ((batch, True), (batch + data_parallel, False)):
            assert (weights + step_cost(model, sequences, 100, placement).cache_bytes <= memory) is fits


def test_a_model_that_does_not_fit_has_no_batch():
    assert largest_batch(LLAMA_8B, 1, BF16, 16e9) == 0
    assert largest_batch(LLAMA_8B, 10**9, BF16, 80e9) == 0


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_prompt_computes_every_pair_in_training_form(mechanism):
    model = small_model(mechanism)
    shape, cost = model.attention, prompt_cost(model, 10, BF16)
    key_dim = 16 + (shape.rope_dim if mechanism in ("mla", "gla") else 0)
    assert cost.attention_flops == pytest.approx(3 * 2 * 55 * 8 * (key_dim + 16))
    assert cost.weight_flops == 10 * step_cost(model, 1, 1, BF16).weight_flops
    assert cost.weight_bytes == 0


def test_the_three_times_of_a_step_are_those_of_their_resources():
    cost = step_cost(LLAMA_8B, 2, 100, Placement(tensor_parallel=2, weight_bytes=1, cache_bytes=2))
    times = cost.seconds(10.0, 4.0, 2.0, 5.0)
    assert times["memory"] == cost.bytes / 10
    assert times["compute"] == cost.weight_flops / 4 + cost.attention_flops / 2
    assert times["link"] == cost.link_bytes / 5
    assert "link" not in cost.seconds(10.0, 4.0, 2.0)


def test_every_device_has_its_source_and_computes_faster_in_fewer_bits():
    for device in DEVICES.values():
        assert device.source.startswith("NVIDIA")
        assert device.flops_per_second["fp8"] > device.flops_per_second["bf16"] > device.bytes_per_second
