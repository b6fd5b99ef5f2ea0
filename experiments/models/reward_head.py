"""The reward model: our decoder and a scalar head on the last token, as a transformers sequence classifier.

Legend: B batch, T time, d hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers import initialization as unless_loaded
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from .configuration import RlExpConfig
from .decoder import Decoder
from .shared_prompts import share_prompts
from .transformer import RlExpForCausalLM


class RlExpForSequenceClassification(PreTrainedModel):
    """A decoder-only model that gives a whole sequence one score per label, by default one: a reward."""

    config: RlExpConfig
    config_class = RlExpConfig
    base_model_prefix = "decoder"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]  # noqa: RUF012 (class attributes of transformers)
    _supports_sdpa = True
    if TYPE_CHECKING:

        def to(self, *args: Any, **kwargs: Any) -> Self:  # type: ignore[override]
            """As of torch; the decorator of transformers hides its signature."""

    def __init__(self, config: RlExpConfig) -> None:
        super().__init__(config)
        self.decoder = Decoder(config)
        self.score = nn.Linear(config.hidden_size, cast(int, config.num_labels), bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput | tuple[Tensor, ...]:
        """The interface of transformers: logits (B, labels) at the last real token of each row.

        The last real token is the last 1 of `attention_mask` (B, T), on whichever side the padding stands; without a
        mask it is the last token that is not `config.pad_token_id`, as in transformers, or the last one. With one
        label, `labels` (B,) are targets of a regression.
        """
        last = self._last_real_tokens(input_ids, inputs_embeds, attention_mask)
        # Padding at the end needs no mask in a causal model: what is read stands before it.
        mask = None if attention_mask is None or _padded_at_the_end(attention_mask) else attention_mask
        hidden = self.decoder.hidden_states(
            input_ids, attention_mask=mask, position_ids=position_ids, inputs_embeds=inputs_embeds
        )
        logits = self.score(hidden[torch.arange(len(hidden), device=hidden.device), last])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, pooled_logits=logits, config=self.config, **kwargs)
        output = SequenceClassifierOutput(loss=loss, logits=logits)
        return output if return_dict is None or return_dict else output.to_tuple()

    def scores(self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Tensor:
        """Scores (B,) in fp32 at the last token of every completion behind its prompt. One label only.

        Equal prompts are computed once, padding never.
        """
        # Behind every last token one more to predict, so that the last one is an input.
        shared = share_prompts(prompts, [(*completion, 0) for completion in completions], self.score.weight.device)
        ends = torch.tensor([len(completion) + 1 for completion in completions]).cumsum(0) - 1
        last = shared.hidden_states(self.decoder)[ends.to(self.score.weight.device)]
        return self.score(last).squeeze(-1).float()

    def get_input_embeddings(self) -> nn.Module:
        return self.decoder.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.decoder.embedding = cast(nn.Embedding, value)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Weights that a checkpoint lacks, drawn from torch's global stream; training uses `reward_model_from`."""
        for name, parameter in module.named_parameters(recurse=False):
            if name.endswith("bias"):
                unless_loaded.zeros_(parameter)
            elif parameter.dim() == 1:
                unless_loaded.ones_(parameter)
            else:
                unless_loaded.normal_(parameter, mean=0.0, std=self.config.initializer_range)

    def _last_real_tokens(
        self, input_ids: Tensor | None, inputs_embeds: Tensor | None, attention_mask: Tensor | None
    ) -> Tensor | int:
        real = attention_mask
        if real is None and input_ids is not None and self.config.pad_token_id is not None:
            real = input_ids != self.config.pad_token_id
        if real is None:
            return -1
        return (torch.arange(real.shape[1], device=real.device) * (real != 0)).argmax(dim=-1)


def reward_model_from(
    policy: RlExpForCausalLM, generator: torch.Generator, *, layers: int | None = None, labels: int = 1
) -> RlExpForSequenceClassification:
    """A reward model with a copy of the policy's decoder and a new head drawn from `generator`.

    `layers` keeps only so many of the leading blocks (and the final norm): a smaller reward model that needs no
    pretraining of its own. ValueError where the policy has fewer.
    """
    config = copy.deepcopy(policy.config)
    layers = config.layers if layers is None else layers
    if not 1 <= layers <= config.layers:
        raise ValueError(
            f"a reward model of {layers} layers cannot be cut from a policy of {config.layers}: use 1 to all"
        )
    config.layers, config.num_labels, config.architectures = layers, labels, None
    model = RlExpForSequenceClassification(config).to(policy.decoder.embedding.weight.dtype)
    kept = {name: value for name, value in policy.decoder.state_dict().items() if _is_kept(name, layers)}
    model.decoder.load_state_dict(kept)
    with torch.no_grad():
        drawn = torch.empty(model.score.weight.shape, device=generator.device)
        model.score.weight.copy_(drawn.normal_(0.0, config.initializer_range, generator=generator))
    return model.to(policy.device)


def _is_kept(name: str, layers: int) -> bool:
    parts = name.split(".")
    return parts[0] != "blocks" or int(parts[1]) < layers


def _padded_at_the_end(attention_mask: Tensor) -> bool:
    """Whether every row is real tokens, then padding."""
    real = attention_mask != 0
    return bool((real[:, :-1] >= real[:, 1:]).all())


# The first definition wins: code loaded from an exported folder must not replace the package's own class.
if (
    CONFIG_MAPPING[RlExpConfig.model_type] is RlExpConfig
    and RlExpConfig not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
):
    AutoModelForSequenceClassification.register(RlExpConfig, RlExpForSequenceClassification)
