"""What `teacher_bandit` claims of the good-teacher paper's Table 2, as statements judged by rule."""

from __future__ import annotations

import math

import numpy as np

from experiments.controlled_experiments.findings import Statement
from experiments.reward_metrics.correlations import Interval, mean_interval

PAPER = "What Makes a Reward Model a Good Teacher?, "
SIX = "the paper's six"
PROXIES = 5  # of the six, in order of Table 1, after the ground truth itself; then the perfect one

# Per seed: (group of reward models, property, outcome) -> Pearson's r [S]; increase and property -> [A, S].
PerSeed = dict[tuple[str, str, str], np.ndarray]


def paper_statements(
    names: list[str],
    increase: dict[str, np.ndarray],
    properties: dict[str, np.ndarray],
    per_seed: PerSeed,
    generator: np.random.Generator,
) -> list[Statement]:
    """Table 2 of the paper on its own six reward models, and the same on random ones."""

    def interval(values: np.ndarray) -> Interval:
        return mean_interval(values, generator=generator)

    def pearson(group: str, name: str, outcome: str) -> Interval:
        return interval(per_seed[group, name, outcome])

    over = "mean over seeds of Pearson's r over six reward models"
    truth = increase["ground_truth"]
    low, half = names.index("perfect, low variance"), names.index("50% on-policy")
    statements = [
        Statement(
            "reward variance predicts the increase of the proxy reward (paper: r = .982)",
            PAPER + "Table 2",
            over,
            pearson(SIX, "variance", "proxy"),
            at_least=0.95,
        ),
        Statement(
            "reward variance predicts the increase of the ground truth reward (paper: r = .834)",
            PAPER + "Table 2",
            over,
            pearson(SIX, "variance", "ground_truth"),
            at_least=0.5,
        ),
        Statement(
            "on-policy accuracy alone does not predict it: r is negative (paper: -.283)",
            PAPER + "Table 2",
            over,
            pearson(SIX, "on_policy_accuracy", "ground_truth"),
            at_most=0.0,
        ),
        Statement(
            "off-policy accuracy alone does not predict it: r is negative (paper: -.507)",
            PAPER + "Table 2",
            over,
            pearson(SIX, "off_policy_accuracy", "ground_truth"),
            at_most=0.0,
        ),
        Statement(
            "variance and accuracy together predict ground truth better than variance alone (paper: .940 and .834)",
            PAPER + "Table 2",
            "difference of Pearson's r with ground truth increase, paired over seeds",
            interval(
                per_seed[SIX, "mean_of_variance_and_accuracies", "ground_truth"]
                - per_seed[SIX, "variance", "ground_truth"]
            ),
            at_least=0.0,
        ),
        Statement(
            "a perfectly accurate reward model of low variance is a worse teacher than a less accurate one",
            PAPER + "Figure 2",
            "ground truth increase, perfect and low variance minus 50% on-policy, paired over seeds",
            interval(truth[low] - truth[half]),
            at_most=0.0,
        ),
        Statement(
            "early on, proxies beat training on the ground truth itself",
            PAPER + "Figure 2",
            "ground truth increase at the end of training, best of the five proxies minus ground truth as the training "
            "reward, paired over seeds",
            interval(truth[1 : 1 + PROXIES].max(axis=0) - truth[0]),
            at_least=0.0,
        ),
    ]
    for group in {group for group, _, _ in per_seed} - {SIX}:
        over = f"mean over seeds of Pearson's r over {group} reward models of independent variance and accuracy"
        statements += [
            Statement(
                f"reward variance predicts the increase of the {outcome.replace('_', ' ')} reward ({group} reward "
                "models)",
                PAPER + "section 4.1, beyond its six reward models",
                over,
                pearson(group, "variance", outcome),
                at_least=math.ulp(0),
            )
            for outcome in ("proxy", "ground_truth")
        ]
        statements += [
            Statement(
                f"at independent variance, accuracy does predict ground truth ({group} reward models)",
                "derived here: Table 2's negative sign comes from the six models' profile",
                over,
                pearson(group, "on_policy_accuracy", "ground_truth"),
                at_least=math.ulp(0),
            ),
            Statement(
                f"harm-aware accuracy predicts ground truth better than accuracy ({group} reward models)",
                "When Errors Can Be Beneficial, section 4",
                "difference of Pearson's r with ground truth increase, paired over seeds",
                interval(
                    per_seed[group, "harm_aware_accuracy", "ground_truth"] - per_seed[group, "accuracy", "ground_truth"]
                ),
                at_least=math.ulp(0),
            ),
        ]
    return statements


def control_statements(
    names: list[str],
    increase: dict[str, np.ndarray],
    properties: dict[str, np.ndarray],
    per_seed: PerSeed,
    generator: np.random.Generator,
) -> list[Statement]:
    """Without between-prompt spread nothing is left for variance to explain, and accuracy decides."""
    proxies = slice(1, 1 + PROXIES)
    spread = properties["variance"][proxies].max(axis=0) - properties["variance"][proxies].min(axis=0)
    gap = increase["proxy"][proxies]
    order = properties["on_policy_accuracy"][proxies].mean(axis=1)
    by_seed = np.array([np.corrcoef(order, increase["ground_truth"][proxies, s])[0, 1] for s in range(spread.size)])
    return [
        Statement(
            "without between-prompt spread all five proxies have nearly the same normalised variance",
            "negative control of design D1",
            "largest minus smallest variance of the five proxies of Table 1",
            mean_interval(spread, generator=generator),
            at_most=0.1,
        ),
        Statement(
            "and nearly the same speed of the proxy reward",
            "negative control of design D1",
            "largest minus smallest proxy increase of the five, relative to the mean",
            mean_interval((gap.max(axis=0) - gap.min(axis=0)) / gap.mean(axis=0), generator=generator),
            at_most=0.15,
        ),
        Statement(
            "so that on-policy accuracy decides the increase of ground truth",
            "negative control of design D1",
            "Pearson's r of mean on-policy accuracy with ground truth increase over the five, mean over seeds",
            mean_interval(by_seed, generator=generator),
            at_least=0.8,
        ),
    ]
