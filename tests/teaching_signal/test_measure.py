"""Signals of small transformers against their definitions, written out with every score in memory."""

import itertools
import math

import numpy as np
import pytest
import torch
from signal_cases import autograd_scores, our_policy, probe

from experiments.reward_metrics.properties import SIGNALS
from experiments.reward_metrics.variance import RewardScale, globally_normalised
from experiments.teaching_signal import measure
from experiments.teaching_signal.estimates import estimate_signals
from experiments.teaching_signal.measure import measure_signals, prompts_at_once
from experiments.training.advantages import advantages

PROMPTS, SAMPLES = 5, 3
NAMES = ("first", "second")


def by_definition(scores, weights):
    """Signals from scores [P, N, D] and advantages [3, P, N], product by product over pairs of different prompts."""
    gradients = (weights[..., None] * scores).mean(2)  # [3, P, D]
    prompts = len(scores)
    pairs = list(itertools.permutations(range(prompts), 2))
    metric = 1 / scores.square().mean((0, 1)).sqrt()

    def product(a, b, scale):
        return sum(float((gradients[a, p] * scale) @ gradients[b, q]) for p, q in pairs) / len(pairs)

    def fisher(a, scale):
        others = (gradients[a].sum(0) - gradients[a]) / (prompts - 1) * scale  # [P, D]
        return float((scores @ others[..., None]).square().mean())

    rows = []
    for k in range(2):
        learning, teaching, true = product(k, k, 1.0), product(k, 2, 1.0), product(2, 2, 1.0)
        rows.append(
            {
                "learning_signal": learning,
                "teaching_signal": teaching,
                "signal_cosine": teaching / math.sqrt(learning * true) if min(learning, true) > 0 else math.nan,
                "teaching_signal_per_root_kl": teaching / math.sqrt(fisher(k, 1.0)),
                "teaching_signal_per_root_kl_adam": product(k, 2, metric) / math.sqrt(fisher(k, metric)),
                "learnable_variance": np.sign(learning) * learning**2 / fisher(k, 1.0),
            }
        )
    return rows


def case(seed=0):
    model = our_policy("gqa")
    prompts, completions, rewards, truth = probe(PROMPTS, SAMPLES, seed)
    scores = autograd_scores(model.eval(), prompts, completions).double().view(PROMPTS, SAMPLES, -1)
    return model, prompts, completions, rewards, truth, scores


@pytest.mark.parametrize("advantage", ["rloo", "grpo"])
@pytest.mark.parametrize("scale", [RewardScale.none, RewardScale.global_std])
def test_signals_are_what_their_definitions_say(advantage, scale, monkeypatch):
    monkeypatch.setattr(measure, "TOKENS_AT_ONCE", 60)  # several forward passes
    model, prompts, completions, rewards, truth, scores = case()
    signals = measure_signals(
        model, prompts, completions, rewards, truth, names=NAMES, advantage=advantage, scale=scale
    )
    values = torch.from_numpy(np.concatenate([rewards, truth[None]]))
    values = globally_normalised(values) if scale is RewardScale.global_std else values
    wanted = by_definition(scores, torch.stack([advantages(value, advantage) for value in values]))
    assert set(signals.values) == set(SIGNALS)
    for k, row in enumerate(wanted):
        assert {name: signals.values[name][k] for name in row} == pytest.approx(row, rel=2e-3, abs=1e-5, nan_ok=True)


def test_the_jackknife_leaves_out_one_prompt_exactly():
    model, prompts, completions, rewards, truth, scores = case()
    signals = measure_signals(model, prompts, completions, rewards, truth, names=NAMES, scale=RewardScale.none)
    weights = torch.stack([advantages(torch.from_numpy(value), "rloo") for value in (*rewards, truth)])
    for left_out in range(PROMPTS):
        kept = [prompt for prompt in range(PROMPTS) if prompt != left_out]
        wanted = by_definition(scores[kept], weights[:, kept])
        for name in ("learning_signal", "teaching_signal", "signal_cosine"):
            found = signals.without[name][left_out]
            assert found == pytest.approx([row[name] for row in wanted], rel=2e-3, abs=1e-4, nan_ok=True)


def test_signals_do_not_see_a_function_of_the_prompt_and_are_quadratic_in_scale():
    model, prompts, completions, rewards, truth, _ = case()

    def signals(scores):
        return measure_signals(model, prompts, completions, scores, truth, names=NAMES, scale=RewardScale.none).values

    shift = np.random.default_rng(1).normal(size=(PROMPTS, 1)) * 5
    plain, shifted, scaled = signals(rewards), signals(rewards + shift), signals(3 * rewards)
    powers = dict.fromkeys(SIGNALS, 0) | {"learning_signal": 2, "learnable_variance": 2, "teaching_signal": 1}
    for name, power in powers.items():
        np.testing.assert_allclose(shifted[name], plain[name], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(scaled[name], 3**power * plain[name], rtol=1e-3, atol=1e-5)


def test_a_reward_model_that_is_the_truth_has_cosine_1():
    model, prompts, completions, _, _, _ = case()
    # Completions that begin with small tokens are better, for every prompt: a signal that all prompts share.
    truth = -np.array([completion[0] for completion in completions], dtype=float).reshape(PROMPTS, SAMPLES)
    signals = measure_signals(model, prompts, completions, truth[None], truth, names=["truth"])
    assert signals.values["signal_cosine"][0] == pytest.approx(1.0)
    assert signals.values["teaching_signal"][0] == pytest.approx(signals.values["learning_signal"][0])


def test_a_constant_reward_has_no_signal():
    model, prompts, completions, rewards, truth, _ = case()
    signals = measure_signals(model, prompts, completions, np.ones_like(rewards), truth, names=NAMES)
    for name in ("learning_signal", "teaching_signal", "teaching_signal_per_root_kl", "learnable_variance"):
        assert (signals.values[name] == 0).all()


def test_every_prompt_is_in_one_forward_pass():
    prompts, completions, *_ = probe(40, 3, seed=4)
    groups = list(prompts_at_once(prompts, completions, 3))
    assert sorted(place for group in groups for place in group) == list(range(40))


@pytest.mark.parametrize(
    ("shape", "message"),
    [((2, 2, 3), "2 prompts with 3 samples are too few"), ((2, 5, 4), "15 prompts and 15 completions do not fit")],
)
def test_what_does_not_fit_is_refused(shape, message):
    model, prompts, completions, *_ = case()
    with pytest.raises(ValueError, match=message):
        measure_signals(model, prompts, completions, np.ones(shape), np.ones(shape[1:]), names=NAMES)


def test_over_all_draws_of_an_enumerable_task_the_estimates_are_unbiased():
    """Three prompts with three outputs each, two samples: the mean over all 729 probes is the exact product."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    features = torch.randn(3, 3, 4, generator=generator, dtype=torch.float64)
    values = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)  # proxy and truth
    probabilities = logits.softmax(-1)
    scores = features - (probabilities[..., None] * features).sum(1, keepdim=True)
    means = {"learning_signal": 0.0, "teaching_signal": 0.0}
    pairs = list(itertools.product(range(3), repeat=2))
    wanted = dict.fromkeys(means, 0.0)
    for draws in itertools.product(pairs, repeat=3):
        outputs = torch.tensor(draws)
        chance = float(probabilities.gather(1, outputs).prod())
        rewards = values.gather(2, outputs.expand(2, -1, -1))
        weights = torch.stack([advantages(reward, "rloo") for reward in rewards])
        drawn = scores.gather(1, outputs[..., None].expand(-1, -1, 4))
        gradients = (weights[..., None] * drawn).mean(2)
        others = (gradients.sum(1, keepdim=True) - gradients) / 2  # [2, P, D]
        products = torch.einsum("pnd,kpd->kpn", drawn, others)
        signals = estimate_signals(["proxy"], weights.numpy(), products.numpy())
        for name in means:
            means[name] += chance * signals.values[name][0]
    by_prompt = (probabilities[None, ..., None] * values[..., None] * scores).sum(2)  # [2, P, D]
    for name, other in (("learning_signal", 0), ("teaching_signal", 1)):
        total = by_prompt[0].sum(0) @ by_prompt[other].sum(0) - (by_prompt[0] * by_prompt[other]).sum()
        wanted[name] = float(total) / 6  # prompts are fixed here, so pairs of different ones are what is estimated
    assert means == pytest.approx(wanted, rel=1e-10)
