"""An ensemble weighs its members equally, whatever their scale."""

from __future__ import annotations

import numpy as np
import pytest
from made_up_outputs import SAMPLES

from experiments.rewards.ensemble import Combination, Ensemble
from experiments.rewards.reward import GroundTruth, Reward


class Affine(Reward):
    def __init__(self, name: str, scale: float, shift: float) -> None:
        super().__init__(name)
        self.scale, self.shift = scale, shift

    def score(self, outputs):
        return self.scale * outputs.ground_truth + self.shift


def standard(values):
    return (values - values.mean()) / values.std(ddof=1)


def test_the_mean_does_not_depend_on_the_scales_of_its_members(probe):
    ensemble = Ensemble("e", [Affine("a", 2, 7), Affine("b", 1e6, -3)], probe, SAMPLES, combination=Combination.mean)
    np.testing.assert_allclose(ensemble(probe), standard(probe.ground_truth))
    assert ensemble.facts["mean_correlation_of_members"] == pytest.approx(1.0)


def test_the_minimum_believes_the_most_sceptical_member(probe):
    ensemble = Ensemble("e", [GroundTruth(), Affine("against", -1, 0)], probe, SAMPLES, combination=Combination.min)
    np.testing.assert_allclose(ensemble(probe), -np.abs(standard(probe.ground_truth)))
    assert ensemble.facts["mean_correlation_of_members"] == pytest.approx(-1.0)


def test_members_keep_the_scale_of_the_probe_on_other_outputs(probe):
    ensemble = Ensemble("e", [GroundTruth(), GroundTruth()], probe, SAMPLES, combination=Combination.mean)
    np.testing.assert_allclose(ensemble(probe.take([3])), ensemble(probe)[3:4])


def test_one_reward_model_is_no_ensemble(probe):
    with pytest.raises(ValueError, match="2 or more"):
        Ensemble("e", [GroundTruth()], probe, SAMPLES, combination=Combination.mean)
