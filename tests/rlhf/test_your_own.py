"""A reward and a task of the user's own through `rl-exp rlhf`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rlhf_cases import metric_rows, only_run, tiny_rlhf

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "your_own.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The files of docs/your_own.md, in the working directory."""
    for block in DOCUMENT.split("```python\n")[1:]:
        code = block.partition("```")[0]
        (tmp_path / code.splitlines()[0].removeprefix("# ")).write_text(code)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_own_task_and_reward_train_are_logged_and_change_the_run_id(rl_exp, folder):
    words = [
        *tiny_rlhf(folder),
        "task=python",
        "task.python.function=my_task.py:finished_and_short",
        "task.prompts=4",
        "probe.prompts=4",
        "reward=python",
        "reward.python.function=my_rewards.py:shortness",
        "+reward.python.arguments.scale=2",
        "other_rewards=[my_rewards.py:Vowels]",
    ]
    result = rl_exp("rlhf", *words)
    assert result.exit_code == 0, result.output
    run = only_run(folder)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["arm"] == "shortness"
    assert "probe/part/finished" in summary
    assert any("Vowels" in name for row in metric_rows(run) for name in row)
    assert {path.name for path in (run / "code").iterdir()} == {"my_rewards.py", "my_task.py"}
    assert "finished already" in " ".join(rl_exp("rlhf", *words).output.split())
    for name in ("my_rewards.py", "my_task.py"):
        with (folder / name).open("a") as file:
            file.write("# changed\n")
        assert ": new" in rl_exp("rlhf", *words, "--dry-run").output, name


def test_prompts_that_are_too_few_are_refused_with_their_number(rl_exp, folder):
    words = [*tiny_rlhf(folder), "task=python", "task.python.function=my_task.py:finished_and_short"]
    result = rl_exp("rlhf", *words, "task.prompts=5", "probe.prompts=4")
    assert result.exit_code == 1  # known once the tokenizer is there
    assert "has 4 different prompts in PROMPTS: lower task.prompts=5" in " ".join(result.output.split())
