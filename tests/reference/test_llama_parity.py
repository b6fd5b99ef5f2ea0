"""MHA, MQA and GQA against transformers' Llama: whole models, the same weights, the same logits."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from experiments.models.configuration import RlExpConfig
from experiments.models.transformer import RlExpForCausalLM, build_model

HEADS = {"mha": 4, "mqa": 1, "gqa": 2}


class ExactRotary(nn.Module):
    """Llama's rotation in fp64: the original computes its tables in fp32 whatever the model's dtype."""

    def __init__(self, head_dim, base):
        super().__init__()
        self.frequencies = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)

    def forward(self, x, position_ids):
        angles = position_ids[..., None].double() * self.frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def llama_with_our_weights(model: RlExpForCausalLM) -> LlamaForCausalLM:
    ours = model.config
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=ours.vocab_size,
            hidden_size=ours.hidden_size,
            intermediate_size=ours.feed_forward_dim,
            num_hidden_layers=ours.layers,
            num_attention_heads=ours.query_heads,
            num_key_value_heads=ours.key_value_heads,
            head_dim=ours.head_dim,
            rms_norm_eps=ours.norm_epsilon,
            rope_parameters={"rope_type": "default", "rope_theta": ours.rope_base},
            tie_word_embeddings=True,
        )
    ).eval()
    weights = {
        "model.embed_tokens.weight": model.decoder.embedding.weight,
        "model.norm.weight": model.decoder.norm.weight,
    }
    for index, block in enumerate(model.decoder.blocks):
        prefix = f"model.layers.{index}."
        widths = [heads * ours.head_dim for heads in (ours.query_heads, ours.key_value_heads, ours.key_value_heads)]
        for name, part in zip("qkv", block.attention.input.weight.split(widths), strict=True):
            weights[f"{prefix}self_attn.{name}_proj.weight"] = part
        weights[f"{prefix}self_attn.o_proj.weight"] = block.attention.output.weight
        gate, up = block.feed_forward.input.weight.chunk(2)
        weights[f"{prefix}mlp.gate_proj.weight"], weights[f"{prefix}mlp.up_proj.weight"] = gate, up
        weights[f"{prefix}mlp.down_proj.weight"] = block.feed_forward.output.weight
        weights[f"{prefix}input_layernorm.weight"] = block.attention_norm.weight
        weights[f"{prefix}post_attention_layernorm.weight"] = block.feed_forward_norm.weight
    llama.to(next(model.parameters()).dtype)
    missing, unexpected = llama.load_state_dict({k: v.detach() for k, v in weights.items()}, strict=False)
    assert missing == ["lm_head.weight"]
    assert not unexpected
    llama.tie_weights()
    return llama


def in_double_precision(llama, config):
    """Replace the three places where Llama computes in fp32 whatever the dtype (the third: eager's softmax)."""
    llama.set_attn_implementation("sdpa")
    llama.model.rotary_emb = ExactRotary(config.head_dim, config.rope_base)
    for parent in list(llama.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LlamaRMSNorm):
                norm = nn.RMSNorm(config.hidden_size, eps=config.norm_epsilon, dtype=torch.float64)
                norm.weight.data.copy_(child.weight)
                setattr(parent, name, norm)
    return llama


def our_model(mechanism, dtype):
    config = RlExpConfig(
        attention=mechanism,
        hidden_size=40,
        layers=3,
        query_heads=4,
        head_dim=8,
        key_value_heads=HEADS[mechanism],
        vocab_size=71,
        feed_forward_dim=56,
        initializer_range=0.15,
        rope_base=5000.0,
    )
    generator = torch.Generator().manual_seed(0)
    model = build_model(config, generator, dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=dtype))
    return model


def token_ids():
    return torch.randint(0, 71, (2, 11), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("mechanism", HEADS)
def test_logits_and_gradients_equal_those_of_llama_in_double_precision(mechanism):
    model = our_model(mechanism, torch.float64)
    llama = in_double_precision(llama_with_our_weights(model), model.config)
    logits = model(token_ids(), use_cache=False).logits
    expected = llama(token_ids(), use_cache=False).logits
    assert torch.allclose(logits, expected, rtol=0, atol=1e-12)
    for own in (logits, expected):
        own.pow(2).mean().backward()
    ours, theirs = model.decoder.embedding.weight.grad, llama.model.embed_tokens.weight.grad
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)
    down = llama.model.layers[0].mlp.down_proj.weight.grad
    assert torch.allclose(model.decoder.blocks[0].feed_forward.output.weight.grad, down, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mechanism", HEADS)
@torch.no_grad()
def test_logits_equal_those_of_llama_in_single_precision(mechanism):
    """Llama as it is, without any replacement."""
    model = our_model(mechanism, torch.float32)
    llama = llama_with_our_weights(model)
    logits = model(token_ids(), use_cache=False).logits
    assert torch.allclose(logits, llama(token_ids(), use_cache=False).logits, rtol=0, atol=2e-5)


@pytest.mark.parametrize("mechanism", HEADS)
def test_left_padded_generation_equals_that_of_llama(mechanism):
    model = our_model(mechanism, torch.float32)
    llama = llama_with_our_weights(model)
    real = torch.ones(2, 11, dtype=torch.long)
    real[0, :4] = 0
    options = {"attention_mask": real, "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": 70}
    assert torch.equal(model.generate(token_ids(), **options), llama.generate(token_ids(), **options))
