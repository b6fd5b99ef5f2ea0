"""Runs of rlhf that take seconds: a nano policy on a small text of sentences, few tokens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

SUBJECTS = "The king,The shepherd,A woman,Your father,My brother,The old prophet,One of them,Every child".split(",")
VERBS = "loved,hated,blessed,killed,praised,feared,gave bread to,sang before".split(",")
OBJECTS = "the people,the good city,an evil beast,his enemies,seven sheep,the happy house,her sons".split(",")


def write_stories(folder: Path) -> Path:
    """A deterministic text of about 40 KB, with moods."""
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    for number in range(6):
        sentences = [
            " ".join(part[generator.integers(len(part))] for part in (SUBJECTS, VERBS, OBJECTS)) + "."
            for _ in range(220)
        ]
        (folder / f"{number}.txt").write_text(" ".join(sentences))
    return folder


def tiny_rlhf(folder: Path, *changes: str) -> list[str]:
    """The words after `rl-exp rlhf`."""
    return [
        "data=local",
        f"data.path={write_stories(folder / 'text')}",
        "data.holdout_fraction=0.2",
        "data.held_out_sets=[]",
        "tokenizer.vocabulary_size=400",
        "model=nano",
        "training.tokens=16384",
        "training.sequence_length=32",
        "training.batch_size=8",
        "training.evaluate_every_tokens=16384",
        "training.evaluation_tokens=512",
        "training.final_evaluation_tokens=512",
        "training.samples=0",
        "task.prompts=12",
        "task.prompt_tokens=4",
        "task.max_new_tokens=10",
        "probe.prompts=6",
        "probe.samples=4",
        "policy_gradient.steps=6",
        "policy_gradient.prompts_per_step=4",
        "policy_gradient.group_size=3",
        "policy_gradient.probe_every=2",
        "policy_gradient.checkpoint_every=2",
        "tracking.mode=disabled",
        *changes,
    ]


def only_run(folder: Path) -> Path:
    """The one run directory below `folder`/outputs/rlhf."""
    (run,) = (folder / "outputs" / "rlhf").iterdir()
    return run


def metric_rows(run: Path) -> list[dict]:
    """The rows of metrics.jsonl without what depends on the clock."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    clock = ("time", "policy_gradient/completions_per_second")
    return [{name: value for name, value in row.items() if name not in clock} for row in rows]
