"""The language model: a decoder and a head, as a transformers model (`from_pretrained`, `generate`, Auto
classes).

Legend: B batch, T time, V vocabulary, d hidden size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Cache,
    GenerationMixin,
    PreTrainedModel,
)
from transformers import initialization as unless_loaded
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from .configuration import RlExpConfig
from .decoder import CACHE_NAME, Decoder
from .initialisation import initialise
from .linear_cross_entropy import linear_cross_entropy
from .linear_log_probabilities import linear_log_probabilities
from .masks import padded_to
from .shared_prompts import SharedPrompts


class RlExpForCausalLM(PreTrainedModel, GenerationMixin):
    """A decoder-only language model with any of the attention mechanisms."""

    config: RlExpConfig
    config_class = RlExpConfig
    base_model_prefix = "decoder"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]  # noqa: RUF012 (class attributes of transformers)
    _tied_weights_keys = {"head.weight": "decoder.embedding.weight"}  # noqa: RUF012
    _supports_sdpa = True
    _can_compile_fullgraph = True
    if TYPE_CHECKING:

        def to(self, *args: Any, **kwargs: Any) -> Self:  # type: ignore[override]
            """As of torch; the decorator of transformers hides its signature."""

    def __init__(self, config: RlExpConfig) -> None:
        super().__init__(config)
        self.decoder = Decoder(config)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        document_ids: Tensor | None = None,
        targets: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Tensor, ...]:
        """The interface of transformers. `labels` (B, T) are the input ids again: they are shifted here.

        The other arguments are the decoder's. With `targets` only `loss` is computed and no logits: for wrappers such
        as DDP, which have to see the training step go through `forward`.
        """
        loss: Tensor | None = None
        if targets is not None:
            assert input_ids is not None, "targets are predicted from input_ids"
            loss = self.loss(input_ids, targets, position_ids, document_ids)
            return CausalLMOutputWithPast(loss=loss) if return_dict is None or return_dict else (loss,)
        states = self.decoder(
            input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_hidden_states=output_hidden_states,
            document_ids=document_ids,
            cache=cache,
            output_attentions=kwargs.pop("output_attentions", None),
        )
        hidden = states.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.head(hidden[:, kept] if logits_to_keep is not None else hidden)
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        named_cache: dict[str, Any] = {CACHE_NAME: getattr(states, CACHE_NAME)}
        output = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            **named_cache,
            hidden_states=states.hidden_states,
        )
        return output if return_dict is None or return_dict else output.to_tuple()

    def loss(
        self,
        input_ids: Tensor,
        targets: Tensor,
        position_ids: Tensor | None = None,
        document_ids: Tensor | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """Cross entropy in nats of the `targets` (B, T), which stand where they are predicted: nothing is
        shifted.

        The training entry: no cache, and the logits never exist as a whole. Targets of -100 are left out.
        `position_ids` (B or 1, T) count from 0 along the row when None; `document_ids` (B, T) stop attention at
        document borders. `reduction` is that of torch: "mean" over the targets that count, "sum", or "none" for
        (B, T). Rows without padding only: padding at the end needs no mask, its targets are -100.
        """
        hidden = self.decoder.hidden_states(input_ids, position_ids=position_ids, document_ids=document_ids)
        losses = linear_cross_entropy(hidden.flatten(0, 1), self.head.weight, targets.flatten(), reduction)
        return losses.view_as(targets) if reduction == "none" else losses

    def log_probabilities(self, completions: SharedPrompts, temperature: float = 1.0) -> Tensor:
        """log pi of the completions' tokens, (M,) in their order; no padding, and a prompt that is shared once.

        Logits are divided by `temperature`.
        """
        hidden = completions.hidden_states(self.decoder)
        if temperature != 1.0:  # the head is linear
            hidden = hidden / temperature
        return linear_log_probabilities(hidden, self.head.weight, completions.targets)

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.decoder.embedding = cast(nn.Embedding, value)

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.head = cast(nn.Linear, new_embeddings)

    @staticmethod
    def create_masks_for_generate(
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        cache: Cache | None = None,
        **_: Any,
    ) -> Tensor | None:
        """What `generate` passes on with a preallocated cache: the mask of real tokens, at its final width.

        A fixed width keeps a compiled step from being compiled again for every token.
        """
        cache = past_key_values if cache is None else cache
        longest = cache.get_max_length() if cache is not None else -1
        return padded_to(attention_mask, longest) if longest > 0 else attention_mask

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Weights that a checkpoint lacks, drawn from torch's global stream; training uses `initialise`."""
        std = self.config.initializer_range
        for name, parameter in module.named_parameters(recurse=False):
            if name.endswith("bias"):
                unless_loaded.zeros_(parameter)
            elif parameter.dim() == 1:
                unless_loaded.ones_(parameter)
            else:
                unless_loaded.normal_(parameter, mean=0.0, std=std)
        zeroed = getattr(module, "output", None)
        if self.config.zero_init_output and isinstance(zeroed, nn.Linear):
            unless_loaded.zeros_(zeroed.weight)


def build_model(
    config: RlExpConfig, generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> RlExpForCausalLM:
    """A new model whose initial weights come from `generator` alone."""
    model = RlExpForCausalLM(config).to(dtype)
    initialise(model, generator)
    return model


# The first definition wins: code loaded from an exported folder must not replace the package's own classes.
if RlExpConfig.model_type not in CONFIG_MAPPING:
    AutoConfig.register(RlExpConfig.model_type, RlExpConfig)
    AutoModelForCausalLM.register(RlExpConfig, RlExpForCausalLM)
