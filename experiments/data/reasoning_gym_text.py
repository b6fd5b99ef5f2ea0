"""Questions with checkable answers, made by the package reasoning-gym: as entries for a task, and as a training text.

The text is for small policies, which answer nothing before they have read worked examples:
`question`, a line break, `answer`, end of document.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from experiments.data.documents import Document, require_fraction

FORMAT = 1  # raise it whenever equal settings would give another text
# Their verifiers run the answer as Python code (version 0.1.25), which no policy's output may be.
EXECUTE_ANSWERS = (
    "string_insertion",
    "spiral_matrix",
    "binary_matrix",
    "n_queens",
    "simple_integration",
    "intermediate_integration",
    "polynomial_multiplication",
    "puzzle24",
    "countdown",
    "codeio",
    "composite",  # may be made of any of them
)


def procedural_dataset(name: str, arguments: Mapping[str, Any], *, size: int, seed: int) -> Any:
    """A `ProceduralDataset` of reasoning-gym: entries with question and answer, and `score_answer(answer, entry)`.

    ValueError where the package is missing, for an unknown name or impossible arguments, and for EXECUTE_ANSWERS.
    """
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ModuleNotFoundError as error:
        raise ValueError("questions of reasoning-gym need the package: pip install 'rl-exp[tasks]'") from error
    if name in EXECUTE_ANSWERS:
        raise ValueError(f"reasoning-gym's {name} runs answers as Python code to check them: use another data set")
    if name not in DATASETS:
        near = difflib.get_close_matches(name, set(DATASETS) - set(EXECUTE_ANSWERS), n=3, cutoff=0.3)
        raise ValueError(
            f"reasoning-gym has no data set {name}: use another, such as {', '.join(near or ['chain_sum'])}"
        )
    try:
        return reasoning_gym.create_dataset(name, size=size, seed=seed, **arguments)
    except (TypeError, AssertionError, ValueError) as error:
        known = ", ".join(sorted(set(DATASETS[name][1].__dataclass_fields__) - {"size", "seed"}))
        raise ValueError(f"reasoning-gym's {name} refuses {dict(arguments)} ({error}): it takes {known}") from error


def version() -> str:
    """The package's version: it decides questions and scores."""
    return f"reasoning-gym {metadata.version('reasoning-gym')}"


@dataclass(frozen=True)
class ReasoningGymText:
    """`examples` worked examples of one data set, one document each."""

    dataset: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    examples: int = 20_000
    seed: int = 1_000_003  # not that of a task's questions
    holdout_fraction: float = 0.05
    name: str = "reasoning"

    def __post_init__(self) -> None:
        require_fraction("data.holdout_fraction", self.holdout_fraction)

    def recipe(self) -> dict[str, Any]:
        """The settings and the package's version."""
        self._entries()
        return {
            "source": "reasoning_gym",
            "format": FORMAT,
            "package": version(),
            "dataset": self.dataset,
            "arguments": dict(self.arguments),
            "examples": self.examples,
            "seed": self.seed,
            "holdout_fraction": self.holdout_fraction,
        }

    def documents(self) -> Iterator[Document]:
        """Question and answer of every entry that has an answer."""
        entries = self._entries()
        for number in range(self.examples):
            entry = entries[number]
            if isinstance(entry["answer"], str):
                yield Document(f"{self.dataset} {number}", f"{entry['question']}\n{entry['answer']}")

    def _entries(self) -> Any:
        return procedural_dataset(self.dataset, self.arguments, size=self.examples, seed=self.seed)


def parsed_arguments(text: str) -> dict[str, Any]:
    """`max_terms=2,allow_negation=false` as a dict of integers, numbers, truth values and texts."""
    arguments: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name.isidentifier():
            raise ValueError(f"{text!r} is not a list of settings: write them as in max_terms=2,allow_negation=false")
        arguments[name] = _value(value)
    return arguments


def _value(text: str) -> int | float | bool | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
