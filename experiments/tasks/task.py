"""What a task is: prompts, and a ground truth reward that is a program.

A task scores completions, as texts and tokens; it does not depend on policies or reward models. Everything a reward
model may read travels in `Outputs`.

Shapes: n completions, in rows; several rows may share a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Prompt:
    """What a policy continues. `facts` is what the ground truth needs to know of it (plain JSON)."""

    index: int  # its place in the task's prompts: names it in files, draws and per-prompt offsets
    text: str
    tokens: tuple[int, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outputs:
    """Completions in rows, with what rewards may look at.

    `parts` are the components of the ground truth, each [n], by name: `constraint/<name>` is 1.0 where that constraint
    is met, `sentiment` the lexicon's score. Rewards with partial credit are made of them.
    """

    prompts: tuple[Prompt, ...]  # [n] of each row
    texts: tuple[str, ...]  # [n] the continuation without special tokens
    tokens: tuple[tuple[int, ...], ...]  # [n] the continuation's tokens, the stop token included where it came
    finished: NDArray[np.bool_]  # [n] whether a stop token came
    ground_truth: Floats  # [n]
    parts: Mapping[str, Floats] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int] | NDArray[np.intp]) -> Outputs:
        """Some of the rows, in the order given."""
        index = np.asarray(rows, dtype=np.intp)
        return replace(
            self,
            prompts=tuple(self.prompts[i] for i in index),
            texts=tuple(self.texts[i] for i in index),
            tokens=tuple(self.tokens[i] for i in index),
            finished=self.finished[index],
            ground_truth=self.ground_truth[index],
            parts={name: values[index] for name, values in self.parts.items()},
        )


@dataclass(frozen=True)
class Output:
    """One completion, as functions of the user's own see it."""

    prompt: str
    facts: Mapping[str, Any]  # what the task knows of the prompt, such as `answer`
    text: str  # the completion without special tokens
    tokens: tuple[int, ...]
    finished: bool  # whether a stop token came


class Task(Protocol):
    """Prompts and a ground truth."""

    @property
    def name(self) -> str: ...
    @property
    def prompts(self) -> Sequence[Prompt]: ...  # trained on
    @property
    def max_new_tokens(self) -> int: ...
    @property
    def stop_tokens(self) -> tuple[int, ...]: ...

    def recipe(self) -> dict[str, Any]:
        """All that decides prompts and ground truth, as plain JSON: names the artifacts that are made with it."""

    def score(
        self, prompts: Sequence[Prompt], texts: Sequence[str], tokens: Sequence[Sequence[int]]
    ) -> tuple[Floats, dict[str, Floats]]:
        """Ground truth [n] and its parts, finite; row i is a continuation of prompts[i]."""


def outputs_of(
    task: Task,
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    tokens: Sequence[Sequence[int]],
    finished: Sequence[bool],
    fluency: Floats | None = None,
) -> Outputs:
    """Score completions on the task's ground truth.

    `fluency` [n] is the mean log-probability per token under the reference policy, where it is known already: a task
    with a fluency term computes it otherwise.
    ValueError names the task whose scorer returns another length or no numbers; RuntimeError one whose scorer raises.
    """
    try:
        known = {} if fluency is None or getattr(task, "fluency", None) is None else {"fluency": fluency}
        ground_truth, parts = task.score(prompts, texts, tokens, **known)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise RuntimeError(f"task {task.name} could not score {len(texts)} completions ({reason})") from error
    for name, values in {"ground truth": ground_truth, **parts}.items():
        if values.shape != (len(texts),) or not np.isfinite(values).all():
            raise ValueError(
                f"task {task.name}: {name} has shape {values.shape} for {len(texts)} completions, "
                f"{int((~np.isfinite(values)).sum())} of them no finite number"
            )
    return Outputs(
        prompts=tuple(prompts),
        texts=tuple(texts),
        tokens=tuple(tuple(row) for row in tokens),
        finished=np.asarray(finished, dtype=np.bool_),
        ground_truth=ground_truth,
        parts=parts,
    )
