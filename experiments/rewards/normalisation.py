"""What a reward is shifted and divided by before it trains a policy.

Source: What Makes a Reward Model a Good Teacher? (arXiv 2503.15477), appendix F.1 (mean and std over probe rollouts)
and Table 9 (sqrt of the mean within-prompt variance); batch whitening as in When Errors Can Be Beneficial (2604.25872).

Shapes: n rewards in rows, P probe prompts, N samples of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.tasks.task import Floats, Outputs

RELATIVE_TOLERANCE = 1e-9  # a spread below this share of the rewards' magnitude is rounding, not spread


class Normalisation(StrEnum):
    """What rewards are divided by before they train a policy."""

    none = "none"
    global_std = "global_std"  # mean and std over all probe rollouts: the papers' choice
    within_prompt_std = "within_prompt_std"  # probe mean, sqrt of the mean within-prompt variance (Table 9)
    per_prompt = "per_prompt"  # mean and std of the rows that share the prompt
    batch = "batch"  # mean and std of the batch: whitening


@dataclass(frozen=True)
class Normaliser:
    """`(reward - shift) / scale`. `per_prompt` and `batch` have no fixed shift and scale."""

    kind: Normalisation
    shift: float = 0.0
    scale: float = 1.0

    @classmethod
    def fitted(cls, kind: Normalisation, probe_rewards: NDArray[np.float64]) -> Normaliser:
        """From the rewards [P, N] of the initial policy's probe rollouts.

        Constant rewards get scale 1: they become 0. ValueError for rewards that are not [P, N].
        """
        if probe_rewards.ndim != 2 or probe_rewards.shape[1] < 2:
            raise ValueError(f"probe rewards must be [prompts, at least 2 samples], not {probe_rewards.shape}")
        if kind is Normalisation.global_std:
            return cls(kind, float(probe_rewards.mean()), _std_or_one(probe_rewards.ravel()))
        if kind is Normalisation.within_prompt_std:
            within = float(np.sqrt(probe_rewards.var(axis=1, ddof=1).mean()))
            scale = within if within > _rounding(probe_rewards) else 1.0
            return cls(kind, float(probe_rewards.mean()), scale)
        return cls(kind)

    def __call__(self, rewards: Floats, outputs: Outputs) -> Floats:
        """Normalised rewards [n] of the rows of `outputs`."""
        return self.apply(rewards, [prompt.index for prompt in outputs.prompts])

    def apply(self, rewards: Floats, prompts: Sequence[int]) -> Floats:
        """Normalised rewards [n]; `prompts` [n] are the rows' prompt indices, which `per_prompt` needs.

        ValueError where `per_prompt` meets a prompt with one row only: it would take away all that it says.
        """
        if self.kind is Normalisation.batch:
            return (rewards - rewards.mean()) / _std_or_one(rewards)
        if self.kind is Normalisation.per_prompt:
            return _within_each_prompt(rewards, np.asarray(prompts))
        return (rewards - self.shift) / self.scale

    def facts(self) -> dict[str, Any]:
        """Plain JSON, for the manifest."""
        return {"normalisation": str(self.kind), "shift": self.shift, "scale": self.scale}


def _within_each_prompt(rewards: Floats, prompts: NDArray[np.int64]) -> Floats:
    result = np.empty_like(rewards)
    for prompt in np.unique(prompts):
        rows = prompts == prompt
        if rows.sum() < 2:
            raise ValueError(
                f"reward.normalisation=per_prompt is impossible with one output of prompt {prompt}: it needs two or "
                "more (policy_gradient.group_size), or another normalisation"
            )
        result[rows] = (rewards[rows] - rewards[rows].mean()) / _std_or_one(rewards[rows])
    return result


def _std_or_one(rewards: NDArray[np.float64]) -> float:
    std = float(rewards.std(ddof=1)) if len(rewards) > 1 else 0.0
    return std if std > _rounding(rewards) else 1.0


def _rounding(rewards: NDArray[np.float64]) -> float:
    return RELATIVE_TOLERANCE * float(np.abs(rewards).max(initial=0.0))
