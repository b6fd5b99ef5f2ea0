"""Probe rollouts: samples of a policy on fixed prompts, on which reward models are measured (good-teacher paper, F.1).

Those of an initial policy are an artifact, made once and shared by every run that starts from this policy.

Shapes: P probe prompts, N samples of each, n = P N rows, a prompt's samples beside each other.
"""

from __future__ import annotations

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
from experiments.training.rollouts import Rollouts, RolloutSampler

FILE = "rollouts.parquet"
PROBE_SEED = 475  # all policies, arms and seeds draw their probe rollouts with the same noise


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


def run_probe(sampler: RolloutSampler, task: Task, prompts: int, samples: int) -> Probe:
    """The present policy on the probe prompts, with the noise of the initial policy's probe rollouts."""
    rollouts = sampler.sample(probe_prompts(task, prompts), samples, seed=PROBE_SEED)
    return scored_probe(rollouts, task, samples)


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
