"""The verdict rule, and calculations that the experiments rest on."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.controlled import EXPERIMENTS
from experiments.controlled_experiments import statements
from experiments.controlled_experiments.error_categories import cohens_kappa, counterfactual_effects, judged
from experiments.controlled_experiments.findings import Verdict, computed, number
from experiments.controlled_experiments.partial_credit import features, initial_probabilities
from experiments.controlled_experiments.phase_diagram import log_log_slopes, predicted_exponent, scaling_times
from experiments.controlled_experiments.reward_variance import SAMPLES, best_of
from experiments.controlled_experiments.statements import STATEMENTS
from experiments.controlled_experiments.teacher_bandit import noisy, reward_models
from experiments.policies.softmax import SoftmaxPolicy
from experiments.reward_metrics.correlations import Interval
from experiments.reward_metrics.error_categories import RewardError
from experiments.reward_metrics.statements import Finding, Statement
from experiments.reward_metrics.variance import reward_variance


def finding(low: float, high: float, **region: float) -> Finding:
    statement = Statement(id="x.y", says="s", source="p", unit="seeds", ruled="2026-11-30", **region)
    return statement.found(Interval((low + high) / 2, low, high, 5), "m")


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
    assert finding(low, high, at_least=0.0, at_most=1.0).verdict is verdict


def test_a_bound_that_is_excluded_is_outside_the_region():
    assert finding(0.0, 0.0, above=0.0).verdict is Verdict.not_reproduced
    assert finding(0.0, 0.0, at_least=0.0).verdict is Verdict.reproduced


def test_findings_are_plain_json_whatever_their_numbers_and_are_read_back():
    row = finding(math.inf, math.inf, at_least=1.0).as_dict()
    assert row["effect"] is None
    assert row["holds_to"] is None
    assert row["verdict"] == "reproduced"
    found = finding(0.2, 0.4, above=0.0)
    assert found.statement.found_in([{"id": "other"}, found.as_dict()]) == [found]


@pytest.mark.parametrize("region", [{}, {"at_least": 2.0, "at_most": 1.0}, {"above": 1.0, "below": 1.0}])
def test_a_statement_without_a_region_is_refused(region):
    with pytest.raises(ValueError, match=r"statement x\.y has (no|an empty) region"):
        finding(0.0, 1.0, **region)


def test_what_was_drawn_is_said_with_every_number():
    assert finding(0.2, 0.4, above=0.0).drawn == "5 seeds"
    exact = Statement(id="x", says="s", source="p", unit="", ruled="2026-11-30", above=0.0)
    assert exact.found(computed(1.0), "m").drawn == "exact"
    assert exact.found(computed(1.0), "m", sample="2 pairs x 3 seeds").drawn == "2 pairs x 3 seeds"


def test_ids_of_statements_are_unique_and_name_their_experiment():
    assert len({statement.id for statement in STATEMENTS}) == len(STATEMENTS)
    assert {statement.id.partition(".")[0] for statement in STATEMENTS} == set(EXPERIMENTS)


def test_every_statement_is_looked_up_by_its_experiment_under_its_name():
    folder = Path(statements.__file__).parent
    for name in sorted(set(EXPERIMENTS) - {"error_categories"}):  # the names of its statements are put together
        source = "".join(path.read_text() for path in folder.glob(f"{name}*.py"))
        assert set(re.findall(r'SAYS\["(\w+)"\]', source)) == set(statements.statements_of(name)), name


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
    found = judged(True, 10, category, torch.sign(effect), effect)
    verdicts = [item.verdict for item in found if item.statement.id == "error_categories.benign_unlikely"]
    assert verdicts == [Verdict.not_reproduced]


def test_every_recorded_horizon_is_judged():
    category = torch.full((6, 2), int(RewardError.beneficial))
    rises, falls = torch.full((6, 2), 0.1).double(), torch.full((6, 2), -0.1).double()
    rises[0], falls[0] = 0.11, -0.11
    found = [
        item
        for horizon, effect in ((30, falls), (300, rises))
        for item in judged(True, horizon, category, torch.sign(effect), effect)
        if item.statement.id == "error_categories.beneficial"
    ]
    assert [(item.case, item.verdict) for item in found] == [
        ("after 30 updates", Verdict.not_reproduced),
        ("after 300 updates", Verdict.reproduced),
    ]
