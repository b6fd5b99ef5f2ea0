"""Continue the beginning of a sentence; the ground truth is the sentiment of the continuation.

The scorer is VADER (Hutto and Gilbert, 2014): a lexicon with rules, whose compound score lies in [-1, 1]. It reads the
continuation only, so a prompt's own mood does not count. A policy that is trained on it for long repeats the lexicon's
strongest words; `fluency_weight` times the mean log-probability per token under the reference policy pays for text that
still reads as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import numpy as np

from experiments.tasks.fluency import FluencyTerm
from experiments.tasks.prompt_set import OfPromptSet, PromptSet
from experiments.tasks.prompt_spread import PromptSpread
from experiments.tasks.task import Floats, Prompt

FORMAT = 1  # raise it whenever equal recipes would give other rewards


class VaderSentiment:
    """VADER's compound score of texts. Reads its lexicon once, when it is made (a tenth of a second)."""

    def __init__(self) -> None:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

        self._analyzer = SentimentIntensityAnalyzer()

    def __call__(self, texts: Sequence[str]) -> Floats:
        """Scores [n] in [-1, 1]; 0 for a text without words of the lexicon."""
        return np.array([self._analyzer.polarity_scores(text)["compound"] for text in texts], dtype=np.float64)

    @staticmethod
    def version() -> str:
        """The package's version: it decides the scores."""
        return f"vaderSentiment {metadata.version('vaderSentiment')}"


@dataclass(frozen=True)
class SentimentTask(OfPromptSet):
    """Prompts of any origin, and the sentiment of their continuation."""

    prompt_set: PromptSet
    spread: PromptSpread = field(default_factory=PromptSpread)
    fluency: FluencyTerm | None = None
    sentiment: VaderSentiment = field(default_factory=VaderSentiment)
    name: str = "sentiment"

    def recipe(self) -> dict[str, Any]:
        return {
            "task": self.name,
            "format": FORMAT,
            "prompts": self.prompt_set.recipe,
            "prompt_spread": self.spread.recipe(),
            "fluency": None if self.fluency is None else self.fluency.recipe(),
            "scorer": self.sentiment.version(),
        }

    def score(
        self,
        prompts: Sequence[Prompt],
        texts: Sequence[str],
        tokens: Sequence[Sequence[int]],
        fluency: Floats | None = None,
    ) -> tuple[Floats, dict[str, Floats]]:
        """Sentiment, plus the weighted fluency, plus the prompt's constant, [n]; the parts before weights."""
        parts = {"sentiment": self.sentiment(texts)}
        ground_truth = parts["sentiment"] + self.spread.constants(prompts)
        if self.fluency is not None:
            parts["fluency"] = self.fluency(prompts, tokens) if fluency is None else fluency
            ground_truth = ground_truth + self.fluency.weight * parts["fluency"]
        return ground_truth, parts
