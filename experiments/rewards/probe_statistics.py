"""What families of imperfect rewards need to know of a policy to set their knobs: statistics of probe rollouts.

Shapes: P probe prompts, N samples of each, n = P N rows with a prompt's samples beside each other.
"""

from __future__ import annotations

import numpy as np

from experiments.tasks.task import Floats, Outputs


def grouped(values: Floats, samples: int) -> Floats:
    """Rows [n] as [P, N]. ValueError where the rows are no whole groups of two or more."""
    if samples < 2 or len(values) == 0 or len(values) % samples:
        raise ValueError(
            f"{len(values)} probe rollouts are not groups of {samples} samples: use probe.samples of 2 or more"
        )
    return values.reshape(-1, samples)


def within_prompt_std(values: Floats, samples: int) -> float:
    """sqrt of the mean unbiased within-prompt variance."""
    return float(np.sqrt(grouped(values, samples).var(axis=1, ddof=1).mean()))


def kept_order(proxy: Floats, truth: Floats, samples: int) -> float:
    """Share of the pairs of a prompt's samples that the truth tells apart whose order the proxy keeps.

    Pairs count equally. NaN where the truth ties in every pair.
    """
    first, second = np.triu_indices(samples, 1)
    proxy, truth = grouped(proxy, samples), grouped(truth, samples)
    true_order = np.sign(truth[:, first] - truth[:, second])
    told_apart = true_order != 0
    if not told_apart.any():
        return float("nan")
    agree = np.sign(proxy[:, first] - proxy[:, second]) == true_order
    return float(agree[told_apart].mean())


def refuse_constant(outputs: Outputs, samples: int, family: str) -> None:
    """ValueError where the ground truth tells no two samples of any prompt apart: there is nothing to calibrate on."""
    if within_prompt_std(outputs.ground_truth, samples) == 0.0:
        raise ValueError(
            f"reward.family={family} cannot be set up: the ground truth is the same for all probe rollouts of each "
            "prompt; take more of them (probe.prompts, probe.samples), or an easier task"
        )
