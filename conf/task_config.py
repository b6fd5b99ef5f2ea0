"""The schema of `task`: prompts, and a ground truth reward that is a program."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from experiments.tasks.constraint_checks import constraint_named


class TaskKind(Enum):
    """Which program is the ground truth: see experiments/tasks/."""

    sentiment = "sentiment"
    constraints = "constraints"
    reasoning = "reasoning"
    enumerable = "enumerable"
    preference = "preference"


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
class TaskConfig:
    """One task."""

    kind: TaskKind = TaskKind.sentiment
    prompts: int = 512  # trained on
    prompt_seed: int = 0  # chooses the prompts: not `seed`, so that all seeds of a sweep share them
    prompt_tokens: int = 8  # length of a prompt that is cut from the corpus, with its beginning-of-text token
    max_new_tokens: int = 24
    stop_at_sentence_end: bool = True  # continuations of the corpus: . ! and ? end them as the end of a text does
    prompt_spread: float = 0.0  # std of a constant per prompt in the ground truth: prompts that are graded apart
    reward_offset: float = 0.0  # added to every ground truth reward
    fluency_weight: float = 0.0  # of the reference policy's log-probability per token: against degenerate text
    constraints: ConstraintsConfig = field(default_factory=ConstraintsConfig)

    def __post_init__(self) -> None:
        for name, least in (("prompts", 1), ("prompt_tokens", 2), ("max_new_tokens", 1), ("prompt_seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"task.{name}={getattr(self, name)} is impossible: it must be at least {least}")
        for name in ("prompt_spread", "fluency_weight"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"task.{name}={value} is impossible: it must be 0 or more")
