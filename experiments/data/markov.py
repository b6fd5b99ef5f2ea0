"""A language small enough to enumerate: words of a random Markov chain over a few letters, and their tokenizer.

A two-layer model learns it in seconds, and every completion of four letters can be listed: the ground for exact
expectations (experiments/tasks/enumerable.py). Standard library and numpy; nothing is downloaded.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.data.documents import Document, require_fraction
from experiments.data.text import SourceText
from experiments.data.tokenizer import SPECIAL_TOKENS, with_special_tokens
from experiments.runs.seeds import SeedStreams

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SYMBOLS = string.ascii_lowercase[:14]  # with the two special tokens a vocabulary of 16
SPREAD = 0.4  # concentration of the rows of the transition matrix: a few likely successors, all possible
FORMAT = 1  # raise it whenever equal settings would give another text


@dataclass(frozen=True)
class MarkovChain:
    """`words` words of `length` letters, all from one chain of order one that `seed` draws."""

    words: int = 4_000
    length: int = 60
    seed: int = 0
    holdout_fraction: float = 0.05
    name: str = "markov"

    def __post_init__(self) -> None:
        require_fraction("data.holdout_fraction", self.holdout_fraction)

    def recipe(self) -> dict[str, Any]:
        """The settings: they decide the text."""
        return {
            "source": "markov",
            "format": FORMAT,
            "symbols": SYMBOLS,
            "spread": SPREAD,
            "words": self.words,
            "length": self.length,
            "seed": self.seed,
            "holdout_fraction": self.holdout_fraction,
        }

    def transitions(self) -> np.ndarray:
        """[symbols, symbols] probabilities of the next letter (column) after a letter (row)."""
        generator = SeedStreams(self.seed).numpy("transitions")
        rows: np.ndarray = generator.dirichlet(np.full(len(SYMBOLS), SPREAD), size=len(SYMBOLS))
        return rows

    def documents(self) -> Iterator[Document]:
        """The words, all begun with a uniformly drawn letter."""
        cumulative = self.transitions().cumsum(axis=1)
        uniforms = SeedStreams(self.seed).numpy("text").random((self.words, self.length))
        states = np.empty((self.words, self.length), dtype=np.int64)
        states[:, 0] = uniforms[:, 0] * len(SYMBOLS)
        for place in range(1, self.length):
            rows = cumulative[states[:, place - 1]]  # a sum of 1 - 1e-16 must not lead out of the alphabet
            states[:, place] = (rows[:, :-1] <= uniforms[:, place, None]).sum(axis=1)
        for number, row in enumerate(states):
            yield Document(f"word {number}", "".join(SYMBOLS[state] for state in row))


@dataclass(frozen=True)
class SymbolTokenizer:
    """Each letter of the Markov chain is a token, whose id is its place in the alphabet; two special tokens follow."""

    def recipe(self, text: SourceText) -> dict[str, Any]:
        """Always the same: it depends on no text."""
        return {"tokenizer": "symbols", "symbols": SYMBOLS}

    def make(self, text: SourceText) -> PreTrainedTokenizerFast:
        """A vocabulary of letters. ValueError where the text has other characters than the chain's."""
        from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

        for _, piece in text.pieces("train"):
            foreign = sorted(set(piece) - set(SYMBOLS))
            if foreign:
                raise ValueError(
                    f"tokenizer=symbols knows {SYMBOLS[0]} to {SYMBOLS[-1]} only and the text has {foreign[0]!r}: use "
                    "it with data=markov, or another tokenizer"
                )
        tokenizer = Tokenizer(models.WordLevel({symbol: place for place, symbol in enumerate(SYMBOLS)}))
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
        tokenizer.decoder = decoders.Fuse()
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
        return with_special_tokens(tokenizer)
