"""The schema of `reward`: a reward model, its knob, and how its scores are normalised.

conf/reward/<name>.yaml are the named arms. Where a configuration lists rewards by name, `named_reward` reads them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

REWARD_DIRECTORY = Path(__file__).resolve().parent / "reward"


class RewardFamily(Enum):
    """How the reward errs: see experiments/rewards/."""

    ground_truth = "ground_truth"
    scaled = "scaled"  # perfectly accurate, low variance on a share of the prompts
    noisy = "noisy"  # noise per output up to a target accuracy
    coarse = "coarse"  # few levels
    clipped = "clipped"
    overpaying = "overpaying"  # a bad output overpaid: reward hacking
    suppressing = "suppressing"  # mediocre outputs pushed down: the beneficial error
    credit = "credit"  # partial or binary credit for the parts of the ground truth
    trained = "trained"  # a Bradley-Terry reward model
    ensemble = "ensemble"
    hub = "hub"  # any sequence-classification model of transformers


class Normalisation(Enum):
    """What rewards are divided by before they train a policy; statistics come from the probe rollouts."""

    none = "none"
    global_std = "global_std"  # mean and std over all probe rollouts: the papers' choice
    within_prompt_std = "within_prompt_std"  # sqrt of the mean within-prompt variance (good-teacher paper, Table 9)
    per_prompt = "per_prompt"  # mean and std of each prompt's group
    batch = "batch"  # whitened in every batch


class OffPolicy(Enum):
    """Where off-policy pairs come from: see experiments/training/completion_sources.py."""

    corpus = "corpus"  # real continuations, of other sentences
    hot = "hot"  # the policy at a high temperature
    uniform = "uniform"  # random tokens
    dataset = "dataset"  # the pair that a preference data set has for each prompt


@dataclass
class ScaledConfig:
    """The ground truth, shrunk on a share of the prompts (good-teacher paper, appendix F.1)."""

    share: float = 0.5
    factor: float = 0.001
    offset: float = 1.6  # added before shrinking, in std of the ground truth: rewards far from 0, as ArmoRM's are

    def __post_init__(self) -> None:
        _between("reward.scaled.share", self.share, 0, 1)
        _positive("reward.scaled.factor", self.factor)
        _finite("reward.scaled.offset", self.offset)


@dataclass
class NoisyConfig:
    """The ground truth with noise per output."""

    accuracy: float = 0.75  # on-policy, over the pairs that the ground truth tells apart

    def __post_init__(self) -> None:
        if not 0.5 < self.accuracy <= 1:
            raise ValueError(
                f"reward.noisy.accuracy={self.accuracy} is impossible: noise brings it from 1 towards 0.5, "
                "so use a number above 0.5 and at most 1"
            )


@dataclass
class TrainedRewardConfig:
    """Bradley-Terry training on pairs that the ground truth labels (good-teacher paper, section 4.1)."""

    pairs: int = 1024
    on_policy_share: float = 1.0  # share of prompts whose pair the initial policy sampled
    off_policy: OffPolicy = OffPolicy.corpus  # of the other prompts
    layers: int | None = None  # leading blocks of the policy that are kept; null: all
    label_noise: float = 0.0  # share of labels turned round
    epochs: int = 1
    batch_size: int = 32
    learning_rate: float = 1e-3
    centre_coefficient: float = 0.01  # pulls the sum of a pair's rewards to 0

    def __post_init__(self) -> None:
        for name in ("pairs", "epochs", "batch_size"):
            _at_least(f"reward.trained.{name}", getattr(self, name), 1)
        _between("reward.trained.on_policy_share", self.on_policy_share, 0, 1)
        _between("reward.trained.label_noise", self.label_noise, 0, 1)
        _positive("reward.trained.learning_rate", self.learning_rate)
        _at_least("reward.trained.centre_coefficient", self.centre_coefficient, 0)


@dataclass
class RewardConfig:
    """One reward model. Knobs of other families than the chosen one are not looked at."""

    name: str = "ground_truth"  # of the arm, in tables and figures
    family: RewardFamily = RewardFamily.ground_truth
    normalisation: Normalisation = Normalisation.global_std
    prompt_spread: float = 0.0  # std of a constant per prompt, in units of the reward's std within prompts
    target_variance: float | None = None  # instead: as much of it as brings the normalised variance down to this
    seed: int = 0  # of pairs, noise and initialisation
    scaled: ScaledConfig = field(default_factory=ScaledConfig)
    noisy: NoisyConfig = field(default_factory=NoisyConfig)
    trained: TrainedRewardConfig = field(default_factory=TrainedRewardConfig)

    def __post_init__(self) -> None:
        if not self.name or any(character in self.name for character in "/\\\n"):
            raise ValueError(
                f"reward.name={self.name!r} is impossible: it names columns and files, so use a plain word"
            )
        _at_least("reward.seed", self.seed, 0)
        _at_least("reward.prompt_spread", self.prompt_spread, 0)
        if self.target_variance is not None:
            if not 0 < self.target_variance <= 1:
                raise ValueError(
                    f"reward.target_variance={self.target_variance} is impossible: the share of a reward's "
                    "variance that lies within prompts is above 0 and at most 1"
                )
            if self.prompt_spread:
                raise ValueError(
                    f"reward.prompt_spread={self.prompt_spread} and reward.target_variance={self.target_variance} both "
                    "say how far prompts are graded apart: set one of them"
                )

    def family_settings(self) -> dict[str, Any]:
        """The knobs of the chosen family as plain values, for experiments/rewards/; {} where it has none."""
        chosen = getattr(self, self.family.value, None)
        if chosen is None:
            return {}
        return {key: value.value if isinstance(value, Enum) else value for key, value in vars(chosen).items()}


def reward_names() -> list[str]:
    """The named arms."""
    return sorted(path.stem for path in REWARD_DIRECTORY.glob("*.yaml"))


def named_reward(name: str) -> RewardConfig:
    """The arm of conf/reward/<name>.yaml. ValueError with a suggestion where there is none."""
    from conf.compose import suggestion

    names = reward_names()
    if name not in names:
        raise ValueError(f"reward {name!r} does not exist: use one of {', '.join(names)}.{suggestion(name, names)}")
    path = REWARD_DIRECTORY / f"{name}.yaml"
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RewardConfig), OmegaConf.load(path)))
    except OmegaConfBaseException as error:
        raise ValueError(f"{path.name} does not fit the schema: {str(error).splitlines()[0]}") from error
    assert isinstance(config, RewardConfig)
    return config


def _finite(key: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{key}={value} is impossible: use a finite number")


def _at_least(key: str, value: float, least: float) -> None:
    if not (math.isfinite(value) and value >= least):
        raise ValueError(f"{key}={value} is impossible: it must be at least {least}")


def _positive(key: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{key}={value} is impossible: it must be positive")


def _between(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{key}={value} is impossible: it must be from {low} to {high}")
