"""From configurations to reward models that score: fitted, trained or loaded, each made once and shared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from conf.reward_config import RewardConfig
from conf.rlhf_config import RlhfConfig
from experiments.prepare import PreparedPolicy
from experiments.rewards.reward import GroundTruth, Reward, checked
from experiments.runs.run import Run
from experiments.tasks.task import Floats, Outputs, Task
from experiments.training.probe import Probe


@dataclass(frozen=True)
class PreparedReward:
    """A reward model, ready to score, with the normalisation under which it trains a policy."""

    name: str
    reward: Reward
    mean: float
    std: float
    facts: dict[str, Any]  # for the manifest

    def __call__(self, outputs: Outputs) -> Floats:
        """Rewards [n] as the reward model gives them."""
        return checked(self.reward, outputs)

    def normalised(self, raw: Floats, outputs: Outputs) -> Floats:
        """What trains the policy, [n]."""
        return (raw - self.mean) / self.std


def prepare_rewards(
    rewards: Sequence[RewardConfig | str],
    config: RlhfConfig,
    run: Run,
    policy: PreparedPolicy,
    task: Task,
    probe: Probe,
) -> list[PreparedReward]:
    raw = probe.outputs.ground_truth
    return [
        PreparedReward(
            "ground_truth", GroundTruth(), float(raw.mean()), float(raw.std(ddof=1)), {"name": "ground_truth"}
        )
    ]
