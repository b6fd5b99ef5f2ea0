"""Prompts with what belongs to them, whatever the ground truth: how long completions are, and what ends them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.tasks.task import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PromptOptions:
    """Which prompts, and how long completions are. Equal seeds choose equal prompts; more begin with the fewer."""

    prompts: int
    max_new_tokens: int
    seed: int = 0
    prompt_tokens: int = 8  # beginnings of a corpus's sentences have exactly as many
    stop_at_sentence_end: bool = True  # their continuations end with a sentence as with a text
    longest_prompt: int = 512  # questions and instructions of more tokens are left out


@dataclass(frozen=True)
class PolicyTokenizer:
    """The policy's tokenizer, with an address that names its content and that of its chat template."""

    tokenizer: PreTrainedTokenizerBase
    address: str


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
