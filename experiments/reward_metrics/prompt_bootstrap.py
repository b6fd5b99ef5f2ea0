"""A bootstrap over prompts for every property at once: statistics as functions of how often each prompt is drawn.

A property of a reward model is a mean over prompts, or made of such means. Resampling prompts only changes how often
each one counts, so a thousand resamples are one matrix product instead of a thousand evaluations. Row 0 of the counts
is the sample itself, each prompt once: the point estimate and its resamples come out of the same formula.

Shapes: P prompts, R reward models, B rows of counts, I items (pairs, comparisons), each of one prompt.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Floats = NDArray[np.float64]
Integers = NDArray[np.integer]


def prompt_counts(prompts: int, resamples: int, generator: np.random.Generator) -> Floats:
    """How often each prompt is drawn, [1 + resamples, P]; the first row is the sample itself."""
    drawn = generator.multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples)
    return np.concatenate([np.ones((1, prompts)), drawn.astype(np.float64)])


def mean_over_prompts(counts: Floats, values: Floats) -> Floats:
    """[B, P] and [R, P] -> [B, R]."""
    return counts @ values.T / counts.sum(axis=1, keepdims=True)


def ratio_over_prompts(counts: Floats, numerator: Floats, denominator: Floats) -> Floats:
    """Sum of `numerator` [R, P] over sum of `denominator` [P]: [B, R]; NaN where a resample has no denominator."""
    total = counts @ denominator
    return _divided(counts @ numerator.T, total[:, None])


def summed_by_prompt(values: NDArray[np.generic], prompt: Integers, prompts: int) -> Floats:
    """Sums of items [..., I] over each prompt: [..., P]. `prompt` [I] says whose an item is."""
    items = len(prompt)
    membership = sparse.csr_array((np.ones(items), (np.arange(items), prompt)), shape=(items, prompts))
    rows = np.asarray(values, dtype=np.float64).reshape(math.prod(values.shape[:-1]), items)
    return np.asarray((membership.T @ rows.T).T).reshape(*values.shape[:-1], prompts)


class WeightedItems:
    """Weights that are a softmax over all items of all prompts, kept per prompt and in logarithms.

    Log-probabilities of long outputs lie hundreds apart: a resample without the most likely prompt would otherwise have
    no weight left at all.
    """

    def __init__(self, scores: Floats, unit: Floats, prompt: Integers, prompts: int) -> None:
        """`scores` [I] are logarithms of weights up to one constant: numbers, or -inf for a weight of 0.

        `unit` [I] is what part of a comparison an item is: k items of 1/k count as one, of their mean weight.
        """
        if np.isnan(scores).any() or (scores == np.inf).any():
            raise ValueError("log-probabilities contain NaN or +inf: they must be numbers at most 0, or -inf")
        highest = np.full(prompts, -np.inf)
        np.maximum.at(highest, prompt, scores)
        self.highest = np.where(np.isfinite(highest), highest, 0.0)  # [P]
        relative = np.exp(scores - self.highest[prompt])  # [I] in (0, 1] for a prompt's heaviest item
        self.relative = unit * relative
        self.prompt, self.prompts = prompt, prompts
        self.total = summed_by_prompt(self.relative, prompt, prompts)  # [P]
        self.squares = summed_by_prompt(unit * relative**2, prompt, prompts)  # [P]

    def share(self, counts: Floats, correct: NDArray[np.bool_]) -> Floats:
        """Weighted share of `correct` [R, I]: [B, R]; NaN where nothing has weight."""
        right = summed_by_prompt(self.relative * correct, self.prompt, self.prompts)  # [R, P]
        weights = self._prompt_weights(counts)
        return _divided(weights @ right.T, (weights @ self.total)[:, None])

    def effective_items(self, counts: Floats) -> Floats:
        """Kish's effective sample size of the weights, [B]: (sum w)^2 / sum w^2."""
        weights = self._prompt_weights(counts)
        # A prompt that is drawn c times brings c copies of its items: counts enter the squares once, not squared.
        repeated = np.divide(weights**2, counts, out=np.zeros_like(weights), where=counts > 0)
        return _divided((weights @ self.total) ** 2, repeated @ self.squares)

    def _prompt_weights(self, counts: Floats) -> Floats:
        """counts x exp(highest), over the heaviest prompt that was drawn: [B, P]."""
        drawn = np.where((counts > 0) & (self.total > 0), self.highest, -np.inf)
        top = drawn.max(axis=1, keepdims=True)
        return counts * np.exp(drawn - np.where(np.isfinite(top), top, 0.0))


def _divided(numerator: Floats, denominator: Floats) -> Floats:
    """NaN where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator != 0)
