"""What is logged of the rewards of a step: shares of groups and quantiles, before any KL is taken off."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.training.step_metrics import group_metrics


def test_groups_are_counted_at_the_top_at_the_bottom_and_in_between():
    rewards = np.array([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    found = group_metrics(rewards, 0.0, 1.0)
    assert found["zero_variance_share"] == pytest.approx(0.8)
    assert found["all_top_share"] == pytest.approx(0.2)
    assert found["all_bottom_share"] == pytest.approx(0.4)
    assert found["mixed_share"] == pytest.approx(0.4)


def test_quantiles_of_the_spread_within_prompts_are_over_prompts():
    spreads = np.arange(11.0)
    rewards = np.stack([-spreads, spreads], axis=1) / np.sqrt(2)  # std with N - 1: spreads
    found = group_metrics(rewards, rewards.min(), rewards.max())
    assert [found[f"within_prompt_std_p{p}"] for p in (10, 50, 90)] == pytest.approx([1, 5, 9])
