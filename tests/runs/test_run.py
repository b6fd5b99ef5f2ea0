"""The life of a run directory."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from rich.console import Console

from experiments.runs import run as run_module
from experiments.runs.files import read_json, write_text
from experiments.runs.metrics import choose_wandb_mode
from experiments.runs.run import RunBusy, RunState, open_run, read_status

QUIET = {"mode": "disabled", "project": "test", "step_name": "step", "group": None, "tags": []}


def opened(tmp_path, **changes):
    settings = {
        "output_dir": tmp_path,
        "experiment": "train",
        "run_id": "abc",
        "seed": 1,
        "config": {"seed": 1},
        "config_yaml": "seed: 1\n",
        "overrides_yaml": "{}\n",
        "tracking": QUIET,
        "console": Console(file=io.StringIO()),
    }
    return open_run(**(settings | changes))


def rows(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_a_run_that_ends_well_is_finished_and_has_all_its_files(tmp_path):
    with opened(tmp_path) as run:
        assert read_status(run.directory)["state"] == RunState.running
        run.log({"train/loss": 2.5, "train/odd": float("nan")}, tokens=64)
        run.write_json("summary.json", {"loss": 2.5})
    directory = tmp_path / "train" / "abc"
    assert read_status(directory)["state"] == RunState.finished
    for name in ("config.yaml", "overrides.yaml", "manifest.json", "status.json", "metrics.jsonl", "summary.json"):
        assert (directory / name).is_file()
    assert (directory / "logs" / "attempt_1.log").is_file()
    assert rows(directory)[0]["train/loss"] == 2.5
    assert rows(directory)[0]["train/odd"] is None, "JSON has no NaN"


def test_a_failing_run_says_why_and_keeps_the_traceback_in_its_log(tmp_path):
    with pytest.raises(ValueError, match="no such thing"), opened(tmp_path) as run:
        raise ValueError("no such thing")
    status = read_status(run.directory)
    assert status["state"] == RunState.failed
    assert "no such thing" in status["reason"]
    assert "Traceback" in (run.directory / "logs" / "attempt_1.log").read_text()


def test_ctrl_c_leaves_an_interrupted_run(tmp_path):
    with pytest.raises(KeyboardInterrupt), opened(tmp_path) as run:
        os.kill(os.getpid(), signal.SIGINT)
    assert read_status(run.directory)["state"] == RunState.interrupted


def test_a_loop_that_finishes_its_steps_is_asked_to_stop_by_sigterm(tmp_path):
    def loop(run):
        with run.finishing_steps():
            os.kill(os.getpid(), signal.SIGTERM)
            if run.stop_requested:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), opened(tmp_path) as run:
        loop(run)
    assert read_status(run.directory)["state"] == RunState.interrupted


def test_rows_after_the_checkpoint_are_dropped_on_resume(tmp_path):
    with opened(tmp_path) as run:
        run.log({"train/loss": 3.0}, tokens=1)
        position = run.metrics_position()
        run.log({"train/loss": 2.0}, tokens=2)
    with opened(tmp_path) as run:
        run.resume_metrics(position)
        run.log({"train/loss": 1.0}, tokens=2)
    assert [row["train/loss"] for row in rows(run.directory)] == [3.0, 1.0]
    assert (run.directory / "logs" / "attempt_2.log").is_file()


def test_rows_that_were_lost_before_the_checkpoint_are_told_and_stop_no_run(tmp_path):
    with opened(tmp_path) as run:
        run.log({"train/loss": 3.0}, tokens=1)
        run.log({"train/loss": 2.0}, tokens=2)
        position = run.metrics_position()
    metrics = run.directory / "metrics.jsonl"
    os.truncate(metrics, position - 10)
    with opened(tmp_path) as run:
        run.resume_metrics(position)
        run.log({"train/loss": 1.0}, tokens=3)
    assert [row["train/loss"] for row in rows(run.directory)] == [3.0, 1.0]
    lost = read_json(run.directory / "manifest.json")["metrics_bytes_lost"]
    assert 10 < lost < position


def test_what_a_killed_writer_left_is_gone_after_the_next_start(tmp_path):
    with opened(tmp_path) as run:
        (run.directory / ".status.json.99999.tmp").write_text('{"state": "ru')
    with opened(tmp_path) as run:
        assert not list(run.directory.glob(".*.tmp"))


def test_an_error_while_writing_names_the_file_and_leaves_no_part_of_it(tmp_path, monkeypatch):
    def no_space(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_text(tmp_path / "a.txt", "before")
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.txt'"):
        write_text(tmp_path / "a.txt", "after")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "before"


def test_force_starts_over(tmp_path):
    with opened(tmp_path) as run:
        run.log({"train/loss": 3.0}, tokens=1)
    with opened(tmp_path, force=True) as run:
        run.log({"train/loss": 1.0}, tokens=1)
    assert len(rows(run.directory)) == 1


def test_a_run_that_another_process_holds_is_refused(tmp_path):
    script = """
import sys, pathlib
sys.path.insert(0, sys.argv[2])
from test_run import opened
from experiments.runs.run import RunBusy
try:
    with opened(pathlib.Path(sys.argv[1])):
        print("taken")
except RunBusy as error:
    print("busy", error)
"""
    with opened(tmp_path):
        command = [sys.executable, "-c", script, str(tmp_path), os.path.dirname(__file__)]
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert answer.startswith("busy run abc")
    with opened(tmp_path):
        pass
    with pytest.raises(RunBusy), opened(tmp_path), opened(tmp_path):
        pass


def test_secrets_of_the_environment_are_in_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "a-very-secret-key")
    with opened(tmp_path) as run:
        run.log({"train/loss": 1.0}, tokens=1)
    for path in run.directory.rglob("*"):
        assert path.is_dir() or b"a-very-secret-key" not in path.read_bytes(), path


def test_wandb_records_an_offline_run_beside_the_jsonl(tmp_path):
    with opened(tmp_path, tracking=QUIET | {"mode": "offline"}) as run:
        for step in range(3):
            run.log({"train/loss": 3.0 - step}, step=step)
    (record,) = run.directory.glob("wandb/offline-run-*/run-*.wandb")
    content = record.read_bytes()
    assert b"train/loss" in content
    assert len(rows(run.directory)) == 3


def test_two_runs_in_one_process_do_not_share_a_wandb_run(tmp_path):
    for name in ("first", "second"):
        with opened(tmp_path, run_id=name, tracking=QUIET | {"mode": "offline"}) as run:
            run.log({f"only/{name}": 1.0}, step=0)
    content = {
        name: next((tmp_path / "train" / name).glob("wandb/offline-run-*/run-*.wandb")).read_bytes()
        for name in ("first", "second")
    }
    assert b"only/second" in content["second"]
    assert b"only/second" not in content["first"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "status.json"
    write_text(path, '{"state": "running"}')
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_text(path, '{"state": "finished"}')
    assert read_json(path) == {"state": "running"}


def test_a_damaged_status_counts_as_failed_and_is_named(tmp_path):
    (tmp_path / "status.json").write_text('{"state": "runn')
    assert read_status(tmp_path)["state"] == RunState.failed
    assert "status.json" in read_status(tmp_path)["reason"]


@pytest.mark.parametrize("content", ["{}", "[1]", '{"state": "well"}'])
def test_a_status_that_names_no_state_counts_as_failed(tmp_path, content):
    (tmp_path / "status.json").write_text(content)
    assert read_status(tmp_path)["state"] == RunState.failed


def test_a_run_whose_output_nobody_reads_is_interrupted(tmp_path):
    with pytest.raises(SystemExit), opened(tmp_path) as run:
        raise SystemExit(1)
    assert read_status(run.directory)["state"] == RunState.interrupted


@pytest.mark.parametrize(
    ("wanted", "mode"), [("offline", "offline"), ("dryrun", "offline"), ("run", "online"), ("disabled", "disabled")]
)
def test_auto_follows_the_mode_of_the_environment(wanted, mode, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", wanted)
    assert choose_wandb_mode("auto") == mode


def test_a_misspelt_wandb_mode_is_one_line_and_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "ofline")
    console = Console(file=io.StringIO(), width=200)
    with opened(tmp_path, tracking=QUIET | {"mode": "auto"}, console=console) as run:
        run.log({"train/loss": 1.0}, tokens=1)
    assert "WANDB_MODE=ofline is none of online, offline, disabled" in console.file.getvalue()
    assert len(rows(run.directory)) == 1


def test_an_empty_wandb_mode_counts_as_none(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "")
    with opened(tmp_path, tracking=QUIET | {"mode": "offline"}) as run:
        run.log({"train/loss": 1.0}, tokens=1)
    assert list(run.directory.glob("wandb/offline-run-*"))


def test_the_mode_is_chosen_without_changing_the_environment(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "")
    choose_wandb_mode("auto")
    assert os.environ["WANDB_MODE"] == ""


def test_a_run_that_logs_nothing_for_long_is_seen_alive(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "HEARTBEAT_SECONDS", 0.001)
    with opened(tmp_path) as run:
        (run.directory / "status.json").unlink()
        beats = threading.Semaphore(0)
        write = run.write_status
        monkeypatch.setattr(run, "write_status", lambda *state, **facts: (write(*state, **facts), beats.release()))
        assert beats.acquire(timeout=60)
        assert read_status(run.directory)["state"] == RunState.running
    assert read_status(run.directory)["state"] == RunState.finished, "no beat follows the last status"


@pytest.mark.parametrize("objective", [None, float("nan"), float("inf")])
def test_a_run_whose_objective_is_no_number_fails_by_its_name(objective, tmp_path):
    with pytest.raises(FloatingPointError, match="objective"), opened(tmp_path) as run:
        run.write_summary({"objective": objective, "eval/loss": float("nan")})
    status = read_status(run.directory)
    assert status["state"] == RunState.failed
    assert "eval/loss" in status["reason"]


def test_a_number_that_is_not_finite_is_named_and_an_undefined_one_is_not(tmp_path):
    console = Console(file=io.StringIO(), width=200)
    with opened(tmp_path, console=console) as run:
        run.write_summary({"objective": 1.0, "correlation": None, "parts": {"loss": float("nan")}})
    assert read_json(run.directory / "manifest.json")["not_finite"] == ["parts.loss"]
    assert "not finite, null in summary.json: parts.loss" in console.file.getvalue()
    assert read_status(run.directory)["state"] == RunState.finished
