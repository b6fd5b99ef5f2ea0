"""`rl-exp rlhf-sweep` from the command line to its summary: sharing, a kill in the middle, failures."""

from __future__ import annotations

import json
import signal

from processes import run
from rlhf_cases import tiny_rlhf

SWEEP = ("reward=ground_truth,noisy_75", "seed=0", "hydra/launcher=basic", "policy_gradient.steps=4")

KILLED = """
import os, signal, sys
from experiments.runs.run import Run

log, step, jobs = Run.log, int(sys.argv[1]), int(sys.argv[2])
started = set()

def log_or_die(run, metrics, **position):
    if run.directory.parent.name == "rlhf":  # not the policy, which the first job trains
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
    assert len(list((straight / "outputs" / "rlhf").iterdir())) == 2
    assert len(list((straight / "outputs" / "train").iterdir())) == 1  # the arms share their policy, and what it says
    probes = straight / "outputs" / "artifacts" / "probe_rollouts"
    assert len([path for path in probes.iterdir() if path.is_dir()]) == 1

    words = [*words, f"output_dir={killed}/outputs"]
    process = run(tmp_path, "3", "2", "rlhf-sweep", *words, program=KILLED)  # dies in the second job
    assert process.returncode == -signal.SIGKILL, process.stderr
    runs = killed / "outputs" / "rlhf"
    states = sorted(json.loads((run / "status.json").read_text())["state"] for run in runs.iterdir())
    assert states == ["finished", "running"]
    (finished,) = [run for run in runs.iterdir() if (run / "summary.json").is_file()]
    before = (finished / "metrics.jsonl").stat().st_mtime_ns

    result = rl_exp("rlhf-sweep", *words)
    assert result.exit_code == 0, result.output
    assert "1 finished already" in result.output
    assert "continuing after step 2" in result.output
    assert (finished / "metrics.jsonl").stat().st_mtime_ns == before
    assert summary_of(killed) == summary_of(straight)
