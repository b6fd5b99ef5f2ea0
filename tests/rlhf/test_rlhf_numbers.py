"""The numbers of `rl-exp rlhf` are what they are called, whatever normalisation and penalty train the policy."""

from __future__ import annotations

import json

import pytest
from rlhf_cases import metric_rows, only_run, tiny_rlhf

import experiments.rlhf as rlhf_module


@pytest.mark.parametrize("normalisation", ["per_prompt", "batch"])
def test_increases_of_the_proxy_are_in_the_initial_scale_whatever_normalisation_trains(normalisation, rl_exp, tmp_path):
    changes = ("policy_gradient.missing_eos_penalty=3", f"reward.normalisation={normalisation}")
    result = rl_exp("rlhf", *tiny_rlhf(tmp_path, *changes, "reward=noisy_75", "policy_gradient.learning_rate=1e-2"))
    assert result.exit_code == 0, result.output
    run = only_run(tmp_path)
    rows, summary = metric_rows(run), json.loads((run / "summary.json").read_text())
    probes = [row for row in rows if "probe/proxy_reward" in row]
    raw, scaled = ([row[f"probe/{name}"] for row in probes] for name in ("proxy_reward", "normalised_proxy_reward"))
    assert scaled[0] == pytest.approx(0, abs=1e-6)
    scale = (raw[-1] - raw[0]) / (scaled[-1] - scaled[0])
    assert scale > 0.1
    for steps in (row for row in rows if "policy_gradient/proxy_reward" in row):
        expected = (steps["policy_gradient/proxy_reward"] - raw[0]) / scale
        assert steps["policy_gradient/normalised_proxy_reward"] == pytest.approx(expected, abs=1e-6)
        # Both normalisations have mean 0 in every step: what is left of the mean is the penalty.
        penalty = 3 * (1 - steps["policy_gradient/finished_share"])
        assert steps["policy_gradient/training_reward"] == pytest.approx(-penalty, abs=1e-6)
    assert summary["proxy_increase"] == pytest.approx((raw[-1] - raw[0]) / scale)
    assert abs(summary["proxy_increase"]) > 1e-3


def test_time_of_training_is_without_probes(rl_exp, tmp_path, monkeypatch):
    """A clock that only probes move: none of their hour is counted."""
    clock = [0.0]

    class Time:
        @staticmethod
        def perf_counter():
            clock[0] += 1.0
            return clock[0]

    def slow_probe(*arguments):
        clock[0] += 3600
        return probe(*arguments)

    probe = rlhf_module.run_probe
    monkeypatch.setattr(rlhf_module, "time", Time)
    monkeypatch.setattr(rlhf_module, "run_probe", slow_probe)
    assert rl_exp("rlhf", *tiny_rlhf(tmp_path)).exit_code == 0
    summary = json.loads((only_run(tmp_path) / "summary.json").read_text())
    assert summary["training_seconds"] == 6  # steps, of one second each
    assert summary["completions_per_second"] == 12


def test_a_set_variance_is_fitted_on_other_completions_than_it_is_judged_on(rl_exp, tmp_path):
    target, sizes = 0.3, ("probe.prompts=12", "probe.samples=12", "policy_gradient.steps=1")
    result = rl_exp("rlhf", *tiny_rlhf(tmp_path, *sizes, "reward=ground_truth", f"reward.target_variance={target}"))
    assert result.exit_code == 0, result.output
    fresh = json.loads((only_run(tmp_path) / "manifest.json").read_text())["properties"]["reward/variance"]
    assert fresh == pytest.approx(target, abs=0.1)
    assert abs(fresh - target) > 1e-4, "equal on the very completions that it was fitted on"
    probes = (tmp_path / "outputs" / "artifacts" / "probe_rollouts").glob("[!.]*/artifact.json")
    drawn = sorted(json.loads(path.read_text())["facts"]["completions"] for path in probes)
    assert drawn == [12 * 12, 4 * 12 * 12]


def test_a_proxy_that_ranks_nothing_is_reported_and_has_no_accuracy(rl_exp, tmp_path):
    names = "task.constraints.names=[contains_semicolon,contains_quote]"
    words = tiny_rlhf(tmp_path, "task=constraints", names, "policy_gradient.steps=1", "task.max_new_tokens=1")
    result = rl_exp("rlhf", *words)
    assert result.exit_code == 0, result.output
    shown = " ".join(result.output.split())
    assert "it teaches nothing, and its accuracy is undefined" in shown
    assert "completions of the probe were cut off at task.max_new_tokens=1: raise it" in shown
    summary = json.loads((only_run(tmp_path) / "summary.json").read_text())
    assert summary["proxy_is_constant"] == 1
    assert summary["reward/on_policy_accuracy"] is None
    assert summary["properties"]["reward/on_policy_accuracy"] is None
