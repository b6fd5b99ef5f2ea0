"""What a tokenised text is like: entropies that a model must beat, and scales to compare tokenizers on."""

from __future__ import annotations

import math

import numpy as np


def unigram_entropy(counts: np.ndarray) -> float:
    """Entropy of the token frequencies `counts` [vocabulary], in nats per token.

    The loss, on this very text, of the best model that ignores context: a trained model must be far below.
    ValueError when nothing was counted.
    """
    total = int(counts.sum())
    if total == 0:
        raise ValueError("no token was counted: the entropy of an empty text is undefined")
    share = counts[counts > 0] / total
    return float(-(share * np.log(share)).sum())


def unigram_cross_entropy(training_counts: np.ndarray, held_out_counts: np.ndarray) -> float:
    """Loss on a held-out text of the unigram model of the training text (add-one smoothed), in nats per token."""
    total = int(held_out_counts.sum())
    if total == 0:
        raise ValueError("no held-out token was counted: the cross-entropy of an empty text is undefined")
    share = (training_counts + 1) / (int(training_counts.sum()) + len(training_counts))
    return float(-(held_out_counts / total * np.log(share)).sum())


def vocabulary_coverage(counts: np.ndarray) -> float:
    """Share of the vocabulary that occurs at least once."""
    return float((counts > 0).mean())


def bits_per_byte(nats_per_token: float, tokens_per_byte: float) -> float:
    """A loss in nats per token on a scale that does not depend on the tokenizer."""
    return nats_per_token * tokens_per_byte / math.log(2)
