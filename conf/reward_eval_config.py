"""The schema of `rl-exp reward-eval`: a policy, a task, and the reward models to evaluate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hydra.core.config_store import ConfigStore

from conf.limits import limited
from conf.reward_config import named_reward
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

    rewards: list[str] = limited(list(DEFAULT_REWARDS), items=1, distinct=True)  # names of conf/reward/
    resamples: int = limited(1000, at_least=1)  # of prompts, for the intervals
    # smallest reward error that has a category, in std within a prompt
    error_tolerance: float = limited(0.25, at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.rewards:
            named_reward(name)
        if self.probe.prompts < 2:
            raise ValueError(
                f"probe.prompts={self.probe.prompts}: must be at least 2 here, as intervals are taken over prompts"
            )

    def input_files(self) -> list[Path]:
        """Those of policy and task, and of the reward models."""
        return [*super().input_files(), *self.reward_files(self.rewards)]


ConfigStore.instance().store(name="reward_eval_schema", node=RewardEvalConfig)
