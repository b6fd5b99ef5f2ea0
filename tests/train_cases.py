"""A training command that takes a second: a nano model, a small text of its own, bytes as tokens."""

from __future__ import annotations

import json
from pathlib import Path

WORDS = "the ox and the fox ran over a hill and saw the sea where old ships lay at rest in the sun".split()


def write_text(folder: Path) -> Path:
    """A deterministic text of about 40 KB in several documents."""
    folder.mkdir(exist_ok=True)
    for number in range(8):
        words = [WORDS[(i * i + number * i) % len(WORDS)] for i in range(1200)]
        (folder / f"{number}.txt").write_text(" ".join(words))
    return folder


def tiny_training(folder: Path, *changes: str) -> list[str]:
    """The words after `rl-exp train`."""
    return [
        "data=local",
        f"data.path={write_text(folder / 'text')}",
        "data.holdout_fraction=0.2",
        "data.held_out_sets=[]",
        "tokenizer=bytes",
        "model=nano",
        "threads=1",
        "training.tokens=4096",
        "training.sequence_length=32",
        "training.batch_size=4",
        "training.evaluate_every_tokens=2048",
        "training.evaluation_tokens=512",
        "training.final_evaluation_tokens=512",
        "training.checkpoint_every_tokens=1024",
        "training.samples=1",
        "training.sample_tokens=8",
        "tracking.mode=disabled",
        *changes,
    ]


def only_run(folder: Path) -> Path:
    """The one run directory below `folder`/outputs/train."""
    (run,) = (folder / "outputs" / "train").iterdir()
    return run


def metric_rows(run: Path) -> list[dict]:
    """The rows of metrics.jsonl without what depends on the clock."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("time", "train/tokens_per_second")} for row in rows]
