"""Scaled and noisy rewards, and constants per prompt, have the variance and the accuracy that they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_up_outputs import SAMPLES, made_up_outputs

from experiments.reward_metrics.accuracy import on_policy_accuracy
from experiments.reward_metrics.variance import reward_variance
from experiments.rewards.families import synthetic_reward
from experiments.rewards.low_variance import Scaled
from experiments.rewards.noisy import Noisy
from experiments.rewards.probe_statistics import kept_order
from experiments.rewards.prompt_constants import with_prompt_spread
from experiments.rewards.reward import GroundTruth


def grouped(values):
    return torch.from_numpy(np.asarray(values)).reshape(-1, SAMPLES)


def test_the_scaled_ground_truth_is_perfectly_accurate_and_has_less_variance(probe):
    reward = Scaled("low", probe, share=0.5, factor=0.001, offset=1.6, seed=3)
    truth, proxy = grouped(probe.ground_truth), grouped(reward(probe))
    assert on_policy_accuracy(proxy, truth) == 1.0
    # Half of the variance within prompts is left, and 1.6 std / 2 lie between the halves: .5 / (.5 + .64) of it.
    expected = 0.5 / (0.5 + 0.64) * reward_variance(truth)
    assert reward_variance(proxy) == pytest.approx(float(expected), rel=0.2)


def test_without_an_offset_scaling_hardly_lowers_the_normalised_variance(probe):
    reward = Scaled("low", probe, share=0.5, factor=0.001, offset=0.0, seed=3)
    assert reward_variance(grouped(reward(probe))) > 0.9


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_share_of_shrunk_prompts_is_met_among_the_first_prompts_too(share, seed, probe):
    reward = Scaled("low", probe, share=share, factor=0.0, offset=100.0, seed=seed)
    shrunk = (reward(probe).reshape(-1, SAMPLES) == 0).all(axis=1)
    assert abs(shrunk[:16].mean() - share) <= 2 / 16
    assert abs(shrunk.mean() - share) <= 2 / 64


@pytest.mark.parametrize("target", [0.9, 0.75, 0.6])
def test_noise_reaches_its_target_accuracy_on_the_probe_and_on_other_outputs(target, probe):
    reward = Noisy("noisy", probe, SAMPLES, accuracy=target, seed=1)
    assert kept_order(reward(probe), probe.ground_truth, SAMPLES) == pytest.approx(target, abs=0.005)
    others = made_up_outputs(prompts=200, seed=9)
    assert kept_order(reward(others), others.ground_truth, SAMPLES) == pytest.approx(target, abs=0.03)


def test_an_output_has_the_same_noise_wherever_it_comes(probe):
    reward = Noisy("noisy", probe, SAMPLES, accuracy=0.7, seed=1)
    order = np.random.default_rng(0).permutation(len(probe))
    np.testing.assert_array_equal(reward(probe.take(order)), reward(probe)[order])
    np.testing.assert_array_equal(reward(probe.take([7, 7])), reward(probe)[[7, 7]])


def test_other_seeds_make_other_noise(probe):
    a, b = (Noisy("noisy", probe, SAMPLES, accuracy=0.7, seed=seed)(probe) - probe.ground_truth for seed in (1, 2))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.2


def test_full_accuracy_is_the_ground_truth(probe):
    np.testing.assert_array_equal(Noisy("n", probe, SAMPLES, accuracy=1.0, seed=0)(probe), probe.ground_truth)


def test_a_constant_ground_truth_cannot_be_made_noisy_to_a_target():
    constant = made_up_outputs()
    constant.ground_truth[:] = 1.0
    with pytest.raises(ValueError, match="nothing|same for all"):
        Noisy("noisy", constant, SAMPLES, accuracy=0.7, seed=0)


@pytest.mark.parametrize("target", [0.63, 0.31])
def test_constants_per_prompt_bring_the_variance_to_its_target_and_leave_the_ranking(target, probe):
    reward = with_prompt_spread(GroundTruth(), probe, SAMPLES, spread=0.0, target_variance=target, seed=5)
    truth, proxy = grouped(probe.ground_truth), grouped(reward(probe))
    assert reward_variance(proxy) == pytest.approx(target, abs=1e-6)
    assert on_policy_accuracy(proxy.round(decimals=9), truth.round(decimals=9)) == 1.0


def test_spread_is_counted_in_std_within_prompts(probe):
    reward = with_prompt_spread(GroundTruth(), probe, SAMPLES, spread=2.0, target_variance=None, seed=5)
    means = reward(probe).reshape(-1, SAMPLES).mean(axis=1)
    within = np.sqrt(probe.ground_truth.reshape(-1, SAMPLES).var(axis=1, ddof=1).mean())
    assert means.std() / within == pytest.approx(2.0, rel=0.25)


def test_a_variance_below_the_target_is_left_as_it_is():
    apart = made_up_outputs()
    apart.ground_truth[:] += np.repeat(10.0 * np.arange(64), SAMPLES)
    reward = with_prompt_spread(GroundTruth(), apart, SAMPLES, spread=0.0, target_variance=0.5, seed=5)
    np.testing.assert_array_equal(reward(apart), apart.ground_truth)


def test_rewards_are_made_by_the_name_of_their_family(probe):
    reward = synthetic_reward("noisy", "arm", {"accuracy": 0.8}, probe, SAMPLES, seed=2)
    assert reward.name == "arm"
    assert reward.facts["accuracy"] == pytest.approx(0.8, abs=0.01)
    with pytest.raises(ValueError, match="hub"):
        synthetic_reward("hub", "arm", {}, probe, SAMPLES, seed=2)
