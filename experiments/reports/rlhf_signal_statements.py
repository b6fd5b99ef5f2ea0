"""Statements of our own on a sweep: does the teaching signal foresee a teacher better than variance and accuracy do?

The regions are those that were fixed before any sweep had been made with them (docs/teaching_signal.md, rules R1 to
R5). The idea was formed on the reward models of `preset=good_teacher`, so what that sweep says of it is exploratory;
`harm_aware` shares most of its reward models with it, `teachers_2` none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from experiments.reports.rlhf_effects import correlation_effect, correlation_gap, last_kl_point, steps_of
from experiments.reports.rlhf_increases import Outcome, Point, paired
from experiments.reports.rlhf_runs import Arm, Setting
from experiments.reward_metrics.correlations import Interval, chosen_by_other_seeds, no_interval, student_interval
from experiments.reward_metrics.statements import Finding, Kind, Statement

Floats = NDArray[np.float64]

OURS = "this project: docs/teaching_signal.md, "
RULED = "2026-11-30"
FEWEST_TO_CHOOSE_FROM = 6

# fmt: off
PREDICTS = Statement(id="signal.predicts", unit="reward models", ruled=RULED, kind=Kind.rule, above=0.3,
    source=OURS + "R1",
    says="the teaching signal predicts the early increase of the ground truth")
ABOVE_VARIANCE = Statement(id="signal.above_variance", unit="reward models", ruled=RULED, kind=Kind.rule, above=0.0,
    source=OURS + "R2",
    says="the teaching signal predicts the early increase of the ground truth better than reward variance does")
ABOVE_ACCURACY = Statement(id="signal.above_accuracy", unit="reward models", ruled=RULED, kind=Kind.rule, above=0.0,
    source=OURS + "R2",
    says="the teaching signal predicts the early increase of the ground truth better than on-policy accuracy does")
PROXY_ABOVE_VARIANCE = Statement(id="signal.proxy_above_variance", unit="reward models", ruled=RULED, kind=Kind.rule,
    above=0.0, source=OURS + "R3",
    says="the learning signal predicts the early increase of the proxy better than reward variance does")
EQUAL_KL = Statement(id="signal.equal_kl", unit="reward models", ruled=RULED, kind=Kind.rule, at_least=-0.1,
    source=OURS + "R4",
    says="at the largest KL divergence that six reward models reach, the teaching signal per root KL (Adam) predicts "
        "the ground truth increase as well as harm-aware accuracy, up to .1")
CHOICE_LOSES_LITTLE = Statement(id="signal.choice_loses_little", unit="seeds", ruled=RULED, kind=Kind.rule, at_most=0.2,
    source=OURS + "R5",
    says="choosing each policy's reward model by its teaching signal loses at most 20 % of the best increase")
CHOICE_ABOVE_OTHERS = Statement(id="signal.choice_above_others", unit="seeds", ruled=RULED, kind=Kind.rule, above=0.0,
    source=OURS + "R5",
    says="choosing each policy's reward model by its teaching signal gains more than choosing otherwise")
STATEMENTS = (
    PREDICTS, ABOVE_VARIANCE, ABOVE_ACCURACY, PROXY_ABOVE_VARIANCE, EQUAL_KL, CHOICE_LOSES_LITTLE, CHOICE_ABOVE_OTHERS,
)
# fmt: on


def signals(settings: Sequence[Setting]) -> list[Finding]:
    """R1 to R4 in each setting, where the signals were measured."""
    return [item for setting in settings for item in _signals(setting)]


def _signals(setting: Setting) -> list[Finding]:
    if "teaching_signal" not in setting.property_names or len(setting.reward_models) < 3:
        return []
    truth, proxy = Outcome.ground_truth, Outcome.proxy
    findings = []
    for point in steps_of(setting)[:2]:
        case = ", ".join(text for text in (setting.label, point.label) if text)
        r = f"Pearson's r with the {{}} increase at {point.label}, over reward models"
        gap = f"difference of {r}: {{}}"
        findings += [
            PREDICTS.found(
                correlation_effect(setting, "teaching_signal", truth, point), r.format(truth.words), case=case
            ),
            ABOVE_VARIANCE.found(
                correlation_gap(setting, "teaching_signal", "variance", truth, point),
                gap.format(truth.words, "teaching signal minus variance"),
                case=case,
            ),
            ABOVE_ACCURACY.found(
                correlation_gap(setting, "teaching_signal", "on_policy_accuracy", truth, point),
                gap.format(truth.words, "teaching signal minus on-policy accuracy"),
                case=case,
            ),
            PROXY_ABOVE_VARIANCE.found(
                correlation_gap(setting, "learning_signal", "variance", proxy, point),
                gap.format(proxy.words, "learning signal minus variance"),
                case=case,
            ),
        ]
    kl, signal = last_kl_point(setting), "teaching_signal_per_root_kl_adam"
    if kl is not None and signal in setting.property_names:
        effect = correlation_gap(setting, signal, "harm_aware_accuracy", truth, kl)
        alone = [correlation_effect(setting, name, truth, kl).value for name in (signal, "harm_aware_accuracy")]
        measured = f"difference of Pearson's r with the ground truth increase at {kl.label}: {alone[0]:.2f}, "
        findings.append(EQUAL_KL.found(effect, measured + f"harm-aware accuracy {alone[1]:.2f}", case=setting.label))
    return findings


# R5: choosing a reward model for a policy -----------------------------------------------------------------------------


def choices(settings: Sequence[Setting]) -> list[Finding]:
    """What is lost by choosing each policy's reward model by a property of it, measured before training."""
    settings = [setting for setting in settings if "teaching_signal" in setting.property_names]
    labels = [
        arm.label
        for arm in (settings[0].reward_models if settings else ())
        if all(setting.arm(arm.label) is not None for setting in settings)
    ]
    if len({setting.policy for setting in settings}) < 2 or len(labels) < FEWEST_TO_CHOOSE_FROM:
        return []
    return [item for place in range(2) for item in _choices(settings, labels, place)]


def _choices(settings: Sequence[Setting], labels: Sequence[str], place: int) -> list[Finding]:
    at = steps_of(settings[0])[place].label
    tables = [_increases_and_properties(setting, labels, steps_of(setting)[place]) for setting in settings]
    seeds = sorted(set.intersection(*(set(table) for table in tables)))
    if len(seeds) < 2:
        return []
    gains = np.array([[table[seed][0] for seed in seeds] for table in tables]).transpose(0, 2, 1)  # [policies, arms, S]
    best = np.stack([chosen_by_other_seeds(table) for table in gains]).mean(axis=0)  # [S]
    for_all = chosen_by_other_seeds(gains.mean(axis=0))

    def gained(name: str) -> Floats:
        """Mean over policies, [S], of the arm with the highest property in that run."""
        chosen = [
            [increases[int(np.nanargmax(properties[name]))] for increases, properties in (table[s] for s in seeds)]
            for table in tables
        ]
        return np.array(chosen).mean(axis=0)

    signal = gained("teaching_signal")
    sample = f"{len(seeds)} seeds, in each {len(settings)} policies x {len(labels)} reward models"
    loss = student_interval(1 - signal / best) if (best > 0).all() else no_interval(n=len(seeds))
    findings = [
        CHOICE_LOSES_LITTLE.found(
            loss,
            f"share of the ground truth increase at {at} that the best reward model of each policy, chosen by the "
            "other seeds, has more; means over policies",
            case=at,
            sample=sample,
        )
    ]
    others: dict[str, Callable[[], Floats]] = {
        "reward variance": lambda: gained("variance"),
        "on-policy accuracy": lambda: gained("on_policy_accuracy"),
        "one for all policies": lambda: for_all,
    }
    for words, other in others.items():
        effect: Interval = student_interval(signal - other())
        measured = f"ground truth increase at {at}, mean over policies: chosen by teaching signal minus by {words}"
        findings.append(CHOICE_ABOVE_OTHERS.found(effect, measured, case=f"{words}, {at}", sample=sample))
    return findings


def _increases_and_properties(
    setting: Setting, labels: Sequence[str], point: Point
) -> dict[int, tuple[Floats, dict[str, Floats]]]:
    """By seed: the arms' ground truth increases, and their properties for that seed's policy."""
    arms: list[Arm] = [arm for label in labels if (arm := setting.arm(label)) is not None]
    seeds, values = paired(arms, Outcome.ground_truth, point)
    found = {}
    for place, seed in enumerate(seeds):
        runs = [arm.runs[arm.seeds.index(seed)] for arm in arms]
        names = ("teaching_signal", "variance", "on_policy_accuracy")
        properties = {name: np.array([run.properties.get(name, math.nan) for run in runs]) for name in names}
        if all(np.isfinite(of_arms).any() for of_arms in properties.values()):
            found[seed] = (values[:, place], properties)
    return found
