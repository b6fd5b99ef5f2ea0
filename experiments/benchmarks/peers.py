"""transformers' own generation as a peer of the engine: on the same weights, with either of its caches.

A model of ours generates through its transformers interface; one of grouped queries (MHA, MQA, GQA) also as
transformers' LlamaForCausalLM with its weights. The dynamic cache is what `generate` takes by itself; the static one
lets the forward pass be compiled, 20 to 30 s for every batch and length.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from transformers import CompileConfig, LlamaConfig, LlamaForCausalLM, StoppingCriteria, StoppingCriteriaList

from ..models.configuration import RlExpConfig
from ..models.grouped_query import GroupedQueryAttention
from ..models.shapes import AttentionMechanism, AttentionShape, ModelShape
from ..models.transformer import RlExpForCausalLM, build_model
from .choices import Peer

COMPILED_PEERS = (Peer.own_static_compiled, Peer.llama_static_compiled)
LLAMA_PEERS = (Peer.llama_dynamic, Peer.llama_static_compiled)


def matched_model(
    mechanism: str,
    *,
    hidden_size: int,
    layers: int,
    heads: int,
    feed_forward_dim: int,
    vocabulary_size: int,
) -> RlExpForCausalLM:
    """A model of random weights, with the parameters of the MHA model of that `feed_forward_dim`."""
    attention = AttentionShape(
        mechanism=AttentionMechanism(mechanism),
        hidden_size=hidden_size,
        query_heads=heads,
        head_dim=hidden_size // heads,
    )
    shape = ModelShape.matched(
        attention, anchor_feed_forward_dim=feed_forward_dim, layers=layers, vocabulary_size=vocabulary_size
    )
    return build_model(RlExpConfig.from_shape(shape), torch.Generator().manual_seed(0))


def peer_model(model: RlExpForCausalLM, peer: Peer) -> Any:
    """What generates for this peer. Raises ValueError where the model has no Llama counterpart."""
    return llama_with_weights_of(model) if peer in LLAMA_PEERS else model


@torch.no_grad()
def generate_with_peer(model: Any, peer: Peer, prompts: Tensor, new_tokens: int, watch: StoppingCriteria) -> Tensor:
    """Greedy texts of exactly `new_tokens` more tokens; `watch` is called after each of them."""
    options: dict[str, Any] = {}
    if peer in COMPILED_PEERS:
        compiled = CompileConfig(mode="default", fullgraph=False)
        # transformers compiles on a CPU only when told so, by an attribute that it declares as None
        compiled._compile_all_devices = True  # type: ignore[assignment]
        options = {"cache_implementation": "static", "compile_config": compiled}
    return model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=0,
        stopping_criteria=StoppingCriteriaList([watch]),
        **options,
    )


@torch.no_grad()
def llama_with_weights_of(model: RlExpForCausalLM) -> LlamaForCausalLM:
    """transformers' own Llama with the weights of a grouped-query model: it gives the same logits."""
    config = model.config
    if config.attention not in ("mha", "mqa", "gqa") or config.output_gate:
        raise ValueError(f"attention={config.attention} has no Llama counterpart: use mha, mqa or gqa, ungated")
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.model_shape().feed_forward_dim,
            num_hidden_layers=config.layers,
            num_attention_heads=config.query_heads,
            num_key_value_heads=config.key_value_heads,
            head_dim=config.head_dim,
            rms_norm_eps=config.norm_epsilon,
            tie_word_embeddings=config.tie_word_embeddings,
            max_position_embeddings=config.max_position_embeddings,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_base},
        )
    ).eval()
    weights = {"model.embed_tokens.weight": model.decoder.embedding.weight, "lm_head.weight": model.head.weight}
    weights["model.norm.weight"] = model.decoder.norm.weight
    shape = config.model_shape().attention
    widths = [heads * shape.head_dim for heads in (shape.query_heads, shape.key_value_heads, shape.key_value_heads)]
    for index, block in enumerate(model.decoder.blocks):
        attention = cast(GroupedQueryAttention, block.attention)
        query, key, value = attention.input.weight.split(widths)
        gate, up = block.feed_forward.input.weight.chunk(2)
        parts = {
            "self_attn.q_proj": query,
            "self_attn.k_proj": key,
            "self_attn.v_proj": value,
            "self_attn.o_proj": block.attention.output.weight,
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": block.feed_forward.output.weight,
            "input_layernorm": block.attention_norm.weight,
            "post_attention_layernorm": block.feed_forward_norm.weight,
        }
        weights.update({f"model.layers.{index}.{name}.weight": weight for name, weight in parts.items()})
    llama.load_state_dict(weights)
    return llama.to(device=model.device, dtype=model.dtype)
