"""`rl-exp controlled` from the command line to the run directory."""

from __future__ import annotations

import json

import pytest
import yaml

PROBLEM = {
    "initial_policy_probabilities": [0.05, 0.5, 0.15, 0.15, 0.15],
    "rewards": [1, -1, -1, -1, -1],
    "ground_truth_rewards": [1, 0.8, -1, -1, -1],
}
QUICK = ("experiment.steps=200", "tracking.mode=disabled", "problem=problem.yaml")

BROKEN = {
    "probabilities that do not sum to one": ({"initial_policy_probabilities": [0.5, 0.1, 0.1, 0.1, 0.1]}, "sum"),
    "a missing key": ({"rewards": None}, "rewards"),
    "rewards of another length": ({"rewards": [1, 2]}, "rewards"),
    "a misspelt key": ({"reward": [1, -1, -1, -1, -1]}, "reward"),
}


def write_problem(folder, **changes):
    content = {key: value for key, value in (PROBLEM | changes).items() if value is not None}
    (folder / "problem.yaml").write_text(yaml.safe_dump(content))


def test_a_problem_of_ones_own_runs_and_leaves_statements_and_a_figure(rl_exp, tmp_path):
    write_problem(tmp_path)
    result = rl_exp("controlled", *QUICK)
    assert result.exit_code == 0, result.output
    (run,) = (tmp_path / "outputs" / "controlled").iterdir()
    assert json.loads((run / "statements.json").read_text()) is not None
    assert list((run / "figures").glob("*.png"))
    assert (run / "reading.txt").read_text().strip()


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_problem_is_one_message_with_exit_code_2(fault, rl_exp, tmp_path):
    changes, expected = BROKEN[fault]
    write_problem(tmp_path, **changes)
    result = rl_exp("controlled", *QUICK)
    assert result.exit_code == 2, result.output
    assert expected in result.stderr
    assert not (tmp_path / "outputs").exists()


def test_other_contents_under_the_same_name_are_another_run(rl_exp, tmp_path):
    for first_reward in (0.8, 0.7):
        write_problem(tmp_path, ground_truth_rewards=[1, first_reward, -1, -1, -1])
        assert rl_exp("controlled", *QUICK).exit_code == 0
    assert len(list((tmp_path / "outputs" / "controlled").iterdir())) == 2


def test_an_unknown_setting_of_an_experiment_is_refused_with_a_suggestion(rl_exp):
    result = rl_exp("controlled", "experiment=teacher_bandit", "experiment.seds=3")
    assert result.exit_code == 2
    assert "experiment.seeds" in result.stderr
