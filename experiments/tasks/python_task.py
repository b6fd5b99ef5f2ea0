"""A ground truth of the user's own: a Python function that scores completions.

    # my_task.py
    PROMPTS = ["The sea", "The king", "In the morning"]

    def short_and_finished(outputs):
        return [float(output.finished) / (1 + len(output.text)) for output in outputs]

    rl-exp rlhf task=python task.python.function=my_task.py:short_and_finished task.prompts=3

Shapes: n completions in rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.runs.seeds import SeedStreams
from experiments.runs.user_code import UserFunction
from experiments.tasks.dataset_prompts import end_of_turn_tokens, prompt_tokens
from experiments.tasks.prompt_set import OfPromptSet, PolicyTokenizer, PromptOptions, PromptSet
from experiments.tasks.prompt_spread import PromptSpread
from experiments.tasks.task import Floats, Output, Prompt

FORMAT = 1  # raise it whenever equal recipes would give other rewards
PROMPTS = "PROMPTS"


@dataclass(frozen=True)
class PythonTask(OfPromptSet):
    """Prompts of any origin, and a function that scores completions: numbers, or mappings with `reward` and parts."""

    prompt_set: PromptSet
    function: UserFunction
    call: Callable[[Sequence[Output]], Sequence[Any]]  # the function, loaded
    spread: PromptSpread = field(default_factory=PromptSpread)
    name: str = "python"

    def recipe(self) -> dict[str, Any]:
        return {
            "task": self.name,
            "format": FORMAT,
            "prompts": self.prompt_set.recipe,
            "prompt_spread": self.spread.recipe(),
            **self.function.recipe(),
        }

    def score(
        self, prompts: Sequence[Prompt], texts: Sequence[str], tokens: Sequence[Sequence[int]]
    ) -> tuple[Floats, dict[str, Floats]]:
        """What the function returns plus the prompt's constant, [n], and its parts."""
        stops = set(self.stop_tokens)
        outputs = [
            Output(prompt.text, prompt.facts, text, tuple(row), bool(row) and row[-1] in stops)
            for prompt, text, row in zip(prompts, texts, tokens, strict=True)
        ]
        returned = list(self.call(outputs))
        if len(returned) != len(outputs):
            raise ValueError(f"{self.function} returned {len(returned)} values for {len(outputs)} outputs")
        rows = [value if isinstance(value, Mapping) else {"reward": value} for value in returned]
        names = list(dict.fromkeys(["reward", *(name for row in rows for name in row)]))
        columns = {name: np.array([self._number(row, name) for row in rows], dtype=np.float64) for name in names}
        return columns.pop("reward") + self.spread.constants(prompts), columns

    def _number(self, row: Mapping[str, Any], name: str) -> float:
        value = row.get(name)
        if not isinstance(value, int | float | np.number):
            raise ValueError(f"{self.function} returned {value!r:.60} as {name}: it must be a number")
        return float(value)


def listed_prompt_set(
    function: UserFunction, policy: PolicyTokenizer, options: PromptOptions, plain_format: str
) -> PromptSet | None:
    """The prompts in the list PROMPTS of the function's file, in an order that the seed draws; None where it has none.

    Texts, or mappings with `prompt` and facts. ValueError for anything else, and where there are too few.
    """
    listed = function.module_value(PROMPTS)
    if listed is None:
        return None
    rows = [{"prompt": row} if isinstance(row, str) else row for row in listed]
    for place, row in enumerate(rows):
        if not isinstance(row, Mapping) or not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
            raise ValueError(
                f"{function.path}: {PROMPTS}[{place}] is {listed[place]!r:.60}: it must be a text, or a mapping with "
                "`prompt` and facts"
            )
    rows = list({row["prompt"]: row for row in rows}.values())
    if len(rows) < options.prompts:
        raise ValueError(
            f"{function.path} has {len(rows)} different prompts in {PROMPTS}: lower task.prompts={options.prompts}"
        )
    order = SeedStreams(options.seed).numpy("prompts").permutation(len(rows))[: options.prompts]
    prompts = []
    for index, place in enumerate(order):
        text = rows[place]["prompt"]
        facts = {name: value for name, value in rows[place].items() if name != "prompt"}
        prompts.append(Prompt(index, text, tuple(prompt_tokens(policy.tokenizer, text, plain_format)), facts))
    recipe = {
        "format": FORMAT,
        "listed": function.recipe()["code"],
        "tokenizer": policy.address,
        "prompts": options.prompts,
        "max_new_tokens": options.max_new_tokens,
        "seed": options.seed,
        "plain_format": plain_format,
    }
    return PromptSet(prompts, options.max_new_tokens, end_of_turn_tokens(policy.tokenizer), recipe)
