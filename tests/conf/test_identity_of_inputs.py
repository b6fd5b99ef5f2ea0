"""A run belongs to the contents of what its settings name: one other byte is another run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.completion import setting_keys
from conf.commands import COMMANDS
from conf.compose import plan_jobs

PREFERENCE = ("task=preference", "task.dataset.path=prompts.jsonl", "task.scorer.path=scorer")
HUB_FILES = ("data=tinystories", "data.evaluation_split=null", "data.path=json")
PROBLEM_TEXT = (
    "rewards: [[1, 0.8, -1]]\nground_truth_rewards: [[1, 0.8, -1]]\ninitial_policy_probabilities: [[0.1, 0.5, 0.4]]\n"
)
PROBLEM = ("experiment=imperfect_rewards", "problem=problem.yaml")
# Setting -> the command line that names an input by it, and the file of that input which changes.
INPUTS = {
    "data.path": ("rlhf", ("data=local", "data.path=texts"), "texts/a.txt"),
    "data.data_files": ("train", (*HUB_FILES, "data.data_files=rows.jsonl"), "rows.jsonl"),
    "tokenizer.path": ("train", ("tokenizer=hub", "tokenizer.path=tokenizer"), "tokenizer/tokenizer.json"),
    "policy.path": ("reward-eval", ("policy.path=policy",), "policy/model.safetensors"),
    "reward.hub.path": ("rlhf", ("reward=hub", "reward.hub.path=judge"), "judge/model.safetensors"),
    "task.scorer.path": ("rlhf", PREFERENCE, "scorer/model.safetensors"),
    "task.dataset.path": ("reward-eval", PREFERENCE, "prompts.jsonl"),
    "task.dataset.data_files": (
        "rlhf",
        (PREFERENCE[0], "task.dataset.path=json", "task.dataset.data_files=rows.jsonl", PREFERENCE[2]),
        "rows.jsonl",
    ),
    "bench.policy": ("bench", ("mode=generate", "bench.policy=policy"), "policy/model.safetensors"),
    "init.path": ("train", ("init.path=policy",), "policy/model.safetensors"),
    "reward.python.function": ("rlhf", ("reward=python", "reward.python.function=code.py:f"), "code.py"),
    "task.python.function": ("rlhf", ("task=python", "task.python.function=code.py:f"), "code.py"),
    "problem": ("controlled", PROBLEM, "problem.yaml"),
}
NAMES_AN_INPUT = ("path", "data_files", "problem", "policy", "function")


@pytest.fixture
def inputs(tmp_path, monkeypatch) -> Path:
    """A folder with something at every path of INPUTS; it is not loaded, so it need not make sense."""
    monkeypatch.chdir(tmp_path)
    for _, _, file in INPUTS.values():
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).write_text("{}")
    for folder in ("policy", "scorer", "judge"):
        Path(folder, "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    Path("texts/a.txt").write_text("a text")
    Path("code.py").write_text("def f(outputs): return [0.0] * len(outputs)\n")
    Path("problem.yaml").write_text(PROBLEM_TEXT)
    return tmp_path


@pytest.mark.parametrize("setting", INPUTS)
def test_one_byte_of_an_input_makes_another_run(setting, inputs):
    command, words, file = INPUTS[setting]

    def identity() -> str:
        (job,), _ = plan_jobs(COMMANDS[command], list(words), multirun=False)
        return job.run_id

    before = identity()
    assert identity() == before
    path, times = Path(file), Path(file).stat()
    path.write_text(path.read_text() + " ")
    assert path.stat().st_mtime_ns != times.st_mtime_ns or path.stat().st_size != times.st_size
    assert identity() != before


@pytest.mark.parametrize("command", COMMANDS)
def test_every_setting_that_names_an_input_is_among_these(command):
    keys = {key.removesuffix("=") for key in setting_keys(command)}
    naming = {key for key in keys if key.rsplit(".", 1)[-1] in NAMES_AN_INPUT}
    assert naming <= set(INPUTS)
