"""What a sweep says of over-optimisation (Gao, Schulman and Hilton, 2210.10760): each statement, and what finds it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from experiments.reports.rlhf_increases import value_at_step
from experiments.reports.rlhf_runs import Arm, RlhfRun, Setting
from experiments.reward_metrics.correlations import Interval, no_interval, student_interval
from experiments.reward_metrics.statements import Finding, Statement

FEWEST_LOOKS = 4  # behind a fit of two coefficients
FIRST = "2026-11-25"  # before the sweeps that are published
GAO = "Scaling Laws for Reward Model Overoptimization (2210.10760), "


# fmt: off
PEAK = Statement(id="rlhf.behind_its_peak", unit="seeds", ruled=FIRST, above=0.0, source=GAO + "Figure 1",
    says="trained on for long, the ground truth falls behind its peak")
PROXY_RISES = Statement(id="rlhf.proxy_rises_on", unit="seeds", ruled=FIRST, above=0.0, source=GAO + "Figure 1",
    says="while the proxy goes on rising")
MORE_PAIRS = Statement(id="rlhf.more_pairs", unit="seeds", ruled=FIRST, above=0.0, source=GAO + "section 3.3",
    says="more preference pairs move the ground truth's peak to a higher KL divergence")
STATEMENTS = (PEAK, PROXY_RISES, MORE_PAIRS)
# fmt: on


def over_optimisation(settings: Sequence[Setting]) -> list[Finding]:
    """Proxies rise on while the ground truth falls; within each setting."""
    return [item for setting in settings for item in _over_optimisation(setting)]


def _over_optimisation(setting: Setting) -> list[Finding]:
    findings, case = [], setting.label
    if setting.reward_models:
        falls, rises = _after_the_peak(setting.reward_models)
        by = "mean over reward models, within seeds; each peak is chosen by the other seeds"
        sample = f"{falls.n} seeds, in each the same {len(setting.reward_models)} reward models" if falls.n else ""
        findings += [
            PEAK.found(falls, f"ground truth at its peak minus at the end, {by}", case=case, sample=sample),
            PROXY_RISES.found(
                rises, f"proxy at the end minus at the peak of the ground truth, {by}", case=case, sample=sample
            ),
        ]
    by_pairs = _arms_by_pairs(setting)
    if len(by_pairs) >= 2:
        (fewest, few), (most, many) = by_pairs[0], by_pairs[-1]
        seeds = sorted(set(few.seeds) & set(many.seeds))
        gaps = [_kl_at_peak(many.runs[many.seeds.index(s)]) - _kl_at_peak(few.runs[few.seeds.index(s)]) for s in seeds]
        measured = f"KL at the peak, reward model of {most} pairs minus that of {fewest}, within seeds"
        findings.append(MORE_PAIRS.found(student_interval(gaps) if gaps else no_interval(), measured, case=case))
    return findings


def _after_the_peak(arms: Sequence[Arm]) -> tuple[Interval, Interval]:
    """Fall of the ground truth and rise of the proxy from the ground truth's peak to the end, by seed."""
    seeds = sorted(set.intersection(*(set(arm.seeds) for arm in arms)))
    if len(seeds) < 2:
        return no_interval(), no_interval()
    falls, rises = [], []
    for seed in seeds:
        fall, rise = [], []
        for arm in arms:
            own = arm.runs[arm.seeds.index(seed)].probe
            others = [run.probe for run in arm.runs if run.seed != seed]
            mean = np.mean([np.interp(own.steps, curve.steps, curve.ground_truth) for curve in others], axis=0)
            peak = float(own.steps[int(mean.argmax())])
            fall.append(value_at_step(own, own.ground_truth, peak) - own.ground_truth[-1])
            rise.append(own.proxy[-1] - value_at_step(own, own.proxy, peak))
        falls.append(float(np.mean(fall)))
        rises.append(float(np.mean(rise)))
    return student_interval(falls), student_interval(rises)


def _arms_by_pairs(setting: Setting) -> list[tuple[int, Arm]]:
    """Trained reward models that differ in nothing but their number of pairs, fewest first."""
    groups: dict[str, list[tuple[int, Arm]]] = {}
    for arm in setting.arms:
        knobs = {key: value for key, value in arm.runs[0].settings.items() if key.startswith("reward.")}
        pairs = knobs.pop("reward.trained.pairs", None) or arm.runs[0].settings.get("reward_training.pairs")
        knobs.pop("reward.name", None)
        if arm.runs[0].family == "trained" and isinstance(pairs, int):
            groups.setdefault(str(sorted(knobs.items())), []).append((pairs, arm))
    largest = max(groups.values(), key=len, default=[])
    return sorted(largest, key=lambda entry: entry[0])


def over_optimisation_fit(arm: Arm) -> dict[str, float]:
    """Where the ground truth peaks, and Gao's form of its rise, d (a - b log d) with d the root of the KL divergence.

    Least squares over all looks of all seeds (NaN with fewer than four at d > 0); beside it the form of best-of-n,
    d (a - b d), for comparison. `r2` is 1 - residual over total variance, and may be negative.
    """
    curves = [run.probe for run in arm.runs]
    d = np.concatenate([np.sqrt(np.maximum(curve.kl, 0)) for curve in curves])
    gain = np.concatenate([curve.ground_truth - curve.ground_truth[0] for curve in curves])
    d, gain = d[d > 0], gain[d > 0]
    found = {"peak_kl": float(np.mean([_kl_at_peak(run) for run in arm.runs]))}
    for name, shape in (("rl", -d * np.log(d)), ("best_of_n", -(d**2))):
        a = b = r2 = math.nan
        if len(d) >= FEWEST_LOOKS and np.ptp(gain) > 0:
            design = np.stack([d, shape], axis=1)
            (a, b), *_ = np.linalg.lstsq(design, gain, rcond=None)
            r2 = 1 - float(((gain - design @ (a, b)) ** 2).sum() / ((gain - gain.mean()) ** 2).sum())
        found |= {f"{name}_a": float(a), f"{name}_b": float(b), f"{name}_r2": float(r2)}
    return found


def _kl_at_peak(run: RlhfRun) -> float:
    return float(run.probe.kl[int(run.probe.ground_truth.argmax())])
