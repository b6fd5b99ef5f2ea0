"""A language model on the ranks of torchrun: DDP, where each holds all of it, or FSDP2, where each holds a part.

    distributed = distribute(model, run.ranks, "fsdp")   # before the optimizer is built: FSDP replaces the parameters
    loss = distributed.loss(inputs, targets)              # of this rank's part of the batch
    with distributed.gradients_meet(last_pass): loss.backward()

Gradients are means over the ranks, so that equal parts of a batch give the gradient of the batch. With one rank nothing
is distributed. Engines: torch's DistributedDataParallel and fully_shard.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from experiments.models.decoder import Block
from experiments.models.transformer import RlExpForCausalLM
from experiments.runs.ranks import Ranks


@dataclass(frozen=True)
class DistributedModel:
    """How one rank computes the loss, and when its gradients are averaged over the ranks.

    `loss` takes inputs, targets [B, T] and document_ids. `gradients_meet(now)` stands around a forward and backward
    pass: where `now`, the gradients so far are averaged in it.
    """

    loss: Callable[..., Tensor]
    gradients_meet: Callable[[bool], AbstractContextManager[None]]


def distribute(model: RlExpForCausalLM, ranks: Ranks, kind: str, *, compiled: bool = False) -> DistributedModel:
    """`model` over `ranks` as `kind` says, `ddp` or `fsdp`. All ranks call this with equal weights."""
    if ranks.size == 1:
        return DistributedModel(torch.compile(model.loss) if compiled else model.loss, lambda now: nullcontext())
    if kind == "ddp":
        return _replicated(model, compiled)
    if kind == "fsdp":
        return _sharded(model, ranks, compiled)
    raise ValueError(f"distribution={kind} is unknown: use ddp or fsdp")


def _replicated(model: RlExpForCausalLM, compiled: bool) -> DistributedModel:
    """Every rank holds the complete model; gradients are averaged during the backward pass (DDP)."""
    replica = DistributedDataParallel(model, gradient_as_bucket_view=True)
    forward: Callable[..., Any] = torch.compile(replica) if compiled else replica

    def loss(inputs: Tensor, targets: Tensor, document_ids: Tensor | None = None) -> Tensor:
        # DDP has to see the pass go through `forward`.
        output = forward(input_ids=inputs, targets=targets, document_ids=document_ids, return_dict=False)
        return cast(Tensor, output[0])

    return DistributedModel(loss, lambda now: nullcontext() if now else replica.no_sync())


def _sharded(model: RlExpForCausalLM, ranks: Ranks, compiled: bool) -> DistributedModel:
    """Every rank holds its part of each weight, gradient and optimizer state (`shard`)."""
    if compiled:
        for block in model.decoder.blocks:
            block.compile()
    shard(model, ranks)

    def gradients_meet(now: bool) -> AbstractContextManager[None]:
        cast(FSDPModule, model).set_requires_gradient_sync(now)
        return nullcontext()

    return DistributedModel(model.loss, gradients_meet)


def shard(model: PreTrainedModel, ranks: Ranks) -> None:
    """Leave to every rank its part of each weight: a block's come together only while the block computes (FSDP2).

    All ranks call this with equal weights. Gradients become means over the ranks.
    """
    mesh = init_device_mesh(model.device.type, (ranks.size,))
    blocks = [module for module in model.modules() if type(module).__name__ in (model._no_split_modules or ())]
    for block in blocks:
        fully_shard(block, mesh=mesh)
        if isinstance(block, Block):
            register_fsdp_forward_method(block, "over_shared_prompts")
    fully_shard(model, mesh=mesh)  # what is in no block: embedding, head, last norm
    if isinstance(model, RlExpForCausalLM):
        register_fsdp_forward_method(model, "loss")
        register_fsdp_forward_method(model, "log_probabilities")


def is_sharded(model: nn.Module) -> bool:
    """Whether ranks hold parts of the model, and so must all pass through it equally often."""
    return isinstance(model, FSDPModule)


def sum_gradients(model: nn.Module, ranks: Ranks) -> None:
    """Give every rank, whose gradients are of parts of one loss, the sum of all. All ranks call this.

    For replicated models whose ranks make different numbers of backward passes, which DDP's hooks do not allow.
    """
    if ranks.size == 1:
        return
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(together)
    for parameter, part in zip(parameters, together.split([each.numel() for each in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)


# Whole and sharded tensors --------------------------------------------------------------------------------------------


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be sharded. All ranks call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded_like(tensor: Tensor, example: Tensor) -> Tensor:
    """The whole `tensor`, which every rank has, as `example` is kept: this rank's part of it, or all."""
    tensor = tensor.to(example.device)
    if not isinstance(example, DTensor) or tensor.shape != example.shape:
        return tensor
    return distribute_tensor(tensor, example.device_mesh, example.placements, src_data_rank=None)


@torch.no_grad()
def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put whole `weights`, by parameter name, into a model that may be sharded."""
    for name, parameter in model.named_parameters():
        parameter.copy_(sharded_like(weights[name], parameter))


@torch.no_grad()
def copy_weights(model: nn.Module, copy: nn.Module) -> None:
    """Bring the weights of a model that may be sharded into a whole `copy` on every rank. All ranks call this."""
    for name, parameter in model.named_parameters():
        copy.get_parameter(name).copy_(whole(parameter))


@torch.no_grad()
def whole_model(model: RlExpForCausalLM, ranks: Ranks) -> RlExpForCausalLM | None:
    """On the first rank a model with all weights, None on the others. All ranks call this."""
    parameters = dict(model.named_parameters())
    if not any(isinstance(parameter, DTensor) for parameter in parameters.values()):
        return model if ranks.is_first else None
    first = next(iter(parameters.values()))
    copy = RlExpForCausalLM(model.config).to(first.device, first.dtype) if ranks.is_first else None
    for name, parameter in parameters.items():
        values = whole(parameter)  # one weight at a time, so that the other ranks never hold all
        if copy is not None:
            copy.get_parameter(name).copy_(values)
    return copy
