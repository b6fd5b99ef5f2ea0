"""The verdict rule, and calculations that the experiments rest on."""

import math

import numpy as np
import pytest
import torch

from experiments.controlled_experiments.error_categories import cohens_kappa, counterfactual_effects, judged
from experiments.controlled_experiments.findings import Statement, Verdict, computed, number
from experiments.controlled_experiments.partial_credit import features, initial_probabilities
from experiments.controlled_experiments.phase_diagram import log_log_slopes, predicted_exponent, scaling_times
from experiments.controlled_experiments.reward_variance import SAMPLES, best_of
from experiments.controlled_experiments.teacher_bandit import noisy, reward_models
from experiments.policies.softmax import SoftmaxPolicy
from experiments.reward_metrics.correlations import Interval
from experiments.reward_metrics.error_categories import RewardError
from experiments.reward_metrics.variance import reward_variance


def statement(low: float, high: float, **region: float) -> Statement:
    return Statement("s", "p", "m", Interval((low + high) / 2, low, high, 5), **region)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.2, 0.4, Verdict.reproduced),
        (-0.1, 0.4, Verdict.inconclusive),
        (-0.4, -0.1, Verdict.not_reproduced),
        (0.8, 1.2, Verdict.inconclusive),
        (1.1, 1.2, Verdict.not_reproduced),
        (math.nan, math.nan, Verdict.inconclusive),
    ],
)
def test_the_verdict_follows_the_whole_interval(low, high, verdict):
    assert statement(low, high, at_least=0.0, at_most=1.0).verdict is verdict


def test_statements_are_plain_json_whatever_their_numbers():
    row = Statement("s", "p", "m", computed(math.inf), at_least=1.0).as_dict()
    assert row["effect"] is None
    assert row["holds_to"] is None
    assert row["verdict"] == "reproduced"


def test_numbers_for_sentences():
    assert [number(value) for value in (math.inf, 0.5, 999.96, 1234.6, 2.5e8, 1e-5, 0.0)] == [
        "never",
        "0.5",
        "1,000",
        "1,235",
        "2.5e+08",
        "1e-05",
        "0",
    ]


@pytest.mark.parametrize("bad_outputs", [1, 2])
def test_the_derived_exponent_is_what_the_flow_shows(bad_outputs):
    """-(bad outputs + 1), on initial probabilities and policies of the test's own."""
    probabilities = np.geomspace(1e-4, 1e-3, 4)
    times = scaling_times(probabilities, bad_outputs, 3, np.random.default_rng(7), lambda steps: None)
    truth, proxy = log_log_slopes(probabilities, times)
    assert np.allclose(truth, predicted_exponent(bad_outputs), rtol=0.03)
    assert np.allclose(proxy, -1, rtol=0.05)


def test_noise_keeps_the_wanted_share_of_pairs_in_order():
    generator = torch.Generator().manual_seed(0)
    signal, noise = (torch.randn(200_000, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    mixed = noisy(signal, torch.tensor(0.66, dtype=torch.float64), noise)
    agree = torch.sign(signal[:, 0] - signal[:, 1]) == torch.sign(mixed[:, 0] - mixed[:, 1])
    assert agree.double().mean().item() == pytest.approx(0.66, abs=0.005)
    assert mixed.std().item() == pytest.approx(1, abs=0.01)


def test_reward_models_have_the_variances_of_table_1_and_the_control_has_none_of_their_spread():
    """Under the uniform distribution, by construction: .630 to .314, and .256 for the ground truth."""
    generator = torch.Generator().manual_seed(0)
    models = reward_models(2, 400, 64, 0, False, generator)
    variances = reward_variance(models.rewards).mean(dim=1)
    assert torch.allclose(
        variances[:6], torch.tensor([0.256, 0.630, 0.616, 0.555, 0.438, 0.314], dtype=torch.float64), atol=0.04
    )
    assert variances[6] < 0.15  # perfectly accurate, low variance
    control = reward_variance(reward_models(2, 400, 64, 0, True, generator).rewards)
    assert float(control.min()) > 0.9


def test_initial_classes_sum_to_one_and_sharing_interpolates_their_features():
    joint, easy = torch.tensor([0.1, 1e-4]).double(), torch.tensor([0.7, 0.95]).double()
    start = initial_probabilities(joint, easy)
    assert torch.allclose(start.sum(-1), torch.ones(2).double())
    assert bool((start > 0).all())
    phi = features(torch.tensor([0.0, 0.8]).double())
    assert torch.equal(phi[0], torch.eye(4).double())
    assert (phi[1, 0] @ phi[1, 1]).item() == pytest.approx(0.8)


def test_an_output_without_error_has_no_counterfactual_effect():
    policy = SoftmaxPolicy(torch.zeros(1, 1, 1, 3).double())
    truth, proxy = torch.tensor([[1.0, 0.5, -1.0]]).double(), torch.tensor([[1.0, -1.0, -1.0]]).double()
    effects = counterfactual_effects(policy, truth, proxy, [5, 200], 0.1, lambda steps: None)
    assert effects[200][0, [0, 2]].tolist() == [0, 0]
    assert effects[5][0, 1] != 0


def test_kappa_is_one_for_perfect_agreement_and_zero_for_chance():
    perfect = np.array([[5, 0, 0], [3, 0, 0], [0, 9, 0], [0, 4, 0], [0, 0, 6]])
    assert cohens_kappa(perfect) == pytest.approx(1)
    assert cohens_kappa(np.outer([1, 2, 3, 2, 1], [2, 5, 1])) == pytest.approx(0, abs=1e-12)


def test_best_of_n_agrees_with_drawing():
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.tensor([0.1, 0.05, 0.6, 0.25]).double()
    rewards, truth = torch.tensor([0.3, 0.9, -1.0, 0.1]).double(), torch.tensor([1.0, 0.2, -1.0, 0.0]).double()
    draws = torch.multinomial(probabilities, 100_000 * SAMPLES, replacement=True, generator=generator)
    picked = draws.reshape(-1, SAMPLES).gather(1, rewards[draws].reshape(-1, SAMPLES).argmax(1, keepdim=True))
    assert float(best_of(probabilities, rewards, truth)) == pytest.approx(float(truth[picked].mean()), abs=0.005)


def test_benign_effects_of_both_signs_do_not_cancel():
    category = torch.full((6, 2), int(RewardError.benign_unlikely))
    effect = torch.tensor([[0.5, -0.5]] * 6).double()
    statements = judged("s", 10, category, torch.sign(effect), effect, 0.02, np.random.default_rng(0))
    verdicts = {item.statement: item.verdict for item in statements if "negligible probability" in item.statement}
    assert list(verdicts.values()) == [Verdict.not_reproduced]
