"""Our attention layers against the paper's equations written as loops: outputs and gradients, fp64 and fp32."""

import math

import pytest
import torch
from naive_equations import (
    grouped_latent_attention,
    grouped_query_attention,
    grouped_tied_attention,
    tied_key_value_attention,
)

from experiments.models.configuration import RlExpConfig
from experiments.models.transformer import build_model

SIZES = {"hidden_size": 20, "layers": 1, "query_heads": 4, "head_dim": 8, "vocab_size": 5, "feed_forward_dim": 4}
CASES = {
    "mha": {"attention": "mha"},
    "mqa": {"attention": "mqa"},
    "gqa": {"attention": "gqa", "key_value_heads": 2, "output_gate": True},
    "tied": {"attention": "tied_key_value", "key_value_heads": 2},
    "gta-1": {"attention": "gta", "tied_heads": 1},
    "gta-2": {"attention": "gta", "tied_heads": 2, "low_rank_bias": True, "output_gate": True},
    "gta-4-narrow-rope": {"attention": "gta", "tied_heads": 4, "rope_dim": 2},
    "gta-no-rope": {"attention": "gta", "tied_heads": 2, "rope_dim": 0},
    "mla": {"attention": "mla", "latent_dim": 10, "query_latent_dim": 12, "rope_dim": 6},
    "mla-biased-scaled": {"attention": "mla", "low_rank_bias": True, "latent_scaling": True},
    "gla-2": {"attention": "gla", "latent_dim": 6, "query_latent_dim": 12},
    "gla-4-biased": {"attention": "gla", "latent_heads": 4, "latent_dim": 6, "low_rank_bias": True},
    "gla-q-2": {
        "attention": "gla",
        "split_query_latent": True,
        "query_latent_dim": 12,
        "low_rank_bias": True,
        "latent_scaling": True,
        "output_gate": True,
    },
}


def layer(name, dtype):
    config = RlExpConfig(**SIZES, **CASES[name], initializer_range=0.4)
    generator = torch.Generator().manual_seed(0)
    model = build_model(config, generator, dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=dtype))
    return model


def paper_weights(attention):
    """Our fused matrices taken apart into the paper's, one per head, in fp64."""
    shape = attention.shape
    parts = {name: parameter.detach().double() for name, parameter in attention.named_parameters()}
    weights = {"W_O": parts["output.weight"]}
    if shape.output_gate:
        weights["W_G"] = parts["gate.weight"]
    rows = parts["input.weight"]
    heads, head_dim, rope_dim = shape.query_heads, shape.head_dim, shape.rope_dim

    def take(matrix, count, width):
        return list(matrix[: count * width].split(width)), matrix[count * width :]

    if shape.mechanism in ("mha", "mqa", "gqa"):
        weights["W_Q"], rows = take(rows, heads, head_dim)
        weights["W_K"], rows = take(rows, shape.key_value_heads, head_dim)
        weights["W_V"], rows = take(rows, shape.key_value_heads, head_dim)
    elif shape.mechanism == "tied_key_value":
        weights["W_Q"], rows = take(rows, heads, head_dim)
        weights["W_KV"], rows = take(rows, shape.key_value_heads, head_dim)
    elif shape.mechanism == "gta":
        weights["W_Q"], rows = take(rows, heads, head_dim)
        weights["W_KV"], rows = take(rows, shape.tied_heads, head_dim)
        weights["W_R"], rows = rows, rows[:0]
        if "rope_key_bias" in parts:
            weights["b_R"] = parts["rope_key_bias"]
    else:
        shares = shape.latent_heads if shape.split_query_latent else 1
        bias = parts.get("input.bias", torch.zeros(len(rows), dtype=torch.float64))
        for kind, matrix in (("W", rows), ("b", bias)):
            weights[f"{kind}_DQ"], matrix = take(matrix, shares, shape.query_latent_dim // shares)
            weights[f"{kind}_DKV"], matrix = take(matrix, shape.latent_heads, shape.latent_dim)
            weights[f"{kind}_R"] = matrix
        rows = rows[:0]
        weights["g_Q"] = parts["query_norm.weight"].chunk(shares)
        weights["g_KV"] = parts["latent_norm.weight"].chunk(shape.latent_heads)
        for kind, end in (("W", "weight"), ("b", "bias")):
            query_up, latent_up = parts.get(f"query_up.{end}"), parts.get(f"latent_up.{end}")
            if query_up is None:
                query_up = torch.zeros(heads * (head_dim + rope_dim), dtype=torch.float64)
                latent_up = torch.zeros(2 * heads * head_dim, dtype=torch.float64)
            weights[f"{kind}_UQ"] = query_up.split(head_dim + rope_dim)
            keys, values = [], []
            for block in latent_up.chunk(shape.latent_heads):  # per latent head: its keys, then its values
                keys += block[: len(block) // 2].split(head_dim)
                values += block[len(block) // 2 :].split(head_dim)
            weights[f"{kind}_UK"], weights[f"{kind}_UV"] = keys, values
    assert len(rows) == 0
    return weights


def by_the_equations(config, weights, x):
    if config.attention in ("mha", "mqa", "gqa"):
        return grouped_query_attention(x, weights)
    if config.attention == "tied_key_value":
        return tied_key_value_attention(x, weights)
    if config.attention == "gta":
        return grouped_tied_attention(x, weights)
    factors = {}
    if config.latent_scaling:
        share = config.query_latent_dim // (config.latent_heads if config.split_query_latent else 1)
        factors = {
            "latent_factor": math.sqrt(config.hidden_size / config.latent_dim),
            "query_factor": math.sqrt(config.hidden_size / share),
        }
    return grouped_latent_attention(x, weights, config.norm_epsilon, **factors)


def inputs(dtype=torch.float64):
    return torch.randn(1, 7, SIZES["hidden_size"], generator=torch.Generator().manual_seed(2), dtype=dtype)


def context_of(model, hidden):
    return model.decoder.context(hidden, None, None, None, None)


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_equal_the_equations_in_double_precision(name):
    model = layer(name, torch.float64)
    attention = model.decoder.blocks[0].attention
    ours, naive = inputs().requires_grad_(), inputs().requires_grad_()
    output = attention(ours, context_of(model, ours))
    expected = by_the_equations(model.config, paper_weights(attention), naive[0])
    assert torch.allclose(output[0], expected, rtol=0, atol=1e-12)
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    (output[0] * direction).sum().backward()
    (expected * direction).sum().backward()
    assert torch.allclose(ours.grad, naive.grad, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_outputs_equal_the_equations_in_single_precision(name):
    model = layer(name, torch.float32)
    attention = model.decoder.blocks[0].attention
    hidden = inputs(torch.float32)
    expected = by_the_equations(model.config, paper_weights(attention), hidden[0].double())
    assert torch.allclose(attention(hidden, context_of(model, hidden))[0].double(), expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_the_absorbed_form_equals_the_expanded_equations(name):
    """Every token attends in decode form to what `project` says is cached, without any cache class between."""
    model = layer(name, torch.float64)
    attention = model.decoder.blocks[0].attention
    hidden = inputs()
    rotation = context_of(model, hidden).rotation
    queries, states, gate = attention.project(hidden, rotation)
    assert sum(state.shape[-1] for state in states) == attention.shape.cached_elements()
    assert attention.absorb(queries).shape[-1] == attention.shape.absorbed_key_dim
    mask = torch.ones(7, 7, dtype=torch.bool).tril()[None, None]
    heads = attention.attend(attention.absorb(queries), states, mask, rotation)
    assert heads.shape[-1] == attention.shape.absorbed_value_dim
    output = attention.project_output(attention.release(heads), gate)
    expected = by_the_equations(model.config, paper_weights(attention), hidden[0])
    assert torch.allclose(output[0], expected, rtol=0, atol=1e-12)
