"""One run: its directory, status, log, metrics, seeds and artifacts, from the first screen to the last.

    outputs/<experiment>/<run id>/
        config.yaml  overrides.yaml  manifest.json  status.json  metrics.jsonl  summary.json
        checkpoints/  figures/  logs/attempt_<n>.log  wandb/

`status.json` says running, finished, failed or interrupted, with a heartbeat. A finished run is never computed twice;
an interrupted one is continued by the same command.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from experiments.runs.artifacts import ArtifactStore
from experiments.runs.files import read_json, write_in_place, write_json, write_text
from experiments.runs.identity import content_hash, flatten
from experiments.runs.manifest import describe_environment, now
from experiments.runs.metrics import JsonlSink, WandbSink, choose_wandb_mode, leave_wandb_service
from experiments.runs.ranks import Ranks
from experiments.runs.seeds import SeedStreams

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5.0
# Ctrl-C reaches a job of a launcher twice: from the terminal, and from the process that started it.
ONE_SIGNAL_SECONDS = 1.0
# With these a launcher tells a job to save and make room: submitit sends USR2 before the time of a job is over.
ASKS_TO_MAKE_ROOM = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]


class RunState(StrEnum):
    """What `status.json` says of a run."""

    running = "running"
    finished = "finished"
    failed = "failed"
    interrupted = "interrupted"


class RunBusy(RuntimeError):
    """Another process is working on this run."""


class Run:
    """What an experiment is given besides its configuration. Made by `open_run`."""

    def __init__(
        self,
        directory: Path,
        *,
        run_id: str,
        experiment: str,
        seed: int,
        artifacts: ArtifactStore,
        console: Console,
        attempt: int,
        ranks: Ranks | None = None,
        metrics: JsonlSink | None = None,
    ) -> None:
        self.directory = directory
        self.id = run_id
        self.experiment = experiment
        self.seeds = SeedStreams(seed)
        self.artifacts = artifacts
        self.console = console
        self.attempt = attempt
        self.ranks = ranks or Ranks()
        self.checkpoints = directory / "checkpoints"
        self.figures = directory / "figures"
        self.stop_requested = False
        self.ending = False  # with other ranks: what ended the run is being told, and torchrun's SIGTERM is no news
        self.stop_signal: int | None = None
        self._stop_time = 0.0
        self._finishes_steps = False
        self._metrics = metrics or JsonlSink(directory / "metrics.jsonl")
        self._wandb: WandbSink | None = None
        self._status_lock = threading.Lock()  # of the loop and the heartbeat's thread
        self.manifest: dict[str, Any] = {}

    # Metrics ---------------------------------------------------------------------------------------------------

    def log(self, metrics: Mapping[str, Any], **position: int | float) -> None:
        """Record a row: metric paths to numbers, and where on the x-axis it stands (`tokens=...` or `step=...`)."""
        row = {"time": round(time.time(), 3), **position, **metrics}
        self._metrics.write(row)
        self._to_wandb("write", row)

    def log_media(self, media: Mapping[str, Any]) -> None:
        """Send W&B tables or images; they are not part of the JSONL record."""
        self._to_wandb("write_media", media)

    def metrics_position(self) -> int:
        """How far `metrics.jsonl` has been written, for a checkpoint."""
        return self._metrics.position()

    def resume_metrics(self, position: int) -> None:
        """Drop the rows that came after the checkpoint which recorded `position`; missing ones are told."""
        missing = self._metrics.cut_back_to(position)
        if missing:
            logger.warning("metrics.jsonl lost %d bytes of rows before the checkpoint", missing)
            self.console.print(f"[yellow]metrics.jsonl had lost {missing:,} bytes: its record has a gap[/]")
            self.add_to_manifest(metrics_bytes_lost=self.manifest.get("metrics_bytes_lost", 0) + missing)

    def _to_wandb(self, method: str, payload: Mapping[str, Any]) -> None:
        if self._wandb is None:
            return
        try:
            getattr(self._wandb, method)(payload)
        except Exception as error:
            self._wandb = None
            self._tell_lost_wandb("failed and is left out from here on; metrics.jsonl goes on", error)

    def _tell_lost_wandb(self, what: str, error: Exception) -> None:
        logger.warning("W&B %s", what, exc_info=error)
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        self.console.print(f"[yellow]W&B {what} ({escape(reason)})[/]", highlight=False)
        if isinstance(error, ConnectionError):
            leave_wandb_service()

    # Progress and status ---------------------------------------------------------------------------------------

    @contextmanager
    def progress(self, description: str, total: int | None, completed: int = 0) -> Iterator[RunProgress]:
        """A progress bar with time left: `with run.progress("training", steps) as bar: bar.advance(1, loss="3.1")`."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[details]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=not self.console.is_terminal) as bar:
            task = bar.add_task(description, total=total, completed=completed, details="")
            yield RunProgress(bar, task)

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Inside, a thread says in `status.json` every few seconds that the run is alive, whatever it is doing."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(HEARTBEAT_SECONDS):
                with suppress(OSError):  # a full disk is reported by the loop itself
                    self.write_status(RunState.running)

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def write_status(self, state: RunState, **facts: Any) -> None:
        """Replace `status.json`."""
        process = {"host": socket.gethostname(), "pid": os.getpid()}  # a pid means nothing on another node
        status = {"state": state, "heartbeat": now(), **process, "attempt": self.attempt, **facts}
        with self._status_lock:
            try:
                write_json(self.directory / "status.json", status)
            except OSError:
                if state is RunState.running:
                    raise
                write_in_place(self.directory / "status.json", json.dumps(status, indent=2) + "\n")

    @contextmanager
    def finishing_steps(self) -> Iterator[None]:
        """Inside, a first Ctrl-C or SIGTERM only sets `stop_requested`: the loop saves and raises KeyboardInterrupt."""
        self._finishes_steps = True
        try:
            yield
        finally:
            self._finishes_steps = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.ending:
            return
        if self.stop_requested and time.monotonic() - self._stop_time < ONE_SIGNAL_SECONDS:
            return
        self.stop_signal = number
        if self._finishes_steps and not self.stop_requested:
            self.stop_requested, self._stop_time = True, time.monotonic()
            self.console.print("stopping: finishing this step and saving (again to stop at once)")
            return
        raise KeyboardInterrupt

    # Files -----------------------------------------------------------------------------------------------------

    def write_json(self, name: str, value: Any) -> Path:
        """Write a JSON file into the run directory, whole or not at all."""
        write_json(self.directory / name, value)
        return self.directory / name

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`, and raise FloatingPointError where the objective of the run is not a finite number.

        Other numbers that are NaN or infinite become null, and are named on the screen and in the manifest: a metric
        that is not defined for a run is None, not NaN.
        """
        self.write_json("summary.json", summary)
        numbers = {key: value for key, value in flatten(dict(summary)).items() if isinstance(value, float)}
        broken = sorted(key for key, value in numbers.items() if not math.isfinite(value) and key != "objective")
        objective = summary.get("objective", 0.0)
        if objective is None or not math.isfinite(objective):
            others = f", as are {', '.join(broken)}" if broken else ""
            raise FloatingPointError(f"the objective of the run is {objective}, not a finite number{others}")
        if broken:
            self.add_to_manifest(not_finite=broken)
            self.console.print(f"[yellow]not finite, null in summary.json: {escape(', '.join(broken))}[/]")

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file into the run directory, whole or not at all."""
        write_text(self.directory / name, text)
        return self.directory / name

    def keep_code(self, files: Sequence[Path]) -> None:
        """Copies of the user's own modules that this run calls, in `code/`."""
        for file in files:
            target = self.directory / "code" / file.name
            target.parent.mkdir(exist_ok=True)
            write_text(target, file.read_text(encoding="utf-8"))

    def add_to_manifest(self, **facts: Any) -> None:
        """Record facts that became known during the run: data fingerprints, device, parameters."""
        self.manifest.update(facts)
        write_json(self.directory / "manifest.json", self.manifest)

    def start_wandb(self, config: Mapping[str, Any], tracking: Mapping[str, Any], group: str | None) -> None:
        """Open the W&B sink as `tracking` asks; a failure is a warning."""
        try:
            mode = choose_wandb_mode(str(tracking["mode"]))
            if mode == "disabled":
                return
            self._wandb = WandbSink(
                self.directory,
                mode=mode,
                project=str(tracking["project"]),
                run_id=self.id,
                name=f"{self.experiment}-{self.id}",
                group=tracking.get("group") or group,
                job_type=self.experiment,
                tags=list(tracking.get("tags") or []),
                config=config,
                step_name=str(tracking["step_name"]),
            )
        except Exception as error:
            logger.warning("W&B could not start", exc_info=True)
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            self.console.print(
                f"[yellow]W&B could not start ({escape(reason)}); metrics.jsonl is written all the same[/]"
            )

    def close(self, state: RunState, summary: Mapping[str, Any], **facts: Any) -> None:
        """End the run in `state`: sinks and manifest first, the status last. Each is tried, whatever another raises."""
        with ExitStack() as steps:  # the last one pushed goes first
            steps.callback(self.write_status, state, **facts)
            steps.callback(self.add_to_manifest, ended=now(), exit_reason=facts.get("reason", str(state)))
            steps.callback(self._metrics.close)
            steps.callback(self._close_wandb, 0 if state is RunState.finished else 1, summary)

    def _close_wandb(self, exit_code: int, summary: Mapping[str, Any]) -> None:
        sink, self._wandb = self._wandb, None
        if sink is None:
            return
        try:
            sink.close(exit_code=exit_code, summary=summary)
        except Exception as error:
            self._tell_lost_wandb("could not be finished; metrics.jsonl is complete", error)


class RunProgress:
    """A progress bar of a run."""

    def __init__(self, bar: Progress, task: Any) -> None:
        self._bar, self._task = bar, task

    def advance(self, steps: int = 1, **details: object) -> None:
        """Move on by `steps`; `details` are shown beside the bar (`loss="3.1"`)."""
        self._bar.update(self._task, advance=steps)
        if details:
            text = "  ".join(f"{name.replace('_', ' ')} {value}" for name, value in details.items())
            self._bar.update(self._task, details=text)

    def show(self, completed: int, total: int) -> None:
        """Stand at `completed` of `total`: the form of progress that rooms report."""
        self._bar.update(self._task, completed=completed, total=total)


def read_status(directory: Path) -> dict[str, Any] | None:
    """The status of a run directory, or None where there is none; a damaged file counts as `failed`."""
    path = directory / "status.json"
    try:
        status = read_json(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        return {"state": RunState.failed, "reason": str(error)}
    state = status.get("state") if isinstance(status, dict) else None
    if not isinstance(state, str):
        return {"state": RunState.failed, "reason": f"{path} was damaged: it names no state"}
    if state not in set(RunState):
        return {"state": RunState.failed, "reason": f"{path} names a state that this version does not know: {state!r}"}
    return status


def owner_of(status: Mapping[str, Any]) -> str:
    """The process that wrote a status, in words: `process 12 on node7`."""
    if "pid" not in status:
        return "another process"
    return f"process {status['pid']} on {status.get('host', 'an unknown host')}"


@contextmanager
def open_run(
    *,
    output_dir: Path,
    experiment: str,
    run_id: str,
    seed: int,
    config: Mapping[str, Any],
    config_yaml: str,
    overrides_yaml: str,
    tracking: Mapping[str, Any],
    group: str | None = None,
    force: bool = False,
    console: Console | None = None,
    ranks: Ranks | None = None,
) -> Iterator[Run]:
    """Take a run directory, and leave it finished, failed or interrupted.

    Raises RunBusy when another process has it. `force` clears what an earlier attempt left. The body's exceptions
    pass through after they have been recorded; its summary is what it writes as `summary.json`.
    """
    directory = output_dir / experiment / run_id
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        holder = owner_of(read_status(directory) or {})
        raise RunBusy(f"run {run_id} is being worked on by {holder}: see {directory / 'status.json'}") from None
    try:
        if force:
            _clear(directory)
        for leftover in directory.glob(".*.tmp"):  # of a killed process: the lock is ours
            leftover.unlink()
        for name in ("checkpoints", "figures", "logs"):
            (directory / name).mkdir(exist_ok=True)
        attempt = 1 + len(list((directory / "logs").glob("attempt_*.log")))
        write_text(directory / "config.yaml", config_yaml)
        write_text(directory / "overrides.yaml", overrides_yaml)
        run = Run(
            directory,
            run_id=run_id,
            experiment=experiment,
            seed=seed,
            artifacts=ArtifactStore(output_dir / "artifacts"),
            console=console or Console(),
            attempt=attempt,
            ranks=ranks,
        )
        run.write_status(RunState.running)
        identity = {
            "run_id": run_id,
            "experiment": experiment,
            "seed": seed,
            "attempt": attempt,
            "started": now(),
        }
        run.add_to_manifest(**identity, config_hash=content_hash(config), **describe_environment())
        with logging_to(directory / "logs" / f"attempt_{attempt}.log"), signals_to(run):
            run.start_wandb(config, tracking, group)
            yield from _guarded(run)
    finally:
        lock.release()


def _guarded(run: Run) -> Iterator[Run]:
    try:
        with run.beating():
            yield run
    except BaseException as raised:
        run.ending = run.ranks.size > 1
        error = run.ranks.cause_of(raised)
        if isinstance(error, KeyboardInterrupt | SystemExit):
            # rich exits when nobody reads its output any more: `rl-exp train ... | head`
            cause = "a signal" if isinstance(error, KeyboardInterrupt) else "the end of its output"
            logger.info("interrupted by %s", cause)
            _close_after(run, RunState.interrupted, f"interrupted by {cause}; the same command continues it")
        else:
            logger.exception("the run failed")
            _close_after(run, RunState.failed, f"{type(error).__name__}: {error}")
        if error is raised:
            raise
        raise error from raised
    summary_path = run.directory / "summary.json"
    try:
        run.close(RunState.finished, read_json(summary_path) if summary_path.exists() else {})
    except OSError as error:
        _close_after(run, RunState.failed, f"{type(error).__name__}: {error}")
        raise


def _close_after(run: Run, state: RunState, reason: str) -> None:
    """Close a run whose error is about to be raised: what fails here (the disk is still full) must not mask it."""
    try:
        run.close(state, {}, reason=reason)
    except OSError:
        logger.exception("the run directory could not be completed")


def _clear(directory: Path) -> None:
    for entry in directory.iterdir():
        if entry.name == ".lock":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Inside, all log records of this process also go to the file."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        with suppress(OSError):  # the disk is full: what ended the run must not be masked by its log
            handler.close()


@contextmanager
def signals_to(run: Run) -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM are the run's."""
    # Python allows signal handlers in the main thread only; a launcher may run jobs elsewhere.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asks = [number for number in ASKS_TO_MAKE_ROOM if callable(signal.getsignal(number))]  # a launcher listens
    numbers = (signal.SIGINT, signal.SIGTERM, *asks)
    previous = {number: signal.signal(number, run._on_signal) for number in numbers}
    interrupted = False
    try:
        yield
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_IGN if run.ending else handler)
        if interrupted and run.stop_signal is not None and run.stop_signal in asks:
            signal.raise_signal(run.stop_signal)  # all is saved: the launcher queues the job again
