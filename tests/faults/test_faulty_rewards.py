"""`rl-exp rlhf` with a reward that fails in the middle, and killed in the middle: the same command ends it equally."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from processes import run
from rlhf_cases import metric_rows, only_run, tiny_rlhf
from typer.testing import CliRunner

from cli.main import app
from experiments.rewards.reward import GroundTruth
from experiments.tasks.sentiment import SentimentTask

# 16 completions a step: probe rollouts and off-policy pairs have other numbers of rows.
STEP = ("policy_gradient.prompts_per_step=4", "policy_gradient.group_size=4")
ROWS = 16
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A folder with a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("straight")
    result = CliRunner().invoke(app, ["rlhf", *words_for(folder, folder)])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def folder(straight, tmp_path):
    """A folder with the policy and the artifacts of that run: what is slow is not made again."""
    for part in ("train", "artifacts"):
        shutil.copytree(straight / "outputs" / part, tmp_path / "outputs" / part)
    return tmp_path


def words_for(straight: Path, folder: Path) -> list[str]:
    """The command of the undisturbed run, with its output in `folder`: the text is the same, and so is the policy."""
    return tiny_rlhf(straight, *STEP, f"output_dir={folder}/outputs")


def assert_same_run(folder: Path, straight: Path) -> None:
    a, b = only_run(straight), only_run(folder)
    assert (a / "model" / "model.safetensors").read_bytes() == (b / "model" / "model.safetensors").read_bytes()
    assert metric_rows(a) == metric_rows(b)


def raising(values):
    raise ZeroDivisionError("no word to divide by")


def of_another_length(values):
    return values[:-1]


def with_nan(values):
    return np.where(np.arange(len(values)) == 3, np.nan, values)


def ragged(values):
    return [[0.0], *values[1:]]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (raising, "reward ground_truth failed on 16 outputs (ZeroDivisionError: no word to divide by)"),
        pytest.param(of_another_length, "reward ground_truth returned shape (15,) for 16 outputs", marks=SLOW),
        (with_nan, "reward ground_truth returned nan for the output"),
        pytest.param(ragged, "reward ground_truth returned no list of numbers", marks=SLOW),
    ],
)
def test_a_reward_that_fails_is_named_with_its_step_and_mended_the_same_command_continues(
    fault, said, rl_exp, folder, straight, monkeypatch
):
    steps = []

    def fails_in_step_4(reward, outputs):
        steps.extend([1] if len(outputs) == ROWS else [])
        return fault(outputs.ground_truth) if len(steps) == 4 else outputs.ground_truth

    with monkeypatch.context() as patch:
        patch.setattr(GroundTruth, "score", fails_in_step_4)
        result = rl_exp("rlhf", *words_for(straight, folder))
    assert result.exit_code == 1, result.output
    assert f"failed: step 4: {said}" in " ".join(result.output.split())
    assert "Traceback" not in result.output
    status = json.loads((only_run(folder) / "status.json").read_text())
    assert status["state"] == "failed"
    assert f"step 4: {said}" in status["reason"]

    result = rl_exp("rlhf", *words_for(straight, folder))
    assert result.exit_code == 0, result.output
    assert "continuing after step 2" in result.output
    assert_same_run(folder, straight)


def test_a_reward_that_fails_before_the_first_step_is_named_and_mended_the_same_command_starts(
    rl_exp, folder, straight, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(GroundTruth, "score", lambda reward, outputs: raising(outputs.ground_truth))
        result = rl_exp("rlhf", *words_for(straight, folder))
    assert result.exit_code == 1, result.output
    assert "failed: reward ground_truth failed on 24 outputs (ZeroDivisionError" in " ".join(result.output.split())
    result = rl_exp("rlhf", *words_for(straight, folder))
    assert result.exit_code == 0, result.output
    assert_same_run(folder, straight)


def test_a_task_whose_scorer_raises_is_named_with_the_step(rl_exp, folder, straight, monkeypatch):
    score = SentimentTask.score

    def fails_on_a_step(task, prompts, texts, tokens, **known):
        if len(texts) == ROWS:
            raise KeyError("no such word")
        return score(task, prompts, texts, tokens, **known)

    monkeypatch.setattr(SentimentTask, "score", fails_on_a_step)
    result = rl_exp("rlhf", *words_for(straight, folder))
    assert result.exit_code == 1, result.output
    said = "failed: step 1: task sentiment could not score 16 completions (KeyError: 'no such word')"
    assert said in " ".join(result.output.split())


KILLED = """
import os, signal, sys
import experiments.training.checkpoints as checkpoints
from experiments.runs.run import Run

place, saves = sys.argv[1], []

def dies_in_the_second_save(*arguments):
    saves.append(1)
    if len(saves) == 4:  # two JSON files a save
        os.kill(os.getpid(), signal.SIGKILL)
    return write_json(*arguments)

def dies_before_the_row_of_step_4(run, metrics, **position):
    if position["step"] == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return log(run, metrics, **position)

log, write_json = Run.log, checkpoints.write_json
if place == "in a step":
    Run.log = dies_before_the_row_of_step_4
else:
    checkpoints.write_json = dies_in_the_second_save
sys.argv = ["rl-exp", *sys.argv[2:]]
from cli.main import main
main()
"""


@pytest.mark.parametrize("place", [pytest.param("in a step", marks=SLOW), "inside a save"])
def test_a_killed_run_continues_to_the_bits_of_an_uninterrupted_one(place, rl_exp, folder, straight):
    words = words_for(straight, folder)
    process = run(folder, place, "rlhf", *words, program=KILLED)
    assert process.returncode == -signal.SIGKILL, process.stderr
    left = only_run(folder)
    assert json.loads((left / "status.json").read_text())["state"] == "running"
    leftovers = list((left / "checkpoints").glob(".step_*.tmp"))
    assert len(leftovers) == (place == "inside a save")

    result = rl_exp("rlhf", *words)
    assert result.exit_code == 0, result.output
    assert "continuing after step 2" in result.output
    assert not list((left / "checkpoints").glob(".step_*.tmp"))
    assert_same_run(folder, straight)
