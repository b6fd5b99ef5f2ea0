"""The ground truth with noise per output, as much as a target accuracy asks for."""

from __future__ import annotations

import numpy as np

from experiments.rewards.hashed_draws import output_normals
from experiments.rewards.probe_statistics import kept_order, refuse_constant, within_prompt_std
from experiments.rewards.reward import Reward
from experiments.tasks.task import Floats, Outputs

BISECTIONS = 60


class Noisy(Reward):
    """Ground truth + std x noise. The noise of an output is a hash of it: the same whenever the output comes.

    `std` is set on the probe rollouts so that a share `accuracy` of the pairs that the ground truth tells apart keep
    their order. Pairs that the ground truth holds equal are put in an order by the noise, so Definition 1 of the
    good-teacher paper, which counts those as errors, is lower by the share of ties.
    """

    def __init__(self, name: str, probe: Outputs, samples: int, *, accuracy: float, seed: int) -> None:
        super().__init__(name)
        self.seed = seed
        refuse_constant(probe, samples, "noisy")
        self.std = self._std_for(probe, samples, accuracy)
        reached = kept_order(self(probe), probe.ground_truth, samples)
        self.facts = {"noise_std": self.std, "accuracy": reached}

    def score(self, outputs: Outputs) -> Floats:
        return outputs.ground_truth + self.std * output_normals(outputs, self.seed, "noisy")

    def _std_for(self, probe: Outputs, samples: int, accuracy: float) -> float:
        """Bisection on the logarithm of the std: accuracy falls as noise grows, in steps of one pair."""
        if accuracy == 1.0:
            return 0.0
        truth, noise = probe.ground_truth, output_normals(probe, self.seed, "noisy")
        unit = within_prompt_std(truth, samples)
        low, high = np.log(1e-6), np.log(1e6)  # in units of the truth's own std: from no to all orders turned
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            if kept_order(truth + unit * np.exp(middle) * noise, truth, samples) > accuracy:
                low = middle
            else:
                high = middle
        return float(unit * np.exp(low))
