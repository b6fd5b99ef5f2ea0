"""A run as the ranks after the first see it: the same interface, and nothing is written, shown or sent.

The first rank owns the run directory. The others know its path, so that they can read what it wrote (after a barrier),
and keep a log of their own there, `logs/attempt_<n>.rank<r>.log`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.runs.artifacts import ArtifactStore
from experiments.runs.metrics import JsonlSink
from experiments.runs.ranks import Ranks
from experiments.runs.run import Run, RunState, logging_to, signals_to

logger = logging.getLogger(__name__)


class FollowerRun(Run):
    """Takes all that an experiment does with its run, and keeps none of it. Seeds and artifacts are the run's own."""

    def log(self, metrics: Mapping[str, Any], **position: int | float) -> None:
        """Nothing: the first rank records."""

    def log_media(self, media: Mapping[str, Any]) -> None:
        """Nothing."""

    def metrics_position(self) -> int:
        """0: there are no rows."""
        return 0

    def resume_metrics(self, position: int) -> None:
        """Nothing."""

    def write_status(self, state: RunState, **facts: Any) -> None:
        """Nothing."""

    def write_json(self, name: str, value: Any) -> Path:
        """Where the first rank writes it."""
        return self.directory / name

    def write_text(self, name: str, text: str) -> Path:
        """Where the first rank writes it."""
        return self.directory / name

    def add_to_manifest(self, **facts: Any) -> None:
        """Nothing."""

    def start_wandb(self, config: Mapping[str, Any], tracking: Mapping[str, Any], group: str | None) -> None:
        """Nothing."""


@contextmanager
def open_follower_run(
    *, output_dir: Path, experiment: str, run_id: str, seed: int, attempt: int, ranks: Ranks
) -> Iterator[FollowerRun]:
    """The run that the first rank has opened as `attempt`. Exceptions pass through after they have been logged."""
    directory = output_dir / experiment / run_id
    (directory / "logs").mkdir(parents=True, exist_ok=True)  # where hosts share no files there is none yet
    run = FollowerRun(
        directory,
        run_id=run_id,
        experiment=experiment,
        seed=seed,
        artifacts=ArtifactStore(output_dir / "artifacts"),
        console=Console(quiet=True),
        attempt=attempt,
        ranks=ranks,
        metrics=JsonlSink(Path(os.devnull)),
    )
    with logging_to(directory / "logs" / f"attempt_{attempt}.rank{ranks.rank}.log"), signals_to(run):
        try:
            yield run
        except BaseException as raised:
            run.ending = True
            error = ranks.cause_of(raised)
            logger.exception("this rank ended")
            if error is raised:
                raise
            raise error from raised
