"""The hundred kills: the published result, and (marked slow) the experiment itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hundred_kills import COMMANDS, verdict, without_clock

REPOSITORY = Path(__file__).resolve().parents[2]
PUBLISHED = REPOSITORY / "outputs" / "reference" / "faults" / "hundred_kills.json"


def assert_a_hundred_kills_left_no_trace(result: dict) -> None:
    judged = verdict(result)
    assert judged == result["verdict"], "the verdict follows from the kills and rounds beside it"
    assert judged["holds"], [entry for entry in result["rounds"] if entry["differences"] or entry["exit_code"]]
    assert judged["kills"] >= 100
    assert min(judged["kills_of"].values()) >= 30
    assert set(judged["kills_of"]) == set(COMMANDS)
    assert judged["inside_a_save"] >= 20


def test_the_published_kills_left_no_trace():
    assert_a_hundred_kills_left_no_trace(json.loads(PUBLISHED.read_text()))


def test_a_round_that_differs_or_fails_or_is_missing_is_no_success():
    kills = [{"command": "train", "inside_a_save": True, "half_made": ["a"]}]
    good = {"kills": 1, "exit_code": 0, "differences": []}
    assert verdict({"kills": kills, "rounds": [good]})["holds"]
    for rounds in (
        [],
        [good | {"differences": ["other weights"]}],
        [good | {"exit_code": 1}],
        [good | {"kills": 0}],
    ):
        assert not verdict({"kills": kills, "rounds": rounds})["holds"], rounds


def test_only_the_clock_is_left_out_of_the_comparison():
    row = {"time": 1.0, "step": 3, "train/loss": 2.0, "train/tokens_per_second": 9.0}
    assert without_clock([row]) == [{"step": 3, "train/loss": 2.0}]


@pytest.mark.slow
def test_a_hundred_kills_at_random_moments_leave_no_trace(tmp_path):
    paths = os.pathsep.join(str(path) for path in (REPOSITORY, REPOSITORY / "tests"))
    command = [sys.executable, REPOSITORY / "tests/faults/hundred_kills.py", "--output", tmp_path / "result.json"]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, check=False)
    assert_a_hundred_kills_left_no_trace(json.loads((tmp_path / "result.json").read_text()))
