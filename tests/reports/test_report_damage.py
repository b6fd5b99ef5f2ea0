"""Whatever lies in outputs/ is a line: no traceback, and nothing else is lost by it."""

from __future__ import annotations

import json
import os

import pytest
from report_cases import made_run
from test_report_page import planted_figure

import experiments.report
from experiments.reports.run_comparison import compare_arms

COMMANDS = {
    "runs": ("report", "runs"),
    "figures": ("report", "figures", "--folder", "gathered"),
    "html": ("report", "html"),
    "claims": ("report", "claims"),
}
DAMAGE = {
    "a state of another type": ("status.json", '{"state": ["finished"]}'),
    "a state of another version": ("status.json", '{"state": "done"}'),
    "nesting without end": ("status.json", "[" * 100_000),
    "a mapping that holds itself": ("config.yaml", "a: &a {b: *a}"),
    "a number that no float holds": ("summary.json", '{"eval/text/perplexity": 1' + "0" * 400 + "}"),
}


@pytest.fixture
def nothing_published(tmp_path, monkeypatch):
    """All that is published takes a minute to draw."""
    monkeypatch.setattr(experiments.report, "PUBLISHED", tmp_path / "nothing")


@pytest.mark.usefixtures("nothing_published")
@pytest.mark.parametrize("command", COMMANDS)
def test_damage_ends_no_command(rl_exp, tmp_path, command):
    made_run(tmp_path / "outputs", "whole", summary={"eval/text/perplexity": 61.7})
    for number, (name, content) in enumerate(DAMAGE.values()):
        broken = made_run(tmp_path / "outputs", f"broken{number}", summary={"eval/text/perplexity": 61.7})
        (broken / name).write_text(content)
    result = rl_exp(*COMMANDS[command])
    assert result.exit_code == 0, result.output
    if command == "runs":
        assert "whole" in result.stdout


def test_a_huge_number_is_left_out_of_a_comparison(rl_exp, tmp_path):
    for run, value in (("one", "1" + "0" * 400), ("two", "61.7")):
        directory = made_run(tmp_path / "outputs", run, settings={"attention.mechanism": run})
        (directory / "summary.json").write_text(
            '{"eval/text/perplexity": ' + value + ', "tokens": ' + str(len(value)) + "}"
        )
    result = rl_exp("report", "compare", "one", "two")
    assert result.exit_code == 0, result.output
    assert "tokens" in result.stdout


@pytest.mark.usefixtures("nothing_published")
def test_pictures_that_are_none_are_named_and_the_others_are_gathered(rl_exp, tmp_path):
    run = made_run(tmp_path / "outputs", "mine", summary={"eval/text/perplexity": 61.7})
    whole = planted_figure(run)
    figures = run / "figures"
    (figures / "folder.png").mkdir()
    (figures / "circle.png").symlink_to(figures / "circle.png")
    (figures / "text.png").write_text("no picture")
    (figures / "cut.png").write_bytes(whole.read_bytes()[:-20])
    os.mkfifo(figures / "pipe.png")
    result = rl_exp("report", "figures", "--folder", "gathered")
    assert result.exit_code == 0, result.output
    for name in ("folder", "circle", "text", "cut", "pipe"):
        assert f"{name}.png" in result.stderr
        assert not list((tmp_path / "gathered").glob(f"train-mine-{name}*"))
    assert list((tmp_path / "gathered").glob(f"train-mine-{whole.stem}.png"))
    page = rl_exp("report", "html")
    assert page.exit_code == 0, page.output


@pytest.mark.parametrize("folder", ["a_file", "a_file/below", "x" * 300, ".", "outputs"])
def test_a_folder_that_takes_no_figures_is_one_line_and_code_2(rl_exp, tmp_path, folder):
    made_run(tmp_path / "outputs", "mine")
    (tmp_path / "a_file").write_text("")
    result = rl_exp("report", "figures", "--folder", folder)
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "folder" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("runs", "--output-dir", "x" * 300),
        ("compare", "x" * 300, "mine"),
        ("compare", "", "mine"),
    ],
)
def test_names_that_no_file_system_takes_are_one_line_and_code_2(rl_exp, tmp_path, words):
    made_run(tmp_path / "outputs", "mine")
    result = rl_exp("report", *words)
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_file_in_the_way_of_what_is_written_does_not_keep_from_reading(rl_exp, tmp_path):
    for run in ("one", "two"):
        settings = {"attention.mechanism": run}
        made_run(tmp_path / "outputs", run, settings=settings, summary={"tokens": float(len(run) + ord(run[0]))})
    (tmp_path / "outputs" / "report").write_text("a file where a folder should be")
    for words in (("claims",), ("compare", "one", "two")):
        result = rl_exp("report", *words)
        assert result.exit_code == 0, result.output
        assert "was not written" in result.stderr


def test_of_runs_with_one_arm_and_one_seed_the_first_is_kept_and_the_others_are_named(tmp_path):
    runs = [
        made_run(tmp_path / "outputs", run, settings={"attention.mechanism": mechanism}, summary={"tokens": value})
        for run, mechanism, value in (("a", "gqa", 1.0), ("b", "gqa", 2.0), ("c", "gta", 3.0))
    ]
    arms, left_out = compare_arms(runs)
    assert [run.id for arm in arms for run in arm.runs] == ["a", "c"]
    (line,) = left_out
    assert line.startswith("b: the same settings and seed as a")


def test_a_missing_list_of_overrides_is_not_called_all_defaults(rl_exp, tmp_path):
    run = made_run(tmp_path / "outputs", "mine", summary={"tokens": 1.0})
    (run / "overrides.yaml").unlink()
    result = rl_exp("report", "runs")
    assert "all defaults" not in result.stdout
    assert "overrides.yaml is missing" in " ".join(result.stdout.split())


def test_a_list_is_found_as_it_is_shown_and_sweeps_are_named(rl_exp, tmp_path):
    made_run(tmp_path / "outputs", "mine", settings={"experiment.probabilities": [0.05]})
    made_run(tmp_path / "outputs", "other", settings={"experiment.probabilities": [0.1]})
    sweep = tmp_path / "outputs" / "sweeps" / "train-0123456789"
    sweep.mkdir(parents=True)
    jobs = {"command": "train", "experiment": "train", "jobs": [{"run_id": "mine"}, {"run_id": "other"}]}
    (sweep / "sweep.json").write_text(json.dumps(jobs))
    result = rl_exp("report", "runs", "--filter", "experiment.probabilities=[0.05]")
    assert "mine" in result.stdout
    assert "other" not in result.stdout
    assert "train-0123456789" in rl_exp("report", "runs").stdout
    assert rl_exp("report", "compare", "train-01").exit_code == 0
