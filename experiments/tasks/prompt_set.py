"""Prompts with what belongs to them, whatever the ground truth: how long completions are, and what ends them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from experiments.tasks.task import Prompt


@dataclass(frozen=True)
class PromptSet:
    """One half of a task; the other is its ground truth."""

    prompts: Sequence[Prompt]
    max_new_tokens: int
    stop_tokens: tuple[int, ...]
    recipe: dict[str, Any]  # all that decides the above, as plain JSON
