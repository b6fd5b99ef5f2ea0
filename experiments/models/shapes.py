"""The arithmetic of attention mechanisms: shapes, cached elements, parameters. Standard library only.

`ModelShape` is the only description of a model: the configuration composes into it, `RlExpConfig` is made from it and
gives it back, and the models, the caches and the cost model ask it. This module imports nothing heavy: `rl-exp --help`
and every pre-flight check run through it.

Source: Hardware-Efficient Attention for Fast Decoding (arXiv 2505.21487), sections 2.1, 3.2, 3.3 and appendix
B.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import overload


class AttentionMechanism(StrEnum):
    """The mechanisms of the paper, and one ablation (keys and values tied outright, no separate RoPE key)."""

    mha = "mha"
    mqa = "mqa"
    gqa = "gqa"
    gta = "gta"
    mla = "mla"
    gla = "gla"
    tied_key_value = "tied_key_value"


PLAIN = (AttentionMechanism.mha, AttentionMechanism.mqa, AttentionMechanism.gqa)  # keys and values are two states
LATENT = (AttentionMechanism.mla, AttentionMechanism.gla)
FIXED_HEADS = (AttentionMechanism.mha, AttentionMechanism.mqa, AttentionMechanism.mla)  # their number is fixed


def cached_heads_field(mechanism: AttentionMechanism) -> str:
    """The field of a shape that counts the heads of the cached states."""
    if mechanism in LATENT:
        return "latent_heads"
    return "tied_heads" if mechanism is AttentionMechanism.gta else "key_value_heads"


@dataclass(frozen=True)
class CachedState:
    """One tensor of a decode cache: `heads` heads of `dim` elements per token and layer."""

    name: str
    heads: int
    dim: int

    @property
    def elements(self) -> int:
        """Elements per token and layer on one device."""
        return self.heads * self.dim

    def elements_per_device(self, tensor_parallel: int) -> int:
        """Elements per token and layer on each of `tensor_parallel` devices: whole heads, else copies."""
        return -(-self.heads // tensor_parallel) * self.dim


@dataclass
class AttentionOptions:
    """What a mechanism leaves to choose, by the names of the YAML group `attention` and of config.json.

    None asks for the paper's default, as in `AttentionShape`, which explains the fields.
    """

    key_value_heads: int | None = None  # GQA, tied_key_value: default 4
    tied_heads: int | None = None  # GTA: default 4
    latent_heads: int | None = None  # GLA: default 2
    latent_dim: int | None = None  # width of one latent head; default 4 head_dim (MLA), 2 head_dim (GLA)
    query_latent_dim: int | None = None  # rank of the query projection; default 8 head_dim
    rope_dim: int | None = None  # separate rotated key; default head_dim / 2
    split_query_latent: bool = False  # the paper's GLA_q
    output_gate: bool = False
    latent_scaling: bool = False  # multiply latents by sqrt(hidden_size / latent_dim)

    def given(self) -> dict[str, int]:
        """The options that ask for something other than the default."""
        values = {field.name: getattr(self, field.name) for field in fields(AttentionOptions)}
        return {name: value for name, value in values.items() if value is not None and value is not False}


class Resolved:
    """A count that may be given as None, for the paper's default, and is an int once the shape stands."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = "_" + name

    @overload
    def __get__(self, shape: None, owner: type) -> None: ...
    @overload
    def __get__(self, shape: object, owner: type) -> int: ...
    def __get__(self, shape: object | None, owner: type) -> int | None:
        return None if shape is None else shape.__dict__[self.name]

    def __set__(self, shape: object, value: int | None) -> None:
        shape.__dict__[self.name] = value


@dataclass(frozen=True, kw_only=True)
class AttentionShape:
    """One attention layer with every number resolved. `None` asks for the paper's default.

    Counts that a mechanism does not use are 0. An impossible shape raises ValueError, whose message names the
    field and its value, what is allowed and how to fix it.
    """

    mechanism: AttentionMechanism
    hidden_size: int
    query_heads: int
    head_dim: int
    # MHA, MQA, GQA, tied_key_value: heads of the cached keys and values
    key_value_heads: Resolved = Resolved()
    # GTA
    tied_heads: Resolved = Resolved()
    # MLA (always 1), GLA; the width of one latent head; the rank of the query projection
    latent_heads: Resolved = Resolved()
    latent_dim: Resolved = Resolved()
    query_latent_dim: Resolved = Resolved()
    # Width of the rotated part of a key: of the separate key of GTA, MLA and GLA, else the whole head
    rope_dim: Resolved = Resolved()
    # The paper's GLA_q: each latent group reads its own share of the query latent
    split_query_latent: bool = False
    # Biases in the low-rank projections of MLA and GLA (the paper's parameter counts have them) and of GTA's RoPE key
    low_rank_bias: bool = False
    # A sigmoid gate on the heads' output, computed from the layer input (one more projection of d x h d_h)
    output_gate: bool = False
    # Latents times sqrt(hidden_size / width) after their norm (MLRA, arXiv 2603.02188)
    latent_scaling: bool = False
    # What pretrained models with cached keys and values may have: biases of the projections, and a norm per head
    input_bias: bool = False
    output_bias: bool = False
    query_key_norm: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            is_whole = isinstance(value, int) or value is None or field.name == "mechanism"
            self._check(field.name, is_whole, f"it must be a whole number, not a {type(value).__name__}")
        for name in ("hidden_size", "query_heads", "head_dim"):
            self._check(name, getattr(self, name) >= 1, "it must be at least 1")
        mechanism, query_heads, head_dim = self.mechanism, self.query_heads, self.head_dim
        plain = mechanism in PLAIN or mechanism is AttentionMechanism.tied_key_value
        latent, tied = mechanism in LATENT, mechanism is AttentionMechanism.gta
        mha, mqa, mla = AttentionMechanism.mha, AttentionMechanism.mqa, AttentionMechanism.mla

        key_value_heads = {mha: query_heads, mqa: 1}.get(mechanism, min(4, query_heads))
        self._resolve("key_value_heads", key_value_heads if plain else 0)
        self._resolve("tied_heads", min(4, query_heads) if tied else 0)
        self._resolve("latent_heads", (1 if mechanism is mla else 2) if latent else 0)
        self._resolve("latent_dim", (4 if mechanism is mla else 2) * head_dim if latent else 0)
        self._resolve("query_latent_dim", 8 * head_dim if latent else 0)
        self._resolve("rope_dim", head_dim if plain else head_dim // 2, unused=False)

        name = self.states_heads_name
        heads, divisors = getattr(self, name), [n for n in range(1, query_heads + 1) if query_heads % n == 0]
        allowed = ", ".join(map(str, divisors))
        self._check(name, heads in divisors, f"it must divide query_heads={query_heads}: use one of {allowed}")
        self._check(name, mechanism is not mha or heads == query_heads, f"it is {query_heads}: use gqa")
        self._check(name, mechanism is not mqa or heads == 1, "it is 1: use gqa")
        self._check(name, mechanism is not mla or heads == 1, "it is 1: use gla")

        whole = f"the whole head is rotated, so it is head_dim={head_dim}"
        self._check("rope_dim", not plain or self.rope_dim == head_dim, whole)
        smallest = 0 if tied else 2
        even = f"dimensions are rotated in pairs, so it must be even and at least {smallest}"
        if self.rope_dim in (head_dim, head_dim // 2):
            even += f" (it follows from head_dim={head_dim} unless it is set)"
        self._check("rope_dim", self.rope_dim % 2 == 0 and self.rope_dim >= smallest, even)
        part = f"it is a part of the head: use at most head_dim={head_dim}"
        self._check("rope_dim", not tied or self.rope_dim <= head_dim, part)

        self._check("split_query_latent", latent or not self.split_query_latent, "only mla and gla have it")
        for name in ("input_bias", "output_bias", "query_key_norm"):
            self._check(name, mechanism in PLAIN or not getattr(self, name), "only mha, mqa and gqa have it")
        if latent:
            for name in ("latent_dim", "query_latent_dim"):
                self._check(name, getattr(self, name) >= 1, "it must be at least 1")
            whole_shares = not self.split_query_latent or self.query_latent_dim % self.latent_heads == 0
            shares = f"split_query_latent needs a multiple of latent_heads={self.latent_heads}"
            self._check("query_latent_dim", whole_shares, shares)

    def _check(self, name: str, possible: bool, why: str) -> None:
        if not possible:
            raise ValueError(f"{name}={getattr(self, name)} is impossible for {self.mechanism}: {why}")

    def _resolve(self, name: str, default: int, unused: bool = True) -> None:
        """Put the default where None was given. A default of 0 means that the mechanism has no such count."""
        given = getattr(self, name)
        if unused and default == 0:
            self._check(name, not given, "the mechanism has no such thing, leave it out")
        if given is None or (unused and default == 0):
            object.__setattr__(self, name, default)

    @property
    def states_heads_name(self) -> str:
        """The field that counts the heads of the cached states."""
        return cached_heads_field(self.mechanism)

    @property
    def group_size(self) -> int:
        """Query heads per cached head (g_q in the paper)."""
        heads: int = getattr(self, self.states_heads_name)
        return self.query_heads // heads

    def cached_states(self) -> tuple[CachedState, ...]:
        """What a decode cache holds per token and layer, in order; the RoPE key is stored once (3.3)."""
        if self.mechanism in PLAIN:
            return (
                CachedState("key", self.key_value_heads, self.head_dim),
                CachedState("value", self.key_value_heads, self.head_dim),
            )
        if self.mechanism is AttentionMechanism.tied_key_value:
            return (CachedState("tied", self.key_value_heads, self.head_dim),)
        if self.mechanism is AttentionMechanism.gta:
            return (
                CachedState("tied", self.tied_heads, self.head_dim),
                CachedState("rope_key", 1, self.rope_dim),
            )
        return (
            CachedState("latent", self.latent_heads, self.latent_dim),
            CachedState("rope_key", 1, self.rope_dim),
        )

    def cached_elements(self, tensor_parallel: int = 1) -> int:
        """Elements per token and layer on each device (Tables 5, 15 and 26, which count bytes)."""
        return sum(state.elements_per_device(tensor_parallel) for state in self.cached_states())

    @property
    def absorbed_key_dim(self) -> int:
        """Width of a query in decode form (d_k): latent and RoPE key where absorbed, else the head."""
        return self.latent_dim + self.rope_dim if self.mechanism in LATENT else self.head_dim

    @property
    def absorbed_value_dim(self) -> int:
        """Width of a head's output in decode form (d_v)."""
        return self.latent_dim if self.mechanism in LATENT else self.head_dim

    @property
    def softmax_scale(self) -> float:
        """The one scale of training and decode form: the width over which training computes its scores."""
        width = self.head_dim + self.rope_dim if self.mechanism in LATENT else self.head_dim
        return 1.0 / math.sqrt(width)

    def parameters(self) -> int:
        """Weights of one attention layer."""
        d, heads, head_dim = self.hidden_size, self.query_heads, self.head_dim
        output = heads * head_dim * d + (heads * head_dim * d if self.output_gate else 0)
        if self.mechanism in LATENT:
            groups = self.latent_heads if self.split_query_latent else 1
            query_width, latent_width = (
                heads * (head_dim + self.rope_dim),
                self.latent_heads * self.latent_dim,
            )
            weights = d * self.query_latent_dim + self.query_latent_dim * query_width // groups
            weights += d * (latent_width + self.rope_dim) + self.latent_dim * heads * 2 * head_dim
            norms = self.query_latent_dim + latent_width
            biases = self.query_latent_dim + query_width + latent_width + self.rope_dim + heads * 2 * head_dim
            return weights + norms + output + (biases if self.low_rank_bias else 0)
        output += (heads + 2 * self.key_value_heads) * head_dim if self.input_bias else 0
        output += (d if self.output_bias else 0) + (2 * head_dim if self.query_key_norm else 0)
        query = d * heads * head_dim
        if self.mechanism is AttentionMechanism.gta:
            bias = self.rope_dim if self.low_rank_bias else 0
            return query + output + d * (self.tied_heads * head_dim + self.rope_dim) + bias
        states = 1 if self.mechanism is AttentionMechanism.tied_key_value else 2
        return query + output + states * d * self.key_value_heads * head_dim


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A decoder: `layers` blocks of attention and a gated feed-forward of width `feed_forward_dim`."""

    attention: AttentionShape
    layers: int
    vocabulary_size: int
    feed_forward_dim: int
    tie_embeddings: bool = True
    rope_base: float = 10000.0
    norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    # Output projections of attention and feed-forward start at zero (MLRA, arXiv 2603.02188)
    zero_init_output: bool = False

    def __post_init__(self) -> None:
        for name in ("layers", "vocabulary_size", "feed_forward_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is impossible: it must be at least 1")

    def parameters(self) -> int:
        """All weights; tied embeddings count once (Table 6 counts this way)."""
        d = self.attention.hidden_size
        block = self.attention.parameters() + 3 * d * self.feed_forward_dim + 2 * d
        return self.layers * block + d + (1 if self.tie_embeddings else 2) * self.vocabulary_size * d

    @classmethod
    def matched(
        cls, attention: AttentionShape, *, anchor_feed_forward_dim: int, layers: int, vocabulary_size: int
    ) -> ModelShape:
        """The model with the parameters of the MHA model whose feed-forward is `anchor_feed_forward_dim` wide."""
        width = matched_feed_forward_dim(attention, anchor_feed_forward_dim)
        return cls(attention=attention, layers=layers, vocabulary_size=vocabulary_size, feed_forward_dim=width)

    def training_flops_per_token(self) -> int:
        """6 N: forward and backward of every weight (a tied embedding counts as the output projection)."""
        return 6 * self.parameters()


def matched_feed_forward_dim(shape: AttentionShape, anchor_feed_forward_dim: int, multiple: int = 8) -> int:
    """The feed-forward width that gives `shape` the parameters of the MHA layer with
    `anchor_feed_forward_dim`.

    Rounded up to a multiple of `multiple`, so never below the anchor's parameters by more than rounding
    (appendix B.1: mechanisms are compared at equal parameters, and the feed-forward takes up the difference).
    """
    anchor = AttentionShape(
        mechanism=AttentionMechanism.mha,
        hidden_size=shape.hidden_size,
        query_heads=shape.query_heads,
        head_dim=shape.head_dim,
    )
    spare = anchor.parameters() - shape.parameters()
    width = anchor_feed_forward_dim + spare / (3 * shape.hidden_size)
    if width < multiple:
        raise ValueError(
            f"{shape.mechanism} needs {-spare} parameters more per layer than mha, which a feed-forward of "
            f"{anchor_feed_forward_dim} cannot give up: use smaller latent dims or a wider feed_forward_dim"
        )
    return int(-(-width // multiple) * multiple)
