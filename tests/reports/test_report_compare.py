"""`rl-exp report compare`: planted effects are found, planted nulls are not, damage ends nothing."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from report_cases import made_run

from experiments.reports.run_comparison import compare_arms, compare_metrics, find_runs


def planted(output_dir, gap: float, *, seeds=range(5), noise=0.1, shared=1.0, paired=True, generator=None):
    """Two arms; `shared` is the deviation of what the seeds of both have in common, `gap` their true difference."""
    generator = generator or np.random.default_rng(0)
    common = {seed: generator.normal(0, shared) for seed in seeds}
    runs = []
    for number, mechanism in enumerate(("gqa", "gta")):
        for seed in seeds:
            loss = 4.0 + common[seed] + number * gap + generator.normal(0, noise)
            name = f"{mechanism}{seed}-{output_dir.name}"
            own = seed if paired or not number else seed + 100
            settings = {"attention.mechanism": mechanism, "attention.key_value_heads": 4 + number}
            rows = [{"tokens": 100 * step, "eval/text/loss": 8.0 - (8.0 - loss) * step / 4} for step in range(5)]
            summary = {"eval/text/loss": loss, "cache": 512 - number * 256, "parameters": 7}
            runs.append(made_run(output_dir, name, seed=own, settings=settings, summary=summary, rows=rows))
    return runs


def contrast_of(runs, metric="eval/text/loss"):
    arms, left_out = compare_arms(runs)
    assert not left_out
    (row,) = compare_metrics(arms, [metric])
    return row.contrasts[1]


def test_a_planted_effect_below_the_spread_of_seeds_is_found_because_seeds_are_shared(tmp_path):
    found = contrast_of(planted(tmp_path, 0.5, noise=0.05, shared=2.0))
    assert found.test == "paired t, 5 shared seeds"
    assert found.corrected_p < 0.01
    assert found.difference.low < 0.5 < found.difference.high
    assert found.difference.low > 0


def test_the_same_effect_is_not_found_where_seeds_are_not_shared(tmp_path):
    found = contrast_of(planted(tmp_path, 0.5, noise=0.05, shared=2.0, paired=False))
    assert "Welch" in found.test
    assert found.p > 0.05


def test_planted_nulls_are_rarely_called_effects(tmp_path):
    generator = np.random.default_rng(1)
    found = []
    for number in range(60):
        (tmp_path / str(number)).mkdir()
        found.append(contrast_of(planted(tmp_path / str(number), 0.0, seeds=range(3), generator=generator)))
    covered = [item.difference.low <= 0 <= item.difference.high for item in found]
    assert np.mean([item.p <= 0.05 for item in found]) < 0.15  # 3 of 60 expected
    assert np.mean(covered) > 0.85


def test_a_number_without_spread_is_exact_and_one_that_is_the_same_everywhere_is_left_out(tmp_path):
    arms, _ = compare_arms(planted(tmp_path, 0.1))
    rows = {row.metric: row for row in compare_metrics(arms)}
    assert set(rows) == {"eval/text/loss", "cache"}
    assert rows["cache"].contrasts[1].test.startswith("exact")
    assert rows["cache"].contrasts[1].difference.value == -256


def test_settings_that_follow_from_others_are_not_in_the_label(tmp_path):
    arms, _ = compare_arms(planted(tmp_path, 0.1, seeds=range(2)))
    assert [arm.label for arm in arms] == ["gqa", "gta"]


def test_p_values_are_corrected_for_the_number_of_arms(tmp_path):
    runs = planted(tmp_path, 0.1)
    for mechanism in ("mla", "gla"):
        for seed in range(5):
            loss = 4 + np.random.default_rng(seed).normal()
            settings = {"attention.mechanism": mechanism}
            runs.append(
                made_run(tmp_path, f"{mechanism}{seed}", seed=seed, settings=settings, summary={"eval/text/loss": loss})
            )
    (row,) = compare_metrics(compare_arms(runs)[0], ["eval/text/loss"])
    tested = sorted((item for item in row.contrasts if item is not None), key=lambda item: item.p)
    assert all(item.corrected_p >= item.p for item in tested)
    assert all(first.corrected_p <= second.corrected_p for first, second in pairwise(tested))
    assert tested[0].corrected_p == pytest.approx(min(1.0, 3 * tested[0].p))


def test_ten_seeds_get_a_bootstrap_and_the_same_one_every_time(tmp_path):
    runs = planted(tmp_path, 0.3, seeds=range(12))
    first, second = contrast_of(runs), contrast_of(runs)
    assert first == second
    assert first.difference.low < 0.3 < first.difference.high


def test_the_command_compares_draws_and_records(rl_exp, tmp_path):
    planted(tmp_path / "outputs", 0.5, seeds=range(3), noise=0.01)
    sweep = tmp_path / "outputs" / "sweeps" / "train-1"
    sweep.mkdir(parents=True)
    ids = [path.name for path in sorted((tmp_path / "outputs" / "train").iterdir())]
    record = {"command": "train", "experiment": "train", "jobs": [{"run_id": run_id} for run_id in ids]}
    (sweep / "sweep.json").write_text(json.dumps(record))
    for names in ("train-1",), (str(sweep),), ids, [f"{run_id[:4]}" for run_id in ids]:
        result = rl_exp("report", "compare", *names)
        assert result.exit_code == 0, result.output
        assert "paired t, 3 shared seeds" in result.output
    (folder,) = (tmp_path / "outputs" / "report").iterdir()
    assert {path.name for path in folder.iterdir()} == {
        "comparison.json",
        "curves.png",
        "curves.svg",
        "captions.json",
    }
    document = json.loads(rl_exp("report", "compare", "train-1", "--json").stdout)
    metric = next(item for item in document["metrics"] if item["metric"] == "eval/text/loss")
    assert metric["arms"][1]["minus_first"]["value"] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nothing",), "nothing is not a run, sweep or run directory"),
        (("gqa",), "gqa begins 2 runs"),
        (("gqa0", "bench1"), "bench and train have no numbers in common"),
        (("gqa0", "gqa1", "--metric", "loss"), "no run has a number 'loss'"),
        (("gqa0", "gqa1", "--curve", "loss"), "not all runs have a curve loss"),
        (("broken-sweep",), "is damaged"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(rl_exp, tmp_path, words, said):
    rows = [{"tokens": 0, "eval/text/loss": 3.0}, {"tokens": 1, "eval/text/loss": 2.0}]
    for seed in range(2):
        made_run(tmp_path / "outputs", f"gqa{seed}", seed=seed, summary={"eval/text/loss": seed}, rows=rows)
    made_run(tmp_path / "outputs", "bench1", experiment="bench", summary={"cells": 3})
    sweep = tmp_path / "outputs" / "sweeps" / "broken-sweep"
    sweep.mkdir(parents=True)
    (sweep / "sweep.json").write_text('{"jobs": 3}')
    result = rl_exp("report", "compare", *words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_unfinished_and_damaged_runs_are_left_out_and_named(rl_exp, tmp_path):
    runs = planted(tmp_path / "outputs", 0.5, seeds=range(3))
    (runs[0] / "summary.json").write_text("{")
    (runs[1] / "status.json").write_text("")
    (runs[2] / "metrics.jsonl").write_text('{"tokens": 1, "eval/text/loss": 2}\n{"tok')
    made_run(tmp_path / "outputs", "half", state="interrupted")
    result = rl_exp("report", "compare", *[run.name for run in runs], "half")
    assert result.exit_code == 0, result.output
    assert result.output.count("left out:") == 3


def test_a_prefix_that_is_a_whole_id_is_that_run(tmp_path):
    made_run(tmp_path, "abc")
    made_run(tmp_path, "abcd")
    assert find_runs(["abc"], tmp_path) == [tmp_path / "train" / "abc"]


def test_a_finished_run_whose_results_are_null_is_named_with_them(rl_exp, tmp_path):
    for run, loss in (("good", 3.0), ("null", None)):
        settings = {"attention.mechanism": run}
        summary = {"eval/text/loss": loss, "tokens": 1.0 if run == "good" else 2.0}
        made_run(tmp_path / "outputs", run, settings=settings, summary=summary)
    result = rl_exp("report", "compare", "good", "null")
    assert result.exit_code == 0, result.output
    assert "left out: null: eval/text/loss (null in its summary.json)" in result.stdout
    assert "tokens" in result.stdout, "its other numbers are compared"
