"""Problem instances from YAML or JSON files, in the format of the imperfect-rewards paper's controlled experiments.

    initial_policy_probabilities: [[0.05, 0.5, 0.15, 0.15, 0.15]]   # [prompts, outputs]; or
    initial_policy_weights: [[...]]                                 # [1, features]
    output_features: [[[1, 0, ...], ...]]                           # [prompts, outputs, features]; absent: tabular
    rewards: [[1, -1, -1, -1, -1]]                                  # the proxy, [prompts, outputs]
    ground_truth_rewards: [[1, 0.8, -1, -1, -1]]                    # [prompts, outputs]

A single prompt may be given without its outer brackets. The official JSON files load as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from experiments.policies.softmax import SoftmaxPolicy, log_linear_policy, tabular_policy

LARGEST_REWARD = 1e6  # the papers' rewards lie in [-1, 1]; squares of huge ones would overflow
KEYS = ("initial_policy_probabilities", "initial_policy_weights", "output_features", "rewards", "ground_truth_rewards")


@dataclass(frozen=True)
class Problem:
    """One instance: an initial policy, the proxy that it is trained on and the ground truth that it is judged by.

    Shapes: P prompts, O outputs, D features.
    """

    name: str
    proxy: Tensor  # [P, O]
    ground_truth: Tensor  # [P, O]
    probabilities: Tensor | None = None  # [P, O]
    weights: Tensor | None = None  # [D]
    features: Tensor | None = None  # [P, O, D]; None for tabular

    def initial_policy(self) -> SoftmaxPolicy:
        """The initial policy with one arm and one seed. ValueError where features cannot produce the probabilities."""
        features = None if self.features is None else self.features[None, None]
        if self.probabilities is not None:
            probabilities = self.probabilities[None, None]
            return tabular_policy(probabilities) if features is None else log_linear_policy(probabilities, features)
        assert self.weights is not None
        return SoftmaxPolicy(self.weights[None, None].clone(), features)


def read_problem(path: str | Path) -> Problem:
    """The problem instance in a YAML or JSON file. ValueError, naming the file and the key, for what is wrong."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            content = json.loads(text, object_pairs_hook=_unrepeated)
        else:
            content = yaml.load(text, _UnrepeatedKeys)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"problem {path} cannot be read: {error}") from error
    except RecursionError as error:
        raise ValueError(f"problem {path} is nested too deeply: give lists of numbers, at most three deep") from error
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(
            f"problem {path} is not valid {path.suffix or 'YAML'}: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(content, Mapping):
        raise ValueError(f"problem {path} must map keys to numbers; its keys are {', '.join(KEYS)}")
    try:
        return problem_from_mapping(content, path.stem)
    except ValueError as error:
        raise ValueError(f"problem {path}: {error}") from error


def problem_from_mapping(content: Mapping[str, Any], name: str) -> Problem:
    """A problem from plain nested lists, every shape and number checked. ValueError says what is wrong and allowed."""
    unknown = [_printable(key) for key in content if key not in KEYS]
    if unknown:
        raise ValueError(f"{', '.join(unknown)} is not a key of a problem: use {', '.join(KEYS)}")
    missing = [key for key in ("rewards", "ground_truth_rewards") if key not in content]
    if missing:
        raise ValueError(
            f"{' and '.join(missing)} missing: give the proxy as rewards and the truth as ground_truth_rewards"
        )
    given = [key for key in ("initial_policy_probabilities", "initial_policy_weights") if key in content]
    if len(given) != 1:
        raise ValueError("give either initial_policy_probabilities or initial_policy_weights, one of the two")

    proxy, ground_truth = _numbers(content, "rewards", 2), _numbers(content, "ground_truth_rewards", 2)
    _same_shape("ground_truth_rewards", ground_truth, "rewards", proxy)
    if proxy.shape[-1] < 2:
        raise ValueError("rewards are for one output: with fewer than two outputs there is nothing to choose")
    for key, rewards in (("rewards", proxy), ("ground_truth_rewards", ground_truth)):
        largest = float(rewards.abs().max())
        if largest > LARGEST_REWARD:
            raise ValueError(f"{key} reach {largest:.3g}: rescale them, {LARGEST_REWARD:.0e} is the most")
    features = None
    if "output_features" in content:
        features = _numbers(content, "output_features", 3)
        if features.shape[:2] != proxy.shape:
            raise ValueError(
                f"output_features are for {tuple(features.shape[:2])} prompts and outputs, rewards {tuple(proxy.shape)}"
            )
    if given[0] == "initial_policy_probabilities":
        probabilities = _numbers(content, given[0], 2)
        _same_shape(given[0], probabilities, "rewards", proxy)
        problem = Problem(name, proxy, ground_truth, probabilities=probabilities, features=features)
    else:
        weights = _numbers(content, given[0], 2)
        if features is None:
            raise ValueError("initial_policy_weights need output_features: without features give probabilities")
        if weights.shape != (1, features.shape[-1]):
            raise ValueError(
                f"initial_policy_weights are {tuple(weights.shape)}: one weight per feature, (1, {features.shape[-1]})"
            )
        problem = Problem(name, proxy, ground_truth, weights=weights[0], features=features)
    # Raises ValueError for probabilities that do not sum to one or cannot be reached.
    if not bool((problem.initial_policy().probabilities() > 0).all()):
        raise ValueError("these weights and features give an output probability 0 or no number: give smaller ones")
    return problem


def _printable(key: Any) -> str:
    """A key of the file in a message of one line: no line breaks, no escapes that a terminal would obey."""
    text = str(key)
    return (text if text.isprintable() else repr(text))[:100]


def _unrepeated(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    """A mapping from its pairs. ValueError for a key given twice, of which the last would silently win."""
    mapping: dict[str, Any] = {}
    for key, value in pairs:
        if str(key) in mapping:
            raise ValueError(f"{_printable(key)} is given twice: give every key once")
        mapping[str(key)] = value
    return mapping


class _UnrepeatedKeys(yaml.SafeLoader):
    """The safe loader, but it refuses a key given twice."""


_UnrepeatedKeys.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG,
    lambda loader, node: _unrepeated(loader.construct_pairs(node, deep=True)),
)


def _numbers(content: Mapping[str, Any], key: str, dimensions: int) -> Tensor:
    try:
        tensor = torch.tensor(content[key], dtype=torch.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{key} must be nested lists of numbers, all rows equally long ({error})") from error
    if tensor.ndim == dimensions - 1:
        tensor = tensor[None]
    if tensor.ndim != dimensions or tensor.numel() == 0:
        wanted = "[prompts, outputs]" if dimensions == 2 else "[prompts, outputs, features]"
        raise ValueError(f"{key} has shape {tuple(tensor.shape)}: it must be {wanted}")
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{key} contains NaN or infinity: all must be finite numbers")
    return tensor


def _same_shape(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    if tensor.shape != other.shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, {other_name} {tuple(other.shape)}: they must agree")
