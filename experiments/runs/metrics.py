"""Metric sinks: a JSONL file that is always written, and W&B beside it. A metric's name is a path: `train/loss`."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.runs.files import finite, naming

logger = logging.getLogger(__name__)


class JsonlSink:
    """`metrics.jsonl`: one JSON object a line, flushed line by line. This is the record of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stream = path.open("a", encoding="utf-8")

    def write(self, row: Mapping[str, Any]) -> None:
        try:
            self._stream.write(json.dumps(finite(dict(row))) + "\n")
            self._stream.flush()
        except OSError as error:
            raise naming(error, self.path) from error

    def position(self) -> int:
        """Bytes written so far: a checkpoint keeps this, and a resumed run cuts the file back to it."""
        return self._stream.tell()

    def cut_back_to(self, position: int) -> int:
        """Drop the rows after `position`, which belong to steps that a resumed run will take again.

        Returns how many bytes of the rows before it are missing: weights are worth more than rows, so a file that
        was cut short stops no run. A half line at its end goes too.
        """
        kept = position
        if self.path.stat().st_size < position:
            kept = self.path.read_bytes().rfind(b"\n") + 1
        self._stream.truncate(kept)
        self._stream.seek(kept)
        return position - kept

    def close(self, *, exit_code: int = 0, summary: Mapping[str, Any] | None = None) -> None:
        try:
            self._stream.close()
        except OSError as error:  # what a full disk left in the buffer
            raise naming(error, self.path) from error


class WandbSink:
    """A W&B run, offline unless the user is logged in or asks. It may fail at any time without ending the run."""

    def __init__(
        self,
        directory: Path,
        *,
        mode: str,
        project: str,
        run_id: str,
        name: str,
        group: str | None,
        job_type: str,
        tags: list[str],
        config: Mapping[str, Any],
        step_name: str,
    ) -> None:
        import wandb

        # Always a new one: `init` would return a dead run of this process as it is, and a policy that is trained
        # within a run of `rlhf` is a run beside it.
        settings = wandb.Settings(
            silent=True, console="off", reinit="create_new", disable_git=True, x_disable_stats=False
        )
        os.environ.setdefault("WANDB_SILENT", "true")
        if os.environ.get("WANDB_MODE") == "":
            del os.environ["WANDB_MODE"]  # W&B refuses an empty one
        self._run = wandb.init(
            dir=str(directory),
            mode=mode,  # type: ignore[arg-type]
            project=project,
            id=run_id,
            resume="allow" if mode == "online" else None,
            name=name,
            group=group,
            job_type=job_type,
            tags=tags,
            config=dict(config),
            settings=settings,
        )
        self._run.define_metric(step_name)
        self._run.define_metric("*", step_metric=step_name)

    def write(self, row: Mapping[str, Any]) -> None:
        self._run.log({key: value for key, value in row.items() if key != "time"})

    def write_media(self, media: Mapping[str, Any]) -> None:
        """Log W&B objects (tables, images) that a JSONL line cannot hold."""
        self._run.log(dict(media))

    def close(self, *, exit_code: int = 0, summary: Mapping[str, Any] | None = None) -> None:
        for key, value in (summary or {}).items():
            if isinstance(value, int | float | str):
                self._run.summary[key] = value
        self._run.finish(exit_code=exit_code)


def leave_wandb_service() -> None:
    """Let go of W&B's background process when it has died.

    The next run of this process starts another one, and W&B does not look for the dead one when Python ends.
    """
    import wandb

    with suppress(Exception):  # it says good-bye to the dead process
        wandb.teardown(exit_code=1)


def choose_wandb_mode(asked: str) -> str:
    """`auto` means WANDB_MODE where it is set, online where the user is logged in, offline elsewhere."""
    if asked != "auto":
        return asked
    wanted = os.environ.get("WANDB_MODE")
    if wanted:
        wanted = {"run": "online", "dryrun": "offline"}.get(wanted, wanted)  # W&B's older names
        if wanted not in ("online", "offline", "disabled"):
            raise ValueError(f"WANDB_MODE={wanted} is none of online, offline, disabled")
        return wanted
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    logged_in = "WANDB_API_KEY" in os.environ
    if not logged_in and netrc.is_file():
        logged_in = "api.wandb.ai" in netrc.read_text(encoding="utf-8", errors="replace")
    return "online" if logged_in else "offline"
