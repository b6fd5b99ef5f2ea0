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


class OfPromptSet:
    """What a task says of its prompts where a prompt set holds them."""

    prompt_set: PromptSet

    @property
    def prompts(self) -> Sequence[Prompt]:
        return self.prompt_set.prompts

    @property
    def max_new_tokens(self) -> int:
        return self.prompt_set.max_new_tokens

    @property
    def stop_tokens(self) -> tuple[int, ...]:
        return self.prompt_set.stop_tokens
