"""What `teacher_bandit` finds of the good-teacher paper's Table 2 and Figure 2.

Shapes: A reward models, S seeds.
"""

from __future__ import annotations

import numpy as np

from experiments.controlled_experiments.findings import Finding
from experiments.controlled_experiments.statements import statements_of
from experiments.reward_metrics.correlations import chosen_by_other_seeds, student_interval

SAYS = statements_of("teacher_bandit")
SIX = "the paper's six"
PROXIES = slice(1, 6)  # of the six, in order of Table 1, after the ground truth itself; then the perfect one

# Per seed: (group of reward models, property, outcome) -> Pearson's r [S]; increase and property -> [A, S].
PerSeed = dict[tuple[str, str, str], np.ndarray]


def paper_findings(
    names: list[str], increase: dict[str, np.ndarray], early_truth: np.ndarray, early_step: int, per_seed: PerSeed
) -> list[Finding]:
    """Table 2 of the paper on its own six reward models, and the same on random ones.

    `early_truth` [A, S] is the increase of the ground truth after `early_step` updates, `increase` that of the end.
    """
    over = "mean over seeds of Pearson's r over six reward models, whose noise is drawn in every seed"
    paired = "ground truth increase, within seeds: "
    truth = increase["ground_truth"]
    low, half = names.index("perfect, low variance"), names.index("50% on-policy")
    together = per_seed[SIX, "mean_of_variance_and_accuracies", "ground_truth"]
    findings = [
        SAYS["variance_proxy"].found(student_interval(per_seed[SIX, "variance", "proxy"]), over),
        SAYS["variance_truth"].found(student_interval(per_seed[SIX, "variance", "ground_truth"]), over),
        SAYS["on_policy_alone"].found(student_interval(per_seed[SIX, "on_policy_accuracy", "ground_truth"]), over),
        SAYS["off_policy_alone"].found(student_interval(per_seed[SIX, "off_policy_accuracy", "ground_truth"]), over),
        SAYS["together"].found(
            student_interval(together - per_seed[SIX, "variance", "ground_truth"]),
            "difference of Pearson's r with ground truth increase, within seeds",
        ),
        SAYS["perfect_is_slow"].found(
            student_interval(truth[low] - truth[half]), paired + "perfect and low variance minus 50% on-policy"
        ),
        SAYS["early_proxies"].found(
            student_interval(chosen_by_other_seeds(early_truth[PROXIES]) - early_truth[0]),
            f"{paired}best of the five proxies minus ground truth as the training reward, after {early_step:,} updates",
        ),
    ]
    for group in {group for group, _, _ in per_seed} - {SIX}:
        over = f"mean over seeds of Pearson's r over {group} reward models of independent variance and accuracy"
        findings += [
            SAYS["random_variance"].found(
                student_interval(per_seed[group, "variance", outcome]),
                over,
                case=f"{group} reward models, {outcome.replace('_', ' ')}",
            )
            for outcome in ("proxy", "ground_truth")
        ]
        accuracy = per_seed[group, "on_policy_accuracy", "ground_truth"]
        better = per_seed[group, "harm_aware_accuracy", "ground_truth"] - per_seed[group, "accuracy", "ground_truth"]
        findings += [
            SAYS["random_accuracy"].found(student_interval(accuracy), over, case=f"{group} reward models"),
            SAYS["harm_aware_better"].found(
                student_interval(better),
                "difference of Pearson's r with ground truth increase, within seeds",
                case=f"{group} reward models",
            ),
        ]
    return findings


def control_findings(increase: dict[str, np.ndarray], properties: dict[str, np.ndarray]) -> list[Finding]:
    """Without between-prompt spread nothing is left for variance to explain, and accuracy decides."""
    variance, gap = properties["variance"][PROXIES], increase["proxy"][PROXIES]
    order = properties["on_policy_accuracy"][PROXIES].mean(axis=1)
    by_seed = [np.corrcoef(order, truth)[0, 1] for truth in increase["ground_truth"][PROXIES].T]
    return [
        SAYS["control_variance"].found(
            student_interval(np.ptp(variance, axis=0)), "largest minus smallest variance of the five proxies of Table 1"
        ),
        SAYS["control_speed"].found(
            student_interval(np.ptp(gap, axis=0) / gap.mean(axis=0)),
            "largest minus smallest proxy increase of the five, relative to the mean",
        ),
        SAYS["control_accuracy"].found(
            student_interval(by_seed),
            "Pearson's r of mean on-policy accuracy with ground truth increase over the five, mean over seeds",
        ),
    ]
