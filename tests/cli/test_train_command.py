"""`rl-exp train` from the command line to the run directory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import run
from train_cases import metric_rows, only_run, tiny_training
from transformers import AutoModelForCausalLM, AutoTokenizer

import experiments.models.transformer  # noqa: F401  (registers the model with the Auto classes)
from experiments import train

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}


def test_a_run_leaves_what_the_contract_promises(rl_exp, tmp_path):
    result = rl_exp("train", *tiny_training(tmp_path))
    assert result.exit_code == 0, result.output
    run = only_run(tmp_path)
    for name in ("config.yaml", "overrides.yaml", "manifest.json", "metrics.jsonl", "summary.json", "status.json"):
        assert (run / name).is_file(), name
    summary, manifest = json.loads((run / "summary.json").read_text()), json.loads((run / "manifest.json").read_text())
    assert summary["tokens"] == 4096
    assert summary["cache_bytes_per_token_per_layer"] == 2 * 2 * 4 * 8
    assert manifest["exit_reason"] == "finished"
    assert manifest["versions"]["torch"] == torch.__version__
    assert "train" in manifest["data_fingerprints"]
    rows = metric_rows(run)
    assert [row["tokens"] for row in rows] == sorted(row["tokens"] for row in rows)
    assert "eval/local/perplexity" in rows[0]
    assert rows[-1]["eval/local/loss"] < rows[0]["eval/local/loss"] - 0.5, "it learned something"


def test_a_finished_run_says_where_its_results_are_and_computes_nothing(rl_exp, tmp_path):
    words = tiny_training(tmp_path)
    assert rl_exp("train", *words).exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in only_run(tmp_path).rglob("*") if path.is_file()}
    result = rl_exp("train", *words)
    assert result.exit_code == 0
    assert "finished already" in result.output
    assert only_run(tmp_path).name in result.output.replace("\n", "")
    assert before == {path: path.stat().st_mtime_ns for path in only_run(tmp_path).rglob("*") if path.is_file()}


@pytest.mark.parametrize("damage", [None, "", "[]"])
def test_a_finished_run_without_a_readable_summary_makes_it_again(damage, rl_exp, tmp_path):
    words = tiny_training(tmp_path)
    assert rl_exp("train", *words).exit_code == 0
    summary = only_run(tmp_path) / "summary.json"
    before = json.loads(summary.read_text())
    summary.unlink() if damage is None else summary.write_text(damage)
    result = rl_exp("train", *words)
    assert result.exit_code == 0, result.output
    assert "continuing after step 32" in result.output
    assert json.loads(summary.read_text())["objective"] == before["objective"]


def test_brackets_in_paths_are_shown_as_they_are(rl_exp, tmp_path):
    result = rl_exp("train", *tiny_training(tmp_path, "output_dir='a [red]b[/x] (1)'"))
    assert result.exit_code == 0, result.output
    assert "results   a [red]b[/x] (1)/train/" in result.output


def test_the_trained_model_is_a_transformers_model_with_its_tokenizer(rl_exp, tmp_path):
    rl_exp("train", *tiny_training(tmp_path, "attention=gla"))
    folder = only_run(tmp_path) / "model"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer("the ox", return_tensors="pt")
    text = tokenizer.decode(model.generate(**inputs, max_new_tokens=5, do_sample=False)[0])
    assert "the ox" in text


def test_accumulation_changes_the_passes_and_not_the_result(rl_exp, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder, accumulation in ((whole, 1), (parts, 4)):
        words = tiny_training(tmp_path, f"output_dir={folder}/outputs", f"training.accumulation={accumulation}")
        assert rl_exp("train", *words).exit_code == 0
    losses = [
        [row["train/loss"] for row in metric_rows(only_run(folder)) if "train/loss" in row] for folder in (whole, parts)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=2e-4)


@pytest.mark.parametrize(
    "changes", [("training.mask_documents=true",), ("optimizer=muon",), ("training.precision=bf16",)]
)
def test_options_of_training_run_to_the_end(rl_exp, tmp_path, changes):
    result = rl_exp("train", *tiny_training(tmp_path, *changes))
    assert result.exit_code == 0, result.output


def test_a_loss_that_is_not_finite_stops_the_run_before_the_update(rl_exp, tmp_path):
    words = tiny_training(tmp_path, "optimizer.learning_rate=1e30", "optimizer.warmup_share=0")
    result = rl_exp("train", *words)
    assert result.exit_code == 1
    assert "optimizer.learning_rate" in result.output
    assert "Traceback" not in result.output
    status = json.loads((only_run(tmp_path) / "status.json").read_text())
    assert status["state"] == "failed"
    assert "weights were not updated" in " ".join(status["reason"].split())


def test_a_sweep_runs_every_job_once_and_ends_with_a_comparison(rl_exp, tmp_path):
    words = tiny_training(tmp_path, "-m", "attention=gqa,gta", "seed=0,1")
    result = rl_exp("train", *words)
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "outputs" / "train").iterdir())) == 4
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    arms = json.loads((sweep / "comparison.json").read_text())["arms"]
    assert {(arm["mechanism"], arm["seeds"]) for arm in arms} == {("gqa", 2), ("gta", 2)}
    assert (sweep / "figures" / "perplexity_against_cache.png").stat().st_size > 1000
    assert "± " in result.output
    again = rl_exp("train", *words)
    assert again.exit_code == 0
    assert "4 jobs, 4 finished already" in again.output


def test_a_job_has_one_identity_alone_in_a_sweep_and_under_joblib(rl_exp, tmp_path):
    rl_exp("train", *tiny_training(tmp_path, "seed=3"))
    alone = only_run(tmp_path).name
    joblib = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    result = rl_exp("train", "seed=3,4", "-m", *tiny_training(tmp_path, *joblib))
    assert result.exit_code == 0, result.output
    assert "2 jobs, 1 finished already" in result.output
    assert alone in {path.name for path in (tmp_path / "outputs" / "train").iterdir()}
    assert len(list((tmp_path / "outputs" / "train").iterdir())) == 2


def test_a_sweep_with_a_failing_job_finishes_the_others_and_exits_1(rl_exp, tmp_path):
    words = tiny_training(tmp_path, "-m", "optimizer.learning_rate=1e30,1e-3", "optimizer.warmup_share=0")
    result = rl_exp("train", *words)
    assert result.exit_code == 1
    assert "1 of 2 jobs did not finish" in result.output
    table = result.output[result.output.index("1 of 2 jobs") :]
    what_differs = "".join(line.split("│")[2].strip() for line in table.splitlines() if line.startswith("│"))
    assert what_differs == "optimizer.learning_rate=1e+30", "nothing that all jobs have, and nothing cut off"
    states = [json.loads(path.read_text())["state"] for path in (tmp_path / "outputs" / "train").glob("*/status.json")]
    assert sorted(states) == ["failed", "finished"]


def test_dry_run_prints_the_configuration_and_writes_nothing(rl_exp, tmp_path):
    result = rl_exp("train", *tiny_training(tmp_path), "--dry-run")
    assert result.exit_code == 0
    assert "mechanism: gqa" in result.output
    assert not (tmp_path / "outputs").exists()


def test_dry_run_of_a_sweep_lists_its_jobs_and_what_is_done(rl_exp, tmp_path):
    rl_exp("train", *tiny_training(tmp_path, "seed=1"))
    result = rl_exp("train", "--dry-run", *tiny_training(tmp_path, "-m", "seed=1,2"))
    assert result.exit_code == 0
    assert result.output.count("finished") == 1
    assert result.output.count("new") == 1
    assert only_run(tmp_path).name in result.output


def test_cfg_job_prints_what_hydra_composed(rl_exp, tmp_path):
    result = rl_exp("train", "attention=gla", "--cfg", "job", "-p", "attention")
    assert result.exit_code == 0
    assert "mechanism: gla" in result.output
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
import experiments.runs.run, experiments.training.checkpoints as checkpoints

place, count = sys.argv[1], int(sys.argv[2])

def dies_at_call(function):
    calls = 0
    def wrapped(*arguments, **keywords):
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **keywords)
    return wrapped

if place == "log":
    experiments.runs.run.Run.log = dies_at_call(experiments.runs.run.Run.log)
elif place == "inside a save":
    checkpoints.write_json = dies_at_call(checkpoints.write_json)
else:
    checkpoints.flush_to_disk = dies_at_call(checkpoints.flush_to_disk)
sys.argv = ["rl-exp", *sys.argv[3:]]
from cli.main import main
main()
"""


@pytest.mark.parametrize(("place", "count"), [("log", 4), ("inside a save", 4), ("after a rename", 6)])
def test_a_killed_run_continues_to_the_bits_of_an_uninterrupted_one(place, count, rl_exp, tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert rl_exp("train", *tiny_training(tmp_path, f"output_dir={straight}/outputs")).exit_code == 0

    words = tiny_training(tmp_path, f"output_dir={killed}/outputs")
    assert run(tmp_path, place, str(count), "train", *words, program=KILLED).returncode == -signal.SIGKILL
    assert json.loads((only_run(killed) / "status.json").read_text())["state"] == "running"

    result = rl_exp("train", *words)
    assert result.exit_code == 0, result.output
    assert "attempt 2" in result.output
    a, b = only_run(straight), only_run(killed)
    assert (a / "model" / "model.safetensors").read_bytes() == (b / "model" / "model.safetensors").read_bytes()
    assert metric_rows(a) == metric_rows(b)


def test_sigterm_saves_and_exits_130_and_the_same_command_continues(rl_exp, tmp_path, monkeypatch):
    from experiments.runs.run import Run

    words = tiny_training(tmp_path)
    log, calls = Run.log, []

    def log_and_be_told_to_stop(run, metrics, **position):
        log(run, metrics, **position)
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Run, "log", log_and_be_told_to_stop)
    result = rl_exp("train", *words)
    assert result.exit_code == 130, result.output
    run = only_run(tmp_path)
    assert json.loads((run / "status.json").read_text())["state"] == "interrupted"
    monkeypatch.setattr(Run, "log", log)
    assert rl_exp("train", *words).exit_code == 0
    assert len({row["step"] for row in metric_rows(run) if "train/loss" in row}) == 4


def test_a_stop_in_the_last_step_is_a_finished_run(rl_exp, tmp_path, monkeypatch):
    clip, calls = train.clip_gradients, []

    def clip_and_be_told_to_stop(*arguments):
        calls.append(1)
        if len(calls) == 32:  # 4096 tokens, 128 a step
            os.kill(os.getpid(), signal.SIGTERM)
        return clip(*arguments)

    monkeypatch.setattr(train, "clip_gradients", clip_and_be_told_to_stop)
    result = rl_exp("train", *tiny_training(tmp_path))
    assert result.exit_code == 0, result.output
    assert "stopping" in result.output
    assert json.loads((only_run(tmp_path) / "status.json").read_text())["state"] == "finished"


def test_the_rate_of_training_counts_neither_evaluation_nor_saving(rl_exp, tmp_path, monkeypatch):
    class Clock:  # every look at it is one second later, and what is not training takes an hour
        seconds = 0.0

        def perf_counter(self):
            self.seconds += 1
            return self.seconds

    def slowly(function):
        def slow(*arguments, **keywords):
            clock.seconds += 3600
            return function(*arguments, **keywords)

        return slow

    clock = Clock()
    monkeypatch.setattr(train, "time", clock)
    for name in ("log_evaluation", "save_state"):
        monkeypatch.setattr(train, name, slowly(getattr(train, name)))
    result = rl_exp("train", *tiny_training(tmp_path))
    assert result.exit_code == 0, result.output
    summary = json.loads((only_run(tmp_path) / "summary.json").read_text())
    assert (summary["training_seconds"], summary["tokens_per_second"]) == (32, 128)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk_behind_stdout_is_one_line(tmp_path):
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-m", "cli.main", "train", "--help"]
        result = subprocess.run(words, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert (result.returncode, result.stderr) == (1, "error: stdout cannot be written (No space left on device)\n")


def test_help_and_version_answer_without_torch():
    script = (
        "import sys; from typer.testing import CliRunner; from cli.main import app;"
        "result = CliRunner().invoke(app, sys.argv[1:]); print(result.output);"
        "print('torch' in sys.modules, 'hydra' in sys.modules)"
    )
    for words in (["--help"], ["--version"], ["train", "--help"]):
        output = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True).stdout
        assert output.strip().endswith("False False"), words
    assert "attention:" in output
    assert "rl-exp train -m" in output


def test_a_wheel_like_working_folder_with_its_own_conf_does_not_confuse_the_command(tmp_path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "train.yaml").write_text("not: ours\n")
    command = [Path(sys.executable).parent / "rl-exp", "train", "--cfg", "job", "-p", "model"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "hidden_size: 128" in result.stdout
