"""What one decode step of a whole model must move and compute on each device, in closed form. Standard library only.

Counting, in addition to `cost_model`: every weight that a step uses is read once, whatever the batch (a tied embedding
as the head, an untied one not at all: a step reads a few of its rows); two operations per weight and token. Absorbed
MLA and GLA read W_UK and W_UV once and do two operations per weight of them, as everyone else. Queries, outputs and
other activations are left out, because they can stay on the chip: the numbers are a floor.

Placement: attention is split over `tensor_parallel` devices, and copied `data_parallel` times, each copy with its own
sequences. Feed-forward, experts, embedding and head are split over all devices. What a device of `device_shape` holds
whole (RoPE key and down-projections of the latents, MLA's latent, norms, a router) is on every device. One all-reduce
follows attention and one the feed-forward; its floor is one crossing of the link, as with reduction in the switch (a
ring needs up to twice that, and dispatch to the chosen experts alone may need less).

Source: Hardware-Efficient Attention for Fast Decoding (arXiv 2505.21487), sections 3.2 and B.6; for the placement under
data parallelism, SGLang's data-parallel attention, which section B.6 uses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..models.shapes import LATENT, ModelShape
from .cost_model import attention_cost, cached_bytes_per_token, device_shape

LINK_ELEMENT_BYTES = 2  # activations cross the link in bf16


@dataclass(frozen=True, kw_only=True)
class Experts:
    """A mixture of experts in place of the feed-forward in all layers but the first `dense_layers`.

    A token visits `active` of the `routed` experts and all `shared` ones; each is gated and `dim` wide.
    """

    routed: int
    active: int
    shared: int
    dim: int
    dense_layers: int = 0

    def expected_share(self, tokens: int) -> float:
        """Share of the routed experts that `tokens` tokens visit between them, choosing evenly and independently."""
        return 1.0 - (1.0 - self.active / self.routed) ** tokens


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How a model lies on devices, and the bytes of an element of its weights and of its cache."""

    tensor_parallel: int = 1
    data_parallel: int = 1
    weight_bytes: int = 4
    cache_bytes: int = 4

    @property
    def devices(self) -> int:
        """All devices that serve together."""
        return self.tensor_parallel * self.data_parallel


@dataclass(frozen=True, kw_only=True)
class DeviceWeights:
    """Elements that one device holds, by what a step does with them."""

    attention: int
    norms: int
    feed_forward: int  # dense ones and shared experts
    router: int
    routed_experts: int
    embedding: int  # 0 where the head serves as embedding
    head: int

    @property
    def total(self) -> int:
        """Everything that must be kept in memory."""
        return self.used_by_all_tokens + self.routed_experts + self.embedding

    @property
    def used_by_all_tokens(self) -> int:
        """What every token of a step multiplies with."""
        return self.attention + self.norms + self.feed_forward + self.router + self.head


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """Bytes and operations on one device; expectations where experts are chosen."""

    weight_bytes: float
    cache_bytes: float
    link_bytes: float
    weight_flops: float
    attention_flops: float

    @property
    def bytes(self) -> float:
        """Everything that must be read from memory."""
        return self.weight_bytes + self.cache_bytes

    @property
    def flops(self) -> float:
        """All operations."""
        return self.weight_flops + self.attention_flops

    def seconds(
        self,
        bytes_per_second: float,
        weight_flops_per_second: float,
        attention_flops_per_second: float,
        link_bytes_per_second: float | None = None,
    ) -> dict[str, float]:
        """The least time that memory, arithmetic and link each need: the largest of the three is a step's floor."""
        compute = self.weight_flops / weight_flops_per_second + self.attention_flops / attention_flops_per_second
        times = {"memory": self.bytes / bytes_per_second, "compute": compute}
        if link_bytes_per_second is not None:
            times["link"] = self.link_bytes / link_bytes_per_second
        return times


def device_weights(model: ModelShape, placement: Placement, experts: Experts | None = None) -> DeviceWeights:
    """What each device holds; parts that do not split evenly are rounded up. ValueError for impossible splits."""
    hidden, devices = model.attention.hidden_size, placement.devices
    dense_layers = model.layers if experts is None else experts.dense_layers
    feed_forward = dense_layers * 3 * hidden * model.feed_forward_dim
    router = routed = 0
    if experts is not None:
        mixed_layers = model.layers - dense_layers
        expert = mixed_layers * 3 * hidden * experts.dim
        feed_forward += experts.shared * expert
        routed = experts.routed * expert
        router = mixed_layers * hidden * experts.routed
    vocabulary = model.vocabulary_size * hidden
    return DeviceWeights(
        attention=model.layers * device_shape(model.attention, placement.tensor_parallel).parameters(),
        norms=(2 * model.layers + 1) * hidden,
        feed_forward=-(-feed_forward // devices),
        router=router,
        routed_experts=-(-routed // devices),
        embedding=0 if model.tie_embeddings else -(-vocabulary // devices),
        head=-(-vocabulary // devices),
    )


def step_cost(
    model: ModelShape,
    sequences: int,
    context: int,
    placement: Placement,
    *,
    experts: Experts | None = None,
    query_length: int = 1,
) -> StepCost:
    """One step of `query_length` new tokens for each of `sequences` sequences of `context` tokens (these included).

    The numbers are those of a device with the most sequences. Raises ValueError for impossible splits.
    """
    weights = device_weights(model, placement, experts)
    own_sequences = -(-sequences // placement.data_parallel)
    own_tokens, all_tokens = own_sequences * query_length, sequences * query_length
    attention = attention_cost(
        model.attention,
        [context] * own_sequences,
        query_length=query_length,
        element_bytes=placement.cache_bytes,
        tensor_parallel=placement.tensor_parallel,
    )
    read_experts: float = 0
    per_token: float = weights.feed_forward + weights.head
    if experts is not None:
        read_experts = weights.routed_experts * experts.expected_share(all_tokens)
        per_token += weights.routed_experts * experts.active / experts.routed
    own_weights = weights.attention + weights.norms + weights.router
    crossings = own_tokens * (placement.tensor_parallel > 1) + all_tokens * (placement.devices > 1)
    return StepCost(
        weight_bytes=(weights.used_by_all_tokens + read_experts) * placement.weight_bytes,
        cache_bytes=model.layers * attention.cache_bytes,
        link_bytes=model.layers * model.attention.hidden_size * LINK_ELEMENT_BYTES * crossings,
        weight_flops=2 * (own_weights * own_tokens + per_token * all_tokens),
        attention_flops=model.layers * attention.flops,
    )


def prompt_cost(model: ModelShape, tokens: int, placement: Placement, *, experts: Experts | None = None) -> StepCost:
    """A prompt of `tokens` tokens for every copy of the attention, in training form.

    Weights are not counted: however many prompts are read together share them.
    """
    cost = step_cost(model, placement.data_parallel, tokens, placement, experts=experts, query_length=tokens)
    shape = device_shape(model.attention, placement.tensor_parallel)
    absorbed = shape.absorbed_key_dim + shape.absorbed_value_dim
    expanded = 2 * shape.head_dim + (shape.rope_dim if shape.mechanism in LATENT else 0)
    return replace(cost, weight_bytes=0.0, attention_flops=cost.attention_flops * expanded / absorbed)


def cache_bytes_per_token(model: ModelShape, placement: Placement) -> int:
    """Bytes that one more token of one sequence takes on a device, all layers."""
    return model.layers * cached_bytes_per_token(
        model.attention, element_bytes=placement.cache_bytes, tensor_parallel=placement.tensor_parallel
    )


def largest_batch(
    model: ModelShape, context: int, placement: Placement, memory_bytes: float, *, experts: Experts | None = None
) -> int:
    """Sequences of `context` tokens whose cache fits beside the weights in `memory_bytes` of every device; 0 if none.

    Raises ValueError for impossible splits.
    """
    room = memory_bytes - placement.weight_bytes * device_weights(model, placement, experts).total
    if room <= 0:
        return 0
    return placement.data_parallel * int(room // (context * cache_bytes_per_token(model, placement)))
