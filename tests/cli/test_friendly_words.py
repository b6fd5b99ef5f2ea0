"""Command lines as people write them, and sweeps whose jobs fail."""

from __future__ import annotations

import json

import pytest
import yaml
from train_cases import tiny_training

import experiments.train as train_module
from conf.override_rules import friendly


def dry_run(rl_exp, *words):
    result = rl_exp(*words, "--dry-run")
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("training.tokens=1e5", "training.tokens=100000"),
        ("training.tokens=1e5,2.5e5", "training.tokens=100000,250000"),
        ("bench.context=[1e3,2]", "bench.context=[1000,2]"),
        ("optimizer.learning_rate=1e-3", "optimizer.learning_rate=1e-3"),
        ("optimizer.learning_rate=1.5e0", "optimizer.learning_rate=1.5e0"),
        ("data.path=run-1e5", "data.path=run-1e5"),
        ("data.path='1e5'", "data.path='1e5'"),
        ("optimizer.learning_rate=1e30", "optimizer.learning_rate=1e30"),
    ],
)
def test_a_power_of_ten_is_a_number_wherever_one_is_meant(given, meant):
    assert friendly("train", [given]) == [meant]


def test_tokens_may_be_a_power_of_ten(rl_exp):
    assert "tokens: 100000" in dry_run(rl_exp, "train", "training.tokens=1e5")


def test_reward_models_are_listed_in_one_way(rl_exp):
    evaluated = yaml.safe_load(dry_run(rl_exp, "reward-eval", "reward=ground_truth,noisy_75"))
    assert evaluated["rewards"] == ["ground_truth", "noisy_75"]
    swept = dry_run(rl_exp, "rlhf-sweep", "rewards=[ground_truth,noisy_75]", "seed=0")
    assert "2 jobs" in swept


@pytest.mark.parametrize("path", ["~/x", '"~/x"', "$HOME/x", "'$HOME/x'"])
@pytest.mark.parametrize("key", ["data.path", "tokenizer.path", "policy.path", "output_dir"])
def test_home_and_variables_mean_the_same_in_every_path(path, key, monkeypatch):
    monkeypatch.setenv("HOME", "/home/some body")
    assert friendly("rlhf", [f"{key}={path}"]) == [f'{key}="/home/some body/x"']


def test_short_help_is_help(rl_exp):
    for words in (("train",), ()):
        assert rl_exp(*words, "-h").output == rl_exp(*words, "--help").output


@pytest.fixture
def failing(monkeypatch):
    """Every training fails, and is counted."""
    calls = []

    def fail(config, run):
        calls.append((config.seed, run.attempt))
        raise ValueError("no luck")

    monkeypatch.setattr(train_module, "train", fail)
    return calls


def test_a_sweep_stops_at_its_first_failure_where_it_is_told_to(rl_exp, tmp_path, failing):
    words = tiny_training(tmp_path, "-m", "seed=0,1,2")
    assert rl_exp("train", *words, "sweep.on_failure=stop").exit_code == 1
    assert [seed for seed, _ in failing] == [0]
    result = rl_exp("train", *words)
    assert [seed for seed, _ in failing] == [0, 0, 1, 2]
    assert "3 of 3 jobs did not finish" in " ".join(result.output.split())


def test_a_failed_job_is_tried_again_as_often_as_the_sweep_says(rl_exp, tmp_path, failing):
    assert rl_exp("train", *tiny_training(tmp_path, "-m", "seed=0,1", "sweep.retries=2")).exit_code == 1
    assert failing == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)]


def test_how_a_sweep_meets_failures_is_no_part_of_a_run(rl_exp, tmp_path):
    plain, told = (dry_run(rl_exp, "train", *tiny_training(tmp_path, *more)) for more in ((), ("sweep.retries=2",)))
    assert plain.splitlines()[-1] == told.splitlines()[-1]


def test_a_dry_run_says_what_the_run_will_cost(rl_exp, tmp_path):
    words = tiny_training(tmp_path)
    costs = [line for line in dry_run(rl_exp, "train", *words).splitlines() if line.startswith("# ")]
    assert rl_exp("train", *words).exit_code == 0
    (run,) = (tmp_path / "outputs" / "train").iterdir()
    parameters = json.loads((run / "summary.json").read_text())["parameters"]
    assert costs[0] == f"# model: {parameters:,} parameters (vocabulary 258)"
    assert costs[1].startswith("# training: 32 steps, 4,096 tokens, ")
    saved = sum(file.stat().st_size for file in max((run / "checkpoints").iterdir()).rglob("*.safetensors"))
    number, unit = costs[3].removeprefix("# disk: ").split()[:2]
    assert float(number) * {"KB": 1e3, "MB": 1e6}[unit] == pytest.approx(saved, rel=0.05)
