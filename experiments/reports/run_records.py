"""Run directories as records: whatever their state, one record each, and never an exception.

A directory may belong to a live run, to one that was killed, to an older version, or be damaged or empty. What can be
read is read; what cannot is said in one line (`problem`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

import yaml

from experiments.runs.files import read_json
from experiments.runs.identity import NOT_IDENTITY, flatten
from experiments.runs.run import RunState, read_status

STALE_AFTER = 120.0  # seconds without a heartbeat; a live run writes one every 5, but a long step may hold it up
NO_EXPERIMENTS = ("artifacts", "sweeps", "reference", "report")  # folders of outputs/ that hold no runs
STALE, EMPTY, UNREADABLE = "stale", "empty", "unreadable"
STATES = (*(str(state) for state in RunState), STALE, EMPTY, UNREADABLE)

# The numbers that a run of an experiment is known by; patterns of names in its summary.
HEADLINES = {
    "train": ("eval/*/perplexity", "cache_bytes_per_token_per_layer"),
    "bench": ("fastest", "median_share_of_limit", "highest_ceiling"),
    "controlled": ("statements/*",),
    "rlhf": ("arm", "ground_truth_increase", "proxy_increase", "probe/kl"),
}
MOST_HEADLINES = 4

Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class RunRecord:
    """One run directory. Mappings are flat: `{"training.tokens": 500000}`."""

    directory: Path
    experiment: str
    id: str
    state: str  # of STATES
    age: float | None = None  # seconds since the last sign of life
    seed: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    differences: Mapping[str, Any] = field(default_factory=dict)  # settings that are not the defaults
    differences_known: bool = True  # false where overrides.yaml is missing or damaged
    summary: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None

    @property
    def headlines(self) -> dict[str, Any]:
        """The numbers of the summary that are shown first."""
        plain = {name: value for name, value in self.summary.items() if isinstance(value, int | float | str)}
        patterns = HEADLINES.get(self.experiment)
        if patterns is None:
            names = [name for name, value in plain.items() if not isinstance(value, str) and name != "objective"]
        else:
            names = [name for pattern in patterns for name in plain if fnmatchcase(name, pattern)]
        return {name: plain[name] for name in names[:MOST_HEADLINES]}

    def value_of(self, key: str) -> Any:
        """A setting or a number of the summary by its name, or by the end of its name; None where there is none."""
        for mapping in (
            self.settings,
            self.summary,
            {"id": self.id, "experiment": self.experiment, "status": self.state},
        ):
            if key in mapping:
                return mapping[key]
        for mapping, mark in ((self.settings, "."), (self.summary, "/")):
            for name, value in mapping.items():
                if name.endswith(mark + key):
                    return value
        return None

    def names(self) -> set[str]:
        """All that `value_of` knows."""
        return {*self.settings, *self.summary, "id", "experiment", "status"}

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "id": self.id,
            "experiment": self.experiment,
            "status": self.state,
            "age_seconds": None if self.age is None else round(self.age, 1),
            "seed": self.seed,
            "differs": dict(self.differences),
            "metrics": self.headlines,
            "directory": str(self.directory),
            "problem": self.problem,
        }


def run_directories(output_dir: Path) -> Iterator[Path]:
    """Every folder outputs/<experiment>/<run id>, sorted."""
    if not output_dir.is_dir():
        return
    for experiment in sorted(output_dir.iterdir()):
        if experiment.name in NO_EXPERIMENTS or experiment.name.startswith(".") or not experiment.is_dir():
            continue
        try:
            entries = sorted(experiment.iterdir())
        except OSError:  # its runs cannot be seen: the folder stands for them, as unreadable
            yield experiment
            continue
        yield from (entry for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def read_records(output_dir: Path, *, now: datetime | None = None, stale_after: float = STALE_AFTER) -> list[RunRecord]:
    """The records of all run directories."""
    return [read_record(path, now=now, stale_after=stale_after) for path in run_directories(output_dir)]


def read_record(directory: Path, *, now: datetime | None = None, stale_after: float = STALE_AFTER) -> RunRecord:
    """One record. Damage of any file is a `problem`; the rest is read all the same."""
    files = RunFiles(directory)
    status = files.read("status.json", lambda path: read_status(directory)) or {}
    config, differences, manifest, summary = map(
        files.mapping, ("config.yaml", "overrides.yaml", "manifest.json", "summary.json")
    )
    files.check_metrics()
    heartbeat = _moment(status.get("heartbeat"))
    silent = None if heartbeat is None else ((now or datetime.now(UTC)) - heartbeat).total_seconds()
    reason = str(status.get("reason") or "")
    if not status:
        state = UNREADABLE if config or manifest or files.problems else EMPTY
        files.problems.insert(0, "status.json is missing" if state == UNREADABLE else "the folder holds no run")
    elif reason and "heartbeat" not in status:  # read_status's own words for a damaged file
        state = UNREADABLE
        files.problems.insert(0, reason.replace(f"{directory}/", ""))
    else:
        state = str(status["state"])
    if state == RunState.running and (silent is None or abs(silent) > stale_after):
        state = STALE
        ahead = silent is not None and silent < 0  # a live run would have written another by now
        files.problems.append(
            "its last heartbeat lies in the future (a clock was set back); the same command continues it"
            if ahead
            else f"no heartbeat for {stale_after:.0f} seconds; the same command continues it"
        )
    if state not in (EMPTY, UNREADABLE):
        expected = ["config.yaml", "manifest.json", "overrides.yaml"]
        files.require(*expected, *(["summary.json"] if state == RunState.finished else []))
    if state in (RunState.failed, RunState.interrupted) and reason:
        files.problems.insert(0, _one_line(reason))
    seed = manifest.get("seed", config.get("seed"))
    return RunRecord(
        directory=directory,
        experiment=str(manifest.get("experiment") or directory.parent.name),
        id=directory.name,
        state=state,
        age=None if silent is None else max(0.0, silent),
        seed=seed if isinstance(seed, int) and not isinstance(seed, bool) else None,
        settings=flatten(config),
        differences={
            key: value for key, value in flatten(differences).items() if key.split(".")[0] not in NOT_IDENTITY
        },
        differences_known="overrides.yaml" in files.intact,
        summary=summary,
        manifest=manifest,
        problem="; ".join(files.problems) or None,
    )


class RunFiles:
    """The files of a run directory. What is wrong with one is a line of `problems`, never an exception."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.problems: list[str] = []
        self.intact: set[str] = set()  # names of files that were read

    def read(self, name: str, parse: Callable[[Path], Parsed]) -> Parsed | None:
        """What `parse` makes of the file; None where it is absent, cannot be read or is damaged."""
        try:
            value = parse(self.directory / name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self.problems.append(f"{name} cannot be read ({error.strerror or type(error).__name__})")
        except (ValueError, TypeError, yaml.YAMLError, RecursionError):
            self.problems.append(f"{name} is damaged")
        else:
            self.intact.add(name)
            return value
        return None

    def mapping(self, name: str) -> dict[str, Any]:
        """A JSON or YAML file that holds a mapping; {} where there is none."""
        return self.read(name, _mapping) or {}

    def check_metrics(self) -> None:
        """Name lines of metrics.jsonl that are not JSON objects. The last may be half-written: a kill leaves that."""
        lines = self.read("metrics.jsonl", lambda path: path.read_bytes().split(b"\n")) or []
        damaged = [number for number, line in enumerate(lines[:-1], 1) if not _is_row(line)]
        if damaged:
            more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
            self.problems.append(f"metrics.jsonl is damaged: line {damaged[0]}{more}")

    def require(self, *names: str) -> None:
        """Name those that are missing; damaged ones are named already."""
        for name in names:
            if name not in self.intact and not any(problem.startswith(name) for problem in self.problems):
                self.problems.append(f"{name} is missing")


def arm_settings(record: RunRecord) -> dict[str, Any]:
    """The settings that make a run another arm: all but its seed, and what is no part of its identity."""
    return {
        key: value
        for key, value in record.settings.items()
        if key != "seed" and key.split(".")[0] not in NOT_IDENTITY and key != "threads"
    }


def shown(value: Any) -> str:
    """A setting or a number, short."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(shown(item) for item in value) + "]"
    return _one_line(value)


def _mapping(path: Path) -> dict[str, Any]:
    """ValueError where the file holds anything else; an empty YAML file is an empty mapping."""
    if path.suffix == ".json":
        value = read_json(path)
    else:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=loader) or {}
    if not isinstance(value, dict):
        raise ValueError(f"{path} does not hold a mapping")
    found = {str(key): item for key, item in value.items()}
    flatten(found)  # RecursionError where it contains itself
    return found


def _is_row(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def finite_number(value: Any) -> float | None:
    """`value` as a float; None where it is no number, or none that a float can hold."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _moment(text: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def printable(text: str) -> str:
    """`text` without what a terminal would obey: names and reasons of a run directory may be anyone's."""
    return "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in text)


def _one_line(value: Any) -> str:
    text = printable(" ".join(str(value).split()))
    return text if len(text) <= 160 else text[:157] + "..."
