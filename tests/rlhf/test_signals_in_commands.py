"""Learning and teaching signals in `rl-exp reward-eval` and `rl-exp rlhf`: where they are measured, logged and said."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from rlhf_cases import metric_rows, tiny_rlhf

from conf.reward_config import named_reward
from experiments import reward_eval
from experiments.reward_eval import predicted_teachers, variance_is_set
from experiments.reward_metrics.properties import SIGNALS
from experiments.rewards.reward import GroundTruth
from experiments.teaching_signal.estimates import Signals

LOGGED = ("learning_signal", "teaching_signal", "teaching_signal_per_root_kl", "learnable_variance")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Where the runs of this file are: they share the policy and its probe rollouts."""
    return tmp_path_factory.mktemp("home")


def evaluated(rl_exp, home, *changes):
    tiny = [word for word in tiny_rlhf(home) if not word.startswith("policy_gradient")]
    rewards = "rewards=[ground_truth,perfect_low_variance,noisy_75]"
    result = rl_exp("reward-eval", *tiny, f"output_dir={home}/outputs", rewards, "resamples=10", *changes)
    assert result.exit_code == 0, result.output
    return result, json.loads(result.stdout.strip().splitlines()[-1])


def trained(rl_exp, home, *changes):
    result = rl_exp("rlhf", *tiny_rlhf(home), f"output_dir={home}/outputs", "reward=noisy_75", *changes)
    assert result.exit_code == 0, result.output
    run = max((home / "outputs" / "rlhf").iterdir(), key=lambda path: (path / "summary.json").stat().st_mtime_ns)
    return [row for row in metric_rows(run) if "probe/kl" in row], json.loads((run / "summary.json").read_text())


def test_reward_eval_has_every_signal_with_its_interval_and_names_the_predicted_teacher(rl_exp, home, monkeypatch):
    monkeypatch.setattr(reward_eval, "draw", lambda *_: [])
    result, document = evaluated(rl_exp, home)
    for row in document["rows"]:
        assert set(SIGNALS) <= set(row)
        assert row["teaching_signal_low"] < row["teaching_signal"] < row["teaching_signal_high"]
    truth = document["rows"][0]
    assert truth["learning_signal"] == pytest.approx(truth["teaching_signal"])
    assert "predicted_best_teacher" in result.output
    assert "highest_variance" not in result.output


def test_reward_eval_without_signals_has_none(rl_exp, home, monkeypatch):
    monkeypatch.setattr(reward_eval, "draw", lambda *_: [])
    result, document = evaluated(rl_exp, home, "probe.signals=none")
    assert not any(name in row for row in document["rows"] for name in SIGNALS)
    assert "predicted_best_teacher" not in result.output


def test_rlhf_logs_signals_of_the_initial_policy_and_keeps_them_as_properties(rl_exp, home):
    first, *later = trained(rl_exp, home)[0]
    assert all(math.isfinite(first[f"reward/{name}"]) for name in LOGGED)
    assert not any(f"reward/{name}" in row for row in later for name in LOGGED)


def test_with_signals_of_every_probe_training_is_the_same_to_the_bit(rl_exp, home):
    plain, summary = trained(rl_exp, home, "probe.signals=none", "seed=3")
    measured, with_signals = trained(rl_exp, home, "probe.signals=every", "seed=3")
    assert all(f"reward/{name}" in row for row in measured for name in LOGGED)
    rest = [{name: value for name, value in row.items() if name in plain[0]} for row in measured]
    assert rest == plain
    assert f"reward/{LOGGED[0]}" in with_signals["properties"]
    assert f"reward/{LOGGED[0]}" not in summary["properties"]


def test_the_closing_line_says_who_cannot_be_told_from_the_best():
    def signals(values):
        without = [[value + 0.01 * (place % 2) * (i + 1) for i, value in enumerate(values)] for place in range(10)]
        return Signals(("a", "b", "c"), {"teaching_signal": np.array(values)}, {"teaching_signal": np.array(without)})

    assert predicted_teachers(signals([1.0, 9.0, 5.0])) == "b, then c"
    assert predicted_teachers(signals([1.0, 9.0, 8.99])) == "b, then c; not separable from b: c"


def test_a_variance_that_is_set_is_told_from_one_that_is_measured():
    settings = named_reward("on_policy_100")
    assert settings.target_variance is not None
    assert variance_is_set(settings, GroundTruth()) is False  # it varies less already: nothing was added
    reward = GroundTruth()
    reward.facts["prompt_constants_std"] = 0.5
    assert variance_is_set(settings, reward) is True
    assert variance_is_set(named_reward("ground_truth"), reward) is False
