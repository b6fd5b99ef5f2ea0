"""From configurations to reward models that score: set up on the probe rollouts, trained or loaded, made once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from conf.reward_config import OffPolicy, RewardConfig, RewardFamily, named_reward
from conf.rlhf_config import PolicyTaskConfig
from experiments.prepare import PreparedPolicy
from experiments.prepare_task import prepare_text
from experiments.rewards.ensemble import Ensemble
from experiments.rewards.families import synthetic_reward
from experiments.rewards.hub_reward import HubReward, SequenceClassifierScorer
from experiments.rewards.normalisation import Normaliser
from experiments.rewards.prompt_constants import with_prompt_spread
from experiments.rewards.reward import Reward, checked
from experiments.rewards.trained import TrainedReward
from experiments.runs.run import Run
from experiments.tasks.task import Floats, Outputs, Task
from experiments.training.completion_sources import (
    CompletionSource,
    CorpusContinuations,
    DatasetPairs,
    PolicySamples,
    UniformTokens,
)
from experiments.training.preference_pairs import stored_preference_pairs
from experiments.training.probe import Probe
from experiments.training.reward_model import stored_reward_model

HOT_TEMPERATURE = 1.5  # of off-policy pairs that the policy itself hardly draws


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
    config: PolicyTaskConfig,
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
        scores = probe.by_prompt(checked(reward, probe.outputs))
        normaliser = Normaliser.fitted(settings.normalisation.value, scores)
        facts = {"name": settings.name, "family": settings.family.value, **getattr(reward, "facts", {})}
        prepared.append(PreparedReward(settings.name, reward, normaliser, facts | normaliser.facts()))
    return prepared


def _reward(
    settings: RewardConfig, config: PolicyTaskConfig, run: Run, policy: PreparedPolicy, task: Task, probe: Probe
) -> Reward:
    """The reward model of any family, with its constants per prompt."""
    family = settings.family
    reward: Reward
    if family is RewardFamily.trained:
        reward = _trained_reward(settings, config, run, policy, task)
    elif family is RewardFamily.ensemble:
        members = [_reward(named_reward(name), config, run, policy, task, probe) for name in settings.ensemble.members]
        combination = settings.ensemble.combination.value
        reward = Ensemble(settings.name, members, probe.outputs, probe.samples, combination=combination)
    elif family is RewardFamily.hub:
        scorer = SequenceClassifierScorer(**settings.family_settings(), device=policy.model.device)
        reward = HubReward(settings.name, scorer)
    else:
        spread = getattr(task, "spread", None)
        reward = synthetic_reward(
            family.value,
            settings.name,
            settings.family_settings(),
            probe.outputs,
            probe.samples,
            settings.seed,
            constants=None if spread is None else spread.constants,
        )
    return with_prompt_spread(
        reward,
        probe.outputs,
        probe.samples,
        spread=settings.prompt_spread,
        target_variance=settings.target_variance,
        seed=settings.seed,
    )


def _trained_reward(
    settings: RewardConfig, config: PolicyTaskConfig, run: Run, policy: PreparedPolicy, task: Task
) -> TrainedReward:
    """A Bradley-Terry reward model on pairs of this policy and task; pairs and model are artifacts."""
    trained = settings.trained
    run.console.print(
        f"[bold]reward[/]    {settings.name}: preference pairs and Bradley-Terry training", highlight=False
    )
    pairs, made_of = stored_preference_pairs(
        run.artifacts,
        task,
        task.prompts,
        policy.tokenizer,
        policy_address=policy.address,
        on_policy=PolicySamples(policy.initial_sampler(task)),
        off_policy=off_policy_source(trained.off_policy, config, run, policy, task),
        pairs=trained.pairs,
        on_policy_share=trained.on_policy_share,
        label_noise=trained.label_noise,
        seed=settings.seed,
    )
    model, artifact = stored_reward_model(
        run.artifacts,
        policy.reference,
        policy.tokenizer,
        pairs,
        pairs_address=made_of.address,
        policy_address=policy.address,
        layers=trained.layers,
        epochs=trained.epochs,
        batch_size=trained.batch_size,
        learning_rate=trained.learning_rate,
        centre_coefficient=trained.centre_coefficient,
        seed=settings.seed,
    )
    return TrainedReward(settings.name, model, {**made_of.facts, **artifact.facts, "artifact": artifact.address})


def off_policy_source(
    source: OffPolicy, config: PolicyTaskConfig, run: Run, policy: PreparedPolicy, task: Task
) -> CompletionSource:
    """Where completions come from that the policy hardly draws."""
    if source is OffPolicy.dataset:
        return DatasetPairs(policy.tokenizer, task.max_new_tokens, policy.tokenizer.eos_token_id)
    if source is OffPolicy.hot:
        return PolicySamples(policy.initial_sampler(task), temperature=HOT_TEMPERATURE)
    if source is OffPolicy.uniform:
        special = set(policy.tokenizer.all_special_ids)
        tokens = [token for token in range(len(policy.tokenizer)) if token not in special]
        return UniformTokens(tokens, task.max_new_tokens, task.stop_tokens)
    text = prepare_text(config, run)
    return CorpusContinuations.read(text.train, text.tokenizer, task, tokenizer=policy.tokenizer)
