"""A task whose ground truth is easy to learn, a policy that draws tokens at random, and pairs of both."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.tasks.task import Floats, Prompt
from experiments.training.rollouts import Rollouts

VOCABULARY, LENGTH, STOP = 40, 6, 39


class NumbersAsText:
    """Stands in for a tokenizer: tokens as numbers with spaces."""

    def batch_decode(self, rows, skip_special_tokens=True):
        return [" ".join(str(token) for token in row if token != STOP) for row in rows]

    def save_pretrained(self, folder):
        (folder / "tokenizer.json").write_text("{}")

    def __call__(self, texts, add_special_tokens=False):
        return {"input_ids": [[int(word) for word in text.split()] for text in texts]}


@dataclass
class CountingTask:
    """The ground truth is the number of tokens below 20."""

    prompts: list[Prompt] = field(
        default_factory=lambda: [
            Prompt(i, f"prompt {i}", (1, i % 30), {"chosen": "1 2 3", "rejected": "30 31"}) for i in range(64)
        ]
    )
    name: str = "counting"
    max_new_tokens: int = LENGTH
    stop_tokens: tuple[int, ...] = (STOP,)

    def recipe(self) -> dict[str, Any]:
        return {"task": self.name, "prompts": len(self.prompts)}

    def score(self, prompts, texts, tokens) -> tuple[Floats, dict[str, Floats]]:
        return np.array([float(sum(token < 20 for token in row)) for row in tokens]), {}


class RandomPolicy:
    """Draws all tokens but the stop token with equal probability; a hotter one from the upper half only."""

    def __init__(self) -> None:
        self.drawn = 0

    def sample(self, prompts, samples, *, seed, temperature=1.0) -> Rollouts:
        rows = []
        for prompt in prompts:
            generator = np.random.default_rng([seed, prompt.index])
            low = 0 if temperature == 1.0 else 10
            rows += [tuple(row) for row in generator.integers(low, STOP, (samples, LENGTH)).tolist()]
        self.drawn += len(rows)
        return Rollouts(
            prompts=tuple(prompt for prompt in prompts for _ in range(samples)),
            tokens=tuple(rows),
            log_probabilities=tuple((0.0,) * LENGTH for _ in rows),
            finished=np.zeros(len(rows), dtype=np.bool_),
            texts=tuple(NumbersAsText().batch_decode(rows)),
        )
