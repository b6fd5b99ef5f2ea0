"""Intervals and rankings from signals, on a policy whose scores are normal: every signal is then known exactly."""

import numpy as np
import pytest

from experiments.teaching_signal.estimates import estimate_signals

SAMPLES, SIZE = 4, 30


def simulated(generator, prompts, slopes, noise=1.0):
    """Signals of reward models slope * (score along w) + noise, whose ground truth is the score along w, |w| = 1.

    The gradient is slope * w, so the learning signal is slope^2 and so is the learnable variance; the teaching signal
    is slope, and 1 per root KL (F is the identity).
    """
    scores = generator.normal(size=(prompts, SAMPLES, SIZE))
    truth = scores[..., 0]
    rewards = np.array([slope * truth + noise * generator.normal(size=truth.shape) for slope in slopes] + [truth])
    rewards += 3 * generator.normal(size=(prompts, 1))  # a constant of each prompt
    advantages = (rewards - rewards.mean(-1, keepdims=True)) * SAMPLES / (SAMPLES - 1)
    gradients = np.einsum("kpn,pnd->kpd", advantages, scores) / SAMPLES
    others = (gradients.sum(1, keepdims=True) - gradients) / (prompts - 1)
    products = np.einsum("pnd,kpd->kpn", scores, others)
    return estimate_signals([str(slope) for slope in slopes], advantages, products)


def coverage(name, truth, slopes, prompts, repeats, reward_model=0):
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(repeats):
        interval = simulated(generator, prompts, slopes).interval(name, reward_model)
        hits += interval.low <= truth <= interval.high
    return hits / repeats


def test_pure_noise_has_a_learning_signal_of_0_within_its_interval():
    assert coverage("learning_signal", 0.0, [0.0], prompts=32, repeats=100) >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize("prompts", [16, 64])
@pytest.mark.parametrize("slope", [0.0, 0.2, 0.6])
@pytest.mark.parametrize("name", ["learning_signal", "teaching_signal"])
def test_intervals_cover_the_truth_as_often_as_they_say(name, slope, prompts):
    """The jackknife is a little too wide where noise dominates (its bias is upward), and never much too narrow."""
    truth = slope**2 if name == "learning_signal" else slope
    assert 0.92 <= coverage(name, truth, [slope], prompts, repeats=1000) <= 1.0


def test_with_many_prompts_all_signals_are_near_what_they_estimate():
    signals = simulated(np.random.default_rng(1), 4000, [0.5])
    wanted = {"learning_signal": 0.25, "teaching_signal": 0.5, "signal_cosine": 1.0, "learnable_variance": 0.25}
    for name, value in (wanted | {"teaching_signal_per_root_kl": 1.0}).items():
        assert signals.interval(name, 0).value == pytest.approx(value, abs=0.06), name
        assert signals.interval(name, 0).high - signals.interval(name, 0).low < 0.2


def test_the_best_teacher_is_named_and_so_is_who_cannot_be_told_from_it():
    signals = simulated(np.random.default_rng(2), 256, [0.1, 1.0, 0.97, -0.5])
    order, alike = signals.best_teachers()
    assert set(order[:2]) == {1, 2}
    assert order[2:] == [0, 3]
    assert alike == [order[1]]


def test_a_difference_of_a_reward_model_with_itself_is_exactly_0():
    difference = simulated(np.random.default_rng(3), 16, [0.3]).difference("teaching_signal", 0, 0)
    assert (difference.value, difference.low, difference.high) == (0.0, 0.0, 0.0)


def test_rows_have_every_signal_with_its_interval():
    (row,) = simulated(np.random.default_rng(4), 16, [0.5]).rows()
    assert row["learning_signal_low"] < row["learning_signal"] < row["learning_signal_high"]
    assert len(row) % 3 == 0
