"""A sweep under launchers that run its jobs in processes of their own: the same runs, the same table.

joblib is tested in test_train_command.py and test_killed_workers.py.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from importlib.util import find_spec
from pathlib import Path

import pytest
from processes import run, start
from train_cases import tiny_training

from conf.commands import COMMANDS
from conf.compose import UserError, hydra_settings, plan_jobs
from conf.launchers import FOLDER, launcher_names

PLUGINS = {
    "joblib": "hydra_joblib_launcher",
    "submitit_local": "hydra_submitit_launcher",
    "submitit_slurm": "hydra_submitit_launcher",
    "ray": "hydra_ray_launcher",
}


def needs(module: str, extra: str) -> pytest.MarkDecorator:
    there = find_spec("hydra_plugins") is not None and find_spec(f"hydra_plugins.{module}") is not None
    return pytest.mark.skipif(not there, reason=f"pip install 'rl-exp[{extra}]'")


needs_submitit = needs("hydra_submitit_launcher", "submitit")


def statuses(folder: Path) -> dict[str, dict]:
    paths = (folder / "outputs" / "train").glob("*/status.json")
    return {path.parent.name: json.loads(path.read_text()) for path in paths}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("launcher", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_every_launcher_composes_for_every_command_or_names_its_extra(launcher, command):
    words = [f"hydra/launcher={launcher}", "seed=0,1"]
    if find_spec(f"hydra_plugins.{PLUGINS[launcher]}") is None:
        with pytest.raises(UserError, match=r"pip install 'rl-exp\["):
            plan_jobs(COMMANDS[command], words, multirun=True)
        return
    plain, _ = plan_jobs(COMMANDS[command], ["seed=0,1"], multirun=True)
    jobs, multirun = plan_jobs(COMMANDS[command], words, multirun=True)
    assert multirun
    assert [job.run_id for job in jobs] == [job.run_id for job in plain]
    assert "Launcher" in hydra_settings(COMMANDS[command], words).launcher["_target_"]


def test_a_launcher_that_does_not_exist_is_answered_with_those_that_do():
    with pytest.raises(UserError, match=r"use one of basic, joblib, ray, submitit_local, submitit_slurm"):
        plan_jobs(COMMANDS["train"], ["hydra/launcher=slurm", "seed=0,1"], multirun=True)
    assert launcher_names()[0] == "basic"


@needs_submitit
def test_a_misspelt_setting_of_a_launcher_is_answered_with_the_nearest():
    words = ["hydra/launcher=submitit_slurm", "hydra.launcher.partion=gpu", "seed=0,1"]
    with pytest.raises(UserError, match=r"Did you mean hydra\.launcher\.partition"):
        plan_jobs(COMMANDS["train"], words, multirun=True)


@needs_submitit
def test_slurm_is_planned_without_slurm_and_refused_in_one_line_where_there_is_none(rl_exp, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    words = tiny_training(tmp_path, "-m", "seed=0,1", "hydra/launcher=submitit_slurm")
    assert rl_exp("train", *words, "--dry-run").exit_code == 0
    result = rl_exp("train", *words)
    assert result.exit_code == 2
    assert "needs sbatch and srun" in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param("submitit_local", marks=needs_submitit),
        pytest.param("ray", marks=needs("hydra_ray_launcher", "ray")),
    ],
)
def test_a_sweep_has_the_runs_the_artifacts_and_the_table_of_the_basic_launcher(launcher, tmp_path):
    words = tiny_training(tmp_path, "-m", "optimizer.learning_rate=1e30,1e-3", "optimizer.warmup_share=0")
    jobs, _ = plan_jobs(COMMANDS["train"], words[:-3] + words[-2:], multirun=True)
    own = [] if launcher != "ray" else ["hydra.launcher.ray.init.num_cpus=2"]
    sweep = start(tmp_path, "train", *words, f"hydra/launcher={launcher}", *own, RAY_AUTH_MODE="disabled")
    ended = sweep.end()
    output, errors = ended.stdout, ended.stderr
    assert ended.returncode == 1, output + errors
    assert "1 of 2 jobs did not finish" in output, output + errors
    assert "optimizer.learning_rate=1e+30" in output
    assert "Traceback" not in errors
    assert {run: entry["state"] for run, entry in statuses(tmp_path).items()} == {
        jobs[0].run_id: "failed",
        jobs[1].run_id: "finished",
    }
    assert sweep.pid not in {entry["pid"] for entry in statuses(tmp_path).values()}
    artifacts = list((tmp_path / "outputs" / "artifacts").glob("*/*"))
    assert artifacts
    assert not [path for path in artifacts if path.suffix == ".tmp"]
    (directory,) = (tmp_path / "outputs" / "sweeps").iterdir()
    assert {path.stem for path in (directory / "jobs").iterdir()} == {job.run_id for job in jobs}
    if launcher == "submitit_local":
        printed = [path.read_text() for path in (directory / "submitit").rglob("*_log.out")]
        assert any("failed:" in text for text in printed)
        assert any("perplexity" in text for text in printed), "the whole screen of a job is in its log"


@needs_submitit
def test_a_job_that_is_told_to_make_room_saves_is_started_again_and_continues(tmp_path):
    words = tiny_training(tmp_path, "-m", "seed=0", "hydra/launcher=submitit_local", "training.tokens=32768")
    sweep = start(tmp_path, "train", *words)
    os.kill(sweep.a_run_at_work()["pid"], signal.SIGUSR2)
    ended = sweep.end()
    assert ended.returncode == 0, ended.stdout + ended.stderr
    ((_, status),) = statuses(tmp_path).items()
    assert status["state"] == "finished"
    assert status["attempt"] == 2
    first = next((tmp_path / "outputs" / "train").glob("*/logs/attempt_1.log")).read_text()
    assert "interrupted by a signal" in first


@needs_submitit
def test_ctrl_c_under_submitit_saves_the_jobs_and_exits_130_and_the_same_command_continues(tmp_path):
    words = tiny_training(tmp_path, "-m", "seed=0", "hydra/launcher=submitit_local", "training.tokens=32768")
    sweep = start(tmp_path, "train", *words)
    sweep.a_run_at_work()
    os.killpg(sweep.pid, signal.SIGINT)  # as a terminal does: to the command, and to all that it started
    ended = sweep.end()
    assert ended.returncode == 130, ended.stdout + ended.stderr
    assert "the same command continues" in ended.stderr
    again = run(tmp_path, "train", *words)
    assert again.returncode == 0, again.stdout + again.stderr
    ((_, status),) = statuses(tmp_path).items()
    assert (status["state"], status["attempt"], status["host"]) == ("finished", 2, socket.gethostname())


@needs("hydra_optuna_sweeper", "optuna")
def test_a_search_ends_with_all_its_trials(rl_exp, tmp_path):
    words = tiny_training(
        tmp_path,
        "-m",
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=3",
        "hydra.sweeper.sampler.seed=0",
        "optimizer.learning_rate=tag(log,interval(1e-4,1e-2))",
    )
    result = rl_exp("train", *words)
    assert result.exit_code == 0, result.output
    assert "3 trials, 3 finished" in result.output
    (directory,) = (tmp_path / "outputs" / "sweeps").iterdir()
    assert {path.stem for path in (directory / "jobs").iterdir()} == set(statuses(tmp_path))
    assert (directory / "optimization_results.yaml").is_file()
