"""Continue the beginning of a sentence; the ground truth is the sentiment of the continuation.

The scorer is VADER (Hutto and Gilbert, 2014): a lexicon with rules, whose compound score lies in [-1, 1]. It reads the
continuation only, so a prompt's own mood does not count. A policy that is trained on it for long repeats the lexicon's
strongest words; `fluency_weight` times the mean log-probability per token under the reference policy pays for text that
still reads as text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.tasks.corpus_prompts import corpus_prompts, stop_tokens_of
from experiments.tasks.prompt_spread import PromptSpread
from experiments.tasks.task import Floats, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from experiments.data.corpus import TokenisedCorpus

FORMAT = 1  # raise it whenever equal recipes would give other prompts or rewards

# (tokens of the prompts, tokens of the completions) -> mean log-probability per completion token, [n] in nats
Fluency = Callable[[Sequence[Sequence[int]], Sequence[Sequence[int]]], Floats]


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
class FluencyTerm:
    """`weight` times the mean log-probability per token under the reference policy."""

    weight: float
    score: Fluency
    reference: str  # address of the reference policy, for the recipe

    def recipe(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"weight": self.weight, "reference": self.reference}


@dataclass(frozen=True)
class SentimentTask:
    """Made by `prepare_sentiment`."""

    prompts: Sequence[Prompt]
    max_new_tokens: int
    stop_tokens: tuple[int, ...]
    made_of: dict[str, Any]
    spread: PromptSpread
    fluency: FluencyTerm | None
    sentiment: VaderSentiment = field(default_factory=VaderSentiment)
    name: str = "sentiment"

    def recipe(self) -> dict[str, Any]:
        return self.made_of

    def score(
        self, prompts: Sequence[Prompt], texts: Sequence[str], tokens: Sequence[Sequence[int]]
    ) -> tuple[Floats, dict[str, Floats]]:
        """Sentiment, plus the weighted fluency, plus the prompt's constant, [n]; the parts before weights."""
        parts = {"sentiment": self.sentiment(texts)}
        ground_truth = parts["sentiment"] + self.spread.constants(prompts)
        if self.fluency is not None:
            parts["fluency"] = np.asarray(
                self.fluency.score([prompt.tokens for prompt in prompts], tokens), dtype=np.float64
            )
            ground_truth = ground_truth + self.fluency.weight * parts["fluency"]
        return ground_truth, parts


def prepare_sentiment(
    corpus: TokenisedCorpus,
    *,
    prompts: int,
    prompt_tokens: int,
    max_new_tokens: int,
    seed: int = 0,
    stop_at_sentence_end: bool = True,
    prompt_spread: float = 0.0,
    reward_offset: float = 0.0,
    fluency: FluencyTerm | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
    tokenizer_address: str | None = None,
) -> SentimentTask:
    """Prompts out of the corpus's training text, and their ground truth.

    `tokenizer` is the policy's, where it is another than the corpus's, with an address that names its content. `seed`
    chooses the prompts. ValueError when the text has not so many beginnings of sentences.
    """
    spread = PromptSpread(prompt_spread, reward_offset)
    tokenizer = corpus.tokenizer if tokenizer is None else tokenizer
    return SentimentTask(
        prompts=corpus_prompts(
            corpus.train,
            corpus.tokenizer,
            prompts=prompts,
            prompt_tokens=prompt_tokens,
            seed=seed,
            tokenizer=tokenizer,
        ),
        max_new_tokens=max_new_tokens,
        stop_tokens=stop_tokens_of(tokenizer, at_sentence_end=stop_at_sentence_end),
        made_of={
            "task": "sentiment",
            "format": FORMAT,
            "text": corpus.train.artifact.address,
            "tokenizer": tokenizer_address or corpus.tokenizer_artifact.address,
            "prompts": prompts,
            "prompt_tokens": prompt_tokens,
            "max_new_tokens": max_new_tokens,
            "seed": seed,
            "stop_at_sentence_end": stop_at_sentence_end,
            **spread.recipe(),
            "fluency": None if fluency is None else fluency.recipe(),
            "scorer": VaderSentiment.version(),
        },
        spread=spread,
        fluency=fluency,
    )
