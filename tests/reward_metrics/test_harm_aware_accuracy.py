"""The eight accuracies of the imperfect-rewards paper: by hand, by property, and at the edges."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.reward_metrics.comparisons import best_against_rest, given_pairs, pairs_of_samples
from experiments.reward_metrics.evaluation import accuracies


def draws(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def on_pairs(chosen, rejected, mean, log_chosen=None, log_rejected=None):
    """Of one reward model, from the rewards of pairs [P, Q] and its mean reward [P] on samples of the policy."""
    prompts, pairs = chosen.shape
    log = np.stack([np.zeros(chosen.shape) if x is None else x for x in (log_chosen, log_rejected)], axis=-1)
    log = log.reshape(-1, 2)
    rewards = np.stack([chosen, rejected], axis=-1).reshape(1, -1, 2)
    truth = np.tile([1.0, 0.0], (prompts * pairs, 1))
    items = given_pairs(rewards, truth, log, log, np.repeat(np.arange(prompts), pairs), np.asarray(mean)[None])
    return {name: float(values[0, 0]) for name, values in accuracies(np.ones((1, prompts)), items).items()}


def one_against_many(rewards, truth, log):
    """Of one reward model, from its rewards, the ground truth and log-probabilities [P, N] of samples."""
    items = best_against_rest(rewards[None], truth, log, log)
    return {name: float(values[0, 0]) for name, values in accuracies(np.ones((1, len(truth))), items).items()}


# Two prompts, two pairs each. Right: pair 1 of prompt 1. Tied: pair 2 of prompt 1. Wrong: both of prompt 2, of which
# the second has a rejected output (1.0) below the prompt's mean proxy reward (1.5).
CHOSEN = np.array([[2.0, 1.0], [0.0, 0.5]])
REJECTED = np.array([[1.0, 1.0], [3.0, 1.0]])
MEAN = np.array([0.0, 1.5])
# Pair probabilities 1/2, 1/8, 1/8, 1/4.
CHOSEN_LOG = np.log([[0.5, 0.5], [0.25, 0.5]])
REJECTED_LOG = np.log([[1.0, 0.25], [0.5, 0.5]])


def test_pairwise_metrics_by_hand():
    found = on_pairs(CHOSEN, REJECTED, MEAN, CHOSEN_LOG, REJECTED_LOG)
    assert found["strict_accuracy"] == pytest.approx(1 / 4)
    assert found["harm_aware_accuracy"] == pytest.approx(2 / 4)
    assert found["weighted_accuracy"] == pytest.approx(1 / 2)
    assert found["weighted_harm_aware_accuracy"] == pytest.approx(3 / 4)
    assert found["comparisons"] == 4
    assert found["effective_comparisons"] == pytest.approx(1 / (1 / 4 + 1 / 64 + 1 / 64 + 1 / 16))


def test_one_against_many_by_hand():
    """Prompt 1: chosen 2 > 1 and 0. Prompt 2: chosen 1 < 1.2. Prompt 3: chosen 1 < 2."""
    rewards = np.array([[2.0, 1.0, 0.0], [1.0, 1.2, 0.0], [1.0, 2.0, 0.0]])
    truth = np.tile([1.0, 0.0, 0.0], (3, 1))
    log = np.log([[0.5, 0.5, 0.5], [0.5, 0.5, 1.0], [1.0, 1.0, 0.5]])  # joint probabilities 1/8, 1/4, 1/2
    found = one_against_many(rewards, truth, log)
    assert found["strict_accuracy"] == pytest.approx(1 / 3)
    assert found["weighted_accuracy"] == pytest.approx(1 / 7)
    assert found["comparisons"] == 3


def test_several_best_samples_are_one_comparison_weighted_too():
    """Two equally likely prompts, one right and one wrong, of which the first has three best samples."""
    rewards = np.array([[3.0, 3.0, 3.0, 0.0], [0.0, 1.0, 1.0, 1.0]])
    truth = np.array([[1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    log = np.array([[-3.0, -3.0, -3.0, -3.0], [-1.5, -1.5, -1.5, -1.5]])  # both comparisons have a joint of -6
    found = one_against_many(rewards, truth, log)
    assert found["strict_accuracy"] == pytest.approx(0.5)
    assert found["weighted_accuracy"] == pytest.approx(0.5)
    assert found["effective_comparisons"] == pytest.approx(2.0)


def test_another_best_sample_can_forgive_the_chosen_one_among_many():
    """The second best sample is overpaid: the mean, 3, lies above the rejected output, which the first is below."""
    found = one_against_many(np.array([[1.0, 6.0, 2.0]]), np.array([[1.0, 1.0, 0.0]]), np.zeros((1, 3)))
    assert found["strict_accuracy"] == pytest.approx(0.5)
    assert found["harm_aware_accuracy"] == pytest.approx(1.0)


def test_a_tie_is_an_error_and_a_constant_proxy_scores_zero():
    constant = np.full((3, 4), 0.7)
    found = on_pairs(constant, constant, np.full(3, 0.7))
    assert found["strict_accuracy"] == found["harm_aware_accuracy"] == 0


def test_one_huge_reward_buys_harm_aware_accuracy():
    """The known way to game HAcc: raise the mean with one sample, and every misranking below it is forgiven."""
    chosen, rejected = np.zeros((1, 5)), np.ones((1, 5))
    assert on_pairs(chosen, rejected, [0.5])["harm_aware_accuracy"] == 0
    assert on_pairs(chosen, rejected, [100.0])["harm_aware_accuracy"] == 1


@given(st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_harm_aware_is_never_below_plain_and_all_are_shares(seed):
    logs = (50 * draws(seed + 3, 4, 3), 50 * draws(seed + 4, 4, 3))
    pairs = on_pairs(draws(seed, 4, 3), draws(seed + 1, 4, 3), draws(seed + 2, 4), *logs)
    many = one_against_many(draws(seed, 4, 3), np.round(draws(seed + 1, 4, 3)), logs[0])
    for found in (pairs, many):
        for plain, harm_aware in (
            (found["strict_accuracy"], found["harm_aware_accuracy"]),
            (found["weighted_accuracy"], found["weighted_harm_aware_accuracy"]),
        ):
            assert 0 <= plain <= harm_aware + 1e-12 <= 1 + 2e-12


@given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(-100, 100), st.floats(-5000, 5000))
@settings(max_examples=60, deadline=None)
def test_affine_maps_of_the_rewards_a_constant_log_probability_and_order_change_nothing(seed, factor, shift, log_shift):
    chosen, rejected, mean = draws(seed, 4, 3), draws(seed + 1, 4, 3), draws(seed + 2, 4)
    logs = (draws(seed + 3, 4, 3), draws(seed + 4, 4, 3))
    found = on_pairs(chosen, rejected, mean, *logs)
    moved = on_pairs(
        factor * chosen + shift, factor * rejected + shift, factor * mean + shift, logs[0] + log_shift, logs[1]
    )
    assert moved == pytest.approx(found, abs=1e-9)
    order = np.random.default_rng(seed)
    rows, columns = order.permutation(4), order.permutation(3)
    shuffled = [values[rows][:, columns] for values in (chosen, rejected, *logs)]
    assert on_pairs(*shuffled[:2], mean[rows], *shuffled[2:]) == pytest.approx(found)
    cubed = on_pairs(chosen**3, rejected**3, mean)["strict_accuracy"]
    assert cubed == found["strict_accuracy"]


def test_equal_log_probabilities_give_the_unweighted_metrics():
    same = np.full((4, 3), -300.0)
    found = on_pairs(draws(0, 4, 3), draws(1, 4, 3), draws(2, 4), same, same)
    assert found["weighted_harm_aware_accuracy"] == pytest.approx(found["harm_aware_accuracy"])
    assert found["effective_comparisons"] == pytest.approx(12)


def test_at_hundreds_of_nats_per_output_one_pair_decides_and_per_token_it_does_not():
    log = -3000 + 300 * draws(0, 20, 5)
    items = pairs_of_samples(draws(1, 1, 20, 5), draws(2, 20, 5), log, log / 500)
    found = accuracies(np.ones((1, 20)), items)
    assert found["effective_comparisons"][0, 0] == pytest.approx(1, abs=0.2)
    assert found["length_normalised_effective_comparisons"][0, 0] > 50


def test_an_impossible_output_has_no_weight():
    found = on_pairs(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]), [0.5], np.array([[-1.0, -np.inf]]))
    assert found["weighted_accuracy"] == 1.0
    nothing = on_pairs(np.ones((1, 1)), np.zeros((1, 1)), [0.5], np.full((1, 1), -np.inf))
    assert np.isnan(nothing["weighted_accuracy"])


def test_pairs_of_samples_put_the_better_one_first_and_drop_ties():
    truth = np.array([[1.0, 3.0, 3.0]])
    items = pairs_of_samples(np.stack([truth, -truth]), truth, np.zeros((1, 3)), np.zeros((1, 3)))
    assert items.strict.tolist() == [[True, True], [False, False]]
