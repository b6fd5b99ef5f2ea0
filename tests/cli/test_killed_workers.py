"""A killed worker of a launcher: the sweep ends with a table and exit code 1, and the same command continues it."""

from __future__ import annotations

import json
import os
import signal
import socket

import pytest
from processes import run, start
from train_cases import tiny_training


def test_a_killed_joblib_worker_ends_the_sweep_with_a_table_and_the_same_command_continues_it(tmp_path):
    words = tiny_training(
        tmp_path, "-m", "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "training.tokens=32768"
    )
    sweep = start(tmp_path, "train", *words)
    status = sweep.a_run_at_work()
    assert status["host"] == socket.gethostname()
    assert status["pid"] != sweep.pid
    os.kill(status["pid"], signal.SIGKILL)
    ended = sweep.end()
    output, errors = ended.stdout, ended.stderr
    assert ended.returncode == 1, output + errors
    assert "jobs did not finish" in output
    assert f"from process {status['pid']}" in " ".join(output.split())
    assert "the same command continues the sweep" in errors

    again = run(tmp_path, "train", *words)
    assert again.returncode == 0, again.stdout + again.stderr
    states = [json.loads(path.read_text()) for path in (tmp_path / "outputs" / "train").glob("*/status.json")]
    assert [entry["state"] for entry in states] == ["finished", "finished"]
    assert max(entry["attempt"] for entry in states) == 2


@pytest.mark.slow
def test_ctrl_c_on_a_joblib_sweep_is_one_line_and_leaves_no_process(tmp_path):
    words = tiny_training(
        tmp_path, "-m", "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "training.tokens=32768"
    )
    sweep = start(tmp_path, "train", *words)
    status = sweep.a_run_at_work()
    os.killpg(sweep.pid, signal.SIGINT)  # as a terminal does: to the command, and to all that it started
    ended = sweep.end()
    assert ended.returncode == 130, ended.stdout + ended.stderr
    assert "interrupted; the same command continues where it stopped" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.strip().splitlines()) <= 3, ended.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(status["pid"], 0)
