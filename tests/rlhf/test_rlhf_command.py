"""`rl-exp rlhf` from the command line to the trained policy: sharing, resuming, refusing."""

from __future__ import annotations

import json
import signal

import pytest
import torch
from rlhf_cases import metric_rows, only_run, tiny_rlhf
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import experiments.rlhf as rlhf_module
import experiments.training.policy_gradient_step as step_module
from conf.policy_gradient_config import PolicyGradientConfig
from experiments.training.algorithms import LossDenominator


def test_a_run_trains_the_policy_of_train_and_leaves_a_model_with_its_record(rl_exp, tmp_path):
    result = rl_exp("rlhf", *tiny_rlhf(tmp_path))
    assert result.exit_code == 0, result.output
    run = only_run(tmp_path)
    summary = json.loads((run / "summary.json").read_text())
    (policy,) = (tmp_path / "outputs" / "train").iterdir()
    assert summary["policy_address"] == policy.name
    rows = metric_rows(run)
    probes = [row["step"] for row in rows if "probe/ground_truth_reward" in row]
    assert probes == [0, 2, 4, 6]
    assert [row["step"] for row in rows if "policy_gradient/loss" in row] == [1, 2, 3, 4, 5, 6]
    first = next(row for row in rows if row["step"] == 0)
    assert first["probe/kl"] == pytest.approx(0, abs=1e-4)
    assert rows[-1]["probe/kl"] != 0
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    start = AutoModelForCausalLM.from_pretrained(policy / "model")
    moved = [bool((a != b).any()) for a, b in zip(model.parameters(), start.parameters(), strict=True)]
    assert any(moved)
    assert "prompt" in (run / "samples.txt").read_text()


def test_a_second_run_takes_the_policy_and_the_probe_rollouts_as_they_are(rl_exp, tmp_path):
    rl_exp("rlhf", *tiny_rlhf(tmp_path))
    result = rl_exp("rlhf", *tiny_rlhf(tmp_path, "seed=1", "common_random_numbers=true"))
    assert result.exit_code == 0, result.output
    assert "is trained first" not in result.output
    assert len(list((tmp_path / "outputs" / "train").iterdir())) == 1
    probes = tmp_path / "outputs" / "artifacts" / "probe_rollouts"
    assert len([path for path in probes.iterdir() if path.is_dir()]) == 1


def test_the_policy_is_the_run_that_the_train_command_makes(rl_exp, tmp_path):
    words = tiny_rlhf(tmp_path)
    training = [word for word in words if not word.startswith(("task", "probe", "policy_gradient"))]
    assert rl_exp("train", *training, "threads=1").exit_code == 0
    result = rl_exp("rlhf", *words)
    assert result.exit_code == 0, result.output
    assert "is trained first" not in result.output
    assert len(list((tmp_path / "outputs" / "train").iterdir())) == 1


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("policy_gradient=grpo",),
        ("policy_gradient=rloo_clipped",),
        ("policy_gradient.optimizer=sgd", "policy_gradient.momentum=0.9"),
    ],
    ids=["rloo", "grpo", "rloo_clipped", "sgd"],
)
def test_a_run_that_was_cut_off_continues_bit_for_bit(rl_exp, tmp_path, monkeypatch, changes, prepared):
    words = tiny_rlhf(prepared, *changes)
    assert rl_exp("rlhf", *words).exit_code == 0
    run = only_run(tmp_path)
    straight, rows = load_file(run / "model" / "model.safetensors"), metric_rows(run)

    update, calls = rlhf_module.update_policy, []

    def interrupted(*arguments, **settings):
        calls.append(1)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGTERM)
        return update(*arguments, **settings)

    monkeypatch.setattr(rlhf_module, "update_policy", interrupted)
    assert rl_exp("rlhf", *words, "force=true").exit_code == 130
    assert json.loads((run / "status.json").read_text())["state"] == "interrupted"
    monkeypatch.setattr(rlhf_module, "update_policy", update)
    result = rl_exp("rlhf", *words)
    assert result.exit_code == 0, result.output
    assert "continuing after step 4" in result.output
    resumed = load_file(run / "model" / "model.safetensors")
    assert all(torch.equal(resumed[name], value) for name, value in straight.items())
    assert metric_rows(run) == rows


def test_a_gradient_that_is_not_finite_stops_the_run_before_the_update(rl_exp, tmp_path, monkeypatch, prepared):
    def poisoned(*arguments, **settings):
        result = original(*arguments, **settings)
        return type(result)(result.loss * float("nan"), *list(vars(result).values())[1:])

    original = step_module.policy_loss
    monkeypatch.setattr(step_module, "policy_loss", poisoned)
    result = rl_exp("rlhf", *tiny_rlhf(prepared))
    assert result.exit_code == 1
    assert "failed: step 1: the policy's loss is nan" in " ".join(result.output.split())
    assert "before this update" in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert json.loads((only_run(tmp_path) / "status.json").read_text())["state"] == "failed"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("policy_gradient.group_size=1", "group_size=1"),
        ("policy_gradient.learning_rate=0", "learning_rate=0"),
        ("policy_gradient.minibatches=99", "minibatches=99"),
        ("policy_gradient.advantage=roo", "rloo"),
        ("policy_gradient.stesp=3", "policy_gradient.steps"),
        ("policy_gradient=grop", "grpo"),
        ("policy_gradient=ppo", "policy_gradient=rloo_clipped"),
        ("task.prompts=0", "task.prompts=0"),
        ("probe.samples=1", "probe.samples=1"),
        ("probe.prompts=13", "probe.prompts=13"),
        ("other_rewards=[nosuch]", "nosuch"),
    ],
)
def test_mistakes_get_one_line_that_names_them_and_exit_code_2(rl_exp, tmp_path, change, named):
    result = rl_exp("rlhf", *tiny_rlhf(tmp_path, change))
    assert result.exit_code == 2, result.output
    assert named in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "outputs" / "rlhf").exists()


@pytest.mark.parametrize("denominator", ["tokens", "each_sequence"])
def test_one_ratio_of_a_sequence_is_not_divided_by_its_tokens(denominator):
    with pytest.raises(ValueError, match=f"loss_denominator={denominator}.*use loss_denominator=sequences"):
        PolicyGradientConfig(sequence_ratio=True, loss_denominator=LossDenominator(denominator))


def test_a_policy_that_does_not_exist_is_named(rl_exp, tmp_path):
    result = rl_exp("rlhf", *tiny_rlhf(tmp_path, "policy.path=no/such/model"))
    assert result.exit_code == 2, result.output
    assert "policy.path=no/such/model" in " ".join(result.output.split())


def test_rollouts_and_updates_in_bf16_begin_at_the_reference_and_keep_fp32_weights(rl_exp, tmp_path, prepared):
    """Old and reference log-probabilities are taken in the update's own arithmetic, so nothing differs at first."""
    words = tiny_rlhf(prepared, "policy_gradient.precision=bf16", "policy_gradient.steps=2", "device=cpu")
    result = rl_exp("rlhf", *words)
    assert result.exit_code == 0, result.output
    run = only_run(tmp_path)
    first, second = (row for row in metric_rows(run) if "policy_gradient/loss" in row)
    assert first["policy_gradient/kl"] == 0
    assert first["policy_gradient/mean_ratio"] == pytest.approx(1, abs=1e-6)
    assert first["policy_gradient/approximate_kl"] == pytest.approx(0, abs=1e-6)
    assert second["policy_gradient/kl"] != 0
    assert {tensor.dtype for tensor in load_file(run / "model" / "model.safetensors").values()} == {torch.float32}
