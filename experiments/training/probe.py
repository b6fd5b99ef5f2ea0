"""Probe rollouts: samples of a policy on fixed prompts, on which reward models are looked at (good-teacher paper, F.1).

Those of an initial policy are an artifact, made once and shared by every run that starts from this policy.

Shapes: P probe prompts, N samples of each, n = P N rows, a prompt's samples beside each other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from experiments.runs.artifacts import ArtifactStore
from experiments.tasks.task import Outputs, Prompt, Task
from experiments.training.rollouts import Rollouts

FILE = "rollouts.parquet"


@dataclass(frozen=True)
class Probe:
    """Rollouts on the probe prompts, scored on the ground truth."""

    rollouts: Rollouts
    outputs: Outputs
    prompts: int  # P
    samples: int  # N

    def by_prompt(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values of rows [n] as [P, N]."""
        return rows.reshape(self.prompts, self.samples)

    @property
    def ground_truth(self) -> NDArray[np.float64]:
        """[P, N]"""
        return self.by_prompt(self.outputs.ground_truth)

    @property
    def log_probabilities(self) -> NDArray[np.float64]:
        """Of whole completions under the policy that drew them, [P, N]."""
        return self.by_prompt(self.rollouts.sequence_log_probabilities)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of the completions, [P, N]."""
        return self.rollouts.lengths.reshape(self.prompts, self.samples)


def probe_prompts(task: Task, count: int) -> Sequence[Prompt]:
    """The first `count` prompts of the task, which stand in a seeded order. ValueError where there are fewer."""
    if count > len(task.prompts):
        raise ValueError(
            f"probe.prompts={count}, but the task has {len(task.prompts)} prompts: lower it or raise task.prompts"
        )
    return task.prompts[:count]


def scored_probe(rollouts: Rollouts, task: Task, samples: int) -> Probe:
    """The probe of rollouts with `samples` of every prompt."""
    return Probe(rollouts, rollouts.outputs(task), len(rollouts) // samples, samples)


def stored_probe(
    store: ArtifactStore, recipe: Mapping[str, Any], task: Task, samples: int, draw: Callable[[], Rollouts]
) -> Probe:
    """The probe rollouts of `recipe`, drawn where there are none. The ground truth is scored anew: it is a program."""
    artifact = store.get_or_make("probe_rollouts", recipe, lambda folder: _write(folder, draw()))
    return scored_probe(_read(artifact.path, task), task, samples)


def _write(folder: Path, rollouts: Rollouts) -> dict[str, Any]:
    columns = {
        "prompt": [prompt.index for prompt in rollouts.prompts],
        "prompt_text": [prompt.text for prompt in rollouts.prompts],
        "text": list(rollouts.texts),
        "tokens": [list(row) for row in rollouts.tokens],
        "log_probabilities": [list(row) for row in rollouts.log_probabilities],
        "finished": rollouts.finished.tolist(),
    }
    table = pa.table(columns)
    field = table.schema.get_field_index("log_probabilities")
    wanted = table.schema.set(field, pa.field("log_probabilities", pa.list_(pa.float64())))
    pq.write_table(table.cast(wanted), folder / FILE)
    return {"completions": len(rollouts), "tokens": int(rollouts.lengths.sum())}


def _read(folder: Path, task: Task) -> Rollouts:
    columns = pq.read_table(folder / FILE).to_pydict()
    by_index = {prompt.index: prompt for prompt in task.prompts}
    return Rollouts(
        prompts=tuple(by_index[index] for index in columns["prompt"]),
        tokens=tuple(tuple(row) for row in columns["tokens"]),
        log_probabilities=tuple(tuple(row) for row in columns["log_probabilities"]),
        finished=np.array(columns["finished"], dtype=np.bool_),
        texts=tuple(columns["text"]),
    )


def sample_table(before: Rollouts, after: Rollouts, rewards: Mapping[str, tuple[Any, Any]], rows: Sequence[int]) -> str:
    """Texts of the same prompts and noise before and after training, for people: plain text."""
    lines = []
    for row in rows:
        lines.append(f"prompt   {json.dumps(before.prompts[row].text, ensure_ascii=False)}")
        for label, rollouts, place in (("before", before, 0), ("after", after, 1)):
            scores = "  ".join(f"{name} {values[place][row]:+.2f}" for name, values in rewards.items())
            lines.append(f"  {label:<6} [{scores}] {json.dumps(rollouts.texts[row], ensure_ascii=False)}")
    return "\n".join(lines) + "\n"
