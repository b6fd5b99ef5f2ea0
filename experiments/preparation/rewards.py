"""From configurations to reward models that score: set up on the probe rollouts, trained or loaded, made once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from conf.reward_config import OffPolicy, RewardConfig, RewardPrompts, named_reward
from experiments.preparation.probe import prepare_fitting_probe
from experiments.preparation.setup import Setup
from experiments.preparation.task import prepare_task, prepare_text
from experiments.rewards.ensemble import Ensemble
from experiments.rewards.families import RewardFamily, synthetic_reward
from experiments.rewards.hub_reward import HubReward, SequenceClassifierScorer
from experiments.rewards.prompt_constants import with_prompt_spread
from experiments.rewards.python_reward import PythonReward
from experiments.rewards.reward import Reward
from experiments.rewards.trained import TrainedReward
from experiments.tasks.task import Prompt, Task
from experiments.training.completion_sources import (
    CompletionSource,
    CorpusContinuations,
    DatasetPairs,
    PolicySamples,
    UniformTokens,
)
from experiments.training.preference_pairs import stored_preference_pairs
from experiments.training.reward_model import stored_reward_model

HOT_TEMPERATURE = 1.5  # of off-policy pairs that the policy itself hardly draws


def prepare_rewards(setup: Setup, rewards: Sequence[RewardConfig | str]) -> list[Reward]:
    """Reward models in the order given, with their normalisers; names are read from conf/reward/."""
    prepared = []
    for entry in rewards:
        settings = named_reward(entry) if isinstance(entry, str) else entry
        reward = _reward(setup, settings)
        reward.fit_normaliser(settings.normalisation, setup.probe.outputs, setup.probe.samples)
        made_of = {"name": settings.name, "family": str(settings.family)}
        reward.facts = made_of | reward.facts | reward.normaliser.facts()
        prepared.append(reward)
    return prepared


def _reward(setup: Setup, settings: RewardConfig) -> Reward:
    """The reward model of any family, with its constants per prompt."""
    family, probe, seed = settings.family, setup.probe, setup.config.seed_of(settings.seed)
    reward: Reward
    if family is RewardFamily.trained:
        reward = _trained_reward(setup, settings)
    elif family is RewardFamily.ensemble:
        members = [_reward(setup, named_reward(name)) for name in settings.ensemble.members]
        combination = settings.ensemble.combination
        reward = Ensemble(settings.name, members, probe.outputs, probe.samples, combination=combination)
    elif family is RewardFamily.hub:
        scorer = SequenceClassifierScorer(**settings.hub.values(), device=setup.policy.model.device)
        reward = HubReward(settings.name, scorer)
    elif family is RewardFamily.python:
        python, function = settings.python, settings.python.user_function()
        setup.run.keep_code(function.files())
        reward = PythonReward(
            settings.name,
            function,
            workers=python.workers,
            seconds=python.seconds,
            most_unscored=python.most_unscored,
        )
    else:
        spread = getattr(setup.task, "spread", None)
        reward = synthetic_reward(
            family,
            settings.name,
            settings.family_settings(),
            probe.outputs,
            probe.samples,
            seed,
            constants=None if spread is None else spread.constants,
        )
    if settings.target_variance is not None:
        probe = prepare_fitting_probe(setup.config, setup.run, setup.policy, setup.task)
    return with_prompt_spread(
        reward,
        probe.outputs,
        probe.samples,
        spread=settings.prompt_spread,
        target_variance=settings.target_variance,
        seed=seed,
    )


def _trained_reward(setup: Setup, settings: RewardConfig) -> TrainedReward:
    """A Bradley-Terry reward model on pairs of this policy and task; pairs and model are artifacts."""
    trained, policy, run = settings.trained, setup.policy, setup.run
    seed, general = setup.config.seed_of(settings.seed), setup.config.reward_training
    run.console.print(
        f"[bold]reward[/]    {settings.name}: preference pairs and Bradley-Terry training", highlight=False
    )
    task, prompts = _prompts_of_pairs(setup, trained.prompts)
    pairs, made_of = stored_preference_pairs(
        run.artifacts,
        task,
        prompts,
        policy.tokenizer,
        policy_address=policy.address,
        on_policy=PolicySamples(policy.initial_sampler(task)),
        off_policy=off_policy_source(setup, trained.off_policy),
        pairs=trained.pairs or general.pairs,
        held_out_pairs=general.held_out_pairs,
        on_policy_share=trained.on_policy_share,
        label_noise=trained.label_noise,
        seed=seed,
    )
    model, artifact = stored_reward_model(
        run.artifacts,
        policy.reference,
        policy.tokenizer,
        pairs,
        pairs_address=made_of.address,
        policy_address=policy.address,
        layers=trained.layers,
        attention=trained.attention,
        epochs=trained.epochs or general.epochs,
        batch_size=trained.batch_size or general.batch_size,
        learning_rate=trained.learning_rate or general.learning_rate,
        centre_coefficient=trained.centre_coefficient,
        seed=seed,
    )
    facts = {**made_of.facts, "prompt_split": str(trained.prompts)}
    return TrainedReward(settings.name, model, {**facts, **artifact.facts, "artifact": artifact.address})


def _prompts_of_pairs(setup: Setup, which: RewardPrompts) -> tuple[Task, Sequence[Prompt]]:
    """Prompts for preference pairs, and the task that scores their completions."""
    if which is RewardPrompts.shared:
        return setup.task, setup.task.prompts
    config, used = setup.config, len(setup.task.prompts)
    wider = replace(config, task=replace(config.task, prompts=2 * used))  # more prompts begin with the fewer
    try:
        task = prepare_task(wider, setup.run, setup.policy, setup.task)
    except ValueError as error:
        raise ValueError(
            f"reward models are trained on {used} prompts of their own beside task.prompts={used}, and there are not "
            f"so many ({error}): lower task.prompts, or set reward.trained.prompts=shared"
        ) from error
    return task, task.prompts[used:]


def off_policy_source(setup: Setup, source: OffPolicy) -> CompletionSource:
    """Where completions come from that the policy hardly draws."""
    policy, task = setup.policy, setup.task
    match source:
        case OffPolicy.dataset:
            return DatasetPairs(policy.tokenizer, task.max_new_tokens, policy.tokenizer.eos_token_id)
        case OffPolicy.hot:
            return PolicySamples(policy.initial_sampler(task), temperature=HOT_TEMPERATURE)
        case OffPolicy.uniform:
            special = set(policy.tokenizer.all_special_ids)
            tokens = [token for token in range(len(policy.tokenizer)) if token not in special]
            return UniformTokens(tokens, task.max_new_tokens, task.stop_tokens)
        case OffPolicy.corpus:
            text = prepare_text(setup.config, setup.run)
            return CorpusContinuations.read(text.train, text.tokenizer, task, tokenizer=policy.tokenizer)
