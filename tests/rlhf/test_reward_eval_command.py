"""`rl-exp reward-eval` from the command line to its last line: results, refusals, sweeps."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from rlhf_cases import tiny_rlhf

from experiments import reward_eval
from experiments.reward_metrics.properties import PROPERTIES

REWARDS = "rewards=[ground_truth,perfect_low_variance,noisy_75]"


@pytest.fixture
def no_figures(monkeypatch):
    """They take seconds; one test looks at them."""
    monkeypatch.setattr(reward_eval, "draw", lambda *_: [])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Where the runs of this file lie: they share policies and probe rollouts, as a user's do."""
    return tmp_path_factory.mktemp("home")


def words(home, *changes):
    tiny = [word for word in tiny_rlhf(home) if not word.startswith("policy_gradient")]
    return [*tiny, f"output_dir={home}/outputs", REWARDS, "resamples=100", *changes]


def document_of(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.strip().splitlines()[-1])


def test_reward_models_are_scored_without_training_the_policy(rl_exp, home):
    document = document_of(rl_exp("reward-eval", *words(home, "seed=1")))
    truth, shrunk, noisy = document["rows"]
    assert [row["reward_model"] for row in document["rows"]] == ["ground_truth", "perfect_low_variance", "noisy_75"]
    assert truth["on_policy_accuracy"] == shrunk["on_policy_accuracy"] == truth["harm_aware_accuracy"] == 1.0
    assert shrunk["variance"] < truth["variance"]
    assert noisy["on_policy_accuracy"] < 1.0
    assert truth["variance_low"] <= truth["variance"] <= truth["variance_high"]
    run = home / "outputs" / "reward_eval" / document["run_id"]
    assert json.loads((run / "results.json").read_text()) == document
    table = pq.read_table(run / "results.parquet")
    assert table.num_rows == 3
    assert set(PROPERTIES) <= set(table.column_names)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["reward_model"] for row in rows] == [0, 1, 2]
    assert rows[1]["reward/variance"] == pytest.approx(shrunk["variance"])
    assert rows[1]["name"] == "perfect_low_variance"
    figures = {path.name for path in (run / "figures").glob("*.png")}
    assert figures == {"variance_against_accuracy.png", "properties.png", "within_prompt_std.png"}
    assert not (run / "model").exists()


def test_asked_again_it_prints_the_same_document(rl_exp, home, no_figures):
    first = document_of(rl_exp("reward-eval", *words(home)))
    again = rl_exp("reward-eval", *words(home))
    assert "finished already" in again.output
    assert document_of(again) == first


def test_the_properties_are_those_that_a_run_of_rlhf_records(rl_exp, home, no_figures):
    document = document_of(rl_exp("reward-eval", *words(home)))
    where = f"output_dir={home}/outputs"
    result = rl_exp("rlhf", *tiny_rlhf(home, "reward=noisy_75", "policy_gradient.steps=1", where))
    assert result.exit_code == 0, result.output
    (run,) = (home / "outputs" / "rlhf").iterdir()
    recorded = json.loads((run / "summary.json").read_text())["properties"]
    noisy = document["rows"][2]
    for name in ("variance", "on_policy_accuracy", "off_policy_accuracy", "harm_aware_accuracy"):
        assert recorded[f"reward/{name}"] == pytest.approx(noisy[name]), name


def test_a_sweep_over_policies_ends_with_one_document(rl_exp, home, no_figures):
    result = rl_exp("reward-eval", "-m", *words(home, "attention=gqa,mla"))
    document = document_of(result)
    policies = [run["policy"] for run in document["runs"]]
    assert policies == ["gqa, 16,384 tokens", "mla, 16,384 tokens"]
    assert "policy" in result.output
    variances = np.array([[row["variance"] for row in run["rows"]] for run in document["runs"]])
    assert (variances[0] != variances[1]).any()
    (sweep,) = (home / "outputs" / "sweeps").iterdir()
    assert pq.read_table(sweep / "results.parquet").num_rows == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("rewards=[]", "needs at least 1 value"),
        ("rewards=[ground_truth,ground_truth]", "names a value twice"),
        ("rewards=[ground_trut]", "Did you mean ground_truth"),
        ("resamples=0", "resamples=0"),
        ("error_tolerance=-1", "error_tolerance=-1"),
        ("probe.prompts=1", "probe.prompts=1"),
        ("probe.prompts=100000", "task.prompts"),
    ],
)
def test_mistakes_are_refused_before_anything_is_made(rl_exp, tmp_path, change, message):
    result = rl_exp("reward-eval", change)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not (tmp_path / "outputs").exists()


def test_a_dry_run_names_the_reward_models(rl_exp):
    result = rl_exp("reward-eval", "--dry-run")
    assert result.exit_code == 0
    assert "perfect_low_variance" in result.output
