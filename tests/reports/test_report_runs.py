"""`rl-exp report runs`: what runs there are, whatever state they are in."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime

import pytest
from report_cases import NOW, made_run

from experiments.reports.run_records import EMPTY, STALE, UNREADABLE, read_record, read_records

FILES = ("config.yaml", "overrides.yaml", "manifest.json", "status.json", "summary.json")
DAMAGE = (b"", b"{", b"[1, 2]", b"\xff\xfe\x00", b"null", b"a: [", b"3")


def listed(rl_exp, *words):
    result = rl_exp("report", "runs", "--json", *words)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_run_is_shown_with_what_differs_and_its_headline(rl_exp, tmp_path):
    summary = {"eval/text/perplexity": 61.7, "objective": 4.1, "tokens": 5}
    made_run(tmp_path / "outputs", "aa", settings={"attention.mechanism": "gla"}, summary=summary)
    (run,) = listed(rl_exp)
    assert run["id"] == "aa"
    assert run["status"] == "finished"
    assert run["differs"] == {"attention.mechanism": "gla", "seed": 0}
    assert run["metrics"] == {"eval/text/perplexity": 61.7}
    table = rl_exp("report", "runs")
    assert "mechanism=gla" in table.output
    assert "61.7" in table.output


def test_a_run_without_a_sign_of_life_is_stale_and_a_live_one_is_not(tmp_path):
    made_run(tmp_path, "aa", state="running")
    soon = datetime.fromisoformat(NOW).replace(second=30)
    assert read_records(tmp_path, now=soon)[0].state == "running"
    assert read_records(tmp_path, now=datetime.now(UTC))[0].state == STALE


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", DAMAGE)
def test_damage_of_any_file_is_named_in_the_record(tmp_path, name, content):
    run = made_run(tmp_path / "outputs", "aa", summary={"eval/text/perplexity": 61.7})
    (run / name).write_bytes(content)
    record = read_record(run)
    empty_yaml = name.endswith(".yaml") and content in (b"", b"null")
    assert empty_yaml or record.problem
    assert name != "status.json" or record.state == UNREADABLE


def test_a_damaged_run_is_a_line_between_the_others(rl_exp, tmp_path):
    run = made_run(tmp_path / "outputs", "aa", summary={"eval/text/perplexity": 61.7})
    made_run(tmp_path / "outputs", "bb", summary={"eval/text/perplexity": 60.0})
    (run / "summary.json").write_bytes(b"{")
    result = rl_exp("report", "runs")
    assert result.exit_code == 0, result.output
    assert "bb" in result.output
    assert "summary.json is damaged" in " ".join(result.output.split())


def test_a_damaged_line_of_metrics_is_named_and_a_half_written_end_is_not(tmp_path):
    run = made_run(tmp_path / "outputs", "aa", summary={}, rows=[{"train/loss": 2.0}, {"train/loss": 1.0}])
    metrics = run / "metrics.jsonl"
    with metrics.open("ab") as file:
        file.write(b'{"train/lo')
    assert read_record(run).problem is None
    metrics.write_bytes(b'{"train/loss": 2.0}\n\x00\xff\x01\n[1]\n{"train/loss": 1.0}\n')
    assert read_record(run).problem == "metrics.jsonl is damaged: line 2 and 1 more"


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_or_a_folder_in_its_place_is_no_traceback(rl_exp, tmp_path, name):
    run = made_run(tmp_path / "outputs", "aa", summary={})
    (run / name).unlink()
    assert rl_exp("report", "runs").exit_code == 0
    (run / name).mkdir()
    assert rl_exp("report", "runs").exit_code == 0
    assert read_record(run).problem


def test_empty_folders_are_named_and_foreign_ones_are_left_alone(rl_exp, tmp_path):
    (tmp_path / "outputs" / "train" / "nothing").mkdir(parents=True)
    (tmp_path / "outputs" / "artifacts" / "tokens").mkdir(parents=True)
    (tmp_path / "outputs" / "notes.txt").write_text("mine")
    (run,) = listed(rl_exp)
    assert (run["id"], run["status"]) == ("nothing", EMPTY)


def test_an_empty_or_absent_outputs_folder_says_how_to_begin(rl_exp, tmp_path):
    for _ in range(2):
        result = rl_exp("report", "runs")
        assert result.exit_code == 0
        assert "rl-exp train" in result.output
        (tmp_path / "outputs").mkdir(exist_ok=True)


def test_runs_are_filtered_and_sorted(rl_exp, tmp_path):
    for number, (mechanism, loss) in enumerate((("gqa", 3.0), ("gta", 1.0), ("gta", 2.0))):
        settings = {"attention.mechanism": mechanism, "training.tokens": 1000 + number}
        made_run(tmp_path / "outputs", f"r{number}", settings=settings, summary={"eval/text/loss": loss})
    made_run(tmp_path / "outputs", "other", experiment="bench", state="failed")
    assert [run["id"] for run in listed(rl_exp, "--experiment", "train", "--sort", "loss")] == ["r1", "r2", "r0"]
    assert [run["id"] for run in listed(rl_exp, "--sort", "eval/text/loss", "--reverse")] == ["r0", "r2", "r1", "other"]
    assert {run["id"] for run in listed(rl_exp, "--filter", "mechanism=gt*")} == {"r1", "r2"}
    assert [run["id"] for run in listed(rl_exp, "--filter", "training.tokens=1002")] == ["r2"]
    assert [run["id"] for run in listed(rl_exp, "--status", "failed")] == ["other"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--status", "done"), "status done"),
        (("--filter", "mechanism"), "write key=value"),
        (("--filter", "mechansm=gta"), "Did you mean mechanism"),
        (("--sort", "nonsense"), "no run has a setting or metric 'nonsense'"),
        (("--experiment", "trian"), "there are train"),
        (("--output-dir", "nowhere"), "--output-dir nowhere is not a folder"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(rl_exp, tmp_path, words, said):
    made_run(tmp_path / "outputs", "aa", settings={"attention.mechanism": "gta"})
    result = rl_exp("report", "runs", *words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_a_line(tmp_path):
    run = made_run(tmp_path, "aa")
    (run / "status.json").chmod(0)
    assert "cannot be read" in (read_record(run).problem or "")
