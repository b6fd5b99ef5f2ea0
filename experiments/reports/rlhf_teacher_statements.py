"""What a sweep says of What Makes a Reward Model a Good Teacher? (arXiv 2503.15477): each rule beside its statement."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from experiments.reports.rlhf_correlations import FEWEST_FOR_AN_INTERVAL
from experiments.reports.rlhf_effects import (
    ABOVE_ZERO,
    best_minus,
    correlation_effect,
    correlation_gap,
    early_point,
    last_kl_point,
    steps_of,
)
from experiments.reports.rlhf_increases import (
    Outcome,
    Point,
    best_arm_values,
    increases,
    no_interval,
    paired,
    paired_difference,
)
from experiments.reports.rlhf_runs import Setting
from experiments.reward_metrics.correlations import Interval, fisher_interval, student_interval
from experiments.reward_metrics.statements import Statement

TEACHER = "What Makes a Reward Model a Good Teacher?, "


def good_teacher(settings: Sequence[Setting], generator: np.random.Generator) -> list[Statement]:
    """Variance, accuracy, and the perfectly accurate reward model of low variance; within each setting."""
    return [item for setting in settings for item in _good_teacher(setting, generator)]


def _good_teacher(setting: Setting, generator: np.random.Generator) -> list[Statement]:
    early, kl = early_point(setting), last_kl_point(setting)
    within = f" ({setting.label})" if setting.label else ""
    statements = []

    def predicts(name: str, outcome: Outcome, point: Point) -> tuple[str, Interval]:
        measured = f"Pearson's r with the {outcome.words} increase at {point.label}, over reward models"
        return measured, correlation_effect(setting, name, outcome, point, generator)

    def predicts_better(first: str, second: str, outcome: Outcome) -> tuple[str, Interval]:
        measured = f"difference of Pearson's r with the {outcome.words} increase at {early.label}, over reward models"
        return measured, correlation_gap(setting, first, second, outcome, early, generator)

    if len(setting.reward_models) >= 3:
        statements += [
            Statement(
                f"reward variance predicts the proxy increase{within}",
                TEACHER + "Table 2 (r = .982)",
                *predicts("variance", Outcome.proxy, early),
                at_least=ABOVE_ZERO,
            ),
            Statement(
                f"reward variance predicts the ground truth increase{within}",
                TEACHER + "Table 2 (r = .834)",
                *predicts("variance", Outcome.ground_truth, early),
                at_least=ABOVE_ZERO,
            ),
            Statement(
                f"accuracy alone does not predict the proxy increase: r is not positive{within}",
                TEACHER + "Table 2 (on-policy accuracy: r = -.762)",
                *predicts("on_policy_accuracy", Outcome.proxy, early),
                at_most=0.0,
            ),
            Statement(
                f"accuracy alone predicts the ground truth increase less well than together with variance{within}",
                TEACHER + "Table 2 (r = -.283 and .940)",
                *predicts_better("variance_and_accuracy", "on_policy_accuracy", Outcome.ground_truth),
                at_least=ABOVE_ZERO,
            ),
            Statement(
                f"variance and accuracy together predict the ground truth increase better than variance alone{within}",
                TEACHER + "Table 2 (r = .940 and .834)",
                *predicts_better("variance_and_accuracy", "variance", Outcome.ground_truth),
                at_least=ABOVE_ZERO,
            ),
        ]
        if kl is not None:
            statements.append(
                Statement(
                    f"at equal KL divergence more accurate reward models give more ground truth reward{within}",
                    TEACHER + "Figure 4",
                    *predicts("on_policy_accuracy", Outcome.ground_truth, kl),
                    at_least=ABOVE_ZERO,
                )
            )
    truth, shrunk = setting.arm("ground_truth"), setting.arm("perfect_low_variance")
    less_accurate = [arm for arm in setting.reward_models if arm is not shrunk]
    end = steps_of(setting)[-1]

    def rises_more(claim: str, contrast: str, point: Point, difference: Interval) -> Statement:
        measured = f"ground truth increase at {point.label}, within seeds: {contrast}"
        return Statement(f"{claim}{within}", TEACHER + "Figure 2", measured, difference, at_least=ABOVE_ZERO)

    if truth is not None and shrunk is not None:
        contrast = "trained on the ground truth minus on the perfect reward model of low variance"
        for point, claim in (
            (early, "at equal (perfect) accuracy, low reward variance slows learning down"),
            (end, "at the end too, low reward variance has held learning back at equal (perfect) accuracy"),
        ):
            difference = paired_difference(truth, shrunk, Outcome.ground_truth, point)
            statements.append(rises_more(claim, contrast, point, difference))
    if less_accurate and shrunk is not None:
        contrast = "best proxy, chosen by the other seeds, minus the perfect reward model of low variance"
        for point, claim in (
            (early, "the perfectly accurate reward model of low variance is a worse teacher than the best proxy"),
            (end, "at the end too, the best proxy is ahead of the perfect reward model of low variance"),
        ):
            difference = best_minus(less_accurate, shrunk, Outcome.ground_truth, point)
            statements.append(rises_more(claim, contrast, point, difference))
    if less_accurate and truth is not None:
        claim = "early on, the best proxy beats training on the ground truth itself"
        contrast = "best proxy, chosen by the other seeds, minus the ground truth as reward"
        difference = best_minus(less_accurate, truth, Outcome.ground_truth, early)
        statements.append(rises_more(claim, contrast, early, difference))
    return statements


# Section 4.2: it depends on the policy --------------------------------------------------------------------------------


def policy_dependence(settings: Sequence[Setting], generator: np.random.Generator) -> list[Statement]:
    """The same reward models for several policies."""
    settings = [setting for setting in settings if setting.reward_models]
    if len(settings) < 2 or len({setting.policy for setting in settings}) < 2:
        return []
    shared = [
        arm.label
        for arm in settings[0].reward_models
        if all(setting.arm(arm.label) is not None for setting in settings)
    ]
    early = early_point(settings[0])
    coefficients = [
        correlation_effect(setting, "variance", Outcome.proxy, early_point(setting), generator).value
        for setting in settings
    ]
    within = [value for value in coefficients if math.isfinite(value)]
    return [
        Statement(
            "the best reward model depends on the policy: choosing it for each policy beats one for all",
            TEACHER + "section 4.2, Theorem 3",
            "ground truth increase at the end, mean over policies and seeds: the best reward model of each policy "
            "minus the one that is best on average, both chosen by the other seeds",
            _gain_of_choosing_by_policy(settings, shared),
            at_least=ABOVE_ZERO,
        ),
        Statement(
            "a reward model teaches the policies faster for which its variance is higher",
            TEACHER + "section 4.2 (variance is relative to a policy)",
            f"Pearson's r of variance with the proxy increase at {early.label}, over pairs of policy and reward model, "
            "each reward model's means taken off",
            _correlation_within_reward_models(settings, shared, generator),
            at_least=ABOVE_ZERO,
        ),
        Statement(
            "within a policy, reward variance predicts the proxy increase",
            TEACHER + "section 4.2 (mean r = .76 over six policies, 4 reward models each)",
            "mean over policies of Pearson's r over reward models",
            student_interval(within) if within else no_interval(),
            at_least=ABOVE_ZERO,
        ),
    ]


def _gain_of_choosing_by_policy(settings: Sequence[Setting], labels: Sequence[str]) -> Interval:
    tables = []
    for setting in settings:
        arms = [arm for label in labels if (arm := setting.arm(label)) is not None]
        tables.append(paired(arms, Outcome.ground_truth, steps_of(setting)[-1])[1])
    seeds = min((table.shape[1] for table in tables), default=0)
    if len(labels) < 2 or seeds < 2:
        return no_interval()
    values = np.stack([table[:, :seeds] for table in tables])  # [policies, arms, seeds]
    own = np.stack([best_arm_values(table) for table in values]).mean(axis=0)
    return student_interval(own - best_arm_values(values.mean(axis=0)))


def _correlation_within_reward_models(
    settings: Sequence[Setting], labels: Sequence[str], generator: np.random.Generator
) -> Interval:
    variances, gains = [], []
    for setting in settings:
        arms = [arm for label in labels if (arm := setting.arm(label)) is not None]
        variances.append([arm.property_value("variance") for arm in arms])
        gains.append([float(np.mean(increases(arm, Outcome.proxy, early_point(setting)))) for arm in arms])
    x, y = np.array(variances), np.array(gains)  # [policies, reward models]
    x, y = (x - x.mean(axis=0)).ravel(), (y - y.mean(axis=0)).ravel()
    if len(x) < FEWEST_FOR_AN_INTERVAL or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return no_interval()
    # Each reward model's mean uses up one of its policies.
    return fisher_interval(x, y, degrees_of_freedom=len(x) - len(labels) - 1, generator=generator)
