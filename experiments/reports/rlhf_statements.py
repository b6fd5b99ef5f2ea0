"""The statements of the papers that a sweep of `rl-exp rlhf` is judged by, preset by preset.

A rule stands beside its statement, in the modules that are called here; `rlhf_effects.py` says what the intervals are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from experiments.reports.rlhf_error_statements import harm_aware, partial_credit
from experiments.reports.rlhf_over_optimisation import over_optimisation
from experiments.reports.rlhf_runs import Setting
from experiments.reports.rlhf_teacher_statements import good_teacher, policy_dependence
from experiments.reward_metrics.statements import Statement

Judge = Callable[[Sequence[Setting], np.random.Generator], list[Statement]]
CLAIMS: dict[str, Judge] = {
    "small": good_teacher,
    "good_teacher": good_teacher,
    "policy_dependence": policy_dependence,
    "harm_aware": harm_aware,
    "partial_credit": partial_credit,
    "over_optimisation": over_optimisation,
}


def statements_of(
    presets: Sequence[str], settings: Sequence[Setting], generator: np.random.Generator
) -> list[Statement]:
    """The statements of the presets that made the sweep; of all of them where it is none of ours."""
    known = [CLAIMS[preset] for preset in presets if preset in CLAIMS]
    judges = list(dict.fromkeys(known or CLAIMS.values()))
    return [statement for judge in judges for statement in judge(settings, generator)]
