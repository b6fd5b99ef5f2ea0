"""Properties of reward models with intervals over prompts: against hand computations, the single metrics, and loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from experiments.reward_metrics.accuracy import accuracy_on_pairs, on_policy_accuracy
from experiments.reward_metrics.error_categories import RewardError
from experiments.reward_metrics.evaluation import OffPolicyPairs, error_shares, evaluate_reward_models
from experiments.reward_metrics.point_properties import point_properties
from experiments.reward_metrics.prompt_bootstrap import prompt_counts
from experiments.reward_metrics.properties import PROPERTIES
from experiments.reward_metrics.variance import reward_variance


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def probe(models: int = 3, prompts: int = 12, samples: int = 5, seed: int = 1) -> dict:
    """Rewards that follow the ground truth more or less, with ties, log-probabilities that lie tens apart."""
    draw = generator(seed)
    truth = np.round(draw.normal(size=(prompts, samples)), 1)
    noise = draw.normal(size=(models, prompts, samples)) * np.arange(models)[:, None, None]
    offset = draw.normal(size=(models, prompts, 1))
    return {
        "reward_models": [f"model {index}" for index in range(models)],
        "rewards": np.round(truth + noise + offset, 1),
        "ground_truth": truth,
        "log_probabilities": -30 * draw.random((prompts, samples)),
        "lengths": draw.integers(3, 20, size=(prompts, samples)),
    }


def off_policy(models: int = 3, prompts: int = 12, pairs: int = 12, seed: int = 2) -> OffPolicyPairs:
    draw = generator(seed)
    return OffPolicyPairs(
        rewards=np.round(draw.normal(size=(models, pairs, 2)), 1),
        ground_truth=np.round(draw.normal(size=(pairs, 2)), 1),
        log_probabilities=-30 * draw.random((pairs, 2)),
        lengths=draw.integers(3, 20, size=(pairs, 2)),
        prompt=np.arange(pairs) % prompts,
    )


def evaluated(data: dict, **settings):
    return evaluate_reward_models(**data, generator=generator(), **{"resamples": 50, **settings})


def tensors(data: dict) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(data[name]) for name in ("rewards", "ground_truth", "log_probabilities", "lengths"))


def test_the_main_properties_by_hand():
    """Two prompts of two samples. Rewards 0, 2 and 5, 5; truth 0, 1 and 1, 0; mean 3, squares 9 + 1 + 4 + 4 = 18."""
    data = {
        "reward_models": ["by hand"],
        "rewards": np.array([[[0.0, 2.0], [5.0, 5.0]]]),
        "ground_truth": np.array([[0.0, 1.0], [1.0, 0.0]]),
        "log_probabilities": np.log(np.array([[0.5, 0.5], [0.25, 0.5]])),
        "lengths": np.array([[1, 1], [2, 1]]),
    }
    pairs = OffPolicyPairs(
        rewards=np.array([[[1.0, 2.0], [1.0, 4.0]]]),
        ground_truth=np.array([[1.0, 0.0], [1.0, 0.0]]),
        log_probabilities=np.log(np.array([[0.5, 0.5], [0.5, 0.25]])),
        lengths=np.ones((2, 2), dtype=np.int64),
        prompt=np.array([0, 1]),
    )
    values = {name: value[0] for name, value in evaluated(data, off_policy=pairs).values.items()}
    within = (2 + 0) / 2
    assert values["raw_variance"] == pytest.approx(within)
    assert values["variance"] == pytest.approx(within / (18 / 3))
    assert values["zero_variance_share"] == 0.5
    assert values["on_policy_accuracy"] == 0.5  # the tie of the second prompt is wrong
    assert values["off_policy_accuracy"] == 0.0
    assert values["on_and_off_policy_accuracy"] == 0.25
    assert values["variance_and_accuracy"] == pytest.approx((1 / 6 + 0.25) / 2)
    # Covariances 1 and 0; standard deviations sqrt(18 / 3) and sqrt(1 / 3).
    assert values["covariance_with_ground_truth"] == pytest.approx(0.5 / (6**0.5 * (1 / 3) ** 0.5))
    assert values["strict_accuracy"] == 0.5
    assert values["harm_aware_accuracy"] == 0.5  # the tie is not below the mean
    assert values["weighted_accuracy"] == pytest.approx((1 / 4) / (1 / 4 + 1 / 8))
    # Per token sqrt(1/4) and 1/2: 1/4 and 1/4.
    assert values["length_normalised_weighted_accuracy"] == pytest.approx(0.5)
    assert values["effective_comparisons"] == pytest.approx((3 / 8) ** 2 / (1 / 16 + 1 / 64))
    # Off-policy, both misranked: rejected 2 against the mean 1 is harmful, rejected 4 against the mean 5 is forgiven.
    assert values["off_policy_strict_accuracy"] == 0.0
    assert values["off_policy_harm_aware_accuracy"] == 0.5
    assert values["off_policy_weighted_harm_aware_accuracy"] == pytest.approx((1 / 8) / (1 / 4 + 1 / 8))


def test_every_property_is_that_of_its_own_module():
    data, pairs = probe(), off_policy()
    values = evaluated(data, off_policy=pairs).values
    rewards, truth, _, _ = tensors(data)
    expected = {
        "variance": reward_variance(rewards),
        "on_policy_accuracy": on_policy_accuracy(rewards, truth),
        "off_policy_accuracy": accuracy_on_pairs(
            torch.from_numpy(pairs.rewards)[:, :, None], torch.from_numpy(pairs.ground_truth)[:, None]
        ),
    }
    for name, tensor in expected.items():
        np.testing.assert_allclose(values[name], tensor.numpy(), rtol=1e-12, err_msg=name)
    for model in range(3):
        for name, value in point_properties(data["rewards"][model], data["ground_truth"]).items():
            assert values[name.removeprefix("reward/")][model] == pytest.approx(value), name


def test_harm_aware_accuracies_are_those_of_a_loop_over_pairs():
    data = probe()
    values = evaluated(data).values
    for model in range(3):
        right, forgiven, weights = [], [], []
        for rewards, truth, logs in zip(
            data["rewards"][model], data["ground_truth"], data["log_probabilities"], strict=True
        ):
            for c in range(5):
                for r in range(5):
                    if truth[c] > truth[r]:
                        right.append(rewards[r] < rewards[c])
                        forgiven.append(rewards[r] < max(rewards[c], rewards.mean()))
                        weights.append(np.exp(logs[c] + logs[r]))
        assert values["strict_accuracy"][model] == pytest.approx(np.mean(right))
        assert values["harm_aware_accuracy"][model] == pytest.approx(np.mean(forgiven))
        assert values["weighted_accuracy"][model] == pytest.approx(np.average(right, weights=weights))
        assert values["weighted_harm_aware_accuracy"][model] == pytest.approx(np.average(forgiven, weights=weights))


def test_resamples_are_the_properties_of_the_prompts_that_were_drawn():
    data, pairs = probe(), off_policy()
    resamples = evaluated(data, off_policy=pairs, resamples=4).resamples
    counts = prompt_counts(12, 4, generator())[1:].astype(int)
    for row, drawn in enumerate(counts):
        again = np.repeat(np.arange(12), drawn)
        taken = {name: values[again] for name, values in data.items() if name not in ("reward_models", "rewards")}
        taken |= {"reward_models": data["reward_models"], "rewards": data["rewards"][:, again]}
        repeated = OffPolicyPairs(
            pairs.rewards[:, again], pairs.ground_truth[again], pairs.log_probabilities[again], pairs.lengths[again],
            np.arange(12),
        )  # fmt: skip
        expected = evaluated(taken, off_policy=repeated, resamples=1).values
        for name, values in expected.items():
            if not name.startswith("error_"):
                np.testing.assert_allclose(resamples[name][row], values, rtol=1e-9, err_msg=name)


def test_weights_survive_a_resample_without_the_most_likely_prompt():
    data = probe()
    data["log_probabilities"] = data["log_probabilities"] - 1000.0 * np.arange(12)[:, None]
    evaluation = evaluated(data)
    assert np.isfinite(evaluation.resamples["weighted_accuracy"]).all()
    assert (evaluation.values["effective_comparisons"] < 2.1).all()


def test_an_interval_covers_the_value_of_all_prompts_about_as_often_as_it_says():
    everything = probe(models=2, prompts=4000, samples=4, seed=5)
    target = {name: values[1] for name, values in evaluated(everything, resamples=1).values.items()}
    names = ("variance", "on_policy_accuracy", "harm_aware_accuracy", "covariance_with_ground_truth")
    covered = dict.fromkeys(names, 0)
    for repetition in range(50):
        rows = generator(100 + repetition).integers(4000, size=64)
        part = {name: values[rows] for name, values in everything.items() if name not in ("reward_models", "rewards")}
        part |= {"reward_models": everything["reward_models"], "rewards": everything["rewards"][:, rows]}
        evaluation = evaluated(part, resamples=200)
        for name in names:
            interval = evaluation.interval(name, 1)
            covered[name] += interval.low <= target[name] <= interval.high
    assert all(41 <= count <= 50 for count in covered.values()), covered


def test_reward_models_are_compared_on_the_same_resamples():
    data = probe()
    data["rewards"][2] = 3 * data["rewards"][1] + 1
    difference = evaluated(data).difference("variance", 1, 2)
    assert (difference.value, difference.low, difference.high) == pytest.approx((0, 0, 0), abs=1e-12)


def test_a_constant_reward_has_no_variance_and_no_accuracy():
    data = probe()
    data["rewards"][0] = 0.3
    values = evaluated(data).values
    assert values["variance"][0] == values["covariance_with_ground_truth"][0] == values["strict_accuracy"][0] == 0
    assert values["zero_variance_share"][0] == 1
    assert np.isnan(values["on_policy_accuracy"]).tolist() == [True, False, False]


def test_a_ground_truth_that_ties_everywhere_leaves_accuracies_undefined():
    data = probe()
    data["ground_truth"] = np.ones_like(data["ground_truth"])
    evaluation = evaluated(data)
    for name in ("strict_accuracy", "weighted_harm_aware_accuracy", "one_vs_many_strict_accuracy"):
        assert np.isnan(evaluation.values[name]).all()
        assert np.isnan(evaluation.interval(name, 0).low)
    assert np.isfinite(evaluation.values["variance"]).all()


def test_several_best_outputs_count_as_one_comparison_whatever_their_order():
    data = probe(models=1, prompts=2, samples=3)
    data["ground_truth"] = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    data["rewards"] = np.array([[[3.0, 1.0, 2.0], [0.0, 1.0, 2.0]]])
    values = evaluated(data).values
    assert values["one_vs_many_strict_accuracy"][0] == pytest.approx((0.5 + 1) / 2)
    assert values["one_vs_many_comparisons"][0] == pytest.approx(2)


def test_shrinking_a_prompt_is_no_error_but_overpaying_the_worst_output_is_hacking():
    truth = np.array([[0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0]])
    shrunk = truth * np.array([[0.001], [1.0]])
    overpaid = truth + np.array([10.0, 0.0, 0.0, 0.0])
    shares = error_shares(np.stack([shrunk, overpaid]), truth)
    assert (shares[RewardError.none][0] == 1).all()
    # The worst output itself, and the best one, which is underpaid beside it.
    assert (shares[RewardError.harmful_hacking][1] == 0.5).all()
    assert sum(shares.values()) == pytest.approx(np.ones((2, 2)))


def test_equal_outputs_share_their_category():
    truth = np.array([[0.0, 3.0, 3.0, 2.0]] * 2)
    rewards = np.array([[[10.0, 3.0, 3.0, 2.0]] * 2])
    outputs = np.array([[0, 1, 1, 2]] * 2)
    shares = error_shares(rewards, truth, outputs)
    assert sum(shares.values()) == pytest.approx(np.ones((1, 2)))
    assert shares[RewardError.harmful_hacking][0, 0] == 0.25


def test_every_measured_property_has_a_label():
    assert set(evaluated(probe(), off_policy=off_policy()).values) == set(PROPERTIES)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rewards", np.ones((3, 12)), "must be"),
        ("ground_truth", np.ones((12, 4)), "ground truth must be"),
        ("rewards", np.full((3, 12, 5), np.nan), "NaN"),
        ("log_probabilities", np.full((12, 5), np.nan), "log-probabilities contain NaN"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        evaluated(probe() | {name: value})
