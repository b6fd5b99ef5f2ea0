"""The schema of `rl-exp controlled`: one dataclass per experiment, selected by the config group `experiment`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from conf.run_config import Device, RunConfig


class Plan(Enum):
    """The plans of the imperfect-rewards paper's controlled experiments."""

    exact = "exact"
    features = "features"
    sampled = "sampled"


RARE = 0.01  # up to here meeting both constraints is called rare
LEAST_PROBABILITY = 1e-12  # an initial probability below this is lost in the rounding of float64


@dataclass
class ExperimentConfig:
    """What every experiment has: its name, which is also that of its function."""

    name: str = MISSING


def _positive(config: ExperimentConfig, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ValueError(f"experiment.{name}={getattr(config, name)} is impossible: it must be positive")


def _at_least(config: ExperimentConfig, least: int, *names: str) -> None:
    for name in names:
        if getattr(config, name) < least:
            raise ValueError(f"experiment.{name}={getattr(config, name)} is impossible: it must be at least {least}")


def _at_most(config: ExperimentConfig, most: int, *names: str) -> None:
    for name in names:
        if getattr(config, name) > most:
            raise ValueError(f"experiment.{name}={getattr(config, name)} is too many: {most:,} at most")


def _within(config: ExperimentConfig, name: str, low: float, high: float) -> None:
    values = getattr(config, name)
    if not values or any(not low <= value <= high for value in values):
        raise ValueError(f"experiment.{name}={values} is impossible: give numbers from {low} to {high}, at least one")
    _ascending(config, name)


def _probabilities(config: ExperimentConfig, name: str, below: float) -> None:
    values = getattr(config, name)
    if not values or any(not LEAST_PROBABILITY <= value < below for value in values):
        raise ValueError(
            f"experiment.{name}={values} is impossible: give probabilities from {LEAST_PROBABILITY:g} to "
            f"below {below:g}"
        )
    _ascending(config, name)


def _ascending(config: ExperimentConfig, name: str) -> None:
    """Sorted, as axes of figures must be; a number given twice would be trained and counted twice."""
    values = getattr(config, name)
    if len(set(values)) < len(values):
        raise ValueError(f"experiment.{name}={values} names a number twice: give every number once")
    setattr(config, name, sorted(values))


@dataclass
class ImperfectRewardsConfig(ExperimentConfig):
    """Section 3.3 and appendix C of the imperfect-rewards paper."""

    name: str = "imperfect_rewards"
    plan: Plan = Plan.exact
    optimum_probabilities: list[float] = field(default_factory=lambda: [0.05, 0.10, 0.15])  # of y*, initially
    steps: int = 50_000
    learning_rate: float = 0.1
    seeds: int = 200  # of the sampled plan

    def __post_init__(self) -> None:
        _positive(self, "steps", "learning_rate", "seeds")
        _at_most(self, 10_000, "seeds")
        _probabilities(self, "optimum_probabilities", below=0.5)  # the mediocre output has the other half
        if self.plan is Plan.features and len(self.optimum_probabilities) > 1:
            raise ValueError(
                f"experiment.optimum_probabilities={self.optimum_probabilities}: the feature plan takes one of them"
            )


@dataclass
class PhaseDiagramConfig(ExperimentConfig):
    """Hitting times over initial probability, mediocre reward, feature angle and training reward; exponents."""

    name: str = "phase_diagram"
    probability_points: int = 21
    lowest_probability: float = 1e-4
    highest_probability: float = 0.3
    mediocre_rewards: list[float] = field(default_factory=lambda: [-0.9, -0.6, -0.3, 0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9])
    angles: list[float] = field(default_factory=lambda: [-60.0, -45.0, -30.0, -15.0, 0.0, 15.0, 30.0, 45.0, 60.0])
    optimum_feature_norm: float = 1.5
    longest_time: float = 1e7
    scaling_seeds: int = 20
    scaling_bad_outputs: list[int] = field(default_factory=lambda: [1, 2, 3, 4])

    def __post_init__(self) -> None:
        _positive(self, "optimum_feature_norm", "longest_time", "scaling_seeds", "lowest_probability")
        _at_least(self, 2, "probability_points")
        _at_most(self, 1000, "probability_points", "scaling_seeds")
        if not LEAST_PROBABILITY <= self.lowest_probability < self.highest_probability < 0.5:
            raise ValueError(
                f"experiment.lowest_probability={self.lowest_probability} and highest_probability="
                f"{self.highest_probability} are impossible: {LEAST_PROBABILITY:g} <= lowest < highest < 0.5"
            )
        _within(self, "mediocre_rewards", -1, 1)
        _within(self, "angles", -89, 89)
        _within(self, "scaling_bad_outputs", 1, 6)


@dataclass
class ErrorCategoriesConfig(ExperimentConfig):
    """Labels of reward errors against their counterfactual."""

    name: str = "error_categories"
    problems: int = 2000  # per feature geometry
    outputs: int = 6
    error_probability: float = 0.4
    horizons: list[int] = field(default_factory=lambda: [30, 100, 300, 1000])
    judged_after: int = 300
    learning_rate: float = 0.1
    effect_size: float = 0.02
    negligible_probability: float = 1e-3
    negligible_velocity: float = 0.3

    def __post_init__(self) -> None:
        _positive(self, "problems", "learning_rate", "effect_size")
        _at_least(self, 3, "outputs")
        _at_most(self, 100, "outputs")
        _at_most(self, 100_000, "problems")
        _within(self, "horizons", 1, 10**7)
        for name in ("error_probability", "negligible_probability", "negligible_velocity"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"experiment.{name}={getattr(self, name)} is impossible: it must be in [0, 1]")
        if self.judged_after not in self.horizons:
            raise ValueError(
                f"experiment.judged_after={self.judged_after} is not measured: use one of horizons={self.horizons}"
            )


@dataclass
class RewardVarianceConfig(ExperimentConfig):
    """The flatness theorem: gradient norm and time against reward variance."""

    name: str = "reward_variance"
    outputs: int = 8
    seeds: int = 50
    knob_points: int = 9
    gain: float = 0.5  # share of the way of the ground truth reward to its maximum

    def __post_init__(self) -> None:
        _positive(self, "seeds")
        _at_least(self, 3, "outputs", "knob_points")
        _at_most(self, 1000, "outputs", "knob_points", "seeds")
        if not 0 < self.gain < 1:
            raise ValueError(f"experiment.gain={self.gain} is impossible: it is a share in (0, 1)")


@dataclass
class TeacherBanditConfig(ExperimentConfig):
    """The good-teacher paper's Tables 1 and 2 on bandits with known truth."""

    name: str = "teacher_bandit"
    seeds: int = 10
    prompts: int = 200
    outputs: int = 64
    steps: int = 400
    learning_rate: float = 0.05
    random_reward_models: int = 16  # beside the paper's six
    centred: bool = False  # negative control: no between-prompt spread in any reward

    def __post_init__(self) -> None:
        _positive(self, "steps", "learning_rate")
        _at_least(self, 2, "seeds", "prompts", "outputs")
        _at_most(self, 1000, "seeds", "outputs", "random_reward_models")
        if self.random_reward_models and self.random_reward_models < 3:
            raise ValueError(
                f"experiment.random_reward_models={self.random_reward_models} has no correlation: use 0, or at least 3"
            )


@dataclass
class PolicyDependenceConfig(ExperimentConfig):
    """Two reward models, two policies, opposite verdicts."""

    name: str = "policy_dependence"
    outputs: int = 8
    seeds: int = 30
    excluded_points: int = 9
    lowest_excluded: float = 1e-7
    gain: float = 0.5

    def __post_init__(self) -> None:
        _positive(self, "seeds")
        _at_least(self, 4, "outputs", "excluded_points")
        _at_most(self, 1000, "outputs", "excluded_points", "seeds")
        if not LEAST_PROBABILITY <= self.lowest_excluded < 0.03:
            raise ValueError(
                f"experiment.lowest_excluded={self.lowest_excluded} is impossible: it must be at least "
                f"{LEAST_PROBABILITY:g} and below 0.03"
            )
        if not 0 < self.gain < 0.85:
            raise ValueError(
                f"experiment.gain={self.gain} is impossible: it must be in (0, 0.85), what is left to gain"
            )


@dataclass
class PartialCreditConfig(ExperimentConfig):
    """Binary against partial credit."""

    name: str = "partial_credit"
    joint_points: int = 12
    lowest_joint: float = 1e-4
    easy_probabilities: list[float] = field(default_factory=lambda: [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    sharing: list[float] = field(default_factory=lambda: [0.0, 0.5, 0.8, 0.95])
    sampled_joint: list[float] = field(default_factory=lambda: [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064])
    sampled_seeds: int = 50
    sampled_steps: int = 3000
    group_size: int = 16
    learning_rate: float = 0.1

    def __post_init__(self) -> None:
        _positive(self, "learning_rate", "sampled_steps", "sampled_seeds")
        _at_least(self, 2, "joint_points", "group_size")
        _probabilities(self, "easy_probabilities", below=0.8)
        _probabilities(self, "sampled_joint", below=0.1 + 1e-9)
        _within(self, "sharing", 0, 0.99)
        _at_most(self, 1000, "joint_points", "sampled_seeds", "group_size")
        if not LEAST_PROBABILITY <= self.lowest_joint <= RARE:
            raise ValueError(
                f"experiment.lowest_joint={self.lowest_joint} is impossible: it must be at least "
                f"{LEAST_PROBABILITY:g} and, as the statements are about rare successes, at most {RARE:g}"
            )


SCHEMAS: dict[str, type[ExperimentConfig]] = {
    schema.name: schema
    for schema in (
        ImperfectRewardsConfig,
        PhaseDiagramConfig,
        ErrorCategoriesConfig,
        RewardVarianceConfig,
        TeacherBanditConfig,
        PolicyDependenceConfig,
        PartialCreditConfig,
    )
}
TAKES_PROBLEM = ("imperfect_rewards", "error_categories")
MOST_OUTPUTS = 1000  # of a problem whose errors are corrected one by one


@dataclass
class ControlledConfig(RunConfig):
    """`rl-exp controlled`: one experiment on tabular or log-linear policies."""

    experiment: Any = MISSING  # one of SCHEMAS, by its `name`
    problem: str | None = None  # a YAML or JSON file with a problem instance of your own

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.experiment, Mapping):
            self.experiment = _typed(self.experiment)
        if self.device is Device.cuda:
            raise ValueError("device=cuda is of no use here: these problems are tiny and run in float64 on the CPU")
        if self.problem is not None:
            self._check_problem(self.problem)

    def _check_problem(self, problem: str) -> None:
        if self.experiment.name not in TAKES_PROBLEM:
            raise ValueError(
                f"problem={problem} is not for experiment={self.experiment.name}, which makes its own problems: "
                f"use experiment={' or '.join(TAKES_PROBLEM)}"
            )
        if isinstance(self.experiment, ImperfectRewardsConfig) and self.experiment.plan is Plan.features:
            raise ValueError(f"problem={problem} has its own features: use experiment.plan=exact or sampled")
        if not Path(problem).is_file():
            raise ValueError(f"problem={problem} does not exist as a file: give the path of a YAML or JSON file")
        from experiments.policies.problems import read_problem  # torch, and only here: nobody else waits for it

        prompts, outputs = read_problem(problem).proxy.shape
        if isinstance(self.experiment, ErrorCategoriesConfig) and (prompts > 1 or outputs > MOST_OUTPUTS):
            raise ValueError(
                f"problem={problem} has {prompts} prompts and {outputs} outputs: error_categories takes one prompt, "
                f"because prompts that share weights share their errors, and at most {MOST_OUTPUTS} outputs"
            )

    def input_files(self) -> list[Path]:
        """The problem file."""
        return [] if self.problem is None else [Path(self.problem)]


def _typed(settings: Mapping[Any, Any]) -> ExperimentConfig:
    """The experiment's own dataclass. Unknown keys and wrong types raise OmegaConf's errors."""
    name = settings.get("name")
    if name not in SCHEMAS:
        raise ValueError(f"experiment.name={name} does not exist: use one of {', '.join(SCHEMAS)}")
    experiment = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(SCHEMAS[name]), dict(settings)))
    assert isinstance(experiment, ExperimentConfig)
    for item in fields(experiment):
        value = getattr(experiment, item.name)
        if any(isinstance(number, float) and not math.isfinite(number) for number in _listed(value)):
            raise ValueError(f"experiment.{item.name}={value} is impossible: it must be finite")
    return experiment


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


ConfigStore.instance().store(name="controlled_schema", node=ControlledConfig)
# A group of its own, so that experiment=glob(*) finds the experiments and not their schemas.
for _name, _schema in SCHEMAS.items():
    ConfigStore.instance().store(group="experiment_schema", name=_name, node=_schema)
