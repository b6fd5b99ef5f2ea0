"""Initial weights from an explicit generator, so that a seed is a stream of its own and not global state."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .configuration import RlExpConfig


@torch.no_grad()
def initialise(model: PreTrainedModel, generator: torch.Generator) -> None:
    """Fill every weight of `model` in place; the same generator state gives the same weights on any device.

    Matrices and embeddings are normal with `config.initializer_range`, norms one, biases zero, and output
    projections zero when `config.zero_init_output` says so. The embedding comes first in the stream: models
    of different mechanisms that share a seed share their embedding.
    """
    config = cast(RlExpConfig, model.config)
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2 or is_zero_output(name, config):
            initialise_constant(name, parameter, config)
            continue
        drawn = torch.empty(parameter.shape, dtype=torch.float32, device=generator.device)
        parameter.copy_(drawn.normal_(0.0, config.initializer_range, generator=generator))


def initialise_constant(name: str, parameter: Tensor, config: RlExpConfig) -> None:
    """The parameters that no randomness touches."""
    if name.endswith("bias") or is_zero_output(name, config):
        parameter.zero_()
    else:  # the weight of a norm
        parameter.fill_(1.0)


def is_zero_output(name: str, config: RlExpConfig) -> bool:
    """Whether `name` is the output projection of an attention or feed-forward that starts at zero."""
    return bool(config.zero_init_output) and name.endswith("output.weight")
