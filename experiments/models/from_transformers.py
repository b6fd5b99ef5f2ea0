"""Models of transformers that are shaped like Llama as models of ours, weight for weight, and back.

    model = converted(AutoModelForCausalLM.from_pretrained(folder))
    ...                                  # rollouts on the decode engine, training on shared prompts
    model.save_pretrained(folder)        # a model of the original class again, with its own config.json

A family is a line of `FAMILIES`. What a family may switch on and the decoder cannot do is refused with its reason, and
so is a model whose logits the converted one does not give.

Legend: H heads, D head dim, d hidden size.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import (
    Ernie4_5ForCausalLM,
    HeliumForCausalLM,
    LlamaForCausalLM,
    MistralForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
    SeedOssForCausalLM,
)

from .configuration import RlExpConfig
from .transformer import RlExpForCausalLM

# Our weights of a block, and the ones of transformers that lie in them behind each other.
BLOCK = {
    "attention_norm": ("input_layernorm",),
    "attention.input": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.query_norm": ("self_attn.q_norm",),
    "attention.key_norm": ("self_attn.k_norm",),
    "attention.output": ("self_attn.o_proj",),
    "feed_forward_norm": ("post_attention_layernorm",),
    "feed_forward.input": ("mlp.gate_proj", "mlp.up_proj"),
    "feed_forward.output": ("mlp.down_proj",),
}
ENDS = {
    "decoder.embedding.weight": "model.embed_tokens.weight",
    "decoder.norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
ROTATED = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.q_norm", "self_attn.k_norm")
ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # whose frequencies do not depend on the length of a text
TOLERANCE = 1e-3  # of logits, relative: rounding stays far below, another architecture far above


@dataclass(frozen=True)
class Family:
    """How the models of a class differ from Llama in what their configuration does not say."""

    interleaved: bool = False  # rotation pairs neighbouring dimensions, where ours and Llama's pair i with i + D/2


# The exact class decides: a subclass may compute something else.
FAMILIES: dict[type[PreTrainedModel], Family] = {
    LlamaForCausalLM: Family(),
    MistralForCausalLM: Family(),
    Qwen2ForCausalLM: Family(),
    Qwen3ForCausalLM: Family(),
    SeedOssForCausalLM: Family(),
    HeliumForCausalLM: Family(interleaved=True),
    Ernie4_5ForCausalLM: Family(interleaved=True),
}


class NotConvertible(ValueError):
    """Says what of a model our decoder does not have."""


class ConvertedForCausalLM(RlExpForCausalLM):
    """A model of ours that was one of transformers, and is saved as that."""

    source_class: type[PreTrainedModel]
    source_config: PreTrainedConfig

    def source(self) -> PreTrainedModel:
        """The model of transformers with a copy of the present weights."""
        with torch.device("meta"):
            source = self.source_class(copy.deepcopy(self.source_config))
        family, weights = FAMILIES[self.source_class], {}
        own = self.state_dict()
        for name, parts in places(own, source.state_dict()):
            sizes = [len(part) for part in parts.values()]
            for part, values in zip(parts, own[name].split(sizes), strict=True):
                is_turned = family.interleaved and _is_rotated(part)
                weights[part] = _interleaved(values, self.config.head_dim) if is_turned else values.clone()
        source.load_state_dict(weights, assign=True)
        source.tie_weights()
        source.generation_config = copy.deepcopy(self.generation_config)
        return source.eval()

    def save_pretrained(self, *arguments: Any, **options: Any) -> None:
        """Write the model of transformers with the present weights: see its `save_pretrained`."""
        self.source().save_pretrained(*arguments, **options)


def converted(model: PreTrainedModel) -> ConvertedForCausalLM:
    """`model` as one of ours, with a copy of its weights; NotConvertible, in one line, where there is none."""
    config = configuration_of(model)
    with torch.device("meta"):  # no weights are drawn
        ours = ConvertedForCausalLM(config)
    own, theirs = ours.state_dict(), model.state_dict()
    family, weights, used = FAMILIES[type(model)], {}, set[str]()
    for name, parts in places(own, theirs):
        turned = [
            _in_halves(values, config.head_dim) if family.interleaved and _is_rotated(part) else values
            for part, values in parts.items()
        ]
        weights[name] = torch.cat(turned)
        used |= parts.keys()
    if left := sorted(theirs.keys() - used):
        raise NotConvertible(f"it has weights that our decoder does not have, such as {left[0]}")
    ours.load_state_dict(weights, assign=True)
    ours.tie_weights()
    ours.source_class, ours.source_config = type(model), copy.deepcopy(model.config)
    ours.generation_config = copy.deepcopy(model.generation_config)
    ours.eval()
    _compare(ours, model)
    return ours


def configuration_of(model: PreTrainedModel) -> RlExpConfig:
    """The configuration of ours for `model`; NotConvertible where none describes it."""
    config = model.config
    if type(model) not in FAMILIES:
        raise NotConvertible(f"{type(model).__name__} is not shaped like Llama")
    if getattr(config, "quantization_config", None) is not None:
        raise NotConvertible("its weights are quantised")
    window = getattr(config, "sliding_window", None)
    if window is not None and window < config.max_position_embeddings:
        raise NotConvertible(f"sliding_window={window} is in use")
    if config.hidden_act not in ("silu", "swish"):
        raise NotConvertible(f"hidden_act={config.hidden_act} is not silu")
    rope_type = config.rope_parameters["rope_type"]
    if rope_type not in ROPE_TYPES:
        raise NotConvertible(f"rope_type={rope_type} is not one of {', '.join(ROPE_TYPES)}")
    rotary, weights = cast(Any, model).model.rotary_emb, model.state_dict()
    heads, cached_heads = config.num_attention_heads, config.num_key_value_heads
    first = "model.layers.0.self_attn."
    try:
        return RlExpConfig(
            attention="mha" if heads == cached_heads else "gqa",
            hidden_size=config.hidden_size,
            layers=config.num_hidden_layers,
            query_heads=heads,
            key_value_heads=cached_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            feed_forward_dim=config.intermediate_size,
            input_bias=first + "q_proj.bias" in weights,
            output_bias=first + "o_proj.bias" in weights,
            query_key_norm=first + "q_norm.weight" in weights,
            vocab_size=config.vocab_size,
            max_position_embeddings=config.max_position_embeddings,
            rope_base=config.rope_parameters["rope_theta"],
            rope_frequencies=rotary.inv_freq.tolist(),
            rope_amplitude=float(rotary.attention_scaling),
            norm_epsilon=config.rms_norm_eps,
            initializer_range=config.initializer_range,
            tie_word_embeddings=config.tie_word_embeddings,
            pad_token_id=config.pad_token_id,
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            dtype=model.dtype,
        )
    except ValueError as error:  # an odd head_dim, for example
        raise NotConvertible(str(error)) from error


def places(own: dict[str, Tensor], theirs: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Each of our weights, and the weights of `theirs` that lie in it behind each other.

    NotConvertible where one of them is not there.
    """
    for name in own:
        if name in ENDS:
            parts = [ENDS[name]]
        else:  # decoder.blocks.<index>.<module>.<weight or bias>
            index, rest = name.removeprefix("decoder.blocks.").split(".", 1)
            module, kind = rest.rsplit(".", 1)
            parts = [f"model.layers.{index}.{part}.{kind}" for part in BLOCK[module]]
        if missing := [part for part in parts if part not in theirs]:
            raise NotConvertible(f"it lacks the weight {missing[0]}")
        yield name, {part: theirs[part] for part in parts}


def _is_rotated(name: str) -> bool:
    return name.rsplit(".", 1)[0].endswith(ROTATED)


def _in_halves(rows: Tensor, head_dim: int) -> Tensor:
    """Rows of heads (H * D, ...) whose pairs lie side by side, with dimension i beside i + D/2 instead."""
    return rows.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)


def _interleaved(rows: Tensor, head_dim: int) -> Tensor:
    """The inverse of `_in_halves`."""
    return rows.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten(0, 2)


@torch.no_grad()
def _compare(ours: RlExpForCausalLM, model: PreTrainedModel) -> None:
    """NotConvertible where a short text gets other logits: transformers may have changed what a family computes."""
    tokens = (torch.arange(10, device=ours.device) * 7919 % ours.config.vocab_size)[None]
    training, expected = model.training, model.eval()(tokens, use_cache=False).logits.double()
    model.train(training)
    size = float((expected - expected.mean(dim=-1, keepdim=True)).norm())
    difference = float((ours(tokens, use_cache=False).logits.double() - expected).norm()) / max(size, 1e-30)
    tolerance = max(TOLERANCE, 16 * torch.finfo(model.dtype).eps)
    if math.isfinite(size) and not difference <= tolerance:
        raise NotConvertible(f"its logits differ by {difference:.1%} from those of our decoder")
