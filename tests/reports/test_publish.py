"""`python -m experiments.reports.publish`: what is kept of a result, and what is said of how it was made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.reports.publish import CHECKOUT, publish
from experiments.runs.files import read_json


def finished_run(outputs: Path, name: str, command: list[str]) -> Path:
    run = outputs / "controlled" / name
    run.mkdir(parents=True)
    manifest = {"experiment": "controlled", "run_id": name, "seed": 0, "exit_reason": "finished", "command": command}
    (run / "manifest.json").write_text(json.dumps(manifest))
    (run / "reading.txt").write_text("a reading")
    return run


def test_paths_of_the_published_command_are_relative_to_the_checkout_or_the_output_folder(tmp_path):
    outputs = tmp_path / "outputs"
    words = [
        f"output_dir={outputs}",
        f"hydra.sweep.dir={outputs}/sweeps/x",
        f"problem={CHECKOUT}/docs/p.yaml",
    ]
    run = finished_run(outputs, "a", ["rl-exp", "controlled", *words])
    publish(run, tmp_path / "kept")
    (kept,) = read_json(tmp_path / "kept" / "provenance.json")["runs"]
    wanted = ["output_dir=outputs", "hydra.sweep.dir=outputs/sweeps/x", "problem=docs/p.yaml"]
    assert kept["command"] == ["rl-exp", "controlled", *wanted]


def test_the_command_of_a_published_sweep_names_no_folder_of_this_machine(tmp_path):
    outputs = tmp_path / "outputs"
    finished_run(outputs, "a", [])
    finished_run(outputs, "b", [])
    sweep = outputs / "sweeps" / "controlled-1"
    sweep.mkdir(parents=True)
    jobs = [{"run_id": "a"}, {"run_id": "b"}]
    overrides = ["seed=0,1", f"problem={outputs}/p.yaml"]
    record = {"command": "controlled", "overrides": overrides, "jobs": jobs}
    (sweep / "sweep.json").write_text(json.dumps(record))
    publish(sweep, tmp_path / "kept")
    provenance = read_json(tmp_path / "kept" / "provenance.json")
    assert provenance["command"] == ["rl-exp", "controlled", "-m", "seed=0,1", "problem=outputs/p.yaml"]
    assert provenance["runs"]["run_id"] == ["a", "b"]


def test_an_unfinished_run_is_not_published(tmp_path):
    run = finished_run(tmp_path / "outputs", "a", [])
    (run / "manifest.json").write_text(json.dumps({"exit_reason": "failed"}))
    with pytest.raises(ValueError, match="a did not finish"):
        publish(run, tmp_path / "kept")
