"""A reward of the user's own: a Python function from outputs to numbers.

    # my_rewards.py
    def shortness(outputs):
        return [-len(output.text) for output in outputs]

    rl-exp rlhf reward=python reward.python.function=my_rewards.py:shortness

Shapes: n outputs in rows.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from multiprocessing.pool import Pool
from typing import Any, Protocol

import numpy as np

from experiments.rewards.reward import Reward
from experiments.runs.user_code import UserFunction
from experiments.tasks.task import Floats, Output, Outputs


class RewardFunction(Protocol):
    """What `reward.python.function` names."""

    def __call__(self, outputs: Sequence[Output]) -> Sequence[float | None]:
        """One finite number for each output, or None where it cannot be scored. It must depend on nothing else."""


def as_outputs(outputs: Outputs) -> list[Output]:
    """Rows as functions of the user's see them."""
    columns = zip(outputs.prompts, outputs.texts, outputs.tokens, outputs.finished.tolist(), strict=True)
    return [Output(prompt.text, prompt.facts, text, tokens, done) for prompt, text, tokens, done in columns]


class PythonReward(Reward):
    """Calls the function, in this process or in `workers` others, once per distinct output.

    An output that cannot be scored (None) gets the mean of the others of its prompt in the batch, so that it neither
    attracts nor repels the policy; how many there were is counted. A batch in which more than `most_unscored` of the
    outputs are None raises. `seconds` is the limit for one batch, which needs `workers`.
    """

    _pool: Pool | None = None

    def __init__(
        self,
        name: str,
        function: UserFunction,
        *,
        workers: int = 0,
        seconds: float | None = None,
        most_unscored: float = 0.1,
    ) -> None:
        super().__init__(name, {**function.recipe(), "scored": 0, "unscored": 0})
        self.function, self.workers, self.seconds, self.most_unscored = function, workers, seconds, most_unscored
        self._call = function.load()  # also where workers call it: mistakes are found at once
        self._known: dict[tuple[str, str, tuple[int, ...]], float | None] = {}

    def score(self, outputs: Outputs) -> Floats:
        rows = as_outputs(outputs)
        keys = [(row.prompt, row.text, row.tokens) for row in rows]
        new = {key: row for key, row in zip(keys, rows, strict=True) if key not in self._known}
        self._known |= dict(zip(new, self._values(list(new.values())), strict=True))
        values = [self._known[key] for key in keys]
        unscored = sum(value is None for value in values)
        self.facts["scored"] += len(values) - unscored
        self.facts["unscored"] += unscored
        if unscored > self.most_unscored * len(values) or unscored == len(values) > 0:
            raise ValueError(
                f"{self.function} could not score {unscored} of {len(values)} outputs, such as "
                f"{rows[values.index(None)].text[:60]!r}: raise reward.python.most_unscored={self.most_unscored:g} "
                "if that is meant"
            )
        return _filled(values, [prompt.index for prompt in outputs.prompts])

    def _values(self, rows: list[Output]) -> list[float | None]:
        if not rows:
            return []
        if not self.workers:
            return _checked(self.function, self._call(rows), rows)
        if self._pool is None:
            context = multiprocessing.get_context("spawn")  # a fork of a process with torch's threads may hang
            self._pool = context.Pool(self.workers, _load, (self.function,))
        size = -(-len(rows) // self.workers)
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        try:
            returned = self._pool.map_async(_score, parts).get(self.seconds)
        except multiprocessing.TimeoutError:
            self.close()
            raise TimeoutError(
                f"{self.function} took longer than reward.python.seconds={self.seconds:g} for {len(rows)} outputs"
            ) from None
        return [value for values in returned for value in values]

    def close(self) -> None:
        """End the worker processes."""
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None

    def __del__(self) -> None:
        self.close()


_in_worker: tuple[UserFunction, Any] | None = None


def _load(function: UserFunction) -> None:
    global _in_worker
    _in_worker = function, function.load()


def _score(rows: list[Output]) -> list[float | None]:
    assert _in_worker is not None
    function, call = _in_worker
    return _checked(function, call(rows), rows)


def _checked(function: UserFunction, returned: Any, rows: Sequence[Output]) -> list[float | None]:
    """One number or None per row. ValueError names the function, the sample and what it returned."""
    try:
        values = list(returned)
    except TypeError:
        raise ValueError(f"{function} returned {returned!r:.60} and not a list of {len(rows)} numbers") from None
    if len(values) != len(rows):
        raise ValueError(f"{function} returned {len(values)} values for {len(rows)} outputs")
    for place, (value, row) in enumerate(zip(values, rows, strict=True)):
        number = value is None or (isinstance(value, int | float | np.number) and np.isfinite(value))
        if not number:
            raise ValueError(
                f"{function} returned {value!r:.60} for output {place} ({row.text[:60]!r}): it must be a finite "
                "number, or None where the output cannot be scored"
            )
    return [None if value is None else float(value) for value in values]


def _filled(values: Sequence[float | None], groups: Sequence[int]) -> Floats:
    """None becomes the mean of the other values of its group, or of all values where its group has none."""
    found = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    known, group = ~np.isnan(found), np.asarray(groups)
    for place in np.flatnonzero(~known):
        others = known & (group == group[place])
        found[place] = found[others if others.any() else known].mean()
    return found
