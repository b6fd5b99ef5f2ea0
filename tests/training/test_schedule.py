"""The learning-rate schedule of policy gradient."""

import pytest
import torch
from transformers import get_scheduler

from conf.policy_gradient_config import PolicyGradientConfig
from experiments.training.schedule import linear_share


@pytest.mark.parametrize(("steps", "warmup_share"), [(50, 0.0), (50, 0.1), (2000, 0.03)])
def test_warm_up_and_decay_to_zero_are_those_of_transformers(steps, warmup_share):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_scheduler("linear", optimizer, round(warmup_share * steps), steps)
    for step in range(steps):
        ours = linear_share(step, steps, warmup_share=warmup_share, final_share=0.0)
        assert ours == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_without_settings_the_rate_is_constant_to_the_bit():
    settings = PolicyGradientConfig(steps=7, learning_rate=3.3e-4)
    assert {settings.learning_rate_at(step) for step in range(7)} == {3.3e-4}


def test_the_rate_ends_at_its_final_share():
    settings = PolicyGradientConfig(steps=10, learning_rate=1.0, warmup_share=0.2, final_learning_rate_share=0.5)
    assert settings.learning_rate_at(2) == 1.0
    assert settings.learning_rate_at(6) == pytest.approx(0.75)
    assert settings.learning_rate_at(10) == pytest.approx(0.5)
