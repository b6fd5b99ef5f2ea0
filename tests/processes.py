"""Processes that cost a fork: they come from one process that has imported torch and the experiments.

    process = start(folder, "train", *words)      # `rl-exp train ...` in `folder`; process.pid, .returncode, .end()
    result = run(folder, "train", *words)         # to its end: .returncode, .stdout, .stderr
    result = run_ranks(folder, "train", *words)   # the same as two ranks, that one may kill

A real interpreter is started where the start itself is the claim, and by launchers, which start their own.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

PRELOADED = ["pytest", "cli.main", "cli.perform", "conf.compose", "experiments.train", "experiments.rlhf"]
FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload(PRELOADED)
LIMIT = 600  # seconds; far more than any test needs on a busy machine


def _perform(words: tuple[str, ...], folder: str, environment: Mapping[str, str], program: str | None, log: str):
    """The body of a process: `rl-exp <words>`, or the code `program` instead, which gets the words as arguments."""
    os.setsid()
    for stream, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{log}/{name}", os.O_WRONLY | os.O_APPEND | os.O_CREAT), stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["rl-exp", *words]
    code: object = 0
    try:
        exec(compile(program or "from cli.main import main; main()", "program", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    # As an interpreter ends; a process of multiprocessing would wait for launchers' workers, and tell none to go.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


class Started:
    """A process, and what it has printed."""

    def __init__(self, folder: Path, words: tuple[str, ...], environment: Mapping[str, str], program: str | None):
        self._log = tempfile.TemporaryDirectory()
        environment = os.environ | {"COLUMNS": "200"} | dict(environment)
        self.words, self.folder = words, folder
        self.process = FORK_SERVER.Process(
            target=_perform, args=(words, str(folder), environment, program, self._log.name)
        )
        self.process.start()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def running(self) -> bool:
        return self.process.exitcode is None

    def a_run_at_work(self) -> dict[str, Any]:
        """The status of a run of its that has written a checkpoint; AssertionError where it ends before."""
        while self.running():
            for path in (self.folder / "outputs" / "train").glob("*/status.json"):
                status = json.loads(path.read_text())
                if status["state"] == "running" and any((path.parent / "checkpoints").iterdir()):
                    return status
            self.process.join(0.02)
        raise AssertionError(self.end())

    def end(self) -> subprocess.CompletedProcess[str]:
        """Wait for its end."""
        self.process.join(LIMIT)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        texts = [Path(self._log.name, name) for name in ("stdout", "stderr")]
        output, errors = (path.read_text() if path.exists() else "" for path in texts)
        return subprocess.CompletedProcess(self.words, self.process.exitcode or 0, output, errors)


def start(folder: Path, *words: str, program: str | None = None, **environment: str) -> Started:
    """`rl-exp <words>` in `folder`, in a session of its own."""
    return Started(folder, words, environment, program)


def run(folder: Path, *words: str, program: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """The same, to its end."""
    return start(folder, *words, program=program, **environment).end()


def run_ranks(
    folder: Path, *words: str, ranks: int = 2, program: str | None = None
) -> subprocess.CompletedProcess[str]:
    """The same as `ranks` ranks, with what torchrun does for them: an address, a store, SIGTERM once one has failed."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(ranks)}
    environment |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    started = [
        start(folder, *words, program=program, RANK=str(rank), LOCAL_RANK=str(rank), **environment)
        for rank in range(ranks)
    ]
    while left := [one for one in started if one.running()]:
        if not wait([one.process.sentinel for one in left], LIMIT) or any(one.process.exitcode for one in started):
            for one in left:
                one.process.terminate()
            break
    ended = [one.end() for one in started]
    output, errors = ("".join(getattr(one, name) for one in ended) for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess(words, int(any(one.returncode for one in ended)), output, errors)
