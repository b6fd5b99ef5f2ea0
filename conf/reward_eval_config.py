"""The schema of `rl-exp reward-eval`: a policy, a task, and the reward models to look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.config_store import ConfigStore

from conf.reward_config import REWARD_DIRECTORY, named_reward
from conf.rlhf_config import PolicyTaskConfig

# One of every kind: accurate, accurate but of low variance, noisy, coarse, hackable, kind, and trained.
DEFAULT_REWARDS = (
    "ground_truth",
    "perfect_low_variance",
    "noisy_90",
    "noisy_75",
    "noisy_60",
    "coarse",
    "clipped",
    "overpaying",
    "suppressing",
    "on_policy_100",
    "on_policy_50",
    "on_policy_0",
)


@dataclass
class RewardEvalConfig(PolicyTaskConfig):
    """`rl-exp reward-eval`: score reward models for a policy without training it."""

    rewards: list[str] = field(default_factory=lambda: list(DEFAULT_REWARDS))  # names of conf/reward/
    resamples: int = 1000  # of prompts, for the intervals
    error_tolerance: float = 0.25  # smallest reward error that has a category, in std within a prompt

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rewards:
            raise ValueError("rewards=[] is impossible: name at least one reward of conf/reward/")
        for name in self.rewards:
            named_reward(name)
        twice = sorted({name for name in self.rewards if self.rewards.count(name) > 1})
        if twice:
            raise ValueError(f"rewards names {', '.join(twice)} twice: once is enough")
        if self.resamples < 1:
            raise ValueError(f"resamples={self.resamples} is impossible: it must be at least 1; 1000 are a good number")
        if self.error_tolerance < 0:
            raise ValueError(f"error_tolerance={self.error_tolerance} is impossible: it must be 0 or more")
        if self.probe.prompts < 2:
            raise ValueError(
                f"probe.prompts={self.probe.prompts} is impossible here: intervals are taken over prompts, so use 2 or "
                "more"
            )

    def input_files(self) -> list[Path]:
        """Those of policy and corpus, and the reward models' own settings, which the configuration only names."""
        return [*super().input_files(), *(REWARD_DIRECTORY / f"{name}.yaml" for name in self.rewards)]


ConfigStore.instance().store(name="reward_eval_schema", node=RewardEvalConfig)
