"""What a sweep was asked for and which runs belong to it: `sweep.json` in its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from experiments.runs.files import read_json


@dataclass(frozen=True)
class SweepRecord:
    """The command, its overrides, and the run directories, finished or not."""

    command: str
    overrides: tuple[str, ...]
    runs: tuple[Path, ...]


def read_sweep(directory: Path) -> SweepRecord:
    """The record of a sweep. ValueError where there is none, or a damaged one."""
    path = directory / "sweep.json"
    try:
        sweep = read_json(path)
        folder = directory.parent.parent / str(sweep.get("experiment", sweep["command"]))
        runs = dict.fromkeys(folder / str(job["run_id"]) for job in sweep["jobs"])
        return SweepRecord(str(sweep["command"]), tuple(map(str, sweep.get("overrides") or ())), tuple(runs))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: it does not list the jobs of a sweep") from error
