"""MLA against transformers' DeepSeek-V3 attention: the same weights, the same outputs, also step by step."""

import pytest
import torch
from torch import nn
from transformers import DeepseekV3Config, DynamicCache
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention

from experiments.models.configuration import RlExpConfig
from experiments.models.transformer import build_model

HIDDEN, HEADS, HEAD_DIM, ROPE, LATENT, QUERY_LATENT = 36, 4, 8, 6, 20, 24
EPSILON = 1e-6  # fixed inside DeepSeek's latent norms


def our_layer(dtype):
    config = RlExpConfig(
        attention="mla",
        hidden_size=HIDDEN,
        layers=1,
        query_heads=HEADS,
        head_dim=HEAD_DIM,
        rope_dim=ROPE,
        latent_dim=LATENT,
        query_latent_dim=QUERY_LATENT,
        vocab_size=5,
        feed_forward_dim=8,
        norm_epsilon=EPSILON,
        initializer_range=0.3,
    )
    generator = torch.Generator().manual_seed(0)
    model = build_model(config, generator, dtype).eval()
    attention = model.decoder.blocks[0].attention
    with torch.no_grad():
        for norm in (attention.query_norm, attention.latent_norm):
            norm.weight.add_(0.3 * torch.randn(norm.weight.shape, generator=generator, dtype=dtype))
    return model


def interleaved(rows):
    """Rows whose rotated pairs are (i, i + R/2), ours, into the order (2i, 2i + 1), that of DeepSeek's weights."""
    return torch.stack(rows.chunk(2), dim=1).flatten(0, 1)


def deepseek_with_our_weights(attention, dtype, rope_interleave):
    theirs = DeepseekV3Attention(
        DeepseekV3Config(
            hidden_size=HIDDEN,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            q_lora_rank=QUERY_LATENT,
            kv_lora_rank=LATENT,
            qk_rope_head_dim=ROPE,
            qk_nope_head_dim=HEAD_DIM,
            v_head_dim=HEAD_DIM,
            attention_bias=False,
            rope_interleave=rope_interleave,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            attn_implementation="sdpa",
        ),
        layer_idx=0,
    ).to(dtype)
    if dtype is torch.float64:  # their norms compute in fp32 whatever the dtype
        theirs.q_a_layernorm = nn.RMSNorm(QUERY_LATENT, eps=EPSILON, dtype=dtype)
        theirs.kv_a_layernorm = nn.RMSNorm(LATENT, eps=EPSILON, dtype=dtype)
    order = interleaved if rope_interleave else lambda rows: rows

    query_down, latent_down, rope_down = attention.input.weight.split([QUERY_LATENT, LATENT, ROPE])
    query_up = [
        torch.cat((head[:HEAD_DIM], order(head[HEAD_DIM:])))
        for head in attention.query_up.weight.split(HEAD_DIM + ROPE)
    ]
    keys, values = attention.latent_up.weight.chunk(2)  # ours: all keys, then all values; theirs: per head
    latent_up = [part for pair in zip(keys.split(HEAD_DIM), values.split(HEAD_DIM), strict=True) for part in pair]
    weights = {
        "q_a_proj.weight": query_down,
        "q_a_layernorm.weight": attention.query_norm.weight,
        "q_b_proj.weight": torch.cat(query_up),
        "kv_a_proj_with_mqa.weight": torch.cat((latent_down, order(rope_down))),
        "kv_a_layernorm.weight": attention.latent_norm.weight,
        "kv_b_proj.weight": torch.cat(latent_up),
        "o_proj.weight": attention.output.weight,
    }
    theirs.load_state_dict({name: weight.detach() for name, weight in weights.items()})
    return theirs.eval()


def position_embeddings(positions, dtype):
    frequencies = 10000.0 ** (-torch.arange(0, ROPE, 2, dtype=torch.float64) / ROPE)
    angles = positions[None, :, None].double() * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


@pytest.mark.parametrize("rope_interleave", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@torch.no_grad()
def test_outputs_equal_those_of_deepseek(dtype, tolerance, rope_interleave):
    model = our_layer(dtype)
    attention = model.decoder.blocks[0].attention
    theirs = deepseek_with_our_weights(attention, dtype, rope_interleave)
    hidden = torch.randn(2, 9, HIDDEN, generator=torch.Generator().manual_seed(2), dtype=dtype)
    output = attention(hidden, model.decoder.context(hidden, None, None, None, None))
    expected = theirs(hidden, position_embeddings(torch.arange(9), dtype), attention_mask=None)[0]
    assert torch.allclose(output, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("rope_interleave", [True, False])
@torch.no_grad()
def test_cached_steps_equal_those_of_deepseek_and_cache_the_same_latents(rope_interleave):
    model = our_layer(torch.float64)
    attention = model.decoder.blocks[0].attention
    theirs = deepseek_with_our_weights(attention, torch.float64, rope_interleave)
    hidden = torch.randn(2, 9, HIDDEN, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    our_cache, their_cache = DynamicCache(), DynamicCache()
    for start, end in ((0, 5), (5, 6), (6, 7), (7, 8), (8, 9)):
        new = hidden[:, start:end]
        output = attention(new, model.decoder.context(new, None, None, None, our_cache), our_cache)
        expected = theirs(
            new,
            position_embeddings(torch.arange(start, end), torch.float64),
            attention_mask=torch.ones(end - start, end, dtype=torch.bool).tril(start)[None, None],
            past_key_values=their_cache,
        )[0]
        assert torch.allclose(output, expected, rtol=0, atol=1e-12)
    ours, theirs_cached = our_cache.layers[0], their_cache.layers[0]
    assert torch.allclose(ours.keys, theirs_cached.keys, rtol=0, atol=1e-12)
    assert torch.allclose(ours.values, theirs_cached.values, rtol=0, atol=1e-12)
