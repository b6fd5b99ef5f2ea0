"""The clock of the machine is set back and forth while runs go on: what is counted does not depend on it."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from datetime import UTC, datetime, timedelta

import pytest
from train_cases import metric_rows, only_run, tiny_training

import experiments.runs.manifest as manifest
from experiments.reports.run_records import STALE, read_record
from experiments.runs.run import Run

JUMPS = [timedelta(), timedelta(days=400), timedelta(hours=-5), timedelta(days=-9000), timedelta(seconds=-3)]


@pytest.fixture
def jumping_clock(monkeypatch):
    """Every look at the clock of the day finds that it was set to another time; the monotonic clocks go on."""
    jumps, real_time = itertools.cycle(JUMPS), time.time

    class JumpingDatetime(datetime):
        @classmethod
        def now(cls, zone=None):
            return datetime.fromtimestamp(real_time(), zone) + next(jumps)

    monkeypatch.setattr(time, "time", lambda: real_time() + next(jumps).total_seconds())
    monkeypatch.setattr(manifest, "datetime", JumpingDatetime)


@pytest.mark.slow
def test_a_run_under_a_jumping_clock_is_cut_off_continued_and_counted_as_under_a_steady_one(
    rl_exp, tmp_path, monkeypatch, request
):
    straight = tmp_path / "straight"
    assert rl_exp("train", *tiny_training(tmp_path, f"output_dir={straight}/outputs")).exit_code == 0

    request.getfixturevalue("jumping_clock")
    words = tiny_training(tmp_path)
    log, rows = Run.log, []

    def log_and_be_told_to_stop(run, metrics, **position):
        log(run, metrics, **position)
        rows.append(position)
        if len(rows) == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Run, "log", log_and_be_told_to_stop)
    assert rl_exp("train", *words).exit_code == 130
    run = only_run(tmp_path)
    saved = sorted((run / "checkpoints").glob("step_*"))
    assert len(saved) == 2
    for age, checkpoint in enumerate(saved):  # to the clock the older one is the newer one
        moment = 1_000_000_000 - 1000 * age
        os.utime(checkpoint, (moment, moment))
    assert saved[0].stat().st_mtime > saved[1].stat().st_mtime

    result = rl_exp("train", *words)
    assert result.exit_code == 0, result.output
    assert f"continuing after step {int(saved[1].name.removeprefix('step_'))}" in result.output
    assert metric_rows(run) == metric_rows(only_run(straight))
    written = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    times = [row["time"] for row in written]
    assert times != sorted(times), "the clock did jump"
    assert all(row.get("train/tokens_per_second", 1) > 0 for row in written)
    summary = json.loads((run / "summary.json").read_text())
    assert 0 < summary["training_seconds"] < 3600
    assert 0 < summary["tokens_per_second"] < float("inf")

    report = rl_exp("report", "runs", "--json")
    assert report.exit_code == 0, report.output
    (record,) = json.loads(report.stdout)
    assert record["status"] == "finished"
    assert record["age_seconds"] >= 0


@pytest.mark.parametrize(("ahead", "state"), [(timedelta(seconds=20), "running"), (timedelta(days=2), STALE)])
def test_a_killed_run_whose_last_sign_of_life_lies_in_the_future_is_not_taken_for_a_live_one(ahead, state, tmp_path):
    run = tmp_path / "outputs" / "train" / "aa"
    run.mkdir(parents=True)
    moment = datetime.now(UTC)
    status = {"state": "running", "heartbeat": (moment + ahead).isoformat(timespec="seconds"), "pid": 1}
    (run / "status.json").write_text(json.dumps(status))
    record = read_record(run, now=moment)
    assert record.state == state
    assert record.age == 0
    assert ("lies in the future" in (record.problem or "")) == (state == STALE)
