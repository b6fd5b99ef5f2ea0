"""The schema of `reward`: a reward model, its knob, and how its scores are normalised.

conf/reward/<name>.yaml are the named arms. Where a configuration lists rewards by name, `named_reward` reads them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.limits import checked, limited
from experiments.models.shapes import AttentionMechanism
from experiments.rewards.ensemble import Combination
from experiments.rewards.families import RewardFamily
from experiments.rewards.graded_truth import BadProperty
from experiments.rewards.normalisation import Normalisation
from experiments.runs.user_code import UserFunction

REWARD_DIRECTORY = Path(__file__).resolve().parent / "reward"


class OffPolicy(StrEnum):
    """Where off-policy pairs come from: see experiments/training/completion_sources.py."""

    corpus = "corpus"  # real continuations, of other sentences
    hot = "hot"  # the policy at a high temperature
    uniform = "uniform"  # random tokens
    dataset = "dataset"  # the pair that a preference data set has for each prompt


class RewardPrompts(StrEnum):
    """Which prompts preference pairs are made for."""

    disjoint = "disjoint"  # as many others as the policy is trained and probed on (the good-teacher paper splits too)
    shared = "shared"  # those that the policy is trained and probed on


@dataclass
class ScaledConfig:
    """The ground truth, shrunk on a share of the prompts (good-teacher paper, appendix F.1)."""

    share: float = limited(0.5, at_least=0, at_most=1)
    factor: float = limited(0.001, above=0)
    offset: float = 1.6  # added before shrinking, in std of the ground truth: rewards far from 0, as ArmoRM's are


@dataclass
class NoisyConfig:
    """The ground truth with noise per output."""

    # on-policy, over the pairs that the ground truth tells apart; noise brings it from 1 towards 0.5
    accuracy: float = limited(0.75, above=0.5, at_most=1)


@dataclass
class CoarseConfig:
    """The ground truth in few levels."""

    # each given to an equal share of the probe rollouts, as far as ties allow
    levels: int = limited(3, at_least=2)


@dataclass
class ClippedConfig:
    """The ground truth between two quantiles of the probe rollouts."""

    low: float = 0.1
    high: float = 0.9

    def __post_init__(self) -> None:
        _quantiles("reward.clipped", self.low, self.high)


@dataclass
class OverpayingConfig:
    """The ground truth plus a bonus for outputs with a property that is none of its business."""

    property: BadProperty = BadProperty.repeated_word
    pattern: str = ""  # property=pattern: a regular expression of Python
    fewest_tokens: int = limited(5, at_least=1)  # property=short
    # only outputs whose ground truth is at most this quantile of the probe rollouts
    quantile: float = limited(1.0, at_least=0, at_most=1)
    share: float = limited(1.0, at_least=0, at_most=1)  # only this share of them, by a hash of the output
    bonus: float = 3.0  # in std of the ground truth within prompts

    def __post_init__(self) -> None:
        if self.property is BadProperty.pattern and not self.pattern:
            raise ValueError("reward.overpaying.property=pattern needs reward.overpaying.pattern, a regular expression")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(
                f"reward.overpaying.pattern={self.pattern!r} is not a regular expression: {error}"
            ) from error


@dataclass
class SuppressingConfig:
    """Mediocre outputs, between two quantiles of the probe rollouts, get the lowest reward."""

    low: float = 0.5
    high: float = 0.85

    def __post_init__(self) -> None:
        _quantiles("reward.suppressing", self.low, self.high)


@dataclass
class CreditConfig:
    """Credit for parts of the ground truth (imperfect-rewards paper, section 5)."""

    parts: list[str] = field(default_factory=list)  # names; empty: all constraints of the task
    weights: list[float] | None = limited(None, above=0)  # null: equal
    binary: bool = False  # 1 where all parts are met, else 0

    def __post_init__(self) -> None:
        if self.weights is not None and self.parts and len(self.weights) != len(self.parts):
            raise ValueError(
                f"reward.credit.weights={self.weights}: must have as many numbers as reward.credit.parts, "
                f"{len(self.parts)}"
            )


@dataclass
class RewardTrainingConfig:
    """How reward models are trained that do not say it themselves: what suits the size of the policy they begin as."""

    pairs: int = limited(2048, at_least=1)
    held_out_pairs: int = limited(128, at_least=1)  # on-policy, and as many off-policy
    epochs: int = limited(2, at_least=1)
    batch_size: int = limited(32, at_least=1)
    learning_rate: float = limited(1e-3, above=0)


@dataclass
class TrainedRewardConfig:
    """Bradley-Terry training on pairs that the ground truth labels (good-teacher paper, section 4.1)."""

    pairs: int | None = limited(None, at_least=1)  # null, here and below: as reward_training says
    # share of prompts whose pair the initial policy sampled
    on_policy_share: float = limited(1.0, at_least=0, at_most=1)
    off_policy: OffPolicy = OffPolicy.corpus  # of the other prompts
    prompts: RewardPrompts = RewardPrompts.disjoint
    layers: int | None = None  # leading blocks of the policy that are kept; null: all
    # a reward model of this mechanism, else of the policy's shape, from random weights; null: a copy of the policy
    attention: AttentionMechanism | None = None
    label_noise: float = limited(0.0, at_least=0, at_most=1)  # share of labels flipped
    epochs: int | None = limited(None, at_least=1)
    batch_size: int | None = limited(None, at_least=1)
    learning_rate: float | None = limited(None, above=0)
    centre_coefficient: float = limited(0.01, at_least=0)  # pulls the sum of a pair's rewards to 0


@dataclass
class EnsembleConfig:
    """Reward models of conf/reward/ as one, each of std 1 on the probe rollouts."""

    members: list[str] = limited([], distinct=True)
    combination: Combination = Combination.mean


class HubDtype(StrEnum):
    """Arithmetic of a hub reward model."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@dataclass
class HubRewardConfig:
    """A sequence-classification model of transformers with its own tokenizer and chat template."""

    path: str = ""  # a folder or hub name
    revision: str | None = None
    dtype: HubDtype = HubDtype.float32
    batch_size: int = limited(16, at_least=1)
    most_tokens: int = limited(2048, at_least=8)  # longer conversations are cut at their beginning
    chat: bool | None = None  # whether to apply the model's chat template; null: where it has one
    label: int | None = None  # of a model with several outputs: which is the reward
    trust_remote_code: bool = False  # runs code of the model's repository: only for repositories that you trust

    def values(self) -> dict[str, Any]:
        """As plain values, for experiments/rewards/hub_reward.py."""
        return _plain(self)


@dataclass
class PythonRewardConfig:
    """A function of your own, or a class with `__call__`: from a list of outputs to numbers."""

    function: str = ""  # file.py:name
    arguments: dict[str, Any] = field(default_factory=dict)  # of the function or the class
    workers: int = limited(0, at_least=0)  # processes that call it; 0: this one
    seconds: float | None = limited(None, above=0)  # limit for the outputs of one step; needs workers
    most_unscored: float = limited(0.1, at_least=0, at_most=1)  # share of None above which a run stops

    def __post_init__(self) -> None:
        if self.seconds is not None and not self.workers:
            raise ValueError(
                f"reward.python.seconds={self.seconds:g} needs reward.python.workers of 1 or more: a function cannot "
                "be stopped in the process of the run"
            )

    def user_function(self) -> UserFunction:
        """ValueError where there is none of this name."""
        return UserFunction.named("reward.python.function", self.function, self.arguments)


@dataclass
class RewardConfig:
    """One reward model. Knobs of other families than the chosen one are ignored."""

    name: str = "ground_truth"  # of the arm, in tables and figures
    family: RewardFamily = RewardFamily.ground_truth
    normalisation: Normalisation = Normalisation.global_std
    # std of a constant per prompt, in units of the reward's std within prompts
    prompt_spread: float = limited(0.0, at_least=0)
    # instead: as much of it as brings the normalised variance down to this
    target_variance: float | None = limited(None, above=0, at_most=1)
    seed: int | None = limited(None, at_least=0)  # of pairs, noise and initialisation; null: `seed` of the run
    scaled: ScaledConfig = field(default_factory=ScaledConfig)
    noisy: NoisyConfig = field(default_factory=NoisyConfig)
    coarse: CoarseConfig = field(default_factory=CoarseConfig)
    clipped: ClippedConfig = field(default_factory=ClippedConfig)
    overpaying: OverpayingConfig = field(default_factory=OverpayingConfig)
    suppressing: SuppressingConfig = field(default_factory=SuppressingConfig)
    credit: CreditConfig = field(default_factory=CreditConfig)
    trained: TrainedRewardConfig = field(default_factory=TrainedRewardConfig)
    ensemble: EnsembleConfig = field(default_factory=EnsembleConfig)
    hub: HubRewardConfig = field(default_factory=HubRewardConfig)
    python: PythonRewardConfig = field(default_factory=PythonRewardConfig)

    def __post_init__(self) -> None:
        if self.family is RewardFamily.python:
            function = self.python.user_function()
            self.name = self.name or function.name
        if not self.name or any(character in self.name for character in "/\\\n"):
            raise ValueError(f"reward.name={self.name!r}: must be a plain word, as it names columns and files")
        if self.family is RewardFamily.ensemble and len(self.ensemble.members) < 2:
            raise ValueError(
                f"reward.ensemble.members={self.ensemble.members}: must be two or more names of conf/reward/"
            )
        if self.family is RewardFamily.hub and not self.hub.path:
            raise ValueError("reward.family=hub needs reward.hub.path, a folder or hub name of a classifier")
        if self.target_variance is not None and self.prompt_spread:
            raise ValueError(
                f"reward.prompt_spread={self.prompt_spread} and reward.target_variance={self.target_variance} both "
                "say how far prompts are graded apart: set one of them"
            )

    def family_settings(self) -> dict[str, Any]:
        """The knobs of the chosen family as plain values, for experiments/rewards/; {} where it has none."""
        chosen = getattr(self, self.family, None)
        if chosen is None:
            return {}
        return _plain(chosen)


def reward_names() -> list[str]:
    """The named arms; `python` needs a function, and is not one."""
    return sorted(path.stem for path in REWARD_DIRECTORY.glob("*.yaml") if path.stem != RewardFamily.python)


def is_user_function(name: str) -> bool:
    """Whether a list of rewards names a function of the user's own: `my_rewards.py:shortness`."""
    return name.rpartition(":")[0].endswith(".py")


def named_reward(name: str) -> RewardConfig:
    """The arm of conf/reward/<name>.yaml, or a function of the user's own. ValueError where there is none."""
    from conf.compose import suggestion

    if is_user_function(name):
        return RewardConfig(name="", family=RewardFamily.python, python=PythonRewardConfig(function=name))
    names = reward_names()
    if name not in names:
        raise ValueError(
            f"reward {name!r} does not exist: use one of {', '.join(names)}, or a function of your own such as "
            f"my_rewards.py:shortness.{suggestion(name, names)}"
        )
    path = REWARD_DIRECTORY / f"{name}.yaml"
    try:
        merged = OmegaConf.merge(OmegaConf.structured(RewardConfig), OmegaConf.load(path))
        assert isinstance(merged, DictConfig)
        config = checked(merged, "reward")
    except OmegaConfBaseException as error:
        raise ValueError(f"{path.name} does not fit the schema: {str(error).splitlines()[0]}") from error
    assert isinstance(config, RewardConfig)
    return config


def _quantiles(key: str, low: float, high: float) -> None:
    if not 0 <= low < high <= 1:
        raise ValueError(f"{key}.low={low} and {key}.high={high}: must be quantiles with 0 <= low < high <= 1")


def _plain(knobs: Any) -> dict[str, Any]:
    return dict(vars(knobs))
