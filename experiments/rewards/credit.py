"""Credit for the parts of the ground truth: for each of them, or only for all together.

Source: When Errors Can Be Beneficial (arXiv 2604.25872), section 5: partial credit pays for every constraint that is
met, binary credit only where all are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from experiments.rewards.reward import Reward
from experiments.tasks.task import Floats, Outputs

CONSTRAINTS = "constraint/"
MET = 0.999  # a part of at least this much is met


class Credit(Reward):
    """A weighted mean of parts (partial), or 1 where all of them are met and else 0 (binary).

    `parts` are names of `Outputs.parts`, without "constraint/" if you like; empty: all constraints. `weights` fit them;
    None: equal. ValueError where the task has no such parts.
    """

    def __init__(
        self, name: str, probe: Outputs, *, parts: Sequence[str], weights: Sequence[float] | None, binary: bool
    ) -> None:
        self.binary = binary
        self.parts = _resolved(parts, list(probe.parts))
        equal = [1.0] * len(self.parts)
        self.weights = np.array(equal if weights is None else weights, dtype=np.float64)
        if len(self.weights) != len(self.parts):
            raise ValueError(
                f"reward.credit.weights has {len(self.weights)} numbers for {len(self.parts)} parts "
                f"({', '.join(self.parts)}): give as many"
            )
        self.weights = self.weights / self.weights.sum()
        met = {part: float((probe.parts[part] >= MET).mean()) for part in self.parts}
        facts = {"parts": self.parts, "binary": binary, "met": met}
        super().__init__(name, facts)

    def score(self, outputs: Outputs) -> Floats:
        values = np.stack([outputs.parts[part] for part in self.parts])  # [parts, n]
        if self.binary:
            return np.asarray((values >= MET).all(axis=0), dtype=np.float64)
        return np.asarray(self.weights @ values, dtype=np.float64)


def _resolved(wanted: Sequence[str], known: list[str]) -> list[str]:
    if not wanted:
        found = [name for name in known if name.startswith(CONSTRAINTS)]
        if not found:
            raise ValueError(
                f"reward.family=credit needs parts of the ground truth, and the task has no constraints (its parts: "
                f"{', '.join(known) or 'none'}): use task=constraints, or name parts in reward.credit.parts"
            )
        return found
    resolved = []
    for name in wanted:
        match = next((part for part in (name, CONSTRAINTS + name) if part in known), None)
        if match is None:
            raise ValueError(
                f"reward.credit.parts: the task has no part {name!r}; use some of {', '.join(known) or 'none'}"
            )
        resolved.append(match)
    return resolved
