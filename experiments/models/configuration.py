"""The configuration of a model, as transformers stores it beside the weights.

`RlExpConfig.from_shape` makes it from a `ModelShape`, and `model_shape()` gives that back. Flat fields have the names
of the shape, so that `config.json` reads like it; the arithmetic and the refusal of impossible shapes stay in
`shapes.py`. After construction no shape field is None: what was left out has been resolved, so a stored configuration
does not depend on the defaults of a later version.
"""

from __future__ import annotations

import difflib
import logging
from dataclasses import fields
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import GenerationConfig, PreTrainedConfig

from .shapes import AttentionMechanism, AttentionOptions, AttentionShape, ModelShape, matched_feed_forward_dim

logger = logging.getLogger(__name__)

# Fields of `ModelShape` that transformers calls by other names; the others keep theirs.
STORED_NAMES = {"vocabulary_size": "vocab_size", "tie_embeddings": "tie_word_embeddings"}
ATTENTION_FIELDS = tuple(field.name for field in fields(AttentionShape) if field.name != "mechanism")
MODEL_FIELDS = tuple(field.name for field in fields(ModelShape) if field.name != "attention")
# Fields of converted models only (from_transformers.py): other models are stored without them.
CONVERTED_FIELDS = ("input_bias", "output_bias", "query_key_norm", "rope_frequencies", "rope_amplitude")

# What transformers itself hands to a configuration, or finds in a stored one, beside the declared fields.
LIBRARY_KEYWORDS = frozenset(
    {
        "attn_implementation",
        "auto_map",
        "experts_implementation",
        "model_type",
        "name_or_path",
        "num_labels",
        "output_attentions",
        "quantization_config",
        "torch_dtype",
    }
)


@strict
class RlExpConfig(PreTrainedConfig, AttentionOptions):
    """Shape and options of an `RlExpForCausalLM`; the choices of its attention are the fields of `AttentionOptions`.

    Raises ValueError for an impossible shape, an unknown mechanism, and a keyword that belongs to nobody
    (with the nearest known name).
    """

    model_type = "rl-exp"
    keys_to_ignore_at_inference = ["cache", "past_key_values"]  # noqa: RUF012 (a class attribute of transformers)
    attribute_map = {  # noqa: RUF012
        "num_hidden_layers": "layers",
        "num_attention_heads": "query_heads",
        "intermediate_size": "feed_forward_dim",
        "rms_norm_eps": "norm_epsilon",
    }

    attention: str = "gqa"
    hidden_size: int = 256
    layers: int = 4
    query_heads: int = 4
    head_dim: int = 64
    low_rank_bias: bool = False
    input_bias: bool = False
    output_bias: bool = False
    query_key_norm: bool = False
    zero_init_output: bool = False
    feed_forward_dim: int | None = None  # None: matched to an MHA model whose feed-forward is 8/3 hidden_size wide
    vocab_size: int = 4096
    max_position_embeddings: int = 2048
    rope_base: float = 10000.0
    rope_frequencies: list[float] | None = None  # radians per position of every pair; None: they follow from rope_base
    rope_amplitude: float = 1.0  # rotated queries and keys are times this, as YaRN scales attention
    norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self._refuse_unknown(kwargs)
        allowed = [str(mechanism) for mechanism in AttentionMechanism]
        if self.attention not in allowed:
            raise ValueError(
                f"attention={self.attention!r} is unknown{_nearest(self.attention, allowed)}: "
                f"use one of {', '.join(allowed)}"
            )
        self.attention = str(self.attention)  # config.json holds a word
        attention = self._attention_shape()
        for name in ATTENTION_FIELDS:
            setattr(self, name, getattr(attention, name))
        if self.feed_forward_dim is None:
            self.feed_forward_dim = matched_feed_forward_dim(attention, _anchor_feed_forward_dim(self.hidden_size))
        self.model_shape()
        if self.rope_frequencies is not None and len(self.rope_frequencies) != attention.rope_dim // 2:
            raise ValueError(
                f"rope_frequencies of {len(self.rope_frequencies)} pairs do not fit rope_dim={self.rope_dim}: give one "
                "per pair, or leave them out"
            )
        kwargs.setdefault("auto_map", {})  # trl asks for it where an architecture is not one of transformers' own
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]  # of transformers

    @classmethod
    def from_shape(cls, shape: ModelShape, **options: Any) -> RlExpConfig:
        """The configuration of `shape`. `options` are the fields that no shape has: token ids, longest position."""
        attention = {name: getattr(shape.attention, name) for name in ATTENTION_FIELDS}
        model = {STORED_NAMES.get(name, name): getattr(shape, name) for name in MODEL_FIELDS}
        return cls(attention=str(shape.attention.mechanism), **attention, **model, **options)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build from a stored dictionary; keys that another library added to `config.json` are kept."""
        strangers = {name: value for name, value in config_dict.items() if not cls._knows(name)}
        known = {name: value for name, value in config_dict.items() if name not in strangers}
        built = super().from_dict(known, **kwargs)
        config = built[0] if isinstance(built, tuple) else built
        for name, value in strangers.items():
            logger.warning("the stored configuration has the key %r, which rl-exp does not know", name)
            setattr(config, name, value)
        return built

    def to_diff_dict(self) -> dict[str, Any]:
        """What `config.json` holds."""
        stored: dict[str, Any] = super().to_diff_dict()
        unused = [name for name in CONVERTED_FIELDS if getattr(self, name) == getattr(type(self), name)]
        return {name: value for name, value in stored.items() if name not in unused}

    def to_dict(self) -> dict[str, Any]:
        """As stored: `auto_map` only where it names code."""
        values: dict[str, Any] = super().to_dict()
        if not values.get("auto_map"):
            values.pop("auto_map", None)
        return values

    def model_shape(self) -> ModelShape:
        """The shape of the complete decoder."""
        model = {name: getattr(self, STORED_NAMES.get(name, name)) for name in MODEL_FIELDS}
        return ModelShape(attention=self._attention_shape(), **model)

    def _attention_shape(self) -> AttentionShape:
        given = {name: getattr(self, name) for name in ATTENTION_FIELDS}
        return AttentionShape(mechanism=AttentionMechanism(self.attention), **given)

    @classmethod
    def _knows(cls, name: str) -> bool:
        return (
            name.startswith("_")
            or name in cls.__dataclass_fields__
            or name in cls.attribute_map
            or name in LIBRARY_KEYWORDS
            or name in GenerationConfig._get_default_generation_params()
        )

    @classmethod
    def _refuse_unknown(cls, keywords: dict[str, Any]) -> None:
        for name in keywords:
            if not cls._knows(name):
                known = [*cls.__dataclass_fields__, *cls.attribute_map]
                raise ValueError(f"{name}={keywords[name]!r} is not a setting of rl-exp models{_nearest(name, known)}")


def _anchor_feed_forward_dim(hidden_size: int) -> int:
    """8/3 of the hidden size, up to a multiple of 8: as many weights as an ungated one of 4 d."""
    return -(-hidden_size * 8 // 3 // 8) * 8


def _nearest(name: str, known: list[str]) -> str:
    matches = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
