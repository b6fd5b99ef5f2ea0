"""Named rewards are read by name, and impossible ones refused."""

from __future__ import annotations

import pytest

from conf.reward_config import (
    NoisyConfig,
    RewardConfig,
    RewardFamily,
    ScaledConfig,
    TrainedRewardConfig,
    named_reward,
    reward_names,
)


@pytest.mark.parametrize("name", reward_names())
def test_every_named_reward_is_read_and_calls_itself_by_its_name(name):
    assert named_reward(name).name == name


def test_knobs_of_a_named_reward_are_those_of_its_file():
    config = named_reward("noisy_60")
    assert config.family is RewardFamily.noisy
    assert config.family_settings() == {"accuracy": 0.60}


def test_an_unknown_reward_is_refused_with_a_suggestion():
    with pytest.raises(ValueError, match=r"Did you mean noisy_75"):
        named_reward("noisy75")


@pytest.mark.parametrize(
    ("schema", "settings", "named"),
    [
        (ScaledConfig, {"share": 1.5}, "share"),
        (ScaledConfig, {"factor": 0.0}, "factor"),
        (NoisyConfig, {"accuracy": 0.5}, "accuracy"),
        (NoisyConfig, {"accuracy": float("nan")}, "accuracy"),
        (TrainedRewardConfig, {"pairs": 0}, "pairs"),
        (TrainedRewardConfig, {"on_policy_share": -0.1}, "on_policy_share"),
        (TrainedRewardConfig, {"learning_rate": -1.0}, "learning_rate"),
        (RewardConfig, {"name": "a/b"}, "name"),
        (RewardConfig, {"target_variance": 0.0}, "target_variance"),
        (RewardConfig, {"target_variance": 0.5, "prompt_spread": 1.0}, "set one"),
        (RewardConfig, {"prompt_spread": -1.0}, "prompt_spread"),
    ],
)
def test_impossible_settings_are_refused_by_name(schema, settings, named):
    with pytest.raises(ValueError, match=named):
        schema(**settings)
