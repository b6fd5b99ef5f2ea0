"""The schema of `policy_gradient`: algorithm, KL, batches, optimizer, and evaluation settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from conf.limits import limited
from experiments.training.algorithms import Advantage, KlEstimator, KlPlace, LossDenominator, PolicyOptimizer
from experiments.training.choices import Precision
from experiments.training.schedule import linear_share


@dataclass
class PolicyGradientConfig:
    """One policy-gradient run."""

    advantage: Advantage = Advantage.rloo
    steps: int = limited(100, at_least=1)
    prompts_per_step: int = limited(16, at_least=1)
    group_size: int = limited(4, at_least=1)  # samples per prompt
    epochs: int = limited(1, at_least=1)  # passes over a batch of rollouts
    minibatches: int = limited(1, at_least=1)  # optimizer steps per pass
    clip: float = limited(0.2, above=0)  # PPO's clipping of the ratio; acts where epochs or minibatches exceed 1
    sequence_ratio: bool = False  # clip the ratio of whole sequences (RLOO of the papers), not of tokens
    loss_denominator: LossDenominator = LossDenominator.sequences
    kl_place: KlPlace = KlPlace.reward
    kl_estimator: KlEstimator = KlEstimator.k3  # of the loss; the reward always takes the log-ratio itself
    kl_coefficient: float = limited(0.05, at_least=0)
    # of the loss: weight the estimate with policy / old, so that k1 and k3 have the gradient of KL(policy || reference)
    importance_weighted_kl: bool = True
    temperature: float = limited(1.0, above=0)  # of rollouts and updates: logits are divided by it; probes are at 1
    # Of rollouts and updates; probes of the initial policy and reward models are fp32 in any case, and so comparable.
    precision: Precision = Precision.fp32
    # taken off the normalised reward of a completion that was cut off
    missing_eos_penalty: float = limited(0.0, at_least=0)
    optimizer: PolicyOptimizer = PolicyOptimizer.adam
    learning_rate: float = limited(3e-4, above=0)  # its peak
    warmup_share: float = limited(0.0, at_least=0, below=1)  # of all steps, in which it rises linearly from 0
    final_learning_rate_share: float = limited(1.0, at_least=0, at_most=1)  # linearly to this; 1: constant, 0: to 0
    momentum: float = limited(0.0, at_least=0, below=1)  # sgd
    gradient_clip: float | None = limited(None, above=0)  # null: none, so that the gradient keeps its scale
    probe_every: int = limited(20, at_least=1)  # steps between evaluations on the fixed probe set
    checkpoint_every: int = limited(20, at_least=1)
    samples: int = limited(4, at_least=0)  # texts shown before and after

    def __post_init__(self) -> None:
        if self.advantage is not Advantage.reinforce and self.group_size < 2:
            raise ValueError(
                f"policy_gradient.group_size={self.group_size}: must be at least 2 with "
                f"advantage={self.advantage}, which compares the samples of a prompt (or use "
                "advantage=reinforce)"
            )
        if self.completions_per_step < self.minibatches:
            raise ValueError(
                f"policy_gradient.minibatches={self.minibatches}: must be at most {self.completions_per_step}, the "
                "completions of a step"
            )

        if self.sequence_ratio and self.loss_denominator is not LossDenominator.sequences:
            raise ValueError(
                f"policy_gradient.loss_denominator={self.loss_denominator}: divides a sum over tokens, but with "
                "sequence_ratio=true a sequence has one ratio: use loss_denominator=sequences or sequence_ratio=false"
            )

    @property
    def completions_per_step(self) -> int:
        """Rollouts of one step."""
        return self.prompts_per_step * self.group_size

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of step `step`, from 0."""
        share = linear_share(
            step, self.steps, warmup_share=self.warmup_share, final_share=self.final_learning_rate_share
        )
        return self.learning_rate * share

    def update_settings(self) -> dict[str, Any]:
        """The arguments of experiments/training/policy_gradient_step.py that are settings."""
        return {
            "epochs": self.epochs,
            "minibatches": self.minibatches,
            "clip": self.clip,
            "sequence_ratio": self.sequence_ratio,
            "denominator": self.loss_denominator,
            "kl_estimator": self.kl_estimator,
            "importance_weighted_kl": self.importance_weighted_kl,
            "temperature": self.temperature,
            "kl_coefficient": self.kl_coefficient if self.kl_place is KlPlace.loss else 0.0,
            "gradient_clip": self.gradient_clip,
            "precision": self.precision.value,
        }
