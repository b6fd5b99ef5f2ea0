"""What a reward is: a name, and a number for every output.

Shapes: n outputs in rows, P prompts, N samples per prompt.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from experiments.tasks.task import Floats, Outputs


class Reward(Protocol):
    """A reward function or reward model, before normalisation."""

    name: str

    def __call__(self, outputs: Outputs) -> Floats:
        """Rewards [n] of the rows. They may depend on nothing but the rows: no state, no order."""


class GroundTruth:
    """The task's own reward as a reward model: perfectly accurate, with the variance that it happens to have."""

    name = "ground_truth"

    def __call__(self, outputs: Outputs) -> Floats:
        return outputs.ground_truth


def checked(reward: Reward, outputs: Outputs) -> Floats:
    """The rewards [n] of `outputs`.

    ValueError names the reward that returns another length or no finite numbers; RuntimeError one that raises.
    """
    try:
        returned = reward(outputs)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise RuntimeError(f"reward {reward.name} failed on {len(outputs)} outputs ({reason})") from error
    try:
        values = np.asarray(returned, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"reward {reward.name} returned no list of numbers ({error})") from error
    if values.shape != (len(outputs),):
        raise ValueError(f"reward {reward.name} returned shape {values.shape} for {len(outputs)} outputs")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(
            f"reward {reward.name} returned {values[bad[0]]} for the output {outputs.texts[bad[0]][:60]!r}: a reward "
            "must be a finite number"
        )
    return values
