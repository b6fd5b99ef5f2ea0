"""`rl-exp rlhf-sweep` from the command line to its summary: sharing, a kill in the middle, failures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

from rlhf_cases import tiny_rlhf

SWEEP = ("reward=ground_truth,noisy_75", "seed=0,1", "hydra/launcher=basic", "policy_gradient.steps=4")

KILLED = """
import os, signal, sys
from experiments.runs.run import Run

log, step, jobs = Run.log, int(sys.argv[1]), int(sys.argv[2])
started = set()

def log_or_die(run, metrics, **position):
    started.add(run.directory)
    if len(started) == jobs and position.get("step") == step:
        os.kill(os.getpid(), signal.SIGKILL)
    log(run, metrics, **position)

Run.log = log_or_die
sys.argv = ["rl-exp", *sys.argv[3:]]
from cli.main import main
main()
"""


def summary_of(folder):
    """The documents of the one sweep under `folder`."""
    (sweep,) = (folder / "outputs" / "sweeps").iterdir()
    return [json.loads((sweep / name).read_text()) for name in ("comparison.json", "statements.json")]


def test_a_sweep_killed_in_the_middle_ends_with_the_summary_of_an_uninterrupted_one(rl_exp, tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    words = tiny_rlhf(tmp_path, *SWEEP)
    result = rl_exp("rlhf-sweep", *words, f"output_dir={straight}/outputs")
    assert result.exit_code == 0, result.output

    words = [*words, f"output_dir={killed}/outputs"]
    dies_in_the_third_job = [sys.executable, "-c", KILLED, "3", "3", "rlhf-sweep", *words]
    process = subprocess.run(dies_in_the_third_job, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    runs = killed / "outputs" / "rlhf"
    states = sorted(json.loads((run / "status.json").read_text())["state"] for run in runs.iterdir())
    assert states == ["finished", "finished", "running"]
    finished = {
        run: (run / "metrics.jsonl").stat().st_mtime_ns
        for run in runs.iterdir()
        if json.loads((run / "status.json").read_text())["state"] == "finished"
    }

    result = rl_exp("rlhf-sweep", *words)
    assert result.exit_code == 0, result.output
    assert "2 finished already" in result.output
    assert "continuing after step 2" in result.output
    assert all((run / "metrics.jsonl").stat().st_mtime_ns == time for run, time in finished.items())
    assert summary_of(killed) == summary_of(straight)


def test_arms_of_a_sweep_share_the_policy_and_its_probe_rollouts(rl_exp, tmp_path):
    result = rl_exp("rlhf-sweep", *tiny_rlhf(tmp_path, *SWEEP))
    assert result.exit_code == 0, result.output
    outputs = tmp_path / "outputs"
    assert len(list((outputs / "rlhf").iterdir())) == 4
    assert len(list((outputs / "train").iterdir())) == 2  # one of each seed
    probes = [path for path in (outputs / "artifacts" / "probe_rollouts").iterdir() if path.is_dir()]
    assert len(probes) == 2
