"""Comparisons of training runs, from files alone."""

from __future__ import annotations

import json

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from experiments.reports.train_comparison import compare_training_runs, gather_arms


def made_run(folder, name, mechanism, loss, **settings):
    run = folder / name
    run.mkdir()
    config = OmegaConf.create({"attention": {"mechanism": mechanism}, "tracking": {"project": name}})
    for key, value in settings.items():
        OmegaConf.update(config, key, value)
    OmegaConf.save(config, run / "config.yaml")
    summary = {"mechanism": mechanism, "cache_bytes_per_token_per_layer": 72, "eval/text/loss": loss, "objective": loss}
    (run / "summary.json").write_text(json.dumps(summary))
    rows = [{"tokens": t, "eval/text/loss": v} for t, v in ((0, 7.0), (100, 5.0), (200, loss))] + [{"tokens": 200}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_runs_that_differ_in_their_seed_only_are_one_arm(tmp_path):
    runs = [
        made_run(tmp_path, "a", "gqa", 4.0, seed=0),
        made_run(tmp_path, "b", "gqa", 3.0, seed=1),
        made_run(tmp_path, "c", "gta", 2.0, seed=0),
        made_run(tmp_path, "d", "gqa", 1.0, **{"seed": 0, "optimizer.learning_rate": 0.1}),
    ]
    arms = gather_arms(runs)
    assert [(len(arm.runs), arm.mean("eval/text/loss")) for arm in arms] == [(1, 1.0), (1, 2.0), (2, 3.5)]
    assert arms[2].spread("eval/text/loss") == pytest.approx(0.5**0.5)
    assert arms[0].spread("eval/text/loss") is None
    assert "learning_rate=0.1" in arms[0].label


def test_a_sweep_names_a_run_whose_results_are_null_and_compares_the_others(tmp_path, capsys):
    runs = [made_run(tmp_path, "good", "gqa", 4.0, seed=0), made_run(tmp_path, "empty", "gta", None, seed=0)]
    for run in runs:
        summary = json.loads((run / "summary.json").read_text())
        (run / "summary.json").write_text(json.dumps(summary | {"parameters": 1.0, "tokens_per_second": 1.0}))
    compare_training_runs(runs, tmp_path, Console(width=200))
    assert "left out: empty: eval/text/loss, objective null" in capsys.readouterr().out
    (arm,) = json.loads((tmp_path / "comparison.json").read_text())["arms"]
    assert arm["mechanism"] == "gqa"
