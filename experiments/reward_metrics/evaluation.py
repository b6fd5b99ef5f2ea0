"""Every property of many reward models for one policy, from the policy's own samples, with intervals over prompts.

Sources: What Makes a Reward Model a Good Teacher? (arXiv 2503.15477, paper A: variance and accuracies, appendix F.1),
When Errors Can Be Beneficial (arXiv 2604.25872, paper B: the eight harm-aware accuracies and the error categories).
`properties.py` says what each name means.

Intervals are percentile bootstraps over prompts: prompts are what the numbers should hold for beyond this sample, and
outputs of one prompt are not independent. All reward models share the resamples, so that two of them can be compared
(`Evaluation.difference`) with the noise that they have in common taken out. With few prompts such intervals are
somewhat too narrow: on synthetic data "95 %" covered 92 to 93 % with 64 prompts. Where the weighted accuracies rest on
a few effective comparisons (see `effective_comparisons`), theirs covered 79 %: do not trust them.

Shapes: R reward models, P prompts, N samples per prompt, Q given pairs, B resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.reward_metrics.comparisons import (
    Comparisons,
    best_against_rest,
    given_pairs,
    pairs_of_samples,
    sign_agreement,
)
from experiments.reward_metrics.correlations import Interval
from experiments.reward_metrics.error_categories import RewardError, categorise_reward_errors
from experiments.reward_metrics.prompt_bootstrap import (
    WeightedItems,
    mean_over_prompts,
    prompt_counts,
    ratio_over_prompts,
    summed_by_prompt,
)
from experiments.reward_metrics.variance import is_constant, zero_variance_share

Floats = NDArray[np.float64]
Integers = NDArray[np.integer]


@dataclass(frozen=True)
class OffPolicyPairs:
    """Pairs of outputs that are not samples of the policy: a preference dataset's own."""

    rewards: Floats  # [R, Q, 2]
    ground_truth: Floats  # [Q, 2]
    log_probabilities: Floats  # [Q, 2] of whole outputs under the policy
    lengths: Integers  # [Q, 2] in tokens
    prompt: Integers  # [Q] which of the P prompts a pair belongs to


@dataclass(frozen=True)
class Evaluation:
    """Properties by name: for every reward model a value and its resamples over prompts."""

    reward_models: tuple[str, ...]  # [R]
    values: dict[str, Floats]  # [R]; NaN where a property is not defined
    resamples: dict[str, Floats]  # [B, R]
    prompts: int
    confidence: float

    def interval(self, name: str, reward_model: int) -> Interval:
        """A property with its interval; resamples in which it is not defined are left out."""
        return self._interval(float(self.values[name][reward_model]), self.resamples[name][:, reward_model])

    def difference(self, name: str, first: int, second: int) -> Interval:
        """The property of one reward model minus that of another, on the same resamples."""
        values, resamples = self.values[name], self.resamples[name]
        return self._interval(float(values[first] - values[second]), resamples[:, first] - resamples[:, second])

    def rows(self) -> list[dict[str, Any]]:
        """One row per reward model: `<property>`, `<property>_low`, `<property>_high`."""
        rows = []
        for index, reward_model in enumerate(self.reward_models):
            row: dict[str, Any] = {"reward_model": reward_model, "prompts": self.prompts}
            for name in self.values:
                interval = self.interval(name, index)
                row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
            rows.append(row)
        return rows

    def _interval(self, value: float, resamples: Floats) -> Interval:
        defined = resamples[np.isfinite(resamples)]
        if math.isnan(value) or not len(defined):
            return Interval(value, math.nan, math.nan, self.prompts, self.confidence)
        tail = 50 * (1 - self.confidence)
        low, high = np.percentile(defined, [tail, 100 - tail])
        return Interval(value, float(low), float(high), self.prompts, self.confidence)


def evaluate_reward_models(
    reward_models: Sequence[str],
    rewards: Floats,
    ground_truth: Floats,
    log_probabilities: Floats,
    lengths: Integers,
    *,
    generator: np.random.Generator,
    off_policy: OffPolicyPairs | None = None,
    outputs: Integers | None = None,
    error_tolerance: float = 0.25,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> Evaluation:
    """Evaluate R reward models on probe rollouts of one policy.

    `rewards` [R, P, N] are their scores of the policy's samples, `ground_truth` [P, N], `log_probabilities` [P, N] of
    whole samples under the policy and `lengths` [P, N] in tokens. `outputs` [P, N] numbers the different outputs of a
    prompt (equal numbers are the same text) and matters for error categories only; see `error_shares`.
    Strict and weighted accuracies are NaN where the ground truth ties in every pair, and on-policy accuracy where the
    rewards of every prompt are equal: a reward model that ranks nothing agrees by its ties alone. Raises ValueError for
    shapes that do not fit and numbers that are none.
    """
    _check(reward_models, rewards, ground_truth, log_probabilities, lengths, off_policy)
    prompts = ground_truth.shape[0]
    counts = prompt_counts(prompts, resamples, generator)
    per_token = log_probabilities / np.maximum(lengths, 1)

    measured = _variances(counts, rewards, ground_truth)
    on_policy = mean_over_prompts(counts, sign_agreement(rewards, ground_truth))
    on_policy[:, _zero_variance_by_prompt(rewards).min(axis=1) == 1] = math.nan
    accuracy = on_policy
    measured["on_policy_accuracy"] = on_policy
    comparisons = {
        "": pairs_of_samples(rewards, ground_truth, log_probabilities, per_token),
        "one_vs_many_": best_against_rest(rewards, ground_truth, log_probabilities, per_token),
    }
    if off_policy is not None:
        measured["off_policy_accuracy"] = _off_policy_accuracy(counts, off_policy)
        accuracy = (on_policy + measured["off_policy_accuracy"]) / 2
        measured["on_and_off_policy_accuracy"] = accuracy
        comparisons["off_policy_"] = given_pairs(
            off_policy.rewards,
            off_policy.ground_truth,
            off_policy.log_probabilities,
            off_policy.log_probabilities / np.maximum(off_policy.lengths, 1),
            off_policy.prompt,
            rewards.mean(axis=-1),
        )
    # The paper's coefficients of Tables 2, 4 and 8 follow from those of variance and both accuracies with this mean.
    measured["variance_and_accuracy"] = (measured["variance"] + accuracy) / 2
    for prefix, items in comparisons.items():
        measured |= {prefix + name: values for name, values in accuracies(counts, items).items()}
    for category, shares in error_shares(rewards, ground_truth, outputs, tolerance=error_tolerance).items():
        measured[f"error_{category.name}"] = mean_over_prompts(counts, shares)
    return Evaluation(
        reward_models=tuple(reward_models),
        values={name: values[0] for name, values in measured.items()},
        resamples={name: values[1:] for name, values in measured.items()},
        prompts=prompts,
        confidence=confidence,
    )


def error_shares(
    rewards: Floats, ground_truth: Floats, outputs: Integers | None = None, *, tolerance: float = 0.25
) -> dict[RewardError, Floats]:
    """Share of each prompt's samples whose reward error falls in each category: [R, P] by category.

    The categories are made for finite policies. Here each prompt's policy is the empirical distribution of its samples:
    N outputs of probability 1/N, or of k/N where `outputs` says that k of them are the same. The real policy has many
    more outputs, so these are shares among what it actually says; "benign: slow" can only mean that another sample
    attracts probability much faster, as no sample is unlikely. Rewards have no common scale between models, nor does
    policy gradient with a baseline per prompt see one between prompts: proxy and ground truth are standardised within
    each prompt, and an error is a difference of more than `tolerance` standard deviations. So shrinking the rewards of
    a prompt is no error (reward variance sees it).
    """
    models, prompts, samples = rewards.shape
    same = (
        np.zeros((prompts, samples, samples), dtype=bool)
        if outputs is None
        else outputs[:, :, None] == outputs[:, None]
    )
    same |= np.eye(samples, dtype=bool)
    first = same.argmax(axis=2)  # [P, N] the first sample that is the same output stands for all of them
    stands = first == np.arange(samples)
    probabilities = np.where(stands, same.sum(axis=2) / samples, 0.0)
    shape = (models, prompts, samples)
    category = categorise_reward_errors(
        torch.from_numpy(np.broadcast_to(probabilities, shape).copy()),
        torch.from_numpy(np.broadcast_to(_standardised(ground_truth), shape).copy()),
        torch.from_numpy(_standardised(rewards)),
        tolerance=tolerance,
    ).numpy()
    category = np.take_along_axis(category, np.broadcast_to(first, shape), axis=-1)
    return {error: (category == int(error)).mean(axis=-1) for error in RewardError}


def _variances(counts: Floats, rewards: Floats, ground_truth: Floats) -> dict[str, Floats]:
    """Reward variance of the paper and raw, covariance with the ground truth, share of prompts without variance."""
    samples = rewards.shape[-1]
    centred = rewards - rewards.mean(axis=(1, 2), keepdims=True)  # large means would eat the digits of squares
    truth = ground_truth - ground_truth.mean()
    within = rewards.var(axis=-1, ddof=1)  # [R, P]
    raw = mean_over_prompts(counts, within)
    global_std, truth_std = _global_std(counts, centred), _global_std(counts, truth[None])
    constant = is_constant(torch.from_numpy(rewards).flatten(1)).numpy()
    flat_truth = bool(is_constant(torch.from_numpy(ground_truth).flatten()))
    global_std[:, constant] = 0.0
    deviation = centred - centred.mean(axis=-1, keepdims=True)
    covariance = (deviation * (truth - truth.mean(axis=-1, keepdims=True))).sum(axis=-1) / (samples - 1)
    scale = global_std * (0.0 if flat_truth else truth_std)
    same = _zero_variance_by_prompt(rewards)
    return {
        "variance": _or_zero(raw, global_std**2),
        "raw_variance": raw,
        "zero_variance_share": mean_over_prompts(counts, same),
        "covariance_with_ground_truth": _or_zero(mean_over_prompts(counts, covariance), scale),
    }


def _zero_variance_by_prompt(rewards: Floats) -> Floats:
    """1.0 for the prompts all of whose samples have the same reward, [R, P]: no gradient comes from them."""
    return np.asarray(zero_variance_share(torch.from_numpy(rewards)[:, :, None, :]).numpy())


def _global_std(counts: Floats, centred: Floats) -> Floats:
    """Standard deviation over all prompts and samples of a resample: [R, P, N] -> [B, R]."""
    n = counts.sum(axis=1, keepdims=True) * centred.shape[-1]
    mean = counts @ centred.sum(axis=-1).T / n
    squares = counts @ (centred**2).sum(axis=-1).T
    return np.asarray(np.sqrt(np.maximum(squares - n * mean**2, 0.0) / (n - 1)))


def _off_policy_accuracy(counts: Floats, pairs: OffPolicyPairs) -> Floats:
    """Sign agreement on given pairs, which count equally: [B, R]."""
    prompts = counts.shape[1]
    order = np.sign(pairs.rewards[..., 0] - pairs.rewards[..., 1])
    agree = order == np.sign(pairs.ground_truth[..., 0] - pairs.ground_truth[..., 1])
    number = np.bincount(pairs.prompt, minlength=prompts).astype(np.float64)
    return ratio_over_prompts(counts, summed_by_prompt(agree, pairs.prompt, prompts), number)


def accuracies(counts: Floats, items: Comparisons) -> dict[str, Floats]:
    """Acc, HAcc and their weighted forms over one kind of comparison, and how many comparisons they rest on.

    `counts` [B, P] say how often each prompt counts (`prompt_counts`; one row of ones: the sample itself). [B, R] each.
    """
    prompts, models = counts.shape[1], len(items.strict)
    unit = summed_by_prompt(items.unit, items.prompt, prompts)
    found: dict[str, Floats] = {}
    for name, right in (("strict_accuracy", items.strict), ("harm_aware_accuracy", items.harm_aware)):
        correct = summed_by_prompt(items.unit * right, items.prompt, prompts)
        found[name] = ratio_over_prompts(counts, correct, unit)
    every = np.broadcast_to((counts @ unit)[:, None], (len(counts), models))
    found["comparisons"] = every
    for prefix, scores in (("", items.log_probability), ("length_normalised_", items.length_normalised)):
        weighted = WeightedItems(scores, items.unit, items.prompt, prompts)
        found[f"{prefix}weighted_accuracy"] = weighted.share(counts, items.strict)
        found[f"{prefix}weighted_harm_aware_accuracy"] = weighted.share(counts, items.harm_aware)
        effective = weighted.effective_items(counts)
        found[f"{prefix}effective_comparisons"] = np.broadcast_to(effective[:, None], every.shape)
    return found


def _standardised(rewards: Floats) -> Floats:
    """Each prompt's rewards with mean 0 and standard deviation 1; all 0 where they are the same."""
    constant = is_constant(torch.from_numpy(rewards)).numpy()[..., None]
    centred = rewards - rewards.mean(axis=-1, keepdims=True)
    std = rewards.std(axis=-1, keepdims=True)
    return np.asarray(np.where(constant, 0.0, centred / np.where(constant, 1.0, std)))


def _or_zero(numerator: Floats, denominator: Floats) -> Floats:
    """0 where the denominator is 0: a constant reward has no variance whatever it is divided by."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0)


def _check(
    reward_models: Sequence[str],
    rewards: Floats,
    ground_truth: Floats,
    log_probabilities: Floats,
    lengths: Integers,
    off_policy: OffPolicyPairs | None,
) -> None:
    if rewards.ndim != 3 or rewards.shape[0] != len(reward_models) or rewards.shape[-1] < 2 or rewards.shape[1] < 2:
        raise ValueError(
            f"rewards of {len(reward_models)} reward models must be [reward models, prompts, samples] with at least 2 "
            f"prompts and samples, not {rewards.shape}"
        )
    arrays = {"ground truth": ground_truth, "log-probabilities": log_probabilities, "lengths": lengths}
    for name, array in arrays.items():
        if array.shape != rewards.shape[1:]:
            raise ValueError(f"{name} must be [prompts, samples] = {rewards.shape[1:]}, not {array.shape}")
    if off_policy is not None:
        pairs = len(off_policy.prompt)
        shapes = {
            "rewards": (off_policy.rewards, (len(reward_models), pairs, 2)),
            "ground truth": (off_policy.ground_truth, (pairs, 2)),
            "log-probabilities": (off_policy.log_probabilities, (pairs, 2)),
            "lengths": (off_policy.lengths, (pairs, 2)),
        }
        for name, (array, shape) in shapes.items():
            if array.shape != shape:
                raise ValueError(f"{name} of off-policy pairs must have shape {shape}, not {array.shape}")
        arrays |= {"off-policy rewards": off_policy.rewards, "off-policy ground truth": off_policy.ground_truth}
    for name, array in {"rewards": rewards, **arrays}.items():
        if name != "log-probabilities" and not np.isfinite(array).all():
            raise ValueError(f"{name} contain NaN or infinity: drop those outputs first")
