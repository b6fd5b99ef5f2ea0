"""Optimizers and the learning-rate schedule."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_scheduler

from experiments.training.distribution import sharded_like, whole
from experiments.training.muon import Muon


class OptimizerGroup:
    """One or more torch optimizers that step together, with one state: AdamW alone, or Muon beside AdamW."""

    def __init__(self, optimizers: list[torch.optim.Optimizer], *, steps: int, warmup: int, final_share: float) -> None:
        self.optimizers = optimizers
        self.schedules: list[LambdaLR] = [
            get_scheduler(
                "cosine_with_min_lr",
                optimizer,
                num_warmup_steps=warmup,
                num_training_steps=steps,
                scheduler_specific_kwargs={"min_lr_rate": final_share},
            )
            for optimizer in optimizers
        ]

    def step(self) -> None:
        """Update the weights, clear the gradients, move the schedule on."""
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()

    @property
    def learning_rate(self) -> float:
        """The present learning rate of AdamW."""
        return float(self.schedules[-1].get_last_lr()[0])

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedules": [schedule.state_dict() for schedule in self.schedules],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            load_optimizer_state(optimizer, saved)
        for schedule, saved in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(saved)


def build_optimizer(
    model: nn.Module,
    *,
    name: str,
    steps: int,
    learning_rate: float,
    muon_learning_rate: float,
    muon_momentum: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    warmup_share: float,
    final_learning_rate_share: float,
) -> OptimizerGroup:
    """AdamW for every weight, or Muon for the blocks' matrices and AdamW for the rest.

    Weight decay falls on matrices only. Warm-up is linear over `warmup_share` of the steps, then the rate follows a
    cosine to `final_learning_rate_share` of its peak (Hardware-Efficient Attention, appendix B.1: betas 0.9 and 0.95,
    decay 0.1, cosine to 1 %).
    """
    embeddings = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    unique = list(dict.fromkeys(p for p in model.parameters() if p.requires_grad))
    hidden = [p for p in unique if p.ndim >= 2 and id(p) not in embeddings]
    tables = [p for p in unique if p.ndim >= 2 and id(p) in embeddings]
    vectors = [p for p in unique if p.ndim < 2]

    decayed = tables if name == "muon" else hidden + tables
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=learning_rate, betas=(beta1, beta2), eps=epsilon, fused=True)
    optimizers: list[torch.optim.Optimizer] = [adamw]
    if name == "muon":
        # Scaled so that an update has AdamW's root mean square: one learning rate then suits matrices of any shape.
        muon = Muon(
            hidden,
            lr=muon_learning_rate,
            momentum=muon_momentum,
            weight_decay=weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        optimizers.insert(0, muon)
    return OptimizerGroup(
        optimizers, steps=steps, warmup=round(warmup_share * steps), final_share=final_learning_rate_share
    )


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """`load_state_dict` of whole tensors, whose parts alone are kept where the parameters are sharded."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    values = {
        index: {
            name: sharded_like(value, parameters[index]) if torch.is_tensor(value) and value.ndim else value
            for name, value in entry.items()
        }
        for index, entry in state["state"].items()
    }
    optimizer.load_state_dict(state | {"state": values})


def clip_gradients(model: nn.Module, limit: float | None) -> torch.Tensor:
    """Scale the gradients to a norm of at most `limit`; returns the norm before. Non-finite norms are the caller's."""
    return whole(torch.nn.utils.clip_grad_norm_(model.parameters(), math.inf if limit is None else limit))
