"""Several reward models as one: their mean, or the most sceptical of them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np

from experiments.rewards.normalisation import Normalisation, Normaliser
from experiments.rewards.probe_statistics import grouped
from experiments.rewards.reward import Reward
from experiments.tasks.task import Floats, Outputs


class Combination(StrEnum):
    """How members' rewards become one."""

    mean = "mean"
    min = "min"  # worst-case optimisation (Coste et al., Reward Model Ensembles Help Mitigate Overoptimization, 2023)


class Ensemble(Reward):
    """Mean or minimum of members, each of mean 0 and std 1 over the probe rollouts: none weighs more by its scale."""

    def __init__(
        self, name: str, members: Sequence[Reward], probe: Outputs, samples: int, *, combination: Combination
    ) -> None:
        if len(members) < 2:
            raise ValueError(f"reward.ensemble.members names {len(members)} reward models: an ensemble needs 2 or more")
        super().__init__(name)
        self.members, self.combination = members, combination
        scores = [member(probe) for member in members]
        self.normalisers = [Normaliser.fitted(Normalisation.global_std, grouped(values, samples)) for values in scores]
        self.facts = {"members": [member.name for member in members], "combination": str(combination)}
        if all(values.std() > 0 for values in scores):
            correlations = np.asarray(np.corrcoef(np.stack(scores)))[np.triu_indices(len(members), 1)]
            self.facts["mean_correlation_of_members"] = float(correlations.mean())

    def score(self, outputs: Outputs) -> Floats:
        scores = [
            normaliser(member(outputs), outputs)
            for member, normaliser in zip(self.members, self.normalisers, strict=True)
        ]
        stacked = np.stack(scores)  # [members, n]
        return stacked.mean(axis=0) if self.combination is Combination.mean else stacked.min(axis=0)
