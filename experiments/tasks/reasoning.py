"""Answer questions of reasoning-gym (arXiv 2505.24760); the ground truth is the data set's own verifier.

Scores lie in [0, 1]: 1 for the answer, on many data sets a little for a text that holds the answer among other things.
White space around an answer does not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.data.reasoning_gym_text import procedural_dataset, version
from experiments.tasks.dataset_prompts import end_of_turn_tokens, prompt_tokens
from experiments.tasks.prompt_set import OfPromptSet, PromptSet
from experiments.tasks.prompt_spread import PromptSpread
from experiments.tasks.task import Floats, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 1  # raise it whenever equal recipes would give other prompts or rewards
QUESTION_FORMAT = "{}\n"  # as in the training text of experiments/data/reasoning_gym_text.py
MOST_REPETITIONS = 50  # of `prompts`: entries looked at before a data set is said to have too few questions


@dataclass(frozen=True)
class ReasoningTask(OfPromptSet):
    """Made by `prepare_reasoning`."""

    prompt_set: PromptSet
    dataset: Any  # reasoning-gym's, which has the verifier
    entries: Sequence[Mapping[str, Any]]  # of each prompt, by its index
    spread: PromptSpread = field(default_factory=PromptSpread)
    name: str = "reasoning"

    def recipe(self) -> dict[str, Any]:
        return {
            "task": self.name,
            "format": FORMAT,
            "prompts": self.prompt_set.recipe,
            "prompt_spread": self.spread.recipe(),
        }

    def score(
        self, prompts: Sequence[Prompt], texts: Sequence[str], tokens: Sequence[Sequence[int]]
    ) -> tuple[Floats, dict[str, Floats]]:
        """The verifier's score plus the prompt's constant, [n]; the part `solved` is 1.0 where the score is full."""
        scores = np.array(
            [
                float(self.dataset.score_answer(text.strip(), self.entries[prompt.index]))
                for prompt, text in zip(prompts, texts, strict=True)
            ]
        )
        return scores + self.spread.constants(prompts), {"solved": (scores >= 1).astype(np.float64)}


def prepare_reasoning(
    name: str,
    *,
    arguments: Mapping[str, Any] | None = None,
    tokenizer: PreTrainedTokenizerBase,
    tokenizer_address: str,
    prompts: int,
    max_new_tokens: int,
    longest_prompt: int = 512,
    seed: int = 0,
    plain_format: str = QUESTION_FORMAT,
    prompt_spread: float = 0.0,
    reward_offset: float = 0.0,
) -> ReasoningTask:
    """Different questions of the data set `name` with reasoning-gym's `arguments`, in the policy's tokens.

    Questions go through the policy's chat template, or into `plain_format` where there is none. ValueError where
    reasoning-gym is missing, for an unknown data set or argument, and where it has not so many questions.
    """
    arguments = dict(arguments or {})
    dataset = procedural_dataset(name, arguments, size=prompts * MOST_REPETITIONS, seed=seed)
    found: dict[str, tuple[Prompt, Mapping[str, Any]]] = {}
    for number in range(prompts * MOST_REPETITIONS):
        entry = dataset[number]
        question = entry["question"]
        if question in found or not isinstance(entry["answer"], str):
            continue
        tokens = prompt_tokens(tokenizer, question, plain_format)
        if len(tokens) <= longest_prompt:
            found[question] = Prompt(len(found), question, tuple(tokens), {"answer": entry["answer"]}), entry
        if len(found) == prompts:
            break
    else:
        raise ValueError(
            f"task.prompts={prompts} are too many: {prompts * MOST_REPETITIONS} draws of {name} gave {len(found)} "
            f"different questions of at most {longest_prompt} tokens; ask for fewer, or change task.reasoning.arguments"
        )
    return ReasoningTask(
        prompt_set=PromptSet(
            prompts=[prompt for prompt, _ in found.values()],
            max_new_tokens=max_new_tokens,
            stop_tokens=end_of_turn_tokens(tokenizer),
            recipe={
                "package": version(),
                "dataset": name,
                "arguments": arguments,
                "tokenizer": tokenizer_address,
                "prompts": prompts,
                "max_new_tokens": max_new_tokens,
                "longest_prompt": longest_prompt,
                "seed": seed,
                "plain_format": plain_format,
            },
        ),
        dataset=dataset,
        entries=[entry for _, entry in found.values()],
        spread=PromptSpread(prompt_spread, reward_offset),
    )
