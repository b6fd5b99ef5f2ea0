"""The schema of `policy_gradient`: algorithm, KL, batches, optimizer, and evaluation settings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from conf.limits import limited
from conf.train_config import Precision


class Advantage(Enum):
    """How rewards of a group become advantages: see experiments/training/advantages.py."""

    reinforce = "reinforce"  # reward minus the batch mean
    rloo = "rloo"  # minus the mean of the other samples of its prompt
    grpo = "grpo"  # minus the group's mean, over its std
    grpo_without_std = "grpo_without_std"  # minus the group's mean (Dr. GRPO)


class KlPlace(Enum):
    """Where the KL divergence to the reference policy acts."""

    none = "none"
    reward = "reward"  # the summed log-ratio is taken off the reward, as in RLOO
    loss = "loss"  # an estimate with a gradient of its own is added to the loss


class KlEstimator(Enum):
    """Estimates of KL(policy || reference) from samples of the policy (Schulman, approximating KL divergence)."""

    k1 = "k1"
    k2 = "k2"
    k3 = "k3"


class PolicyOptimizer(Enum):
    """`sgd` keeps the scale of the gradient, and so of the reward; `adam` mostly divides it away."""

    adam = "adam"
    sgd = "sgd"


class LossDenominator(Enum):
    """What the sum of token losses is divided by."""

    sequences = "sequences"  # RLOO: the mean over sequences of the sum over tokens
    tokens = "tokens"  # DAPO: all tokens of the batch
    each_sequence = "each_sequence"  # GRPO: the mean over each sequence first


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
    temperature: float = limited(1.0, above=0)  # of the rollouts
    # Of rollouts and updates; probes of the initial policy and reward models are fp32 in any case, and so comparable.
    precision: Precision = Precision.fp32
    # taken off the normalised reward of a completion that was cut off
    missing_eos_penalty: float = limited(0.0, at_least=0)
    optimizer: PolicyOptimizer = PolicyOptimizer.adam
    learning_rate: float = limited(3e-4, above=0)
    momentum: float = limited(0.0, at_least=0, below=1)  # sgd
    gradient_clip: float | None = limited(None, above=0)  # null: none, so that the gradient keeps its scale
    probe_every: int = limited(20, at_least=1)  # steps between evaluations on the fixed probe set
    checkpoint_every: int = limited(20, at_least=1)
    samples: int = limited(4, at_least=0)  # texts shown before and after

    def __post_init__(self) -> None:
        if self.advantage is not Advantage.reinforce and self.group_size < 2:
            raise ValueError(
                f"policy_gradient.group_size={self.group_size}: must be at least 2 with "
                f"advantage={self.advantage.value}, which compares the samples of a prompt (or use "
                "advantage=reinforce)"
            )
        if self.completions_per_step < self.minibatches:
            raise ValueError(
                f"policy_gradient.minibatches={self.minibatches}: must be at most {self.completions_per_step}, the "
                "completions of a step"
            )

    @property
    def completions_per_step(self) -> int:
        """Rollouts of one step."""
        return self.prompts_per_step * self.group_size
