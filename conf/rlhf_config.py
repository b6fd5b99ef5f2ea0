"""The schema of `rl-exp rlhf` and `rl-exp rlhf-sweep`: a policy, a task, a reward model, an algorithm.

The settings of the policy are those of `rl-exp train`: the policy is the model that this command makes of them, made
when it is missing. `policy.path` names another one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hydra.core.config_store import ConfigStore

from conf.policy_gradient_config import PolicyGradientConfig
from conf.reward_config import RewardConfig
from conf.task_config import TaskConfig
from conf.train_config import TrainConfig


@dataclass
class PolicyConfig:
    """The policy at the start, which is also the reference policy."""

    path: str | None = None  # a folder or hub name of a transformers causal language model; null: made by `train`
    seed: int = 0  # of `rl-exp train`; `seed` itself is that of the policy-gradient run


@dataclass
class ProbeConfig:
    """Fixed prompts on which reward models are looked at: rollouts of the initial policy, kept as an artifact."""

    prompts: int = 64
    samples: int = 10  # per prompt: 45 pairs (good-teacher paper, appendix F.1)


@dataclass
class RlhfConfig(TrainConfig):
    """`rl-exp rlhf`: one policy-gradient run."""

    policy: PolicyConfig = field(default_factory=PolicyConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    other_rewards: list[str] = field(default_factory=list)  # names of conf/reward/: logged at weight zero
    policy_gradient: PolicyGradientConfig = field(default_factory=PolicyGradientConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)


ConfigStore.instance().store(name="rlhf_schema", node=RlhfConfig)
