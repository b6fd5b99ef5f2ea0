"""What a sweep says of When Errors Can Be Beneficial (arXiv 2604.25872): each rule beside its statement."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from experiments.reports.rlhf_effects import ABOVE_ZERO, correlation_effect, correlation_gap, steps_of
from experiments.reports.rlhf_increases import Outcome, paired, paired_difference
from experiments.reports.rlhf_runs import Setting
from experiments.reward_metrics.correlations import fisher_interval, student_interval
from experiments.reward_metrics.statements import Statement

ERRORS = "When Errors Can Be Beneficial, "


def harm_aware(settings: Sequence[Setting], generator: np.random.Generator) -> list[Statement]:
    """Which accuracy predicts best, and what harmful and beneficial errors do; within each setting."""
    return [item for setting in settings for item in _harm_aware(setting, generator)]


def _harm_aware(setting: Setting, generator: np.random.Generator) -> list[Statement]:
    end = steps_of(setting)[-1]
    within = f" ({setting.label})" if setting.label else ""
    over = f"with the ground truth increase at {end.label}, over reward models"
    statements = []
    if len(setting.reward_models) >= 3:
        statements += [
            Statement(
                f"harm-aware accuracy correlates better with the ground truth increase than accuracy{within}",
                ERRORS + "Figure 3",
                f"difference of Pearson's r {over}: HAcc minus Acc",
                correlation_gap(
                    setting, "harm_aware_accuracy", "strict_accuracy", Outcome.ground_truth, end, generator
                ),
                at_least=ABOVE_ZERO,
            ),
            Statement(
                f"harm-aware accuracy predicts the ground truth increase{within}",
                ERRORS + "Figure 3",
                f"Pearson's r {over}",
                correlation_effect(setting, "harm_aware_accuracy", Outcome.ground_truth, end, generator),
                at_least=ABOVE_ZERO,
            ),
            Statement(
                f"but weakly: its correlation stays below .4{within}",
                ERRORS + "Figure 3",
                f"Pearson's r {over}",
                correlation_effect(setting, "harm_aware_accuracy", Outcome.ground_truth, end, generator),
                at_most=0.4,
            ),
        ]
        weighted = "length_normalised_weighted_harm_aware_accuracy"
        if weighted in setting.property_names:
            statements.append(
                Statement(
                    f"weighting by probability is no gain{within}",
                    ERRORS + "Figure 3",
                    f"difference of Pearson's r {over}: HAcc-W per token minus HAcc",
                    correlation_gap(setting, weighted, "harm_aware_accuracy", Outcome.ground_truth, end, generator),
                    at_most=0.0,
                )
            )
    truth = setting.arm("ground_truth")
    for family, claim, sign in (
        ("overpaying", "overpaying a bad output is harmful: it teaches less than the ground truth", -1),
        ("suppressing", "suppressing mediocre outputs is beneficial: it teaches more than the ground truth", 1),
    ):
        arm = next((arm for arm in setting.arms if arm.runs[0].family == family), None)
        if truth is not None and arm is not None:
            statements.append(
                Statement(
                    claim + within,
                    ERRORS + "section 3",
                    f"ground truth increase at {end.label}, within seeds: {arm.label} minus ground truth",
                    paired_difference(arm, truth, Outcome.ground_truth, end),
                    **({"at_least": ABOVE_ZERO} if sign > 0 else {"at_most": -ABOVE_ZERO}),
                )
            )
    return statements


# Section 5: partial credit --------------------------------------------------------------------------------

UNEVEN, EVEN = 4.0, 2.0  # one constraint is met so many times as often as the other before training
HANDICAP = 0.05  # of the ground truth reward: less is "no handicap"


def partial_credit(settings: Sequence[Setting], generator: np.random.Generator) -> list[Statement]:
    """Binary against partial credit for pairs of constraints, by how unevenly they are met before training."""
    uneven, even, ratios, gaps = [], [], [], []
    for setting in settings:
        binary, partial = setting.arm("binary_credit"), setting.arm("partial_credit")
        ratio = _unevenness(setting)
        if binary is None or partial is None or math.isnan(ratio):
            continue
        seeds, values = paired([binary, partial], Outcome.ground_truth, steps_of(setting)[-1])
        if not seeds:
            continue
        gap = values[0] - values[1]
        ratios.append(math.log(ratio))
        gaps.append(float(gap.mean()))
        if ratio >= UNEVEN:
            uneven += gap.tolist()
        elif ratio <= EVEN:
            even += gap.tolist()
    where = "ground truth increase at the end, within seeds, over pairs of constraints"
    statements = []
    if uneven:
        statements.append(
            Statement(
                "where one constraint is easy at the start and the other rare, binary credit teaches better",
                ERRORS + "section 5",
                f"{where} of which one is met at least {UNEVEN:g} times as often: binary minus partial credit",
                student_interval(uneven),
                at_least=ABOVE_ZERO,
            )
        )
    if even:
        statements.append(
            Statement(
                "where both constraints are about equally easy, partial credit is no handicap",
                ERRORS + "section 5",
                f"{where} that are met equally often up to {EVEN:g} times: partial minus binary credit",
                student_interval([-value for value in even]),
                at_least=-HANDICAP,
            )
        )
    if len(ratios) >= 4:
        statements.append(
            Statement(
                "the more unevenly two constraints are met at the start, the more binary credit gains",
                ERRORS + "section 5",
                "Pearson's r over pairs of constraints: log ratio of initial rates with binary minus partial credit",
                fisher_interval(np.array(ratios), np.array(gaps), generator=generator),
                at_least=ABOVE_ZERO,
            )
        )
    return statements


def _unevenness(setting: Setting) -> float:
    """Initial rate of the easiest constraint over that of the hardest; NaN where rates are not known or 0."""
    parts = setting.arms[0].runs[0].parts
    rates = [value for name, value in parts.items() if name.startswith("constraint/")]
    return max(rates) / min(rates) if len(rates) >= 2 and min(rates) > 0 else math.nan
