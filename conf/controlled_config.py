"""The schema of `rl-exp controlled`: one dataclass per experiment, selected by the config group `experiment`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from conf.limits import checked, limited
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


def _sort(config: ExperimentConfig, *names: str) -> None:
    """Put axes of figures in ascending order."""
    for name in names:
        setattr(config, name, sorted(getattr(config, name)))


@dataclass
class ImperfectRewardsConfig(ExperimentConfig):
    """Section 3.3 and appendix C of the imperfect-rewards paper."""

    name: str = "imperfect_rewards"
    plan: Plan = Plan.exact
    # of y*, initially; the mediocre output has the other half
    optimum_probabilities: list[float] = limited(
        [0.05, 0.10, 0.15], at_least=LEAST_PROBABILITY, below=0.5, items=1, distinct=True
    )
    steps: int = limited(50_000, at_least=1)
    learning_rate: float = limited(0.1, above=0)
    seeds: int = limited(200, at_least=1, at_most=10_000)  # of the sampled plan

    def __post_init__(self) -> None:
        _sort(self, "optimum_probabilities")
        if self.plan is Plan.features and len(self.optimum_probabilities) > 1:
            raise ValueError(
                f"experiment.optimum_probabilities={self.optimum_probabilities}: the feature plan takes one of them"
            )


@dataclass
class PhaseDiagramConfig(ExperimentConfig):
    """Hitting times over initial probability, mediocre reward, feature angle and training reward; exponents."""

    name: str = "phase_diagram"
    probability_points: int = limited(21, at_least=2, at_most=1000)
    lowest_probability: float = limited(1e-4, at_least=LEAST_PROBABILITY)
    highest_probability: float = limited(0.3, below=0.5)
    mediocre_rewards: list[float] = limited(
        [-0.9, -0.6, -0.3, 0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9], at_least=-1, at_most=1, items=1, distinct=True
    )
    angles: list[float] = limited(
        [-60.0, -45.0, -30.0, -15.0, 0.0, 15.0, 30.0, 45.0, 60.0], at_least=-89, at_most=89, items=1, distinct=True
    )
    optimum_feature_norm: float = limited(1.5, above=0)
    longest_time: float = limited(1e7, above=0)
    scaling_seeds: int = limited(20, at_least=1, at_most=1000)
    scaling_bad_outputs: list[int] = limited([1, 2, 3, 4], at_least=1, at_most=6, items=1, distinct=True)

    def __post_init__(self) -> None:
        if self.lowest_probability >= self.highest_probability:
            raise ValueError(
                f"experiment.lowest_probability={self.lowest_probability}: must be below "
                f"experiment.highest_probability={self.highest_probability}"
            )
        _sort(self, "mediocre_rewards", "angles", "scaling_bad_outputs")


@dataclass
class ErrorCategoriesConfig(ExperimentConfig):
    """Labels of reward errors against their counterfactual."""

    name: str = "error_categories"
    problems: int = limited(2000, at_least=1, at_most=100_000)  # per feature geometry
    outputs: int = limited(6, at_least=3, at_most=100)
    error_probability: float = limited(0.4, at_least=0, at_most=1)
    horizons: list[int] = limited([30, 100, 300, 1000], at_least=1, at_most=10**7, items=1, distinct=True)
    judged_after: int = 300
    learning_rate: float = limited(0.1, above=0)
    effect_size: float = limited(0.02, above=0)
    negligible_probability: float = limited(1e-3, at_least=0, at_most=1)
    negligible_velocity: float = limited(0.3, at_least=0, at_most=1)

    def __post_init__(self) -> None:
        _sort(self, "horizons")
        if self.judged_after not in self.horizons:
            raise ValueError(
                f"experiment.judged_after={self.judged_after}: must be one of experiment.horizons={self.horizons}"
            )


@dataclass
class RewardVarianceConfig(ExperimentConfig):
    """The flatness theorem: gradient norm and time against reward variance."""

    name: str = "reward_variance"
    outputs: int = limited(8, at_least=3, at_most=1000)
    seeds: int = limited(50, at_least=1, at_most=1000)
    knob_points: int = limited(9, at_least=3, at_most=1000)
    gain: float = limited(0.5, above=0, below=1)  # share of the way of the ground truth reward to its maximum


@dataclass
class TeacherBanditConfig(ExperimentConfig):
    """The good-teacher paper's Tables 1 and 2 on bandits with known truth."""

    name: str = "teacher_bandit"
    seeds: int = limited(10, at_least=2, at_most=1000)
    prompts: int = limited(200, at_least=2)
    outputs: int = limited(64, at_least=2, at_most=1000)
    steps: int = limited(400, at_least=1)
    learning_rate: float = limited(0.05, above=0)
    random_reward_models: int = limited(16, at_least=0, at_most=1000)  # beside the paper's six
    centred: bool = False  # negative control: no between-prompt spread in any reward

    def __post_init__(self) -> None:
        if self.random_reward_models and self.random_reward_models < 3:
            raise ValueError(
                f"experiment.random_reward_models={self.random_reward_models}: must be 0, or at least 3 for a "
                "correlation"
            )


@dataclass
class PolicyDependenceConfig(ExperimentConfig):
    """Two reward models, two policies, opposite verdicts."""

    name: str = "policy_dependence"
    outputs: int = limited(8, at_least=4, at_most=1000)
    seeds: int = limited(30, at_least=1, at_most=1000)
    excluded_points: int = limited(9, at_least=4, at_most=1000)
    lowest_excluded: float = limited(1e-7, at_least=LEAST_PROBABILITY, below=0.03)
    gain: float = limited(0.5, above=0, below=0.85)  # 0.85 is all there is to gain


@dataclass
class PartialCreditConfig(ExperimentConfig):
    """Binary against partial credit."""

    name: str = "partial_credit"
    joint_points: int = limited(12, at_least=2, at_most=1000)
    # at most RARE, as the statements are about rare successes
    lowest_joint: float = limited(1e-4, at_least=LEAST_PROBABILITY, at_most=RARE)
    easy_probabilities: list[float] = limited(
        [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], at_least=LEAST_PROBABILITY, below=0.8, items=1, distinct=True
    )
    sharing: list[float] = limited([0.0, 0.5, 0.8, 0.95], at_least=0, at_most=0.99, items=1, distinct=True)
    sampled_joint: list[float] = limited(
        [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064],
        at_least=LEAST_PROBABILITY,
        at_most=0.1,
        items=1,
        distinct=True,
    )
    sampled_seeds: int = limited(50, at_least=1, at_most=1000)
    sampled_steps: int = limited(3000, at_least=1)
    group_size: int = limited(16, at_least=2, at_most=1000)
    learning_rate: float = limited(0.1, above=0)

    def __post_init__(self) -> None:
        _sort(self, "easy_probabilities", "sharing", "sampled_joint")


@dataclass
class LearnableVarianceConfig(ExperimentConfig):
    """Equal variance and accuracy, of which the policy can learn a share, or which points the other way."""

    name: str = "learnable_variance"
    shares: list[float] = limited(  # learnable, of the variance
        [0.0, 0.1, 0.25, 0.5, 0.75, 1.0], at_least=0, at_most=1, items=2, distinct=True
    )
    seeds: int = limited(20, at_least=2, at_most=1000)
    prompts: int = limited(20, at_least=2, at_most=1000)
    outputs: int = limited(16, at_least=3, at_most=1000)
    features: int = limited(40, at_least=2)
    steps: int = limited(100, at_least=1)
    learning_rate: float = limited(0.01, above=0)

    def __post_init__(self) -> None:
        _sort(self, "shares")
        most = self.prompts * (self.outputs - 1) - 2
        if self.features > most:
            raise ValueError(
                f"experiment.features={self.features} leaves nothing that cannot be learned: use at most prompts x "
                f"(outputs - 1) - 2, here {most}"
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
        LearnableVarianceConfig,
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
    merged = OmegaConf.merge(OmegaConf.structured(SCHEMAS[name]), dict(settings))
    assert isinstance(merged, DictConfig)
    experiment = checked(merged, "experiment")
    assert isinstance(experiment, ExperimentConfig)
    return experiment


ConfigStore.instance().store(name="controlled_schema", node=ControlledConfig)
# A group of its own, so that experiment=glob(*) finds the experiments and not their schemas.
for _name, _schema in SCHEMAS.items():
    ConfigStore.instance().store(group="experiment_schema", name=_name, node=_schema)
