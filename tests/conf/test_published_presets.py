"""Presets at the papers' own size have the published hyper-parameters."""

import pytest

from conf.commands import COMMANDS
from conf.compose import hydra_settings, plan_jobs
from conf.reward_config import named_reward


def job_of(preset, *overrides):
    """One job of the sweep."""
    ((job,), _) = plan_jobs(COMMANDS["rlhf-sweep"], [f"preset={preset}", *overrides], multirun=False)
    return job.settings


def test_the_good_teacher_papers_settings():
    job = job_of("published_good_teacher", "reward=on_policy_50")  # which has settings of its own for tiny policies
    rl, rewards = job.policy_gradient, job.reward_training
    assert (rl.advantage, rl.group_size, rl.prompts_per_step, rl.minibatches, rl.epochs) == ("rloo", 2, 32, 2, 1)
    assert (rl.learning_rate, rl.kl_coefficient, rl.kl_place, rl.steps) == (1e-7, 0.05, "reward", 777)
    assert rl.learning_rate_at(0) == rl.learning_rate_at(776) == 1e-7
    assert (rewards.pairs, rewards.epochs, rewards.batch_size, rewards.learning_rate) == (33135, 1, 32, 5e-7)
    assert (job.reward.trained.centre_coefficient, job.reward.trained.off_policy) == (0.01, "dataset")
    assert job.reward.target_variance is None
    assert (job.task.prompts, job.task.max_new_tokens, job.probe.prompts, job.probe.samples) == (8284, 512, 500, 10)


def test_the_imperfect_rewards_papers_settings():
    axes = hydra_settings(COMMANDS["rlhf-sweep"], ["preset=published_imperfect_rewards"]).sweeper.params
    rewards, policies = axes["reward"].split(","), axes["policy.path"].split(",")
    assert (len(rewards), len(policies)) == (13, 4)
    assert all(named_reward(name).family == "hub" for name in rewards)
    job = job_of("published_imperfect_rewards", f"reward={rewards[0]}", f"policy.path={policies[0]}")
    assert job.reward.normalisation == "batch"
    rl = job.policy_gradient
    assert (rl.advantage, rl.group_size, rl.prompts_per_step, rl.minibatches) == ("rloo", 4, 8, 1)
    assert (rl.learning_rate, rl.kl_coefficient, rl.steps, rl.sequence_ratio) == (1e-7, 0.01, 2452, True)


def test_the_partial_credit_settings_with_warm_up_and_linear_decay():
    rl = job_of("published_partial_credit", "reward=partial_credit").policy_gradient
    assert (rl.advantage, rl.loss_denominator, rl.prompts_per_step, rl.group_size) == ("grpo", "tokens", 16, 96)
    assert (rl.steps, rl.kl_coefficient, rl.kl_place) == (2000, 0.0, "none")
    assert (rl.learning_rate_at(0), rl.learning_rate_at(30), rl.learning_rate_at(60)) == (0.0, 5e-7, 1e-6)
    assert rl.learning_rate_at(1999) == pytest.approx(1e-6 / 1940)
