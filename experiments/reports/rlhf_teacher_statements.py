"""Statements of What Makes a Reward Model a Good Teacher? (arXiv 2503.15477) on a sweep, and what finds them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from experiments.reports.rlhf_effects import (
    best_minus,
    correlation_effect,
    correlation_gap,
    early_point,
    last_kl_point,
    of_enough,
    steps_of,
)
from experiments.reports.rlhf_increases import Outcome, Point, increases, paired, paired_difference
from experiments.reports.rlhf_runs import Setting
from experiments.reward_metrics.correlations import (
    Interval,
    chosen_by_other_seeds,
    correlation_over_seeds,
    fisher_interval,
    fisher_limits,
    no_interval,
    student_interval,
)
from experiments.reward_metrics.statements import Finding, Statement

TEACHER = "What Makes a Reward Model a Good Teacher?, "
FIRST = "2026-11-25"  # before the sweeps that are published
REVIEW = "2026-11-30"

# fmt: off
VARIANCE_PROXY = Statement(id="rlhf.variance_proxy", unit="reward models", ruled=FIRST, above=0.0,
    source=TEACHER + "Table 2 (r = .982)",
    says="reward variance predicts the proxy increase")
VARIANCE_TRUTH = Statement(id="rlhf.variance_truth", unit="reward models", ruled=FIRST, above=0.0,
    source=TEACHER + "Table 2 (r = .834)",
    says="reward variance predicts the ground truth increase")
ACCURACY_PROXY = Statement(id="rlhf.accuracy_proxy", unit="reward models", ruled=FIRST, at_most=0.0,
    source=TEACHER + "Table 2 (on-policy accuracy: r = -.762)",
    says="accuracy alone does not predict the proxy increase: r is not positive")
MORE_THAN_ACCURACY = Statement(id="rlhf.together_above_accuracy", unit="reward models", ruled=FIRST, above=0.0,
    source=TEACHER + "Table 2 (r = -.283 and .940)",
    says="accuracy alone predicts the ground truth increase less well than together with variance")
MORE_THAN_VARIANCE = Statement(id="rlhf.together_above_variance", unit="reward models", ruled=FIRST, above=0.0,
    source=TEACHER + "Table 2 (r = .940 and .834)",
    says="variance and accuracy together predict the ground truth increase better than variance alone")
EQUAL_KL = Statement(id="rlhf.equal_kl", unit="reward models", ruled=FIRST, above=0.0, source=TEACHER + "Figure 4",
    aside="the KL divergence is chosen by the outcome: reward models that do not reach it are left out",
    says="at the largest KL divergence that six reward models reach, more accurate ones give more ground truth reward")
LOW_VARIANCE_SLOWS = Statement(id="rlhf.low_variance_slows", unit="seeds", ruled=FIRST, above=0.0,
    source=TEACHER + "Figure 2",
    says="after a quarter of training, low reward variance has slowed learning down at equal (perfect) accuracy")
LOW_VARIANCE_AT_END = Statement(id="rlhf.low_variance_at_end", unit="seeds", ruled=FIRST, above=0.0,
    source=TEACHER + "Figure 2",
    says="at the end too, low reward variance has held learning back at equal (perfect) accuracy")
PERFECT_IS_WORSE = Statement(id="rlhf.perfect_is_worse", unit="seeds", ruled=FIRST, above=0.0,
    source=TEACHER + "Figure 2",
    says="after a quarter of training, the best proxy is ahead of the perfectly accurate reward model of low variance")
PERFECT_IS_WORSE_AT_END = Statement(id="rlhf.perfect_is_worse_at_end", unit="seeds", ruled=FIRST, above=0.0,
    source=TEACHER + "Figure 2",
    says="at the end too, the best proxy is ahead of the perfectly accurate reward model of low variance")
PROXY_ABOVE_TRUTH = Statement(id="rlhf.proxy_above_truth", unit="seeds", ruled=FIRST, above=0.0,
    source=TEACHER + "Figure 2",
    says="after a quarter of training, the best proxy is ahead of the ground truth itself")
CHOICE_BY_POLICY = Statement(id="rlhf.choice_by_policy", unit="seeds", ruled=FIRST, above=0.0,
    source=TEACHER + "section 4.2, Theorem 3",
    says="the best reward model depends on the policy: choosing it for each policy beats one for all")
VARIANCE_BETWEEN_POLICIES = Statement(id="rlhf.variance_between_policies", unit="policies", ruled=REVIEW, above=0.0,
    source=TEACHER + "section 4.2 (variance is relative to a policy)",
    says="a reward model teaches the policies faster for which its variance is higher")
VARIANCE_WITHIN_POLICY = Statement(id="rlhf.variance_within_policy", unit="reward models", ruled=REVIEW, above=0.0,
    source=TEACHER + "section 4.2 (mean r = .76 over six policies, 4 reward models each)",
    says="within a policy, reward variance predicts the proxy increase")
STATEMENTS = (
    VARIANCE_PROXY, VARIANCE_TRUTH, ACCURACY_PROXY, MORE_THAN_ACCURACY, MORE_THAN_VARIANCE, EQUAL_KL,
    LOW_VARIANCE_SLOWS, LOW_VARIANCE_AT_END, PERFECT_IS_WORSE, PERFECT_IS_WORSE_AT_END, PROXY_ABOVE_TRUTH,
    CHOICE_BY_POLICY, VARIANCE_BETWEEN_POLICIES, VARIANCE_WITHIN_POLICY,
)
# fmt: on


def good_teacher(settings: Sequence[Setting]) -> list[Finding]:
    """Variance, accuracy, and the perfectly accurate reward model of low variance; within each setting."""
    return [item for setting in settings for item in (*_correlations(setting), *_contrasts(setting))]


def _correlations(setting: Setting) -> list[Finding]:
    """Table 2 and Figure 4: over reward models."""
    if len(setting.reward_models) < 3:
        return []
    early, kl = early_point(setting), last_kl_point(setting)

    def predicts(statement: Statement, name: str, outcome: Outcome, point: Point) -> Finding:
        measured = f"Pearson's r with the {outcome.words} increase at {point.label}, over reward models"
        return statement.found(correlation_effect(setting, name, outcome, point), measured, case=setting.label)

    def predicts_better(statement: Statement, other: str) -> Finding:
        measured = f"difference of Pearson's r with the ground truth increase at {early.label}, over reward models"
        gap = correlation_gap(setting, "variance_and_accuracy", other, Outcome.ground_truth, early)
        return statement.found(gap, measured, case=setting.label)

    return [
        predicts(VARIANCE_PROXY, "variance", Outcome.proxy, early),
        predicts(VARIANCE_TRUTH, "variance", Outcome.ground_truth, early),
        predicts(ACCURACY_PROXY, "on_policy_accuracy", Outcome.proxy, early),
        predicts_better(MORE_THAN_ACCURACY, "on_policy_accuracy"),
        predicts_better(MORE_THAN_VARIANCE, "variance"),
        *([] if kl is None else [predicts(EQUAL_KL, "on_policy_accuracy", Outcome.ground_truth, kl)]),
    ]


def _contrasts(setting: Setting) -> list[Finding]:
    """Figure 2: differences between arms, within seeds."""
    early, end = early_point(setting), steps_of(setting)[-1]
    truth, shrunk = setting.arm("ground_truth"), setting.arm("perfect_low_variance")
    less_accurate = [arm for arm in setting.reward_models if arm is not shrunk]
    findings = []

    def rises_more(statement: Statement, contrast: str, point: Point, difference: Interval) -> None:
        measured = f"ground truth increase at {point.label}, within seeds: {contrast}"
        findings.append(statement.found(difference, measured, case=setting.label))

    if truth is not None and shrunk is not None:
        contrast = "trained on the ground truth minus on the perfect reward model of low variance"
        for statement, point in ((LOW_VARIANCE_SLOWS, early), (LOW_VARIANCE_AT_END, end)):
            rises_more(statement, contrast, point, paired_difference(truth, shrunk, Outcome.ground_truth, point))
    if less_accurate and shrunk is not None:
        contrast = "best proxy, chosen by the other seeds, minus the perfect reward model of low variance"
        for statement, point in ((PERFECT_IS_WORSE, early), (PERFECT_IS_WORSE_AT_END, end)):
            rises_more(statement, contrast, point, best_minus(less_accurate, shrunk, Outcome.ground_truth, point))
    if less_accurate and truth is not None:
        contrast = "best proxy, chosen by the other seeds, minus the ground truth as reward"
        difference = best_minus(less_accurate, truth, Outcome.ground_truth, early)
        rises_more(PROXY_ABOVE_TRUTH, contrast, early, difference)
    return findings


# Section 4.2: it depends on the policy --------------------------------------------------------------------------------


def policy_dependence(settings: Sequence[Setting]) -> list[Finding]:
    """The same reward models for several policies."""
    settings = [setting for setting in settings if setting.reward_models]
    if len(settings) < 2 or len({setting.policy for setting in settings}) < 2:
        return []
    shared = [
        arm.label
        for arm in settings[0].reward_models
        if all(setting.arm(arm.label) is not None for setting in settings)
    ]
    if len(shared) < 2:
        return []
    variances, gains = _variances_and_gains(settings, shared)  # [policies, reward models]
    at = early_point(settings[0]).label
    gain = _gain_of_choosing_by_policy(settings, shared)
    within, p = mean_correlation_within(variances, gains)
    crossed = f"{len(settings)} policies x {len(shared)} reward models"
    return [
        CHOICE_BY_POLICY.found(
            gain,
            "ground truth increase at the end, mean over policies: the best reward model of each policy minus the one "
            "that is best on average, both chosen by the other seeds",
            sample=f"{gain.n} seeds, in each the same {crossed}",
        ),
        VARIANCE_BETWEEN_POLICIES.found(
            correlation_between(variances, gains),
            f"Pearson's r of variance with the proxy increase at {at}, each reward model's means taken off",
            sample=crossed,
        ),
        VARIANCE_WITHIN_POLICY.found(
            within,
            f"mean over policies of Pearson's r of variance with the proxy increase at {at}, over reward models; "
            f"permutation p {p:.2g} (reward models are permuted alike in all policies)",
            sample=f"{len(shared)} reward models, the same for {len(settings)} policies",
        ),
    ]


def mean_correlation_within(variances: np.ndarray, gains: np.ndarray) -> tuple[Interval, float]:
    """Mean over policies of r over reward models, [policies, reward models] both, and its permutation p.

    Policies share their reward models, so that the interval is that of one correlation over as many reward models.
    """
    models = variances.shape[1]
    usable = np.isfinite(variances).all() and np.isfinite(gains).all()
    if models < 3 or not usable or (np.ptp(variances, axis=1) == 0).any() or (np.ptp(gains, axis=1) == 0).any():
        return no_interval(), math.nan
    found = correlation_over_seeds(variances.T, gains.T, generator=np.random.default_rng(0), same_items=True)
    return of_enough(Interval(found.value, *fisher_limits(found.value, models), models)), found.permutation_p


def correlation_between(variances: np.ndarray, gains: np.ndarray) -> Interval:
    """r over pairs of policy and reward model, each reward model's means taken off; policies are the unit."""
    policies = len(variances)
    x, y = (values - values.mean(axis=0) for values in (variances, gains))
    if policies < 3 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        return no_interval()
    return of_enough(fisher_interval(x.ravel(), y.ravel(), n=policies))


def _gain_of_choosing_by_policy(settings: Sequence[Setting], labels: Sequence[str]) -> Interval:
    tables = []
    for setting in settings:
        arms = [arm for label in labels if (arm := setting.arm(label)) is not None]
        tables.append(paired(arms, Outcome.ground_truth, steps_of(setting)[-1])[1])
    seeds = min((table.shape[1] for table in tables), default=0)
    if seeds < 2:
        return no_interval()
    values = np.stack([table[:, :seeds] for table in tables])  # [policies, arms, seeds]
    own = np.stack([chosen_by_other_seeds(table) for table in values]).mean(axis=0)
    return student_interval(own - chosen_by_other_seeds(values.mean(axis=0)))


def _variances_and_gains(settings: Sequence[Setting], labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Initial variance and mean proxy increase early on, [policies, reward models] each."""
    variances, gains = [], []
    for setting in settings:
        arms = [arm for label in labels if (arm := setting.arm(label)) is not None]
        variances.append([arm.property_value("variance") for arm in arms])
        gains.append([float(np.mean(increases(arm, Outcome.proxy, early_point(setting)))) for arm in arms])
    return np.array(variances), np.array(gains)
