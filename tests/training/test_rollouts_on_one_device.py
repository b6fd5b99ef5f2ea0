"""What a policy-gradient run does, on a device that is none: no tensor strays, and the numbers are those of the CPU."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from preference_cases import VOCABULARY, CountingTask, NumbersAsText, RandomPolicy
from pretend_device import PretendDevice, inner, pretend_attend

from experiments.decoding import model_step
from experiments.models.configuration import RlExpConfig
from experiments.models.transformer import build_model
from experiments.rewards.trained import TrainedReward
from experiments.training.advantages import advantages
from experiments.training.completion_sources import PolicySamples, UniformTokens
from experiments.training.log_probabilities import score_completions
from experiments.training.policy_gradient_step import PolicyGradientBatch, update_policy
from experiments.training.preference_pairs import make_preference_pairs
from experiments.training.reward_model import initial_reward_model, train_reward_model
from experiments.training.rollouts import EngineSampler

TASK = CountingTask()
KL = {"kl_estimator": "k2", "kl_coefficient": 0.1}


def policy(attention):
    sizes = {"hidden_size": 32, "layers": 2, "query_heads": 4, "head_dim": 8, "feed_forward_dim": 48}
    # Untied: parameters of a wrapped kind are moved one by one, and would no longer be shared.
    config = RlExpConfig(attention=attention, vocab_size=VOCABULARY, tie_word_embeddings=False, **sizes)
    return build_model(config, torch.Generator().manual_seed(0)).requires_grad_()


@pytest.fixture
def pretend_kernel(monkeypatch):
    monkeypatch.setattr(model_step, "attend", pretend_attend)


def two_steps(model):
    """Rollouts, log-probabilities under the reference, two updates with a KL in the loss; what came of it."""
    reference = copy.deepcopy(model).eval().requires_grad_(False)
    options = {"longest_prompt": 2, "max_new_tokens": TASK.max_new_tokens, "stop_tokens": TASK.stop_tokens}
    sampler = EngineSampler(model, NumbersAsText(), batch_size=6, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)  # torch's fused ones know no such device
    said = []
    for step in range(2):
        rollouts = sampler.sample(TASK.prompts[:3], 4, seed=step)
        prompts = [prompt.tokens for prompt in rollouts.prompts]
        old = torch.zeros(len(rollouts), TASK.max_new_tokens)
        for row, values in enumerate(rollouts.log_probabilities):
            old[row, : len(values)] = torch.tensor(values)
        old = old[:, : max(map(len, rollouts.tokens))]
        rewards = torch.from_numpy(rollouts.outputs(TASK).ground_truth).view(3, 4)
        scores = score_completions(reference, prompts, rollouts.tokens)
        batch = PolicyGradientBatch(prompts, rollouts.tokens, old, advantages(rewards, "rloo").flatten(), scores)
        generator = np.random.default_rng(step)
        said.append((rollouts.tokens, update_policy(model, optimizer, batch, generator=generator, minibatches=2, **KL)))
    return said


@pytest.mark.parametrize("attention", ["gqa", "gta", "gla", "tied_key_value"])
def test_rollouts_and_updates_keep_to_the_device_and_compute_the_same(attention, pretend_kernel):
    on_cpu = policy(attention)
    expected = two_steps(on_cpu)
    with PretendDevice() as device:
        model = policy(attention).to(device.name)
        found = two_steps(model)
        assert {parameter.device.type for parameter in model.parameters()} == {device.name}
    for (tokens, statistics), (expected_tokens, expected_statistics) in zip(found, expected, strict=True):
        assert tokens == expected_tokens
        for name, value in dataclasses.asdict(expected_statistics).items():
            assert getattr(statistics, name) == pytest.approx(value, rel=1e-3, abs=1e-5), name
    for mine, theirs in zip(model.parameters(), on_cpu.parameters(), strict=True):
        torch.testing.assert_close(inner(mine), theirs.detach(), rtol=1e-4, atol=1e-6)


def test_a_reward_model_is_trained_and_scores_on_the_device(monkeypatch):
    pairs = make_preference_pairs(
        TASK,
        TASK.prompts,
        NumbersAsText(),
        on_policy=PolicySamples(RandomPolicy()),
        off_policy=UniformTokens(range(30), TASK.max_new_tokens, TASK.stop_tokens),
        pairs=48,
        on_policy_share=0.5,
        label_noise=0.0,
        seed=0,
    )
    outputs = RandomPolicy().sample(TASK.prompts[:8], 2, seed=5).outputs(TASK)
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda parameters, lr, fused: adam(parameters, lr=lr, foreach=False))
    options = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3, "centre_coefficient": 0.01, "seed": 0}

    def trained(model):
        reward_model = initial_reward_model(model, NumbersAsText(), layers=1, seed=0)
        history = train_reward_model(reward_model, pairs, **options)
        return history, TrainedReward("trained", reward_model)(outputs)

    expected_history, expected = trained(policy("gqa"))
    with PretendDevice() as device:
        history, scores = trained(policy("gqa").to(device.name))
    assert len(history) == len(expected_history) > 2
    assert history[-1]["train/loss"] == pytest.approx(expected_history[-1]["train/loss"], rel=1e-4)
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-4)
