"""Sampled gradients: their expectation is the exact one (by enumerating all samples), and samples follow the policy."""

import itertools

import pytest
import torch

from experiments.policies.gradients import (
    Estimator,
    advantages,
    exact_gradient,
    sample_outputs,
    sampled_gradient,
)

PROBABILITIES = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)[None, None, None]
REWARDS = torch.tensor([1.0, -0.5, 0.3, 2.0], dtype=torch.float64)[None, None, None]


def expected_sampled_gradient(estimator: Estimator, samples: int) -> torch.Tensor:
    """The exact expectation over all O^N draws."""
    total = torch.zeros(4, dtype=torch.float64)
    for draw in itertools.product(range(4), repeat=samples):
        outputs = torch.tensor(draw)[None, None, None]
        weight = PROBABILITIES[0, 0, 0, list(draw)].prod()
        drawn = REWARDS.gather(-1, outputs)
        total += weight * sampled_gradient(PROBABILITIES, outputs, advantages(drawn, estimator))[0, 0, 0]
    return total


@pytest.mark.parametrize(
    ("estimator", "samples"),
    [(Estimator.no_baseline, 1), (Estimator.no_baseline, 3), (Estimator.rloo, 2), (Estimator.rloo, 4)],
)
def test_reinforce_and_rloo_are_unbiased(estimator, samples):
    exact = exact_gradient(PROBABILITIES, REWARDS)[0, 0, 0]
    assert torch.allclose(expected_sampled_gradient(estimator, samples), exact, atol=1e-14)


@pytest.mark.parametrize("samples", [2, 4])
def test_grpo_without_std_is_the_exact_gradient_times_n_minus_one_over_n(samples):
    """Its baseline contains the sample itself."""
    exact = exact_gradient(PROBABILITIES, REWARDS)[0, 0, 0]
    biased = expected_sampled_gradient(Estimator.grpo_without_std, samples)
    assert torch.allclose(biased, exact * (samples - 1) / samples, atol=1e-14)


def test_grpo_approaches_the_exact_std_normalised_gradient():
    """With many samples per prompt, GRPO's expectation tends to the gradient over the std of the reward."""
    generator = torch.Generator().manual_seed(0)
    uniforms = torch.rand(1, 200, 1, 2000, generator=generator, dtype=torch.float64)
    probabilities = PROBABILITIES.expand(1, 200, 1, 4).clone()
    outputs = sample_outputs(probabilities, uniforms)
    drawn = REWARDS.expand(1, 200, 1, 4).gather(-1, outputs)
    estimates = sampled_gradient(probabilities, outputs, advantages(drawn, Estimator.grpo))[0, :, 0]
    exact = exact_gradient(PROBABILITIES, REWARDS, divide_by_std=True)[0, 0, 0]
    z = (estimates.mean(0) - exact) / (estimates.std(0) / 200**0.5)
    assert float(z.abs().max()) < 4


@pytest.mark.parametrize("outputs", [4, 40])
def test_samples_follow_the_policy(outputs):
    """Both ways to invert the cumulative distribution, by a chi-square-like bound on every frequency."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 1, 1, outputs, generator=generator, dtype=torch.float64)
    probabilities = torch.softmax(logits, -1)
    uniforms = torch.rand(1, 1, 1, 200_000, generator=generator, dtype=torch.float64)
    drawn = sample_outputs(probabilities, uniforms)
    for arm in range(2):
        frequency = torch.bincount(drawn[arm, 0, 0], minlength=outputs) / 200_000
        error = (probabilities[arm, 0, 0] * (1 - probabilities[arm, 0, 0]) / 200_000).sqrt()
        assert float(((frequency - probabilities[arm, 0, 0]) / error).abs().max()) < 5


def test_samples_at_the_edges_stay_in_range():
    probabilities = torch.tensor([1e-30, 1.0 - 1e-16, 1e-16], dtype=torch.float64)[None, None, None]
    uniforms = torch.tensor([0.0, 0.5, 1.0 - 2**-53], dtype=torch.float64)[None, None, None]
    drawn = sample_outputs(probabilities, uniforms)
    assert int(drawn.max()) <= 2
    assert drawn[0, 0, 0, 1] == 1


def test_equal_rewards_give_no_gradient_and_too_few_samples_are_refused():
    equal = torch.full((1, 1, 1, 4), 0.3, dtype=torch.float64)
    for estimator in (Estimator.rloo, Estimator.grpo, Estimator.grpo_without_std):
        assert float(advantages(equal, estimator).abs().max()) < 1e-12
        with pytest.raises(ValueError, match="at least 2 samples"):
            advantages(equal[..., :1], estimator)
