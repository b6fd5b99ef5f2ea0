"""Continue or answer so that a text meets constraints; the ground truth counts what is met.

Binary credit is 1 where all are met, else 0. Partial credit is the weighted share of what is met: the reward of
When Errors Can Be Beneficial (arXiv 2604.25872), section 5, for verifiable rewards, which pairs two constraints of
IFBench. Both are made of the same parts, so a reward model with the other credit can be made from the outputs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.tasks.benchmark_checks import BENCHMARKS, benchmark_constraint
from experiments.tasks.constraint_checks import Constraint, constraint_named
from experiments.tasks.fluency import FluencyTerm
from experiments.tasks.prompt_set import OfPromptSet, PromptSet
from experiments.tasks.prompt_spread import PromptSpread
from experiments.tasks.task import Floats, Prompt

FORMAT = 1  # raise it whenever equal recipes would give other rewards


@dataclass(frozen=True)
class ConstraintCredit:
    """Which constraints, and what meeting them is worth."""

    constraints: tuple[Constraint, ...]
    weights: tuple[float, ...]  # sum to 1
    binary: bool

    def met(self, texts: Sequence[str]) -> dict[str, Floats]:
        """`constraint/<name>` -> [n], 1.0 where it is met."""
        return {
            f"constraint/{constraint.name}": np.array([float(constraint.check(text)) for text in texts])
            for constraint in self.constraints
        }

    def of(self, parts: Mapping[str, Floats]) -> Floats:
        """The credit [n] in [0, 1]."""
        met = np.stack([parts[f"constraint/{constraint.name}"] for constraint in self.constraints])
        if self.binary:
            credit: Floats = met.min(axis=0)
        else:
            credit = np.asarray(self.weights) @ met
        return credit

    @property
    def instruction(self) -> str:
        """The constraints as a user would ask for them."""
        return "\n".join(constraint.description for constraint in self.constraints)

    def recipe(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "constraints": {constraint.name: constraint.description for constraint in self.constraints},
            "weights": None if self.binary else list(self.weights),
            "binary": self.binary,
        }


def constraint_credit(
    names: Sequence[str],
    *,
    weights: Sequence[float] | None = None,
    binary: bool = True,
    arguments: Mapping[str, Mapping[str, Any]] | None = None,
) -> ConstraintCredit:
    """Constraints by name: our own (constraint_checks.py), or `ifeval/<id>` and `ifbench/<id>` (benchmark_checks.py).

    `weights` are made to sum to 1; null: all equal. `arguments` are those of the benchmarks' checks, by name.
    ValueError for unknown or repeated names, and for weights that do not fit.
    """
    if not names:
        raise ValueError("task.constraints.names is empty: name one constraint or more")
    if len(set(names)) < len(names):
        raise ValueError(f"task.constraints.names={list(names)} repeats a constraint: name each once")
    weights = [1.0] * len(names) if weights is None else list(weights)
    if len(weights) != len(names) or not all(math.isfinite(w) and w > 0 for w in weights):
        raise ValueError(
            f"task.constraints.weights={weights} does not fit {len(names)} constraints: give as many positive numbers"
        )
    arguments = arguments or {}
    stray = sorted(set(arguments) - {name for name in names if name.startswith(BENCHMARKS)})
    if stray:
        raise ValueError(
            f"task.constraints.arguments names {stray[0]}, which is not one of the constraints of {BENCHMARKS[0]} or "
            f"{BENCHMARKS[1]} in task.constraints.names"
        )
    return ConstraintCredit(
        constraints=tuple(
            benchmark_constraint(name, arguments.get(name, {}))
            if name.startswith(BENCHMARKS)
            else constraint_named(name)
            for name in names
        ),
        weights=tuple(weight / sum(weights) for weight in weights),
        binary=binary,
    )


@dataclass(frozen=True)
class ConstraintsTask(OfPromptSet):
    """Prompts of any origin, and constraints on what follows them."""

    prompt_set: PromptSet
    credit: ConstraintCredit
    spread: PromptSpread = field(default_factory=PromptSpread)
    fluency: FluencyTerm | None = None
    name: str = "constraints"

    def recipe(self) -> dict[str, Any]:
        return {
            "task": self.name,
            "format": FORMAT,
            "prompts": self.prompt_set.recipe,
            **self.credit.recipe(),
            "prompt_spread": self.spread.recipe(),
            "fluency": None if self.fluency is None else self.fluency.recipe(),
        }

    def score(
        self,
        prompts: Sequence[Prompt],
        texts: Sequence[str],
        tokens: Sequence[Sequence[int]],
        fluency: Floats | None = None,
    ) -> tuple[Floats, dict[str, Floats]]:
        """Credit, plus the weighted fluency, plus the prompt's constant, [n]; parts `constraint/<name>` in {0, 1}."""
        parts = self.credit.met(texts)
        ground_truth = self.credit.of(parts) + self.spread.constants(prompts)
        if self.fluency is not None:
            parts["fluency"] = self.fluency(prompts, tokens) if fluency is None else fluency
            ground_truth = ground_truth + self.fluency.weight * parts["fluency"]
        return ground_truth, parts
