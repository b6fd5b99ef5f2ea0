"""A task whose completions can all be listed, so that expectations are exact: the oracle for tests and tiny studies.

Vocabulary 16, prompts of 4 tokens, completions of exactly 4: 16^4 = 65,536 of them. The ground truth is smooth and
learnable: offset + spread * z(prompt) + .6 * mean token value + 1.2 * mean bigram value, with fixed random tables. The
first bigram begins with the prompt's last token, so that the best completion depends on the prompt. No token ends a
completion: every one has the same length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from experiments.runs.seeds import SeedStreams
from experiments.tasks.prompt_set import OfPromptSet, PromptSet
from experiments.tasks.prompt_spread import PromptSpread
from experiments.tasks.task import Floats, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 1  # raise it whenever equal recipes would give other prompts or rewards
MOST_OUTPUTS = 2_000_000  # that enumeration is meant for

Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class TokenValues:
    """The random tables of the ground truth; V tokens."""

    tokens: Floats  # [V] N(0, 1)
    bigrams: Floats  # [V, V] N(0, 1): of a token (column) after a token (row)
    token_weight: float
    bigram_weight: float

    def of(self, last: int, outputs: Tokens) -> tuple[Floats, Floats]:
        """Mean token value and mean bigram value, each [n], of outputs [n, L] behind a prompt that ends with `last`."""
        before = np.column_stack([np.full(len(outputs), last), outputs[:, :-1]])
        return self.tokens[outputs].mean(axis=1), self.bigrams[before, outputs].mean(axis=1)


@dataclass(frozen=True)
class EnumerableTask(OfPromptSet):
    """Made by `prepare_enumerable`."""

    prompt_set: PromptSet
    values: TokenValues
    spread: PromptSpread = field(default_factory=PromptSpread)
    name: str = "enumerable"

    @property
    def vocabulary(self) -> int:
        """Number of token ids: a policy on this task has as many."""
        return len(self.values.tokens)

    def recipe(self) -> dict[str, Any]:
        return {
            "task": self.name,
            "format": FORMAT,
            "prompts": self.prompt_set.recipe,
            "token_weight": self.values.token_weight,
            "bigram_weight": self.values.bigram_weight,
            "prompt_spread": self.spread.recipe(),
        }

    def score(
        self, prompts: Sequence[Prompt], texts: Sequence[str], tokens: Sequence[Sequence[int]]
    ) -> tuple[Floats, dict[str, Floats]]:
        """Ground truth [n]; its parts `token_value` and `bigram_value` are before weights. ValueError for an empty row.

        Rows may differ in length: a policy with an end-of-document token of its own may stop early.
        """
        if not all(len(row) for row in tokens):
            raise ValueError("task enumerable: a completion has no token, so it has no mean value")
        rows = [
            self.values.of(prompt.tokens[-1], np.asarray([row])) for prompt, row in zip(prompts, tokens, strict=True)
        ]
        token_value, bigram_value = np.array(rows, dtype=np.float64).reshape(len(rows), 2).T
        truth = self._weighted(token_value, bigram_value) + self.spread.constants(prompts)
        return truth, {"token_value": token_value, "bigram_value": bigram_value}

    def enumerate_outputs(self) -> Tokens:
        """Every completion once, [V^L, L], in the order of numbers in base V."""
        shape = (self.vocabulary,) * self.max_new_tokens
        return np.stack(np.unravel_index(np.arange(self.vocabulary**self.max_new_tokens), shape), axis=1)

    def ground_truth_of(self, prompt: Prompt, outputs: Tokens) -> Floats:
        """Ground truth [n] of outputs [n, L] to one prompt: `score` for many completions at once."""
        return self._weighted(*self.values.of(prompt.tokens[-1], outputs)) + self.spread.constants([prompt])

    def _weighted(self, token_value: Floats, bigram_value: Floats) -> Floats:
        return self.values.token_weight * token_value + self.values.bigram_weight * bigram_value


def prepare_enumerable(
    *,
    vocabulary: int = 16,
    prompts: int = 128,
    prompt_tokens: int = 4,
    max_new_tokens: int = 4,
    seed: int = 0,
    token_weight: float = 0.6,
    bigram_weight: float = 1.2,
    prompt_spread: float = 0.9,
    reward_offset: float = 1.0,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> EnumerableTask:
    """Different prompts of random tokens, special ones excluded, and random tables: both drawn from `seed`.

    `tokenizer` gives the prompts their texts and must have `vocabulary` tokens; without one a text is the tokens'
    numbers. ValueError for more prompts than there are, and for more completions than can be listed.
    """
    if tokenizer is not None and len(tokenizer) != vocabulary:
        raise ValueError(
            f"task=enumerable with {vocabulary} tokens does not fit a policy with {len(tokenizer)}: train it with "
            "data=markov tokenizer=symbols"
        )
    special = set() if tokenizer is None else set(tokenizer.all_special_ids)
    letters = [token for token in range(vocabulary) if token not in special]
    if min(prompts, prompt_tokens, max_new_tokens) < 1 or vocabulary < 2:
        raise ValueError("task=enumerable needs at least one prompt, one token of prompt and completion, two letters")
    if prompts > len(letters) ** prompt_tokens:
        raise ValueError(
            f"task.prompts={prompts} are too many: there are {len(letters) ** prompt_tokens} of {prompt_tokens} tokens"
        )
    if vocabulary**max_new_tokens > MOST_OUTPUTS:
        raise ValueError(
            f"task.max_new_tokens={max_new_tokens} makes {vocabulary}^{max_new_tokens} completions, too many to list: "
            "use a smaller number"
        )
    streams = SeedStreams(seed)
    generator = streams.numpy("prompts")
    chosen: dict[tuple[int, ...], None] = {}
    while len(chosen) < prompts:
        chosen[tuple(letters[i] for i in generator.integers(len(letters), size=prompt_tokens))] = None
    tables = streams.numpy("tables")
    return EnumerableTask(
        prompt_set=PromptSet(
            prompts=[
                Prompt(place, str(row) if tokenizer is None else str(tokenizer.decode(list(row))), row)
                for place, row in enumerate(chosen)
            ],
            max_new_tokens=max_new_tokens,
            stop_tokens=(),
            recipe={
                "vocabulary": vocabulary,
                "special": sorted(special),
                "prompts": prompts,
                "prompt_tokens": prompt_tokens,
                "max_new_tokens": max_new_tokens,
                "seed": seed,
                "texts": tokenizer is not None,
            },
        ),
        values=TokenValues(
            tokens=tables.standard_normal(vocabulary),
            bigrams=tables.standard_normal((vocabulary, vocabulary)),
            token_weight=token_weight,
            bigram_weight=bigram_weight,
        ),
        spread=PromptSpread(prompt_spread, reward_offset),
    )
