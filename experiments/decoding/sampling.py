"""Choosing the next token of every sequence: greedy, temperature, top-k, top-p, with a noise stream per sequence.

The noise of a token is a hash of (seed of the sequence, index of the token). So a sequence's tokens do not depend on
its neighbours in the batch, on its place there, or on when it was admitted, as far as its logits do not (matrix
products of other sizes round differently: a token can only change where noise falls within rounding of a border).

Legend: b sequences, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

NUCLEUS_GUESS = 128  # how many likely tokens are sorted before it is known how many top-p needs
_WEYL = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1


@dataclass(frozen=True)
class SamplingOptions:
    """The sampling distribution: logits over `temperature`, then the `top_k` likeliest tokens, then `top_p`.

    Temperature 0 is greedy. `top_k` 0 and `top_p` 1 filter nothing. `top_p` keeps the fewest likeliest tokens whose
    share of what top-k left reaches it, and always one. Tokens as likely as the last one kept are kept too.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature} is impossible: use 0 (greedy) or a positive number")
        if self.top_k < 0:
            raise ValueError(f"top_k={self.top_k} is impossible: use a number of tokens, or 0 for all of them")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p={self.top_p} is impossible: use a share above 0 and at most 1")


GREEDY = SamplingOptions(temperature=0.0)


class SampledTokens(NamedTuple):
    """One token per row, [b] each.

    `policy_log_probabilities` are those of the model itself: temperature 1, no filter, nothing forbidden.
    `sampling_log_probabilities` are those of the distribution that the token was drawn from (0 where greedy).
    """

    tokens: Tensor
    policy_log_probabilities: Tensor
    sampling_log_probabilities: Tensor


class BatchSampling:
    """The sampling options of the rows of a batch, as arrays: made when the batch changes, used for many steps."""

    def __init__(
        self,
        options: Sequence[SamplingOptions],
        seeds: Sequence[int],
        stop_tokens: Sequence[Sequence[int]] | None = None,
        min_new_tokens: Sequence[int] | None = None,
    ) -> None:
        self.hashed_seeds = _scramble(np.array([seed & _MASK for seed in seeds], np.uint64))
        self.stop_tokens = stop_tokens
        self.min_new_tokens = None if min_new_tokens is None else np.array(min_new_tokens)
        self.greedy = torch.tensor([option.temperature == 0.0 for option in options])
        self.all_greedy, self.any_greedy = bool(self.greedy.all()), bool(self.greedy.any())
        self.given_temperatures = np.array([option.temperature for option in options], np.float32)  # 0: greedy
        temperatures = torch.tensor([option.temperature or 1.0 for option in options])
        self.temperatures = None if bool((temperatures == 1.0).all()) else temperatures[:, None]
        self.top_k = torch.tensor([option.top_k for option in options])
        self.top_p = torch.tensor([option.top_p for option in options], dtype=torch.float64)[:, None]
        self.filters_top_k, self.filters_top_p = bool((self.top_k > 0).any()), bool((self.top_p < 1.0).any())

    def __len__(self) -> int:
        return len(self.hashed_seeds)

    def plain_at(self, positions: np.ndarray) -> bool:
        """Whether `draw_plainly` draws the tokens of these indices."""
        return not (self.filters_top_k or self.filters_top_p or self.forbidden(positions))

    def forbidden(self, positions: np.ndarray) -> tuple[list[int], list[int]] | None:
        """Rows and stop tokens that `min_new_tokens` rules out for the tokens of these indices."""
        if self.min_new_tokens is None or self.stop_tokens is None or not (positions < self.min_new_tokens).any():
            return None
        pairs = [
            (row, stop)
            for row in np.flatnonzero(positions < self.min_new_tokens).tolist()
            for stop in self.stop_tokens[row]
        ]
        return ([row for row, _ in pairs], [stop for _, stop in pairs]) if pairs else None


def sample(logits: Tensor, batch: BatchSampling, positions: np.ndarray) -> SampledTokens:
    """Draw one token from every row of `logits` [b, V] fp32; `positions` [b] are the indices of the new tokens."""
    if len(logits) != len(batch):
        raise ValueError(f"logits of {len(logits)} rows do not fit sampling options of {len(batch)}")
    policy = logits.log_softmax(dim=-1)
    allowed = logits
    if (forbidden := batch.forbidden(positions)) is not None:
        allowed = logits.clone()
        allowed[forbidden] = -torch.inf
    likeliest = allowed.argmax(dim=-1, keepdim=True) if batch.any_greedy else None
    if batch.all_greedy:
        assert likeliest is not None
        chosen = policy.gather(1, likeliest)[:, 0]
        return SampledTokens(likeliest[:, 0], chosen, torch.zeros_like(chosen))

    scaled = allowed if batch.temperatures is None else allowed / batch.temperatures.to(logits.device)
    scaled = filtered(scaled, batch)
    sampling = policy if scaled is logits else scaled.log_softmax(dim=-1)
    noise = torch.from_numpy(uniforms(batch.hashed_seeds, positions)).to(logits.device)
    tokens = _inverse_of_distribution(sampling, noise)
    drawn = sampling.gather(1, tokens)
    if likeliest is not None:
        greedy = batch.greedy.to(logits.device)[:, None]
        tokens, drawn = torch.where(greedy, likeliest, tokens), torch.where(greedy, 0.0, drawn)
    return SampledTokens(tokens[:, 0], policy.gather(1, tokens)[:, 0], drawn[:, 0])


def draw_plainly(logits: Tensor, noise: Tensor, temperatures: Tensor) -> SampledTokens:
    """`sample` where nothing is filtered and nothing forbidden, as a function of tensors of the logits' device.

    `noise` [b] fp64 as `uniforms` makes it; `temperatures` [b] fp32, 0 where greedy. No shape depends on a number and
    nothing waits for the device.
    """
    policy = logits.log_softmax(dim=-1)
    likeliest = logits.argmax(dim=-1, keepdim=True)
    greedy = (temperatures == 0.0)[:, None]
    sampling = (logits / temperatures.masked_fill(temperatures == 0.0, 1.0)[:, None]).log_softmax(dim=-1)
    tokens = torch.where(greedy, likeliest, _inverse_of_distribution(sampling, noise))
    drawn = sampling.gather(1, tokens).masked_fill(greedy, 0.0)
    return SampledTokens(tokens[:, 0], policy.gather(1, tokens)[:, 0], drawn[:, 0])


def filtered(scaled: Tensor, batch: BatchSampling) -> Tensor:
    """Logits [b, V] with -inf where top-k, then top-p, leaves a token out."""
    if batch.filters_top_k:
        widths = batch.top_k.clamp(max=scaled.shape[1])
        top = scaled.topk(int(widths.max()), dim=-1).values
        last = top.gather(1, (widths - 1).clamp(min=0)[:, None].to(scaled.device))
        last = torch.where(batch.top_k[:, None].to(scaled.device) > 0, last, -torch.inf)
        scaled = scaled.masked_fill(scaled < last, -torch.inf)
    if batch.filters_top_p:
        last = _nucleus_border(scaled, batch.top_p.to(scaled.device))
        scaled = scaled.masked_fill(scaled < last, -torch.inf)
    return scaled


def uniforms(hashed_seeds: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """One number of [0, 1) per (seed, position), fp64 with 48 random bits: the SplitMix64 generator, entered anywhere.

    (Steele, Lea and Flood, Fast splittable pseudorandom number generators, 2014.)
    """
    weyl = hashed_seeds + (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(_WEYL)
    return (_scramble(weyl) >> np.uint64(16)).astype(np.float64) / 2.0**48


def sequence_seed(seed: int, sample: int) -> int:
    """The seed of sample number `sample` of a request with `seed`; sample 0 keeps the seed itself."""
    if sample == 0:
        return seed
    words = np.array([seed & _MASK, sample * _WEYL & _MASK], np.uint64)
    return int(_scramble(_scramble(words[:1]) ^ words[1:])[0])


def _inverse_of_distribution(log_probabilities: Tensor, noise: Tensor) -> Tensor:
    """The first token whose cumulative probability passes the noise [b], [b, 1]: never one of probability 0."""
    cumulative = log_probabilities.exp().cumsum(dim=-1, dtype=torch.float64)
    border = noise[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, border, right=True).clamp_(max=cumulative.shape[1] - 1)


def _nucleus_border(scaled: Tensor, top_p: Tensor) -> Tensor:
    """The least logit that top-p keeps, [b, 1]. Sorts as many tokens as it turns out to need."""
    normaliser = scaled.logsumexp(dim=-1, keepdim=True).double()
    width = min(NUCLEUS_GUESS, scaled.shape[1])
    while True:
        top = scaled.topk(width, dim=-1).values
        share = (top - normaliser).exp()
        before = share.cumsum(dim=-1) - share  # exactly 0 for the first, which is always kept
        kept = before < top_p
        unfinished = kept[:, -1] & (top_p[:, 0] < 1.0)
        if width == scaled.shape[1] or not bool(unfinished.any()):
            break
        width = min(4 * width, scaled.shape[1])
    last = top.gather(1, kept.sum(dim=-1, keepdim=True) - 1)
    return torch.where(top_p < 1.0, last, -torch.inf)


def _scramble(words: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64, a bijection of 64-bit words."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.bitwise_xor(words, words >> np.uint64(31))
