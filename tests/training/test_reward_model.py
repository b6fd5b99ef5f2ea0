"""Bradley-Terry training: the loss is trl's, its gradient is right, and separable pairs are learned."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from preference_cases import VOCABULARY, CountingTask, NumbersAsText, RandomPolicy
from transformers import LlamaConfig, LlamaForCausalLM

from experiments.models.configuration import RlExpConfig
from experiments.models.shapes import AttentionMechanism
from experiments.models.transformer import build_model
from experiments.rewards.trained import TrainedReward, reward_scores
from experiments.runs.artifacts import ArtifactStore
from experiments.tasks.task import outputs_of
from experiments.training.completion_sources import PolicySamples, UniformTokens
from experiments.training.preference_pairs import make_preference_pairs
from experiments.training.reward_model import (
    batches_of_similar_length,
    bradley_terry_loss,
    calibration_error,
    evaluate_reward_model,
    initial_reward_model,
    stored_reward_model,
    train_reward_model,
)

TASK = CountingTask()
TRAINING = {"epochs": 3, "batch_size": 32, "learning_rate": 3e-3, "centre_coefficient": 0.01, "seed": 0}


def nano_policy():
    config = RlExpConfig(attention="gqa", hidden_size=32, layers=2, query_heads=4, head_dim=8, vocab_size=VOCABULARY)
    return build_model(config, torch.Generator().manual_seed(0))


def nano_llama():
    config = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=64,
        vocab_size=VOCABULARY,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def pairs():
    return make_preference_pairs(
        TASK,
        TASK.prompts,
        NumbersAsText(),
        on_policy=PolicySamples(RandomPolicy()),
        off_policy=UniformTokens(range(10, 30), TASK.max_new_tokens, TASK.stop_tokens),
        pairs=512,
        on_policy_share=1.0,
        label_noise=0.0,
        seed=0,
    )


def test_the_loss_is_the_formula_of_trl():
    chosen, rejected = torch.randn(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # trl's RewardTrainer: -logsigmoid(r_c - r_r).mean(), plus the coefficient times mean((r_c + r_r) ** 2)
    expected = -F.logsigmoid(chosen - rejected).mean() + 0.3 * torch.mean((chosen + rejected) ** 2)
    torch.testing.assert_close(bradley_terry_loss(chosen, rejected, 0.3), expected)
    by_hand = np.mean([math.log1p(math.exp(r - c)) for c, r in zip(chosen.tolist(), rejected.tolist(), strict=True)])
    assert bradley_terry_loss(chosen, rejected, 0.0).item() == pytest.approx(by_hand)


def test_the_gradient_of_the_loss_is_that_of_finite_differences():
    scores = torch.randn(2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: bradley_terry_loss(s[0], s[1], 0.01), (scores,))


def test_centring_leaves_the_margin_alone_and_pulls_the_level_to_zero():
    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    chosen, rejected = torch.tensor([2.0], dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64)
    bradley_terry_loss(chosen + shift, rejected + shift, 0.01).backward()
    assert shift.grad.item() == pytest.approx(0.01 * 2 * 3 * 2)


def test_calibration_error_is_zero_for_honest_and_large_for_boastful_margins():
    generator = np.random.default_rng(0)
    margin = generator.normal(size=200_000) * 2
    confidence = 1 / (1 + np.exp(-np.abs(margin)))
    honest = np.where(generator.random(len(margin)) < confidence, np.abs(margin), -np.abs(margin))
    assert calibration_error(honest) < 0.01
    boastful = np.where(generator.random(len(margin)) < 0.5, 20.0, -20.0)
    assert calibration_error(boastful) == pytest.approx(0.5, abs=0.01)


def test_batches_hold_every_pair_once_and_little_padding(pairs):
    training = pairs.training
    ragged = replace(training, chosen=tuple(row[: 1 + i % 6] for i, row in enumerate(training.chosen)))
    ragged = replace(ragged, rejected=tuple(row[: 1 + i % 6] for i, row in enumerate(ragged.rejected)))
    lengths = np.array([len(row) for row in ragged.chosen])
    batches = batches_of_similar_length(ragged, 30, np.random.default_rng(0))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(training)))
    padded = sum(len(rows) * lengths[rows].max() for rows in batches)
    assert padded < 1.2 * lengths.sum()
    firsts = [lengths[rows].mean() for rows in batches]
    assert firsts != sorted(firsts)


def test_a_reward_model_of_another_mechanism_has_the_policys_shape_and_weights_of_its_own(pairs):
    policy = nano_policy()
    model = initial_reward_model(policy, NumbersAsText(), layers=None, seed=0, attention=AttentionMechanism.mla)
    assert model.config.attention == "mla"
    assert model.config.hidden_size == policy.config.hidden_size
    assert not torch.equal(model.decoder.embedding.weight, policy.decoder.embedding.weight)
    again = initial_reward_model(policy, NumbersAsText(), layers=None, seed=0, attention=AttentionMechanism.mla)
    assert torch.equal(model.decoder.embedding.weight, again.decoder.embedding.weight)


def test_a_reward_model_learns_what_tells_the_pairs_apart(pairs):
    model = initial_reward_model(nano_policy(), NumbersAsText(), layers=None, seed=0)
    history = train_reward_model(model, pairs, **TRAINING)
    assert history[0]["on_policy/accuracy"] < 0.75
    assert history[-1]["on_policy/accuracy"] > 0.9
    assert history[-1]["off_policy/accuracy"] > 0.9
    assert history[-1]["on_policy/margin"] > 1.0
    assert history[-1]["on_policy/loss"] < history[0]["on_policy/loss"] / 2


def test_another_architecture_of_transformers_learns_it_too(pairs):
    policy = nano_llama()
    before = policy.lm_head.weight.clone()
    model = initial_reward_model(policy, NumbersAsText(), layers=None, seed=0)
    inputs = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        torch.testing.assert_close(
            model.base_model(inputs).last_hidden_state, policy.base_model(inputs).last_hidden_state
        )
    history = train_reward_model(model, pairs, **TRAINING)
    assert history[-1]["on_policy/accuracy"] > 0.9
    assert torch.equal(policy.lm_head.weight, before)
    with pytest.raises(ValueError, match="layers"):
        initial_reward_model(policy, NumbersAsText(), layers=1, seed=0)


def test_scores_do_not_depend_on_batches_or_gradients(pairs):
    model = initial_reward_model(nano_policy(), NumbersAsText(), layers=None, seed=0)
    prompts, rows = (
        [p.tokens for p in pairs.prompts[:40]],
        [row[: 1 + i % 6] for i, row in enumerate(pairs.chosen[:40])],
    )
    with torch.no_grad():
        together = reward_scores(model, prompts, rows)
        alone = torch.cat([reward_scores(model, [p], [r]) for p, r in zip(prompts, rows, strict=True)])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(reward_scores(model, prompts, rows).detach(), together)


def test_a_stored_reward_model_is_trained_once_and_scores_as_the_trained_one(pairs, tmp_path):
    store, policy = ArtifactStore(tmp_path), nano_policy()
    names = {"pairs_address": "p", "policy_address": "q", "layers": 1}
    settings = TRAINING | {"epochs": 1}
    loaded, artifact = stored_reward_model(store, policy, NumbersAsText(), pairs, **names, **settings)
    made = (artifact.path / "artifact.json").read_text()
    again, _ = stored_reward_model(store, policy, NumbersAsText(), pairs, **names, **settings)
    assert (artifact.path / "artifact.json").read_text() == made

    trained = initial_reward_model(policy, NumbersAsText(), layers=1, seed=0)
    history = train_reward_model(trained, pairs, **settings)
    outputs = outputs_of(TASK, pairs.prompts, ["x"] * len(pairs), pairs.chosen, [False] * len(pairs))
    values = [TrainedReward("arm", model)(outputs) for model in (trained, loaded, again)]
    np.testing.assert_array_equal(values[0], values[1])
    np.testing.assert_array_equal(values[0], values[2])
    rows = [json.loads(line) for line in (artifact.path / "training.jsonl").read_text().splitlines()]
    assert rows == history
    assert artifact.facts["on_policy/accuracy"] == history[-1]["on_policy/accuracy"]
    assert evaluate_reward_model(loaded, pairs)["on_policy/accuracy"] == artifact.facts["on_policy/accuracy"]


def test_a_loss_that_explodes_is_refused_with_its_learning_rate(pairs):
    model = initial_reward_model(nano_policy(), NumbersAsText(), layers=None, seed=0)
    with pytest.raises(ValueError, match="learning_rate"):
        train_reward_model(model, pairs, **(TRAINING | {"learning_rate": 1e30}))


def test_the_policy_keeps_its_weights(pairs):
    policy = nano_policy()
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    train_reward_model(
        initial_reward_model(policy, NumbersAsText(), layers=None, seed=0), pairs, **(TRAINING | {"epochs": 1})
    )
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
