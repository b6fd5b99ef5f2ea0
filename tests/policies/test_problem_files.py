"""Problem instances from files: the official format loads, mistakes get one clear message."""

import copy
import json

import pytest
import torch
import yaml

from experiments.policies.problems import problem_from_mapping, read_problem

GOOD = {
    "initial_policy_probabilities": [[0.05, 0.5, 0.45]],
    "output_features": [[[1.5, 0, 0], [0, 1, 0], [0, 0, 1]]],
    "rewards": [[1, 0.8, -1]],
    "ground_truth_rewards": [[1, 0.8, -1]],
}


def test_yaml_and_json_give_the_same_problem(tmp_path):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(GOOD))
    (tmp_path / "b.json").write_text(json.dumps(GOOD))
    first, second = read_problem(tmp_path / "a.yaml"), read_problem(tmp_path / "b.json")
    assert torch.equal(first.proxy, second.proxy)
    assert (first.name, second.name) == ("a", "b")
    probabilities = first.initial_policy().probabilities()[0, 0, 0]
    assert probabilities.tolist() == pytest.approx([0.05, 0.5, 0.45])


def test_weights_and_a_single_prompt_without_brackets_are_understood():
    content = {
        "initial_policy_weights": [0.0, 1.0],
        "output_features": [[1, 0], [0, 1]],
        "rewards": [1, 0],
        "ground_truth_rewards": [1, 0],
    }
    probabilities = problem_from_mapping(content, "p").initial_policy().probabilities().flatten()
    assert probabilities.tolist() == pytest.approx(torch.softmax(torch.tensor([0.0, 1.0]), 0).tolist())


def test_without_features_the_policy_is_tabular():
    content = {key: value for key, value in GOOD.items() if key != "output_features"}
    assert problem_from_mapping(content, "p").initial_policy().features is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"initial_policy_probabilities": [[0.05, 0.5, 0.4]]}, "sum to 0.95"),
        ({"initial_policy_probabilities": [[0.0, 0.5, 0.5]]}, "positive"),
        ({"initial_policy_probabilities": [[0.5, 0.5]]}, r"initial_policy_probabilities has shape \(1, 2\)"),
        ({"rewards": None}, "rewards must be nested lists of numbers"),
        ({"rewards": [[1, float("nan"), 0]]}, "rewards contains NaN"),
        ({"rewards": [[1, 2], [3]]}, "equally long"),
        ({"ground_truth_rewards": [[1, 0]]}, r"ground_truth_rewards has shape \(1, 2\)"),
        ({"output_features": [[[1, 0], [0, 1]]]}, "output_features are for"),
        ({"output_features": [[[1], [1], [1]]]}, "no weights give these probabilities"),
        ({"initial_policy_weights": [[0, 0, 0]]}, "one of the two"),
        ({"reward": [[1, 0, 0]]}, "reward is no key of a problem"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        problem_from_mapping(copy.deepcopy(GOOD) | change, "p")


def test_missing_keys_and_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="rewards and ground_truth_rewards missing"):
        problem_from_mapping({"initial_policy_probabilities": [1.0]}, "p")
    with pytest.raises(ValueError, match="cannot be read"):
        read_problem(tmp_path / "absent.yaml")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match="no valid"):
        read_problem(tmp_path / "broken.json")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ValueError, match="must map keys"):
        read_problem(tmp_path / "list.yaml")
