"""A killed worker of a launcher: the sweep ends with a table and exit code 1, and the same command continues it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from train_cases import tiny_training

REPOSITORY = Path(__file__).resolve().parents[2]


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cli.main", "train", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def a_worker_at_work(folder: Path, sweep: subprocess.Popen[str]) -> dict:
    """The status of a run that has written its first checkpoint; fails when the sweep ends before."""
    while sweep.poll() is None:
        for path in (folder / "outputs" / "train").glob("*/status.json"):
            status = json.loads(path.read_text())
            if status["state"] == "running" and any((path.parent / "checkpoints").iterdir()):
                return status
        time.sleep(0.02)
    raise AssertionError(sweep.communicate())


def test_a_killed_joblib_worker_ends_the_sweep_with_a_table_and_the_same_command_continues_it(tmp_path):
    words = tiny_training(
        tmp_path, "-m", "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "training.tokens=32768"
    )
    sweep = start(tmp_path, *words)
    status = a_worker_at_work(tmp_path, sweep)
    assert status["host"] == socket.gethostname()
    assert status["pid"] != sweep.pid
    os.kill(status["pid"], signal.SIGKILL)
    output, errors = sweep.communicate(timeout=300)
    assert sweep.returncode == 1, output + errors
    assert "jobs did not finish" in output
    assert f"from process {status['pid']}" in " ".join(output.split())
    assert "the same command continues the sweep" in errors

    again = start(tmp_path, *words)
    output, errors = again.communicate(timeout=300)
    assert again.returncode == 0, output + errors
    states = [json.loads(path.read_text()) for path in (tmp_path / "outputs" / "train").glob("*/status.json")]
    assert [entry["state"] for entry in states] == ["finished", "finished"]
    assert max(entry["attempt"] for entry in states) == 2
