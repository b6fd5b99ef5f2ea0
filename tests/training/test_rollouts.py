"""Rollouts of both samplers carry exact log-probabilities, depend on seeds alone, and survive being stored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from experiments.data.tokenizer import PlainBytes
from experiments.models.configuration import RlExpConfig
from experiments.models.transformer import build_model
from experiments.runs.artifacts import ArtifactStore
from experiments.tasks.task import Prompt
from experiments.training.log_probabilities import token_log_probabilities
from experiments.training.probe import probe_prompts, stored_probe
from experiments.training.rollouts import EngineSampler, GenerateSampler, padded

TOKENIZER = PlainBytes().make(None)
VOCABULARY = len(TOKENIZER)
STOP = (ord("e"),)
PROMPTS = [Prompt(i, text, tuple(text.encode())) for i, text in enumerate(["In the", "God", "A man of"])]


class Length:
    """A task whose ground truth is the number of tokens."""

    name = "length"
    prompts = PROMPTS
    max_new_tokens = 9
    stop_tokens = STOP

    def recipe(self):
        return {"task": "length"}

    def score(self, prompts, texts, tokens):
        values = np.array([float(len(row)) for row in tokens])
        return values, {"half": values / 2}


def our_model():
    config = RlExpConfig(
        attention="gla", hidden_size=32, layers=2, query_heads=4, head_dim=8, vocab_size=VOCABULARY, feed_forward_dim=48
    )
    return build_model(config, torch.Generator().manual_seed(0)).eval()


def llama():
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    # What a model's own generation settings say must not reach the rollouts.
    model.generation_config.top_k = 1
    model.generation_config.do_sample = False
    return model


def samplers():
    return {
        "engine": (
            EngineSampler(our_model(), TOKENIZER, longest_prompt=8, max_new_tokens=9, stop_tokens=STOP),
            our_model(),
        ),
        "generate": (GenerateSampler(llama(), TOKENIZER, max_new_tokens=9, stop_tokens=STOP, batch_size=5), llama()),
    }


@pytest.mark.parametrize("kind", ["engine", "generate"])
def test_log_probabilities_are_those_of_the_distribution_that_drew(kind):
    sampler, model = samplers()[kind]
    rollouts = sampler.sample(PROMPTS, 4, seed=3, temperature=0.7)
    for row, prompt in enumerate(rollouts.prompts):
        text = torch.tensor([[*prompt.tokens, *rollouts.tokens[row]]])
        with torch.no_grad():
            logits = (model(text).logits[0].double() / 0.7).log_softmax(-1)
        true = logits[len(prompt.tokens) - 1 : -1].gather(1, text[0, len(prompt.tokens) :, None])[:, 0]
        np.testing.assert_allclose(rollouts.log_probabilities[row], true.numpy(), atol=2e-5)


@pytest.mark.parametrize("kind", ["engine", "generate"])
def test_completions_end_at_the_first_stop_token_or_at_their_allowance(kind):
    sampler, _ = samplers()[kind]
    rollouts = sampler.sample(PROMPTS, 40, seed=1)
    assert len(rollouts) == 120
    assert [prompt.index for prompt in rollouts.prompts[::40]] == [0, 1, 2]
    for tokens, finished in zip(rollouts.tokens, rollouts.finished, strict=True):
        assert (tokens[-1] in STOP) == finished
        assert not set(tokens[:-1]) & set(STOP)
        assert finished or len(tokens) == 9
    assert rollouts.finished.any()
    assert len(set(rollouts.tokens)) > 100  # drawn, not greedy


@pytest.mark.parametrize("kind", ["engine", "generate"])
def test_equal_seeds_draw_equal_completions_and_others_do_not(kind):
    sampler, _ = samplers()[kind]
    first, again, other = (sampler.sample(PROMPTS, 3, seed=seed).tokens for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_a_prompts_noise_does_not_depend_on_its_neighbours():
    sampler, _ = samplers()["engine"]
    together = sampler.sample(PROMPTS, 2, seed=5).tokens
    alone = sampler.sample(PROMPTS[1:2], 2, seed=5).tokens
    assert together[2:4] == alone


@pytest.mark.parametrize("model", [our_model(), llama()], ids=["ours", "transformers"])
def test_log_probabilities_with_and_without_gradients_agree_on_ragged_rows(model):
    prompts, completions = [(1, 2, 3), (4,), (5, 6)], [(7, 8), (9, 10, 11, 12), (13,)]
    with torch.no_grad():
        plain = token_log_probabilities(model, prompts, completions)
    graph = token_log_probabilities(model, prompts, completions)
    assert graph.requires_grad
    torch.testing.assert_close(plain, graph.detach(), atol=1e-5, rtol=0)
    assert plain.shape == (3, 4)
    assert bool((plain[0, 2:] == 0).all())
    assert bool((plain[1] < 0).all())


def test_stored_probe_rollouts_come_back_as_they_were_and_are_drawn_once(tmp_path):
    sampler, _ = samplers()["engine"]
    task, draws = Length(), []

    def draw():
        draws.append(sampler.sample(probe_prompts(task, 2), 3, seed=1))
        return draws[-1]

    store = ArtifactStore(tmp_path)
    first, second = (stored_probe(store, {"policy": "x"}, task, 3, draw) for _ in range(2))
    assert len(draws) == 1
    for probe in (first, second):
        assert probe.rollouts.tokens == draws[0].tokens
        assert probe.rollouts.log_probabilities == draws[0].log_probabilities
        assert probe.rollouts.prompts == draws[0].prompts
        assert probe.ground_truth.shape == (2, 3)
        np.testing.assert_array_equal(probe.outputs.parts["half"] * 2, probe.outputs.ground_truth)
        np.testing.assert_allclose(probe.log_probabilities.ravel(), draws[0].sequence_log_probabilities)


def test_more_probe_prompts_than_prompts_is_a_mistake_that_names_both():
    with pytest.raises(ValueError, match="probe.prompts=4, but the task has 3"):
        probe_prompts(Length(), 4)


@pytest.mark.parametrize("kind", ["engine", "generate"])
def test_the_update_scores_completions_as_they_were_drawn_at_any_temperature(kind):
    """So the ratio of the first minibatch is 1."""
    sampler, model = samplers()[kind]
    rollouts = sampler.sample(PROMPTS, 4, seed=3, temperature=0.6)
    prompts = [prompt.tokens for prompt in rollouts.prompts]
    scored = token_log_probabilities(model, prompts, rollouts.tokens, temperature=0.6)
    np.testing.assert_allclose((scored.detach() - padded(rollouts.log_probabilities)).exp(), 1, atol=1e-5)


@pytest.mark.parametrize("kind", ["engine", "generate"])
def test_a_prompt_that_stands_twice_in_a_step_has_other_completions_the_second_time(kind):
    sampler, _ = samplers()[kind]
    once, twice = (sampler.sample(PROMPTS[:1] * times, 3, seed=3).tokens for times in (1, 2))
    assert set(twice[3:]).isdisjoint(twice[:3])
    assert kind == "generate" or twice[:3] == once


POISON = {
    "repetition_penalty": {"repetition_penalty": 3.0},
    "min_p": {"min_p": 0.9},
    "suppress_tokens": {"suppress_tokens": list(range(0, VOCABULARY, 2))},
    "no_repeat_ngram_size": {"no_repeat_ngram_size": 1},
}


@pytest.mark.parametrize("name", POISON)
def test_samples_have_the_distribution_of_the_policy_whatever_its_generation_config_says(name):
    model = llama()
    with torch.no_grad():
        model.lm_head.weight.mul_(20)  # far from uniform: a few tokens have most of the mass
        expected = model(torch.tensor([PROMPTS[0].tokens])).logits[0, -1].softmax(-1).numpy()
    for key, value in POISON[name].items():
        setattr(model.generation_config, key, value)
    own = model.generation_config
    sampler = GenerateSampler(model, TOKENIZER, max_new_tokens=1, stop_tokens=STOP, batch_size=2000)
    drawn = [row[0] for row in sampler.sample(PROMPTS[:1], 2000, seed=0).tokens]
    found = np.bincount(drawn, minlength=VOCABULARY) / len(drawn)
    assert np.abs(found - expected).sum() / 2 < 0.17
    assert model.generation_config is own, "it is saved with the model as it came"
