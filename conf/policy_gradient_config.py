"""The schema of `policy_gradient`: algorithm, KL, batches, optimizer, and what is looked at on the way."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

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
    steps: int = 100
    prompts_per_step: int = 16
    group_size: int = 4  # samples per prompt
    epochs: int = 1  # passes over a batch of rollouts
    minibatches: int = 1  # optimizer steps per pass
    clip: float = 0.2  # PPO's clipping of the ratio; acts where epochs or minibatches exceed 1
    sequence_ratio: bool = False  # clip the ratio of whole sequences (RLOO of the papers), not of tokens
    loss_denominator: LossDenominator = LossDenominator.sequences
    kl_place: KlPlace = KlPlace.reward
    kl_estimator: KlEstimator = KlEstimator.k3  # of the loss; the reward always takes the log-ratio itself
    kl_coefficient: float = 0.05
    temperature: float = 1.0  # of the rollouts
    # Of rollouts and updates; probes of the initial policy and reward models are fp32 in any case, and so comparable.
    precision: Precision = Precision.fp32
    missing_eos_penalty: float = 0.0  # taken off the normalised reward of a completion that was cut off
    optimizer: PolicyOptimizer = PolicyOptimizer.adam
    learning_rate: float = 3e-4
    momentum: float = 0.0  # sgd
    gradient_clip: float | None = None  # null: none, so that the gradient keeps its scale
    probe_every: int = 20  # steps between looks at the fixed probe set
    checkpoint_every: int = 20
    samples: int = 4  # texts shown before and after

    def __post_init__(self) -> None:
        for name in ("steps", "prompts_per_step", "group_size", "epochs", "minibatches"):
            self._at_least(name, 1)
        for name in ("probe_every", "checkpoint_every"):
            self._at_least(name, 1)
        for name in ("kl_coefficient", "missing_eos_penalty", "samples"):
            self._at_least(name, 0)
        for name in ("clip", "temperature", "learning_rate"):
            self._positive(name)
        if self.gradient_clip is not None:
            self._positive("gradient_clip")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"policy_gradient.momentum={self.momentum} is impossible: it must be in [0, 1)")
        if self.advantage is not Advantage.reinforce and self.group_size < 2:
            raise ValueError(
                f"policy_gradient.group_size={self.group_size} is impossible with "
                f"advantage={self.advantage.value}, which compares the samples of a prompt: use 2 or more, or "
                "advantage=reinforce"
            )
        if self.completions_per_step < self.minibatches:
            raise ValueError(
                f"policy_gradient.minibatches={self.minibatches} is impossible: a step has "
                f"{self.completions_per_step} completions"
            )

    @property
    def completions_per_step(self) -> int:
        """Rollouts of one step."""
        return self.prompts_per_step * self.group_size

    def _at_least(self, name: str, least: int) -> None:
        if getattr(self, name) < least:
            raise ValueError(f"policy_gradient.{name}={getattr(self, name)} is impossible: it must be at least {least}")

    def _positive(self, name: str) -> None:
        if not getattr(self, name) > 0:
            raise ValueError(f"policy_gradient.{name}={getattr(self, name)} is impossible: it must be positive")
