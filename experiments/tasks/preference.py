"""Answer prompts of a data set; the ground truth is a reward model, such as ArmoRM in both reward papers.

The scorer is anything that turns prompts and responses into numbers: experiments/rewards/hub_reward.py has one for
every sequence classifier of transformers. It reads texts, so its tokenizer and chat template are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.tasks.prompt_set import OfPromptSet, PromptSet
from experiments.tasks.prompt_spread import PromptSpread
from experiments.tasks.task import Floats, Prompt

FORMAT = 1  # raise it whenever equal recipes would give other rewards

Scorer = Callable[[Sequence[str], Sequence[str]], Floats]  # (prompts, responses) -> [n]


@dataclass(frozen=True)
class PreferenceTask(OfPromptSet):
    """Prompts of any origin, and a reward model that grades the responses."""

    prompt_set: PromptSet
    scorer: Scorer
    scorer_recipe: Mapping[str, Any]  # names the scorer: path, content or commit, dtype
    spread: PromptSpread = field(default_factory=PromptSpread)
    name: str = "preference"

    def recipe(self) -> dict[str, Any]:
        return {
            "task": self.name,
            "format": FORMAT,
            "prompts": self.prompt_set.recipe,
            "scorer": dict(self.scorer_recipe),
            "prompt_spread": self.spread.recipe(),
        }

    def score(
        self, prompts: Sequence[Prompt], texts: Sequence[str], tokens: Sequence[Sequence[int]]
    ) -> tuple[Floats, dict[str, Floats]]:
        """The reward model's score plus the prompt's constant, [n]; no parts."""
        scores = np.asarray(self.scorer([prompt.text for prompt in prompts], texts), dtype=np.float64)
        return scores + self.spread.constants(prompts), {}
