"""Training and policy gradient take the steps they always took: the recorded losses, rewards and KL divergences.

Under torch's AVX2 and unvectorised kernels (with MKL and oneDNN restricted likewise) losses differ from those recorded
under AVX-512 by up to 3e-7 and gradient norms by up to 3e-6, both relative; KL divergences near 0 by up to 1e-6.
"""

from __future__ import annotations

import json

import pytest
from trajectories import ALGORITHMS, MECHANISMS, RECORDED, Trajectory, rlhf_trajectory, train_trajectory

RELATIVE, ABSOLUTE = 1e-4, 5e-6


def assert_close(found: Trajectory, recorded: Trajectory) -> None:
    assert found.keys() == recorded.keys()
    for name, values in recorded.items():
        assert found[name] == pytest.approx(values, rel=RELATIVE, abs=ABSOLUTE), name


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_twenty_steps_of_training_have_the_recorded_losses(tmp_path, mechanism):
    recorded = json.loads(RECORDED.read_text())[f"train/{mechanism}"]
    found = train_trajectory(mechanism, tmp_path)
    assert len(found["train/loss"]) == 20
    assert_close(found, recorded)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_ten_steps_of_policy_gradient_have_the_recorded_rewards(tmp_path, algorithm):
    recorded = json.loads(RECORDED.read_text())[f"rlhf/{algorithm}"]
    found = rlhf_trajectory(algorithm, tmp_path)
    assert len(found["policy_gradient/loss"]) == 10
    assert_close(found, recorded)
