"""The background process of W&B is killed while a run goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from train_cases import metric_rows, only_run, tiny_training

# argv: the number of the row before which W&B's process dies, then the words. A second run in the same process follows.
KILLS_WANDB = """
import os, signal, sys
from pathlib import Path
from experiments.runs.run import Run

row, words = int(sys.argv[1]), sys.argv[2:]

def wandb_processes():
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            facts = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:  # it has just ended
            continue
        if int(facts["PPid"]) == os.getpid() and facts["Name"].strip().startswith("wandb"):
            yield int(facts["Pid"])

def log_and_kill(run, metrics, **position):
    rows.append(1)
    if len(rows) == row:
        for process in [*wandb_processes()]:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            print("KILLED")
    log(run, metrics, **position)

log, rows = Run.log, []
Run.log = log_and_kill
from typer.testing import CliRunner
from cli.main import app
for command in (words, [*words, "seed=1"]):
    result = CliRunner().invoke(app, command)
    print(result.output)
    print("EXIT", result.exit_code)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for W&B's process in /proc")
def test_a_run_whose_wandb_process_is_killed_says_so_once_and_finishes_whole(rl_exp, tmp_path):
    straight = tmp_path / "straight"
    assert rl_exp("train", *tiny_training(tmp_path, f"output_dir={straight}/outputs")).exit_code == 0

    words = tiny_training(tmp_path, "tracking.mode=offline")
    environment = os.environ | {"WANDB_MODE": "offline", "COLUMNS": "200"}
    command = [sys.executable, "-c", KILLS_WANDB, "2", "train", *words]
    process = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr
    first, second, _ = process.stdout.split("EXIT ")
    assert first.count("KILLED") == 1, process.stdout
    assert first.count("W&B failed and is left out from here on; metrics.jsonl goes on") == 1
    assert second.startswith("0")
    assert "W&B failed" not in second
    assert "W&B could not start" not in second

    run = next(path for path in (tmp_path / "outputs" / "train").iterdir() if path.name == only_run(straight).name)
    assert metric_rows(run) == metric_rows(only_run(straight))
    assert len(metric_rows(run)) > 3
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    other = next(path for path in (tmp_path / "outputs" / "train").iterdir() if path != run)
    (record,) = other.glob("wandb/offline-run-*/run-*.wandb")
    assert b"train/loss" in record.read_bytes(), "the next run of the process has W&B again"
