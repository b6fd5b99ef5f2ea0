"""Normalisation gives what it says, and leaves out what it cannot do."""

from __future__ import annotations

import numpy as np
import pytest
from made_up_outputs import SAMPLES

from experiments.rewards.normalisation import Normalisation, Normaliser


def test_the_global_std_makes_the_probe_standard(probe):
    rewards = 3.0 + 7.0 * probe.ground_truth
    normalised = Normaliser.fitted(Normalisation.global_std, rewards.reshape(-1, SAMPLES))(rewards, probe)
    assert normalised.mean() == pytest.approx(0.0, abs=1e-12)
    assert normalised.std(ddof=1) == pytest.approx(1.0)


def test_the_within_prompt_std_makes_the_mean_variance_within_prompts_one(probe):
    rewards = 5.0 * probe.ground_truth + np.repeat(np.arange(64.0), SAMPLES)
    normalised = Normaliser.fitted(Normalisation.within_prompt_std, rewards.reshape(-1, SAMPLES))(rewards, probe)
    assert normalised.reshape(-1, SAMPLES).var(axis=1, ddof=1).mean() == pytest.approx(1.0)
    assert normalised.std() > 2


def test_each_prompt_is_standard_on_its_own_in_any_order_of_rows(probe):
    order = np.random.default_rng(1).permutation(len(probe))
    normaliser = Normaliser.fitted(Normalisation.per_prompt, probe.ground_truth.reshape(-1, SAMPLES))
    normalised = normaliser(probe.ground_truth[order], probe.take(order))
    by_prompt = normalised[np.argsort(order)].reshape(-1, SAMPLES)
    np.testing.assert_allclose(by_prompt.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(by_prompt.std(axis=1, ddof=1), 1)


def test_one_output_of_a_prompt_cannot_be_normalised_within_it(probe):
    normaliser = Normaliser.fitted(Normalisation.per_prompt, probe.ground_truth.reshape(-1, SAMPLES))
    with pytest.raises(ValueError, match="group_size"):
        normaliser(probe.ground_truth[:1], probe.take([0]))


def test_batch_whitening_looks_at_the_rows_at_hand_only(probe):
    normaliser = Normaliser.fitted(Normalisation.batch, probe.ground_truth.reshape(-1, SAMPLES))
    rows = probe.take(range(30))
    normalised = normaliser(rows.ground_truth * 100, rows)
    assert (normalised.mean(), normalised.std(ddof=1)) == (pytest.approx(0, abs=1e-12), pytest.approx(1))


def test_none_changes_nothing(probe):
    normaliser = Normaliser.fitted(Normalisation.none, probe.ground_truth.reshape(-1, SAMPLES))
    np.testing.assert_array_equal(normaliser(probe.ground_truth, probe), probe.ground_truth)


@pytest.mark.parametrize("kind", [kind for kind in Normalisation if kind != "none"])
def test_constant_rewards_become_zero_and_not_noise(kind, probe):
    rewards = np.full(len(probe), 0.1) + 1e-17 * np.arange(len(probe))
    normalised = Normaliser.fitted(kind, rewards.reshape(-1, SAMPLES))(rewards, probe)
    np.testing.assert_allclose(normalised, 0, atol=1e-12)
