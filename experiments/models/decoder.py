"""The decoder: embedding, blocks of attention and feed-forward, final norm. No head: a reward model uses it
as well.

Legend: B batch, T time, S cached tokens, d hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast

from .attention import Attention, Context
from .configuration import RlExpConfig
from .feed_forward import FeedForward
from .grouped_query import GroupedQueryAttention
from .grouped_tied import GroupedTiedAttention
from .latent import LatentAttention
from .masks import decoding_mask, padded_to, training_mask
from .rotary import Rotation, rotation_at
from .shapes import AttentionMechanism
from .tied_key_value import TiedKeyValueAttention

ATTENTION_CLASSES: dict[str, type[Attention]] = {
    AttentionMechanism.mha: GroupedQueryAttention,
    AttentionMechanism.mqa: GroupedQueryAttention,
    AttentionMechanism.gqa: GroupedQueryAttention,
    AttentionMechanism.gta: GroupedTiedAttention,
    AttentionMechanism.mla: LatentAttention,
    AttentionMechanism.gla: LatentAttention,
    AttentionMechanism.tied_key_value: TiedKeyValueAttention,
}

# What this version of transformers calls the cache in its outputs.
CACHE_NAME = next(item.name for item in fields(BaseModelOutputWithPast) if item.name in ("cache", "past_key_values"))


class Block(GradientCheckpointingLayer):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: RlExpConfig, layer_index: int) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.hidden_size, eps=config.norm_epsilon)
        self.attention = ATTENTION_CLASSES[config.attention](config, layer_index)
        self.feed_forward_norm = nn.RMSNorm(config.hidden_size, eps=config.norm_epsilon)
        self.feed_forward = FeedForward(config)

    def forward(self, hidden: Tensor, context: Context, past_key_values: Cache | None = None) -> Tensor:
        hidden = hidden + self.attention(self.attention_norm(hidden), context, past_key_values)
        return hidden + self.feed_forward(self.feed_forward_norm(hidden))

    def over_shared_prompts(
        self, hidden: Tensor, rotation: Rotation | None, attend: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    ) -> Tensor:
        """`forward` of one packed row (1, N, d) whose attention is `attend`: see shared_prompts.py."""
        attention = self.attention
        queries, states, gate = attention.project(self.attention_norm(hidden), rotation)
        keys, values = attention.expand(states, rotation)
        heads = attend(queries[0], keys[0], values[0], attention.scale)
        hidden = hidden + attention.project_output(heads[None], gate)
        return hidden + self.feed_forward(self.feed_forward_norm(hidden))


class Decoder(nn.Module):
    """Token ids (B, T) to final hidden states (B, T, d)."""

    def __init__(self, config: RlExpConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        # A ModuleList, which is not generic: what it holds is said here.
        self.blocks = cast("Sequence[Block]", nn.ModuleList(Block(config, index) for index in range(config.layers)))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.norm_epsilon)
        self.rotates_on_reading = ATTENTION_CLASSES[config.attention].rotates_on_reading

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        document_ids: Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast | tuple[Tensor, ...]:
        """The interface of transformers' base models, whose callers give them what they give the complete model.

        `cache` is what transformers calls `past_key_values` before 5.24; both names are taken. `attention_mask` is
        (B, T), or (B, cached + T) with a cache. `document_ids` (B, T) keep packed documents apart. ValueError for
        `output_attentions`, two caches, and both or neither of `input_ids` and `inputs_embeds`.
        """
        if kwargs.get("output_attentions"):
            raise ValueError("output_attentions=True is not available: fused attention never forms the weights")
        if cache is not None and past_key_values is not None:
            raise ValueError("cache and past_key_values are two names of the same argument: give one of them")
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        cache = past_key_values if cache is None else cache
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if self.training and self.blocks[0].gradient_checkpointing:
            use_cache = False  # a recomputed layer would write its states twice
        if use_cache and cache is None and not torch.compiler.is_compiling():
            cache = DynamicCache(config=self.config)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        states: list[Tensor] | None = [] if output_hidden_states else None
        hidden = self.hidden_states(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            document_ids=document_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            all_hidden_states=states,
        )
        named_cache: dict[str, Any] = {CACHE_NAME: cache}
        output = BaseModelOutputWithPast(
            last_hidden_state=hidden,
            **named_cache,
            hidden_states=None if states is None else (*states, hidden),
        )
        return output if return_dict is None or return_dict else output.to_tuple()

    def hidden_states(
        self,
        input_ids: Tensor | None,
        *,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        all_hidden_states: list[Tensor] | None = None,
    ) -> Tensor:
        """Final hidden states alone, for our own models.

        `attention_mask` (B, T, or all S with a cache) marks real tokens; the rest as in `training_mask`.

        `all_hidden_states`, when a list is given, receives the input of every block.
        """
        hidden = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        context = self.context(hidden, attention_mask, position_ids, document_ids, cache)
        for block in self.blocks:
            if all_hidden_states is not None:
                all_hidden_states.append(hidden)
            hidden = block(hidden, context, past_key_values=cache)
        return self.norm(hidden)

    def context(
        self,
        hidden: Tensor,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        document_ids: Tensor | None,
        cache: Cache | None,
    ) -> Context:
        """Rotation and mask of a forward pass over `hidden` (B, T, d), computed once for all layers."""
        if attention_mask is not None and attention_mask.dim() != 2:
            raise ValueError(
                f"attention_mask has the shape {tuple(attention_mask.shape)}: rl-exp models take "
                "(batch, length), 1 for real tokens, and add the causal part themselves"
            )
        length, device = hidden.shape[1], hidden.device
        past = _past_length(cache, length)
        if isinstance(past, int) and past == 0:
            if attention_mask is not None and position_ids is None:
                position_ids = _positions_from(attention_mask)[:, :length]
            elif position_ids is None:
                position_ids = torch.arange(length, device=device)[None]
            mask = training_mask(length, attention_mask, document_ids, device)
            return Context(self._rotation(position_ids, hidden.dtype), mask)

        if document_ids is not None:
            raise ValueError("document_ids have no meaning once there are cached tokens: decode documents apart")
        assert cache is not None
        cached_length = cache.get_mask_sizes(length, 0)[0]
        slots = torch.arange(length, device=device) + past
        attention_mask = padded_to(attention_mask, cached_length)
        if attention_mask is None:
            cached_positions = torch.arange(cached_length, device=device)[None]
        else:
            cached_positions = _positions_from(attention_mask)
        if position_ids is None:
            position_ids = cached_positions[:, slots]
        mask = decoding_mask(slots, cached_length, attention_mask)
        rotation = self._rotation(position_ids, hidden.dtype)
        if not self.rotates_on_reading:
            return Context(rotation, mask, decoding=True)
        # Positions count real tokens; wherever the caller starts counting, cached tokens keep their
        # distances.
        shift = position_ids[:, :1] - cached_positions[:, slots[:1]]
        cached_rotation = self._rotation(cached_positions + shift, hidden.dtype)
        return Context(rotation, mask, cached_rotation, decoding=True)

    def _rotation(self, positions: Tensor, dtype: torch.dtype) -> Rotation | None:
        return rotation_at(positions, self.config, dtype)


def _past_length(cache: Cache | None, length: int) -> int | Tensor:
    """Tokens already cached. A preallocated cache answers with a tensor, which only a prompt has to read."""
    past = 0 if cache is None else cache.get_seq_length()
    if isinstance(past, Tensor) and length > 1 and not torch.compiler.is_compiling() and int(past) == 0:
        return 0
    return past


def _positions_from(attention_mask: Tensor) -> Tensor:
    """Positions that count real tokens, (B, T); padding in front gets 0."""
    return (attention_mask.long().cumsum(dim=-1) - 1).clamp(min=0)
