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
        ({"reward": [[1, 0, 0]]}, "reward is not a key of a problem"),
        ({"rewards": [[1e300, 0, 0]]}, "rewards reach 1e\\+300"),
        ({"rewards": [[10**400, 0, 0]]}, "rewards must be nested lists of numbers"),
        ({"initial_policy_probabilities": [[-0.1, 0.5, 0.6]]}, "positive numbers, not -0.1"),
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
    with pytest.raises(ValueError, match="not valid"):
        read_problem(tmp_path / "broken.json")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ValueError, match="must map keys"):
        read_problem(tmp_path / "list.yaml")


def test_one_output_and_weights_that_leave_an_output_no_probability_are_refused():
    with pytest.raises(ValueError, match="fewer than two outputs"):
        problem_from_mapping({"initial_policy_probabilities": [1], "rewards": [1], "ground_truth_rewards": [1]}, "p")
    content = {
        "initial_policy_weights": [1e9, 0.0],
        "output_features": [[1, 0], [0, 1]],
        "rewards": [1, 0],
        "ground_truth_rewards": [1, 0],
    }
    with pytest.raises(ValueError, match="probability 0"):
        problem_from_mapping(content, "p")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("twice.yaml", "rewards: [1, 0]\nrewards: [0, 1]\n", "rewards is given twice"),
        ("twice.json", '{"rewards": [1, 0], "rewards": [0, 1]}', "rewards is given twice"),
        ("deep.json", "[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ("deep.yaml", "[" * 2000 + "]" * 2000, "nested too deeply"),
        ("tag.yaml", "!!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("cycle.yaml", "rewards: &r [*r]", "recursive node"),
        ("list_key.yaml", "? [1, 2]\n: 3\n", "is not a key of a problem"),
    ],
)
def test_files_that_mislead_or_attack_get_one_line(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_problem(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
