"""Advantages: what a group's rewards say about each of its completions.

Shapes: P prompts, N samples per prompt (a group), L tokens of the longest completion, all fp64.
"""

from __future__ import annotations

from torch import Tensor

from experiments.reward_metrics.variance import is_constant
from experiments.training.algorithms import Advantage

GRPO_EPSILON = 1e-4  # trl's; DeepSeekMath (2402.03300) names none
GRPO_DDOF = 1  # the std divides by N - 1, as in trl; open-instruct divides by N (ddof 0, epsilon 1e-8)
ROUNDING_PER_TOKEN = 1e-6  # of log-probabilities of about 10 nats in fp32, which two forward passes round differently


def advantages(
    rewards: Tensor,
    kind: Advantage,
    *,
    log_ratios: Tensor | None = None,
    kl_coefficient: float = 0.0,
    rounding: float = 0.0,
    epsilon: float = GRPO_EPSILON,
    ddof: int = GRPO_DDOF,
) -> Tensor:
    """Advantages [P, N] of the rewards [P, N], in fp64.

    `reinforce`: minus the mean over the batch. `rloo`: minus the mean of the other samples of the prompt
    (2402.14740). `grpo_without_std`: minus the group's mean, which is RLOO times (N - 1) / N (Dr. GRPO, 2503.20783).
    `grpo`: that over the group's std plus `epsilon`, the std with `ddof` (2402.03300).

    `log_ratios` [P, N], where given, make these the advantages of `reward_with_kl`. Rewards that are equal (up to 1e-6
    of their size), of a group or for `reinforce` of the batch, give exactly 0 where the log-ratios differ by no more
    than `rounding`: an optimizer such as Adam would make full steps of rounding noise. Where they differ by more, the
    KL alone decides, and `grpo` does not divide it: rewards that are equal have no std. ValueError for rewards that
    are not finite, and groups of one where samples of a prompt are compared.
    """
    kind = Advantage(kind)
    if rewards.dim() != 2:
        raise ValueError(f"rewards have the shape {tuple(rewards.shape)}: give [prompts, samples per prompt]")
    rewards = rewards.double()
    if not rewards.isfinite().all():
        prompt, sample = (~rewards.isfinite()).nonzero()[0].tolist()
        raise ValueError(f"the reward of sample {sample} of prompt {prompt} is {float(rewards[prompt, sample])}")
    total = rewards if log_ratios is None else reward_with_kl(rewards, log_ratios, kl_coefficient)
    if kind is Advantage.reinforce:
        silent = is_constant(rewards.flatten())
        if log_ratios is not None:
            silent &= _spread(log_ratios.flatten()) <= rounding
        return (total - total.mean()).masked_fill(silent, 0.0)

    samples = rewards.shape[1]
    if samples < 2:
        raise ValueError(
            f"advantage={kind} compares the samples of a prompt, and the group size is {samples}: use groups of 2 or "
            "more, or advantage=reinforce"
        )
    equal = is_constant(rewards)
    silent = equal if log_ratios is None else equal & (_spread(log_ratios) <= rounding)
    centred = total - total.mean(dim=1, keepdim=True)
    if kind is Advantage.rloo:
        centred = centred * (samples / (samples - 1))
    if kind is Advantage.grpo:
        std = total.std(dim=1, keepdim=True, correction=ddof) + epsilon
        centred = centred / std.masked_fill(equal[:, None], 1.0)
    return centred.masked_fill(silent[:, None], 0.0)


def reward_with_kl(rewards: Tensor, log_ratios: Tensor, coefficient: float) -> Tensor:
    """r - coefficient * log(policy / reference) of whole completions, in the shape of `rewards`.

    `log_ratios` are sums over a completion's tokens at sampling time, and constants. Under RLOO the expected gradient
    is then that of E[r] - coefficient * KL(policy || reference), exactly.
    """
    if rewards.shape != log_ratios.shape:
        raise ValueError(f"rewards {tuple(rewards.shape)} and log-ratios {tuple(log_ratios.shape)} differ in shape")
    return rewards - coefficient * log_ratios


def log_ratio_rounding(longest: int) -> float:
    """How far two sums of log-probabilities of up to `longest` tokens may differ by rounding alone."""
    return ROUNDING_PER_TOKEN * longest


def _spread(values: Tensor) -> Tensor:
    """Highest minus lowest along the last dimension."""
    return values.amax(dim=-1) - values.amin(dim=-1)
