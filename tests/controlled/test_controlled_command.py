"""`rl-exp controlled`: every experiment runs, records and judges; mistakes are refused before anything runs."""

from __future__ import annotations

import inspect
import json
from dataclasses import fields

import pytest

from conf.controlled_config import SCHEMAS, TAKES_PROBLEM
from experiments.controlled import EXPERIMENTS, table_of

SMALL = {
    "imperfect_rewards": ["experiment.steps=300", "experiment.optimum_probabilities=[0.15]"],
    "imperfect_rewards_features": ["experiment.steps=300"],
    "imperfect_rewards_sampled": ["experiment.steps=200", "experiment.seeds=5"],
    "phase_diagram": [
        "experiment.probability_points=3",
        "experiment.lowest_probability=0.01",
        "experiment.mediocre_rewards=[-0.5,0.5]",
        "experiment.angles=[-30,0,60]",
        "experiment.longest_time=1000",
        "experiment.scaling_seeds=3",
        "experiment.scaling_bad_outputs=[1]",
    ],
    "error_categories": ["experiment.problems=40", "experiment.horizons=[20,50]", "experiment.judged_after=50"],
    "reward_variance": ["experiment.seeds=4", "experiment.knob_points=3"],
    "teacher_bandit": [
        "experiment.seeds=3",
        "experiment.prompts=20",
        "experiment.outputs=12",
        "experiment.steps=30",
        "experiment.random_reward_models=4",
    ],
    "teacher_bandit_control": [
        "experiment.seeds=3",
        "experiment.prompts=20",
        "experiment.outputs=12",
        "experiment.steps=30",
    ],
    "policy_dependence": ["experiment.seeds=3", "experiment.excluded_points=4"],
    "partial_credit": [
        "experiment.joint_points=3",
        "experiment.easy_probabilities=[0.1,0.6]",
        "experiment.sharing=[0.0,0.9]",
        "experiment.sampled_joint=[0.05]",
        "experiment.sampled_seeds=4",
        "experiment.sampled_steps=200",
    ],
    "learnable_variance": [
        "experiment.seeds=3",
        "experiment.prompts=6",
        "experiment.outputs=6",
        "experiment.features=8",
    ],
}


def only_run(tmp_path):
    (directory,) = (path.parent for path in (tmp_path / "outputs" / "controlled").glob("*/status.json"))
    return directory


@pytest.mark.parametrize("name", SMALL)
def test_every_experiment_leaves_statements_tables_a_reading_and_captioned_figures(name, rl_exp, tmp_path):
    result = rl_exp("controlled", f"experiment={name}", *SMALL[name], "tracking.mode=disabled")
    assert result.exit_code == 0, result.output
    directory = only_run(tmp_path)
    statements = json.loads((directory / "statements.json").read_text())
    assert statements
    for row in statements:
        assert row["verdict"] in ("reproduced", "not reproduced", "inconclusive")
        assert row["source"]
        assert row["measured"]
        assert row["id"]
        assert row["unit"]
        assert len(row["interval"]) == 2
    assert all(rows for rows in json.loads((directory / "tables.json").read_text()).values())
    captions = json.loads((directory / "figures" / "captions.json").read_text())
    assert captions
    for figure, caption in captions.items():
        assert "n = " in caption
        assert (directory / "figures" / f"{figure}.png").stat().st_size > 5000
        assert (directory / "figures" / f"{figure}.svg").is_file()
    reading = (directory / "reading.txt").read_text().strip()
    assert reading.endswith(".")
    assert reading[:40] in " ".join(result.output.split())
    assert (directory / "metrics.jsonl").read_text().strip()
    summary = json.loads((directory / "summary.json").read_text())
    assert sum(summary[f"statements/{v}"] for v in ("reproduced", "not_reproduced", "inconclusive")) == len(statements)


def test_the_same_seed_gives_the_same_statements(rl_exp, tmp_path):
    words = ["controlled", "experiment=error_categories", *SMALL["error_categories"], "tracking.mode=disabled"]
    found = []
    for _ in range(2):
        assert rl_exp(*words, "force=true").exit_code == 0
        found.append((only_run(tmp_path) / "statements.json").read_text())
    assert found[0] == found[1]


@pytest.mark.parametrize("name", SCHEMAS)
def test_settings_are_the_arguments_of_the_experiment(name):
    """A setting that no experiment reads, or an argument that no setting gives, is a bug."""
    settings = {item.name for item in fields(SCHEMAS[name])} - {"name"}
    extra = {"streams", "progress"} | ({"problem"} if name in TAKES_PROBLEM else set())
    assert set(inspect.signature(EXPERIMENTS[name]).parameters) == settings | extra


PROBLEM = {
    "initial_policy_probabilities": [[0.1, 0.6, 0.3]],
    "rewards": [[1, -1, -1]],
    "ground_truth_rewards": [[1, 0.8, -1]],
}


@pytest.mark.parametrize("name", TAKES_PROBLEM)
def test_a_problem_of_ones_own_replaces_the_papers(name, rl_exp, tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(PROBLEM))
    result = rl_exp("controlled", f"experiment={name}", *SMALL[name], "problem=mine.json", "tracking.mode=disabled")
    assert result.exit_code == 0, result.output
    tables = json.loads((only_run(tmp_path) / "tables.json").read_text())
    if name == "imperfect_rewards":
        assert [row["arm"] for row in tables["arms"]] == ["mine", "mine"]
    else:
        labels = [row["label"] for row in tables["outputs"]]
        assert labels == ["none", "beneficial", "none"]  # the paper's own example of a beneficial error


MISTAKES = {
    "a misspelt setting": (["experiment.sedes=3"], "experiment.sedes"),
    "a setting of another experiment": (["experiment=teacher_bandit", "experiment.plan=exact"], "experiment.plan"),
    "an unknown experiment": (["experiment=teacher_bandits"], "Did you mean teacher_bandit"),
    "an unknown plan": (["experiment.plan=eager"], "plan"),
    "a probability above the rest": (["experiment.optimum_probabilities=[0.7]"], "below 0.5"),
    "no updates": (["experiment.steps=0"], "experiment.steps=0"),
    "a problem for an experiment that makes its own": (
        ["experiment=phase_diagram", "problem=x.yaml"],
        "makes its own problems",
    ),
    "a problem for the feature plan": (["experiment=imperfect_rewards_features", "problem=x.yaml"], "own features"),
    "a problem that does not exist": (["problem=nowhere.yaml"], "nowhere.yaml does not exist"),
    "a horizon that is not measured": (["experiment=error_categories", "experiment.judged_after=7"], "horizons"),
    "a GPU": (["device=cuda"], "device=cuda"),
    "an infinite learning rate": (["experiment.learning_rate=inf"], "experiment.learning_rate=inf"),
    "a horizon twice": (["experiment=error_categories", "experiment.horizons=[300,300]"], "names a value twice"),
    "a probability that float64 loses": (["experiment.optimum_probabilities=[1e-300]"], "at least 1e-12"),
    "two probabilities for the feature plan": (
        ["experiment=imperfect_rewards_features", "experiment.optimum_probabilities=[0.05,0.1]"],
        "takes one of them",
    ),
    "outputs that no memory holds": (["experiment=error_categories", "experiment.outputs=100000"], "from 3 to 100"),
    "no rare success": (["experiment=partial_credit", "experiment.lowest_joint=0.05"], "to 0.01"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_refused_before_anything_runs(mistake, rl_exp, tmp_path):
    words, message = MISTAKES[mistake]
    result = rl_exp("controlled", *words)
    assert result.exit_code == 2, result.output
    assert message in " ".join((result.output + getattr(result, "stderr", "")).split())
    assert not (tmp_path / "outputs").exists()


def test_a_bad_problem_fails_with_its_file_and_key(rl_exp, tmp_path):
    (tmp_path / "mine.yaml").write_text(json.dumps(PROBLEM | {"initial_policy_probabilities": [[0.1, 0.6, 0.2]]}))
    result = rl_exp("controlled", "problem=mine.yaml", "tracking.mode=disabled")
    assert result.exit_code != 0
    assert "mine.yaml" in result.output
    assert "sum to 0.9" in " ".join(result.output.split())


def test_error_categories_refuses_several_prompts_before_anything_runs(rl_exp, tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps({key: value * 2 for key, value in PROBLEM.items()}))
    result = rl_exp("controlled", "experiment=error_categories", "problem=mine.json")
    assert result.exit_code == 2, result.output
    assert "takes one prompt" in " ".join((result.output + getattr(result, "stderr", "")).split())
    assert not (tmp_path / "outputs").exists()


def test_equal_rewards_are_no_evidence_for_any_statement(rl_exp, tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(PROBLEM | {"rewards": PROBLEM["ground_truth_rewards"]}))
    assert rl_exp("controlled", "problem=mine.json", "experiment.steps=5", "tracking.mode=disabled").exit_code == 0
    rows = json.loads((only_run(tmp_path) / "statements.json").read_text())
    assert not any(row["verdict"] == "reproduced" for row in rows)
    assert [row["verdict"] for row in rows if row["id"] == "imperfect_rewards.higher_variance"] == ["inconclusive"]


def test_wide_tables_stand_on_their_side():
    table = table_of("t", [{"name": "a", **{f"column_{i}": float(i) for i in range(12)}}])
    assert [len(table.columns), table.row_count] == [2, 12]
