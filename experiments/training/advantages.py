"""Advantages: what a group's rewards say about each of its completions.

Shapes: P prompts, N samples per prompt (a group), all fp64.
"""

from __future__ import annotations

from torch import Tensor

KINDS = ("reinforce", "rloo", "grpo", "grpo_without_std")
GRPO_EPSILON = 1e-4  # trl's; DeepSeekMath (2402.03300) names none
GRPO_DDOF = 1  # the std divides by N - 1, as in trl; open-instruct divides by N (ddof 0, epsilon 1e-8)


def advantages(rewards: Tensor, kind: str, *, epsilon: float = GRPO_EPSILON, ddof: int = GRPO_DDOF) -> Tensor:
    """Advantages [P, N] of the rewards [P, N], in fp64.

    `reinforce`: minus the mean over the whole batch. `rloo`: minus the mean of the other samples of the prompt
    (2402.14740). `grpo_without_std`: minus the group's mean, which is RLOO times (N - 1) / N (Dr. GRPO, 2503.20783).
    `grpo`: that over the group's std plus `epsilon`, the std with `ddof` (2402.03300).

    Equal rewards, of a group or for `reinforce` of the batch, give exactly 0 and no rounding noise, which dividing by
    a std would blow up. ValueError for an unknown kind, rewards that are no finite numbers, and groups of one where
    samples of a prompt are compared.
    """
    if kind not in KINDS:
        raise ValueError(f"advantage={kind!r} is unknown: use one of {', '.join(KINDS)}")
    if rewards.dim() != 2:
        raise ValueError(f"rewards have the shape {tuple(rewards.shape)}: give [prompts, samples per prompt]")
    rewards = rewards.double()
    if not rewards.isfinite().all():
        prompt, sample = (~rewards.isfinite()).nonzero()[0].tolist()
        raise ValueError(f"the reward of sample {sample} of prompt {prompt} is {float(rewards[prompt, sample])}")
    if kind == "reinforce":
        return (rewards - rewards.mean()).masked_fill(rewards.max() == rewards.min(), 0.0)

    samples = rewards.shape[1]
    if samples < 2:
        raise ValueError(
            f"advantage={kind} compares the samples of a prompt, and the group size is {samples}: use groups of 2 or "
            "more, or advantage=reinforce"
        )
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    if kind == "rloo":
        centred = centred * (samples / (samples - 1))
    if kind == "grpo":
        centred = centred / (rewards.std(dim=1, keepdim=True, correction=ddof) + epsilon)
    return centred.masked_fill(equal_groups(rewards)[:, None], 0.0)


def equal_groups(rewards: Tensor) -> Tensor:
    """Which groups of [P, N] have equal rewards throughout and so teach nothing, [P] of booleans."""
    return rewards.amax(dim=1) == rewards.amin(dim=1)


def reward_with_kl(rewards: Tensor, log_ratios: Tensor, coefficient: float) -> Tensor:
    """r - coefficient * log(policy / reference) of whole completions, in the shape of `rewards`.

    `log_ratios` are sums over a completion's tokens at sampling time, and constants. Under RLOO the expected gradient
    is then that of E[r] - coefficient * KL(policy || reference), exactly.
    """
    if rewards.shape != log_ratios.shape:
        raise ValueError(f"rewards {tuple(rewards.shape)} and log-ratios {tuple(log_ratios.shape)} differ in shape")
    return rewards - coefficient * log_ratios
