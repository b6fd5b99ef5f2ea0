"""The statements of the papers that a sweep of `rl-exp rlhf` is judged by, preset by preset.

A statement stands beside what finds it, in the modules that are called here; `rlhf_effects.py` says what the intervals
are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from experiments.reports import (
    rlhf_error_statements,
    rlhf_over_optimisation,
    rlhf_signal_statements,
    rlhf_teacher_statements,
)
from experiments.reports.rlhf_error_statements import harm_aware, partial_credit
from experiments.reports.rlhf_over_optimisation import over_optimisation
from experiments.reports.rlhf_runs import Setting
from experiments.reports.rlhf_signal_statements import choices, signals
from experiments.reports.rlhf_teacher_statements import good_teacher, policy_dependence
from experiments.reward_metrics.statements import Finding, Statement

Judge = Callable[[Sequence[Setting]], list[Finding]]
JUDGES: dict[str, tuple[Judge, ...]] = {
    "small": (good_teacher,),
    "good_teacher": (good_teacher, signals),
    "teachers_2": (signals,),
    "policy_dependence": (policy_dependence, choices),
    "harm_aware": (harm_aware, signals),
    "partial_credit": (partial_credit,),
    "over_optimisation": (over_optimisation,),
}
STATEMENTS: tuple[Statement, ...] = (
    *rlhf_teacher_statements.STATEMENTS,
    *rlhf_error_statements.STATEMENTS,
    *rlhf_signal_statements.STATEMENTS,
    *rlhf_over_optimisation.STATEMENTS,
)


def findings_of(presets: Sequence[str], settings: Sequence[Setting]) -> list[Finding]:
    """What the presets that made the sweep are judged by; all of them where it is none of ours."""
    known = [judge for preset in presets for judge in JUDGES.get(preset, ())]
    every = [judge for judges in JUDGES.values() for judge in judges]
    return [finding for judge in dict.fromkeys(known or every) for finding in judge(settings)]
