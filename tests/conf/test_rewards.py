"""Named rewards are read by name, and impossible ones refused."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from conf.limits import checked
from conf.reward_config import (
    BadProperty,
    ClippedConfig,
    CoarseConfig,
    CreditConfig,
    EnsembleConfig,
    HubRewardConfig,
    NoisyConfig,
    OverpayingConfig,
    RewardConfig,
    RewardFamily,
    ScaledConfig,
    SuppressingConfig,
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
        (CoarseConfig, {"levels": 1}, "levels"),
        (ClippedConfig, {"low": 0.9, "high": 0.1}, "quantiles"),
        (SuppressingConfig, {"high": 1.1}, "quantiles"),
        (OverpayingConfig, {"share": 2.0}, "share"),
        (OverpayingConfig, {"pattern": "("}, "not a regular expression"),
        (OverpayingConfig, {"property": BadProperty.pattern}, "needs"),
        (CreditConfig, {"parts": ["a"], "weights": [1.0, 2.0]}, "weights"),
        (CreditConfig, {"weights": [0.0]}, "weights"),
        (EnsembleConfig, {"members": ["a", "a"]}, "twice"),
        (HubRewardConfig, {"batch_size": 0}, "batch_size"),
        (RewardConfig, {"family": RewardFamily.hub}, "path"),
        (RewardConfig, {"family": RewardFamily.ensemble}, "two or more"),
        (RewardConfig, {"name": "a/b"}, "name"),
        (RewardConfig, {"target_variance": 0.0}, "target_variance"),
        (RewardConfig, {"target_variance": 0.5, "prompt_spread": 1.0}, "set one"),
        (RewardConfig, {"prompt_spread": -1.0}, "prompt_spread"),
    ],
)
def test_impossible_settings_are_refused_by_name(schema, settings, named):
    with pytest.raises(ValueError, match=named):
        checked(OmegaConf.structured(schema(**settings)), "reward")


def test_enums_reach_the_rewards_as_their_words():
    assert named_reward("overpaying").family_settings()["property"] == "repeated_word"


def test_members_of_named_ensembles_exist():
    for name in reward_names():
        assert set(named_reward(name).ensemble.members) <= set(reward_names())


def test_no_named_reward_runs_code_of_others():
    assert not any(named_reward(name).hub.trust_remote_code for name in reward_names())
