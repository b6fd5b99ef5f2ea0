"""Rewards that grade the ground truth anew: in few levels, clipped, with a bad property overpaid, with mediocre outputs
pushed to the bottom.

Thresholds are quantiles of the ground truth over the initial policy's probe rollouts. Where a task adds a constant per
prompt to its ground truth, the grading is of what is below it: it errs in the same way on every prompt, and the
constant comes on top again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from experiments.rewards.hashed_draws import output_uniforms
from experiments.rewards.probe_statistics import refuse_constant, within_prompt_std
from experiments.rewards.reward import Reward
from experiments.tasks.task import Floats, Outputs, Prompt

PromptConstants = Callable[[Sequence[Prompt]], Floats]  # what a task adds to its ground truth, [n] of n rows' prompts


class GradedTruth(Reward):
    """Ground truth without its prompts' constants, changed by `grade`, plus the constants."""

    def __init__(self, name: str, constants: PromptConstants | None) -> None:
        super().__init__(name)
        self.constants = constants

    def score(self, outputs: Outputs) -> Floats:
        constants = self._constants(outputs)
        return self.grade(outputs.ground_truth - constants, outputs) + constants

    def grade(self, truth: Floats, outputs: Outputs) -> Floats:
        """The reward [n] of a ground truth [n] without constants."""
        raise NotImplementedError

    def _constants(self, outputs: Outputs) -> Floats:
        return np.zeros(len(outputs)) if self.constants is None else self.constants(outputs.prompts)

    def _quantiles(self, probe: Outputs, shares: Sequence[float]) -> list[float]:
        truth = probe.ground_truth - self._constants(probe)
        return [float(value) for value in np.quantile(truth, shares)]


class Coarse(GradedTruth):
    """`levels` levels from 0 to 1, each given to an equal share of the probe rollouts as far as ties allow."""

    def __init__(
        self, name: str, probe: Outputs, samples: int, *, levels: int, constants: PromptConstants | None = None
    ) -> None:
        super().__init__(name, constants)
        refuse_constant(probe, samples, "coarse")
        truth = probe.ground_truth - self._constants(probe)
        cuts = np.unique(np.quantile(truth, np.arange(1, levels) / levels))
        self.cuts = cuts[cuts < truth.max()]  # a level that no rollout reaches is none
        if len(self.cuts) == 0:  # more than (levels - 1) / levels have the highest value: the rest is below
            self.cuts = np.array([np.unique(truth)[-2]])
        self.facts = {"levels": len(self.cuts) + 1, "cuts": self.cuts.tolist()}

    def grade(self, truth: Floats, outputs: Outputs) -> Floats:
        return np.searchsorted(self.cuts, truth, side="left") / len(self.cuts)


class Clipped(GradedTruth):
    """Never below the quantile `low` or above the quantile `high`."""

    def __init__(
        self, name: str, probe: Outputs, *, low: float, high: float, constants: PromptConstants | None = None
    ) -> None:
        super().__init__(name, constants)
        self.floor, self.ceiling = self._quantiles(probe, [low, high])
        self.facts = {"floor": self.floor, "ceiling": self.ceiling}

    def grade(self, truth: Floats, outputs: Outputs) -> Floats:
        return np.clip(truth, self.floor, self.ceiling)


class Suppressing(GradedTruth):
    """Outputs between the quantiles `low` and `high`, both included, get the lowest reward of the probe rollouts.

    The beneficial error of When Errors Can Be Beneficial (arXiv 2604.25872): the policy does not stall at mediocre
    outputs. Harmless where good outputs share nothing with mediocre ones, see its appendix A.1 for the contrary.
    """

    def __init__(
        self, name: str, probe: Outputs, *, low: float, high: float, constants: PromptConstants | None = None
    ) -> None:
        super().__init__(name, constants)
        self.low, self.high, self.bottom = self._quantiles(probe, [low, high, 0.0])
        suppressed = self._is_mediocre(probe.ground_truth - self._constants(probe))
        self.facts = {"low": self.low, "high": self.high, "bottom": self.bottom, "share": float(suppressed.mean())}

    def grade(self, truth: Floats, outputs: Outputs) -> Floats:
        return np.where(self._is_mediocre(truth), self.bottom, truth)

    def _is_mediocre(self, truth: Floats) -> NDArray[np.bool_]:
        return (truth >= self.low) & (truth <= self.high)


class BadProperty(StrEnum):
    """What is overpaid."""

    repeated_word = "repeated_word"  # the same word twice in a row
    short = "short"  # fewer tokens than `fewest_tokens`
    unfinished = "unfinished"  # cut off before a stop token
    pattern = "pattern"  # the text matches a regular expression
    low_ground_truth = "low_ground_truth"  # the ground truth is low, nothing else


_REPEATED_WORD = re.compile(r"\b(\w+)\W+\1\b", re.IGNORECASE)


class Overpaying(GradedTruth):
    """The ground truth plus a bonus for outputs with a property that is none of its business: reward hacking.

    The bonus is in units of the ground truth's within-prompt std on the probe rollouts. It goes to outputs with
    `property` whose ground truth is at most the quantile `quantile` (1: any), and among those to a share `share` by a
    hash of the output: less than 1 makes the error harder to find for a policy.
    """

    def __init__(
        self,
        name: str,
        probe: Outputs,
        samples: int,
        *,
        property: str,
        pattern: str,
        fewest_tokens: int,
        quantile: float,
        share: float,
        bonus: float,
        seed: int,
        constants: PromptConstants | None = None,
    ) -> None:
        super().__init__(name, constants)
        refuse_constant(probe, samples, "overpaying")
        self.property, self.pattern, self.fewest_tokens = BadProperty(property), re.compile(pattern), fewest_tokens
        self.share, self.seed = share, seed
        self.bonus = bonus * within_prompt_std(probe.ground_truth, samples)
        (self.most,) = self._quantiles(probe, [quantile])
        overpaid = self._is_overpaid(probe.ground_truth - self._constants(probe), probe)
        self.facts = {"property": str(self.property), "bonus": self.bonus, "overpaid_share": float(overpaid.mean())}

    def grade(self, truth: Floats, outputs: Outputs) -> Floats:
        return truth + self.bonus * self._is_overpaid(truth, outputs)

    def _is_overpaid(self, truth: Floats, outputs: Outputs) -> NDArray[np.bool_]:
        overpaid = self._has_property(outputs) & (truth <= self.most)
        return overpaid & (output_uniforms(outputs, self.seed, "overpaying") < self.share)

    def _has_property(self, outputs: Outputs) -> NDArray[np.bool_]:
        if self.property is BadProperty.repeated_word:
            return np.array([_REPEATED_WORD.search(text) is not None for text in outputs.texts])
        if self.property is BadProperty.pattern:
            return np.array([self.pattern.search(text) is not None for text in outputs.texts])
        if self.property is BadProperty.short:
            return np.array([len(row) < self.fewest_tokens for row in outputs.tokens])
        if self.property is BadProperty.unfinished:
            return ~outputs.finished
        return np.ones(len(outputs), dtype=np.bool_)
