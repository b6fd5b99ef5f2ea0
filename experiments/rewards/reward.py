"""What a reward is: a name, a number for every output, and the normalisation under which it trains a policy.

Shapes: n outputs in rows, P prompts, N samples per prompt.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from experiments.rewards.normalisation import Normalisation, Normaliser
from experiments.tasks.task import Floats, Outputs


class Reward(ABC):
    """A reward function or reward model. Subclasses define `score`; everyone else calls the reward itself."""

    normaliser = Normaliser(Normalisation.none)
    probe_rewards: Floats  # [n] of the initial policy's probe rollouts, once `fit_normaliser` has scored them
    probe_scale: Normaliser  # mean and std of these, whatever normalisation trains: the scale in which proxies increase

    def __init__(self, name: str, facts: dict[str, Any] | None = None) -> None:
        self.name = name  # of the arm
        self.facts = {} if facts is None else facts  # what it is made of, as plain JSON for the manifest

    @abstractmethod
    def score(self, outputs: Outputs) -> Floats:
        """Rewards [n] of the rows. They may depend on nothing but the rows: no state, no order."""

    def __call__(self, outputs: Outputs) -> Floats:
        """The rewards [n] of `outputs` before normalisation.

        ValueError names the reward that returns another length or no finite numbers; RuntimeError one that raises.
        """
        try:
            returned = self.score(outputs)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".removesuffix(": ")
            raise RuntimeError(f"reward {self.name} failed on {len(outputs)} outputs ({reason})") from error
        try:
            values = np.asarray(returned, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"reward {self.name} returned no list of numbers ({error})") from error
        if values.shape != (len(outputs),):
            raise ValueError(f"reward {self.name} returned shape {values.shape} for {len(outputs)} outputs")
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise ValueError(
                f"reward {self.name} returned {values[bad[0]]} for the output {outputs.texts[bad[0]][:60]!r}: a reward "
                "must be a finite number"
            )
        return values

    def fit_normaliser(self, kind: Normalisation, probe: Outputs, samples: int) -> None:
        """Score the initial policy's probe rollouts, `samples` rows of every prompt, and take their mean and std."""
        self.probe_rewards = self(probe)
        grouped = self.probe_rewards.reshape(-1, samples)
        self.normaliser = Normaliser.fitted(kind, grouped)
        self.probe_scale = Normaliser.fitted(Normalisation.global_std, grouped)

    def range_with(self, rewards: Floats) -> tuple[float, float]:
        """The lowest and highest of `rewards` and those of the probe rollouts."""
        return (
            min(float(rewards.min()), float(self.probe_rewards.min())),
            max(float(rewards.max()), float(self.probe_rewards.max())),
        )

    def normalise(self, rewards: Floats, outputs: Outputs) -> Floats:
        """What trains the policy, [n]; `rewards` are its own of the rows of `outputs`."""
        return self.normaliser(rewards, outputs)


class GroundTruth(Reward):
    """The task's own reward as a reward model: perfectly accurate, with the variance that it happens to have."""

    def __init__(self, name: str = "ground_truth") -> None:
        super().__init__(name)

    def score(self, outputs: Outputs) -> Floats:
        return outputs.ground_truth
