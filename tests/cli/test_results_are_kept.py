"""What fails after an experiment (a screen, a comparison) is one line, and hides no result."""

from __future__ import annotations

import json

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from train_cases import only_run, tiny_training

from cli import perform, sweep
from conf.override_rules import quoted


def fail(*_):
    raise RuntimeError("no font")


@pytest.fixture
def short(tmp_path):
    return tiny_training(tmp_path, "training.tokens=256", "training.samples=0")


def test_a_screen_that_fails_leaves_a_finished_run_finished(rl_exp, tmp_path, short, monkeypatch):
    monkeypatch.setattr(perform, "show_end", fail)
    result = rl_exp("train", *short)
    assert result.exit_code == 0, result.output
    assert "the results cannot be shown (no font)" in " ".join(result.stderr.split())
    assert "failed" not in result.stdout
    assert json.loads((only_run(tmp_path) / "status.json").read_text())["state"] == "finished"


def test_a_comparison_that_fails_is_one_line_before_the_table_of_what_did_not_finish(
    rl_exp, short, monkeypatch, tmp_path
):
    monkeypatch.setattr("experiments.train.compare", fail)
    output = tmp_path / "a=b,c #1"
    result = rl_exp(
        "train", "-m", *short, f"output_dir={quoted(str(output))}", "seed=0,1", "training.sequence_length=32"
    )
    assert result.exit_code == 1, result.output
    assert "the comparison failed: no font; the runs are complete" in " ".join(result.stdout.split())
    assert "Traceback" not in result.output
    assert len(list((output / "train").glob("*/summary.json"))) == 2, "a sweep runs in a folder of any name"
    assert sweep.read_json(next((output / "sweeps").glob("*/sweep.json")))["command"] == "train"


@pytest.mark.parametrize("text", ["outputs/x", "a b=c,d", 'a"b', "a\\b", 'a\\"b', "x\\", "{}[]'$(x)", "#1 %x:~"])
def test_any_text_is_a_value_of_an_override_where_it_is_quoted(text):
    (override,) = OverridesParser.create().parse_overrides([f"output_dir={quoted(text)}"])
    assert override.value() == text
