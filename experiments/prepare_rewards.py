"""From configurations to reward models that score: set up on the probe rollouts, trained or loaded, made once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from conf.reward_config import RewardConfig, named_reward
from conf.rlhf_config import RlhfConfig
from experiments.prepare import PreparedPolicy
from experiments.rewards.families import synthetic_reward
from experiments.rewards.normalisation import Normaliser
from experiments.rewards.prompt_constants import with_prompt_spread
from experiments.rewards.reward import Reward, checked
from experiments.runs.run import Run
from experiments.tasks.task import Floats, Outputs, Task
from experiments.training.probe import Probe


@dataclass(frozen=True)
class PreparedReward:
    """A reward model, ready to score, with the normalisation under which it trains a policy."""

    name: str
    reward: Reward
    normaliser: Normaliser
    facts: dict[str, Any]  # for the manifest

    def __call__(self, outputs: Outputs) -> Floats:
        """Rewards [n] as the reward model gives them."""
        return checked(self.reward, outputs)

    def normalised(self, raw: Floats, outputs: Outputs) -> Floats:
        """What trains the policy, [n]: `raw` are its own scores of the rows."""
        return self.normaliser(raw, outputs)


def prepare_rewards(
    rewards: Sequence[RewardConfig | str],
    config: RlhfConfig,
    run: Run,
    policy: PreparedPolicy,
    task: Task,
    probe: Probe,
) -> list[PreparedReward]:
    """Reward models in the order given; names are read from conf/reward/."""
    prepared = []
    for entry in rewards:
        settings = named_reward(entry) if isinstance(entry, str) else entry
        reward = _reward(settings, config, run, policy, task, probe)
        reward = with_prompt_spread(
            reward,
            probe.outputs,
            probe.samples,
            spread=settings.prompt_spread,
            target_variance=settings.target_variance,
            seed=settings.seed,
        )
        scores = probe.by_prompt(checked(reward, probe.outputs))
        normaliser = Normaliser.fitted(settings.normalisation.value, scores)
        facts = {"name": settings.name, "family": settings.family.value, **getattr(reward, "facts", {})}
        prepared.append(PreparedReward(settings.name, reward, normaliser, facts | normaliser.facts()))
    return prepared


def _reward(
    settings: RewardConfig, config: RlhfConfig, run: Run, policy: PreparedPolicy, task: Task, probe: Probe
) -> Reward:
    return synthetic_reward(
        settings.family.value, settings.name, settings.family_settings(), probe.outputs, probe.samples, settings.seed
    )
