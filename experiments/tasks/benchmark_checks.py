"""The verifiers of IFEval and IFBench, from the package if-verifiable: `ifeval/<id>` and `ifbench/<id>`.

    ifeval/punctuation:no_comma      ifbench/count:numbers with the arguments {"N": 2}

They were made for large models; the few that small ones meet are re-made in constraint_checks.py. Prompts of the
benchmarks are no part of the package.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any
from unittest import mock

from experiments.tasks.constraint_checks import Constraint

BENCHMARKS = ("ifeval/", "ifbench/")
# Its detector of languages draws from a global random state: the same text would be graded now so, now otherwise.
NOT_REPEATABLE = ("ifeval/language:response_language",)


def benchmark_constraint(name: str, arguments: Mapping[str, Any]) -> Constraint:
    """The verifier `name` with all its arguments, so that none is drawn at random.

    ValueError for an unknown name, for missing or stray arguments, where the package is missing, and for a verifier
    that needs data of NLTK which is not there.
    """
    benchmark, _, identity = name.partition("/")
    verifiers = _verifiers(benchmark)
    if identity not in verifiers or name in NOT_REPEATABLE:
        known = [f"{benchmark}/{other}" for other in verifiers]
        near = difflib.get_close_matches(name, [other for other in known if other not in NOT_REPEATABLE], n=3, cutoff=0)
        reason = "does not answer equally each time" if name in NOT_REPEATABLE else "does not exist"
        raise ValueError(f"the constraint {name} {reason}: use another, such as {', '.join(near)}")
    verifier = verifiers[identity](identity)
    needed = verifier.get_instruction_args_keys()
    if set(needed) != set(arguments):
        raise ValueError(
            f"the constraint {name} needs exactly the arguments {needed or 'none'}, not {sorted(arguments)}: set "
            "task.constraints.arguments"
        )
    description = verifier.build_description(**arguments)

    def check(text: str) -> bool:
        try:
            return bool(text.strip()) and bool(verifier.check_following(text))
        except (ValueError, IndexError, KeyError, ZeroDivisionError):
            return False  # a text that the verifier did not expect does not follow the instruction

    try:
        check("One two, three. Four!")
    except LookupError as error:
        raise ValueError(
            f"the constraint {name} needs data of NLTK: python -m nltk.downloader punkt_tab stopwords "
            "averaged_perceptron_tagger_eng"
        ) from error
    return Constraint(name, description, check)


def _verifiers(benchmark: str) -> Mapping[str, Any]:
    """Classes by identity. ValueError where the package is not installed."""
    try:
        import nltk

        # The package fetches data of NLTK when it is imported: that is the user's choice, not ours.
        with mock.patch.object(nltk, "download", return_value=False):
            if benchmark == "ifeval":
                from if_verifiable.ifeval.instructions_registry import INSTRUCTION_DICT
            else:
                from if_verifiable.ifbench.instructions_registry import INSTRUCTION_DICT
    except ModuleNotFoundError as error:
        raise ValueError(
            f"constraints of {benchmark} need the package if-verifiable: pip install 'rl-exp[tasks]'"
        ) from error
    verifiers: Mapping[str, Any] = INSTRUCTION_DICT
    return verifiers
