"""The schema of `task`: prompts, and a ground truth reward that is a program."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from conf.limits import limited
from conf.reward_config import HubRewardConfig
from experiments.runs.user_code import UserFunction
from experiments.tasks.constraint_checks import constraint_named


class TaskKind(StrEnum):
    """Which program is the ground truth: see experiments/tasks/."""

    sentiment = "sentiment"
    constraints = "constraints"
    reasoning = "reasoning"
    enumerable = "enumerable"
    preference = "preference"
    python = "python"  # a function of the user's own


@dataclass
class ConstraintsConfig:
    """Checks of the text, each met or not; the ground truth is their weighted share, or 1 where all are met."""

    names: list[str] = field(default_factory=lambda: ["ends_with_punctuation", "contains_number"])
    weights: list[float] | None = None  # of partial credit, made to sum to 1; null: equal
    binary: bool = True  # ground truth: 1 where all constraints are met, else 0; false: partial credit
    arguments: dict[str, Any] = field(default_factory=dict)  # of ifeval/<id>, ifbench/<id>: name -> argument -> value

    def __post_init__(self) -> None:
        for name in self.names:
            if not name.startswith(("ifeval/", "ifbench/")):  # whose package takes seconds to import
                constraint_named(name)


@dataclass
class DatasetConfig:
    """Prompts of a data set: for `preference`, and for `constraints` that are told to the policy as instructions."""

    path: str | None = None  # hub name, .jsonl, .json, .parquet or .csv file, saved folder, or builder with data_files
    subset: str | None = None
    split: str = "train"
    data_files: str | None = None
    revision: str | None = None
    prompt: str = "prompt"  # columns: texts, or lists of messages with roles
    chosen: str | None = "chosen"  # null, and rejected too: a data set of prompts only
    rejected: str | None = "rejected"
    facts: list[str] = field(default_factory=list)  # further columns that task.python.function reads
    plain_format: str = "[USER] {} [ASSISTANT] "  # for policies without a chat template (good-teacher paper, F.1)


@dataclass
class ReasoningConfig:
    """A data set of reasoning-gym."""

    dataset: str = "chain_sum"
    arguments: dict[str, Any] = field(default_factory=dict)  # of the data set, such as max_terms: 2
    plain_format: str = "{}\n"  # for policies without a chat template: as in data=reasoning


@dataclass
class PythonTaskConfig:
    """A function of your own that scores completions."""

    function: str = ""  # file.py:name
    arguments: dict[str, Any] = field(default_factory=dict)  # of the function or the class

    def user_function(self) -> UserFunction:
        """ValueError where there is none of this name."""
        return UserFunction.named("task.python.function", self.function, self.arguments)


@dataclass
class TaskConfig:
    """One task. Settings of other kinds than the chosen one are ignored."""

    kind: TaskKind = TaskKind.sentiment
    prompts: int = limited(512, at_least=1)  # trained on
    prompt_seed: int | None = limited(None, at_least=0)  # chooses the prompts; null: `seed`
    # length of a prompt that is cut from the corpus, with its beginning-of-text token
    prompt_tokens: int = limited(8, at_least=1)
    longest_prompt: int = limited(512, at_least=1)  # tokens; longer ones of a data set are passed over
    max_new_tokens: int = limited(24, at_least=1)
    stop_at_sentence_end: bool = True  # continuations of the corpus: . ! and ? end them as the end of a text does
    # std of a constant per prompt in the ground truth: prompts that are graded apart
    prompt_spread: float = limited(0.0, at_least=0)
    reward_offset: float = 0.0  # added to every ground truth reward
    # of the reference policy's log-probability per token: against degenerate text
    fluency_weight: float = limited(0.0, at_least=0)
    constraints: ConstraintsConfig = field(default_factory=ConstraintsConfig)
    reasoning: ReasoningConfig = field(default_factory=ReasoningConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    scorer: HubRewardConfig = field(default_factory=HubRewardConfig)  # preference: the ground truth
    python: PythonTaskConfig = field(default_factory=PythonTaskConfig)

    def __post_init__(self) -> None:
        if self.fluency_weight and self.kind not in (TaskKind.sentiment, TaskKind.constraints):
            raise ValueError(
                f"task.fluency_weight={self.fluency_weight}: must be 0 with task.kind={self.kind}; only "
                "sentiment and constraints have a fluency term"
            )
        if self.kind is TaskKind.python:
            self.python.user_function()
        if self.kind is TaskKind.preference:
            self._require_path("dataset", self.dataset.path, "HuggingFaceH4/ultrafeedback_binarized, or a .jsonl file")
            self._require_path("scorer", self.scorer.path, "a sequence-classification model of transformers")

    @property
    def continues_text(self) -> bool:
        """Whether prompts are beginnings of the corpus's sentences, rather than questions or instructions."""
        kinds = (TaskKind.constraints, TaskKind.python)
        return self.kind is TaskKind.sentiment or (self.kind in kinds and not self.dataset.path)

    def _require_path(self, setting: str, path: str | None, example: str) -> None:
        if not path:
            raise ValueError(f"task=preference needs task.{setting}.path: {example}")
