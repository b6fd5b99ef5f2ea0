"""Answer questions of reasoning-gym (arXiv 2505.24760); the ground truth is the data set's own verifier.

Scores lie in [0, 1]: 1 for the answer, on many data sets a little for a text that holds the answer among other things.
White space around an answer does not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.data.reasoning_gym_text import procedural_dataset, version
from experiments.tasks.dataset_prompts import end_of_turn_tokens, prompt_tokens
from experiments.tasks.prompt_set import OfPromptSet, PolicyTokenizer, PromptOptions, PromptSet
from experiments.tasks.prompt_spread import PromptSpread
from experiments.tasks.task import Floats, Prompt

FORMAT = 1  # raise it whenever equal recipes would give other prompts or rewards
QUESTION_FORMAT = "{}\n"  # as in the training text of experiments/data/reasoning_gym_text.py
MOST_REPETITIONS = 50  # of `prompts`: entries tried before a data set has too few questions


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
    policy: PolicyTokenizer,
    options: PromptOptions,
    *,
    arguments: Mapping[str, Any] | None = None,
    plain_format: str = QUESTION_FORMAT,
    spread: PromptSpread | None = None,
) -> ReasoningTask:
    """Different questions of the data set `name` with reasoning-gym's `arguments`, in the policy's tokens.

    Questions go through the policy's chat template, or into `plain_format` where there is none. ValueError where
    reasoning-gym is missing, for an unknown data set or argument, and where it has not so many questions.
    """
    arguments = dict(arguments or {})
    most = options.prompts * MOST_REPETITIONS
    dataset = procedural_dataset(name, arguments, size=most, seed=options.seed)
    found: dict[str, tuple[Prompt, Mapping[str, Any]]] = {}
    for number in range(most):
        entry = dataset[number]
        question = entry["question"]
        if question in found or not isinstance(entry["answer"], str):
            continue
        tokens = prompt_tokens(policy.tokenizer, question, plain_format)
        if len(tokens) <= options.longest_prompt:
            found[question] = Prompt(len(found), question, tuple(tokens), {"answer": entry["answer"]}), entry
        if len(found) == options.prompts:
            break
    else:
        raise ValueError(
            f"task.prompts={options.prompts} are too many: {most} draws of {name} gave {len(found)} "
            f"different questions of at most {options.longest_prompt} tokens; ask for fewer, or change "
            "task.reasoning.arguments"
        )
    return ReasoningTask(
        prompt_set=PromptSet(
            prompts=[prompt for prompt, _ in found.values()],
            max_new_tokens=options.max_new_tokens,
            stop_tokens=end_of_turn_tokens(policy.tokenizer),
            recipe={
                "package": version(),
                "dataset": name,
                "arguments": arguments,
                "tokenizer": policy.address,
                "prompts": options.prompts,
                "max_new_tokens": options.max_new_tokens,
                "longest_prompt": options.longest_prompt,
                "seed": options.seed,
                "plain_format": plain_format,
            },
        ),
        dataset=dataset,
        entries=[entry for _, entry in found.values()],
        spread=spread or PromptSpread(),
    )
