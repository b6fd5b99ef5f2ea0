"""The state of policy-gradient training: the weights that are updated, their optimizer, and checkpoints of both.

Nothing else is state: prompts and noise of a step follow from seed and step.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from experiments.runs.run import Run
from experiments.training.algorithms import PolicyOptimizer
from experiments.training.checkpoints import load_latest_checkpoint, save_checkpoint
from experiments.training.distribution import copy_weights, load_weights, shard
from experiments.training.optimizers import load_optimizer_state

CHECKPOINTS_KEPT = 2


@dataclass(frozen=True)
class PolicyState:
    """A policy in training."""

    run: Run
    policy: PreTrainedModel  # what rollouts are drawn from
    model: PreTrainedModel  # what the optimizer updates: the policy itself, or its sharded copy
    optimizer: torch.optim.Optimizer

    @classmethod
    def of(
        cls,
        run: Run,
        policy: PreTrainedModel,
        *,
        sharded: bool,
        optimizer: PolicyOptimizer,
        learning_rate: float,
        momentum: float,
    ) -> PolicyState:
        """Adam or plain SGD, as both reward papers use. `sharded`: the ranks share weights and optimizer (FSDP)."""
        model = policy
        if sharded:
            model = copy.deepcopy(policy)
            shard(model, run.ranks)
        parameters = list(model.parameters())
        if optimizer is PolicyOptimizer.sgd:
            return cls(run, policy, model, torch.optim.SGD(parameters, lr=learning_rate, momentum=momentum, fused=True))
        return cls(run, policy, model, torch.optim.Adam(parameters, lr=learning_rate, fused=True))

    def update_rollout_weights(self) -> None:
        """Give the policy that rollouts use the weights of the model that is trained, where they are two."""
        if self.model is not self.policy:
            copy_weights(self.model, self.policy)

    def set_learning_rate(self, rate: float) -> None:
        """Of the steps that follow."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def resume(self) -> tuple[int, float]:
        """Continue from the newest complete checkpoint: its step and the seconds trained so far, or zeros."""
        state = load_latest_checkpoint(self.run.checkpoints, self.run.ranks)
        if state is None:
            self.run.resume_metrics(0)
            return 0, 0.0
        load_weights(self.model, state["model"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.run.resume_metrics(state["metrics_position"])
        self.run.console.print(f"continuing after step {state['step']:,}", highlight=False)
        return state["step"], state["seconds"]

    def save(self, step: int, seconds: float) -> None:
        """Everything that the next step depends on."""
        state = {
            "step": step,
            "seconds": seconds,
            "metrics_position": self.run.metrics_position(),
            "model": dict(self.model.named_parameters()),
            "optimizer": self.optimizer.state_dict(),
        }
        save_checkpoint(self.run.checkpoints, step, state, keep=CHECKPOINTS_KEPT, ranks=self.run.ranks)
