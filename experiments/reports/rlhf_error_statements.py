"""What a sweep says of When Errors Can Be Beneficial (arXiv 2604.25872): each statement, and what finds it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from experiments.reports.rlhf_effects import correlation_effect, correlation_gap, of_enough, steps_of
from experiments.reports.rlhf_increases import Outcome, paired, paired_difference
from experiments.reports.rlhf_runs import Setting
from experiments.reward_metrics.correlations import Interval, fisher_interval, student_interval
from experiments.reward_metrics.statements import Finding, Statement

ERRORS = "When Errors Can Be Beneficial, "
FIRST = "2026-11-25"  # before the sweeps that are published
REVIEW = "2026-11-30"
UNEVEN, EVEN = 4.0, 2.0  # one constraint is met so many times as often as the other before training
HANDICAP = 0.05  # of the ground truth reward: less is "no handicap"

# fmt: off
HARM_AWARE_BETTER = Statement(id="rlhf.harm_aware_better", unit="reward models", ruled=FIRST, above=0.0,
    source=ERRORS + "Figure 3",
    says="harm-aware accuracy correlates better with the ground truth increase than accuracy")
HARM_AWARE_PREDICTS = Statement(id="rlhf.harm_aware_predicts", unit="reward models", ruled=FIRST, above=0.0,
    source=ERRORS + "Figure 3",
    says="harm-aware accuracy predicts the ground truth increase")
HARM_AWARE_WEAK = Statement(id="rlhf.harm_aware_weak", unit="reward models", ruled=FIRST, at_most=0.4,
    source=ERRORS + "Figure 3",
    says="but weakly: the correlation of harm-aware accuracy stays below .4")
WEIGHTING = Statement(id="rlhf.weighting", unit="reward models", ruled=FIRST, at_most=0.0, source=ERRORS + "Figure 3",
    says="weighting harm-aware accuracy by probability is no gain")
OVERPAYING = Statement(id="rlhf.overpaying", unit="seeds", ruled=FIRST, below=0.0, source=ERRORS + "section 3",
    says="overpaying a bad output is harmful: it teaches less than the ground truth")
SUPPRESSING = Statement(id="rlhf.suppressing", unit="seeds", ruled=FIRST, above=0.0, source=ERRORS + "section 3",
    says="suppressing mediocre outputs is beneficial: it teaches more than the ground truth")
UNEVEN_PAIRS = Statement(id="rlhf.uneven_pairs", unit="pairs of constraints", ruled=REVIEW, above=0.0,
    source=ERRORS + "section 5",
    says=f"where one constraint is met at least {UNEVEN:g} times as often as the other at the start, binary credit "
         "teaches better")
EVEN_PAIRS = Statement(id="rlhf.even_pairs", unit="pairs of constraints", ruled=REVIEW, at_least=-HANDICAP,
    source=ERRORS + "section 5",
    says=f"where both constraints are met equally often up to {EVEN:g} times, partial credit is no handicap of more "
         f"than {HANDICAP:g}")
UNEVENNESS = Statement(id="rlhf.unevenness", unit="pairs of constraints", ruled=REVIEW, above=0.0,
    source=ERRORS + "section 5",
    says="the more unevenly two constraints are met at the start, the more binary credit gains")
STATEMENTS = (
    HARM_AWARE_BETTER, HARM_AWARE_PREDICTS, HARM_AWARE_WEAK, WEIGHTING, OVERPAYING, SUPPRESSING, UNEVEN_PAIRS,
    EVEN_PAIRS, UNEVENNESS,
)
# fmt: on


def harm_aware(settings: Sequence[Setting]) -> list[Finding]:
    """Which accuracy predicts best, and what harmful and beneficial errors do; within each setting."""
    return [item for setting in settings for item in (*_accuracies(setting), *_errors(setting))]


def _accuracies(setting: Setting) -> list[Finding]:
    if len(setting.reward_models) < 3:
        return []
    end, truth = steps_of(setting)[-1], Outcome.ground_truth
    over = f"with the ground truth increase at {end.label}, over reward models"
    gap = correlation_gap(setting, "harm_aware_accuracy", "strict_accuracy", truth, end)
    alone = correlation_effect(setting, "harm_aware_accuracy", truth, end)
    findings = [
        HARM_AWARE_BETTER.found(gap, f"difference of Pearson's r {over}: HAcc minus Acc", case=setting.label),
        HARM_AWARE_PREDICTS.found(alone, f"Pearson's r {over}", case=setting.label),
        HARM_AWARE_WEAK.found(alone, f"Pearson's r {over}", case=setting.label),
    ]
    weighted = "length_normalised_weighted_harm_aware_accuracy"
    if weighted in setting.property_names:
        gap = correlation_gap(setting, weighted, "harm_aware_accuracy", truth, end)
        measured = f"difference of Pearson's r {over}: HAcc-W per token minus HAcc"
        findings.append(WEIGHTING.found(gap, measured, case=setting.label))
    return findings


def _errors(setting: Setting) -> list[Finding]:
    end, truth = steps_of(setting)[-1], setting.arm("ground_truth")
    findings = []
    for family, statement in (("overpaying", OVERPAYING), ("suppressing", SUPPRESSING)):
        arm = next((arm for arm in setting.arms if arm.runs[0].family == family), None)
        if truth is not None and arm is not None:
            measured = f"ground truth increase at {end.label}, within seeds: {arm.label} minus ground truth"
            difference = paired_difference(arm, truth, Outcome.ground_truth, end)
            findings.append(statement.found(difference, measured, case=setting.label))
    return findings


# Section 5: partial credit --------------------------------------------------------------------------------------------


def partial_credit(settings: Sequence[Setting]) -> list[Finding]:
    """Binary against partial credit for pairs of constraints, by how unevenly they are met before training."""
    pairs = []
    for setting in settings:
        binary, partial = setting.arm("binary_credit"), setting.arm("partial_credit")
        ratio = _unevenness(setting)
        if binary is None or partial is None or math.isnan(ratio):
            continue
        seeds, values = paired([binary, partial], Outcome.ground_truth, steps_of(setting)[-1])
        if seeds:
            pairs.append((ratio, values[0] - values[1]))
    return pair_findings(pairs)


def pair_findings(pairs: Sequence[tuple[float, np.ndarray]]) -> list[Finding]:
    """Of pairs of constraints: ratio of the rates at the start, and binary minus partial credit by seed.

    Pairs are the unit, each with its mean over seeds: seeds of one pair say nothing of another pair.
    """
    uneven = [gap for ratio, gap in pairs if ratio >= UNEVEN]
    even = [-gap for ratio, gap in pairs if ratio <= EVEN]
    where = "ground truth increase at the end, within seeds, mean over pairs"
    findings = []
    for statement, gaps, contrast in (
        (UNEVEN_PAIRS, uneven, "binary minus partial credit"),
        (EVEN_PAIRS, even, "partial minus binary credit"),
    ):
        if gaps:
            by_pair = [float(gap.mean()) for gap in gaps]
            measured = f"{where}: {contrast}; by pair {', '.join(f'{value:+.3f}' for value in by_pair)}"
            findings.append(statement.found(student_interval(by_pair), measured, sample=_pairs_and_seeds(gaps)))
    if len(pairs) >= 4:
        effect: Interval = fisher_interval(
            [math.log(ratio) for ratio, _ in pairs], [float(gap.mean()) for _, gap in pairs]
        )
        findings.append(
            UNEVENNESS.found(
                of_enough(effect),
                "Pearson's r over pairs of constraints: log ratio of initial rates with binary minus partial credit",
                sample=_pairs_and_seeds([gap for _, gap in pairs]),
            )
        )
    return findings


def _pairs_and_seeds(gaps: Sequence[np.ndarray]) -> str:
    """`2 pairs x 3 seeds`."""
    seeds = sorted({len(gap) for gap in gaps})
    number = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return f"{len(gaps)} pair{'' if len(gaps) == 1 else 's'} x {number} seed{'' if number == '1' else 's'}"


def _unevenness(setting: Setting) -> float:
    """Initial rate of the easiest constraint over that of the hardest; NaN where rates are not known or 0."""
    parts = setting.arms[0].runs[0].parts
    rates = [value for name, value in parts.items() if name.startswith("constraint/")]
    return max(rates) / min(rates) if len(rates) >= 2 and min(rates) > 0 else math.nan
