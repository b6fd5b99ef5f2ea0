"""SIGKILL at many random moments over `train`, `rlhf` and a sweep; what is left must end as an undisturbed run does.

    export PYTHONPATH=.:tests
    python tests/faults/hundred_kills.py --kills 100 --output outputs/reference/faults/hundred_kills.json

Method. Each command runs once undisturbed. Then, in a fresh folder, the same command is started and killed again and
again, either a random time after its start or when its process begins to save a checkpoint, until it gets through or
its kills are used up; then it may end, and every run that it left is compared with the undisturbed one: the weights
byte for byte, the rows of metrics.jsonl and the summaries without what depends on the clock. All processes are real;
they are forked from one that has imported torch and transformers, so that a kill costs no start of Python.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rlhf_cases import tiny_rlhf
from train_cases import tiny_training

from experiments.runs.files import read_json, write_json
from experiments.runs.manifest import describe_environment, now
from experiments.runs.run import read_status

CLOCK = {"time", "train/tokens_per_second", "policy_gradient/completions_per_second"}
CLOCK |= {"tokens_per_second", "completions_per_second", "training_seconds"}
ROUNDS_AT_ONCE = 2
KILLS_A_SERIES = 8
SAVE_SECONDS = 0.01  # about what a save takes here: a kill aimed at one comes within this time of its beginning
PRELOADED = ["cli.main", "cli.perform", "conf.compose", "experiments.train", "experiments.rlhf"]

# The share of the kills that each command gets, and the words of the command.
COMMANDS: dict[str, tuple[float, Callable[[Path], list[str]]]] = {
    "train": (0.4, lambda text: ["train", *tiny_training(text, "training.tokens=24576")]),
    "rlhf": (0.3, lambda text: ["rlhf", *tiny_rlhf(text, "policy_gradient.steps=30")]),
    "sweep": (
        0.3,
        lambda text: ["train", *tiny_training(text, "-m", "attention=gqa,gla", "seed=0,1", "training.tokens=8192")],
    ),
}


# One process --------------------------------------------------------------------------------------------------------


def perform(words: list[str], folder: Path) -> None:
    """The body of a process: `rl-exp <words>` in `folder`, its output in a file there."""
    os.chdir(folder)
    log = os.open("output.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["rl-exp", *words]
    from cli.main import main

    main()


def start(words: list[str], folder: Path) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=perform, args=(words, folder))
    process.start()
    return process


def half_made(folder: Path, pid: int) -> list[str]:
    """What the process `pid` was writing when it was killed: names below outputs/, without the process's number."""
    ends = (f".{pid}.tmp", f"-{pid}.tmp")
    found = [path for path in (folder / "outputs").rglob(".*.tmp") if path.name.endswith(ends)]
    mark = re.compile(rf"\.[^./]*{pid}\.tmp$")  # an artifact's has the host too
    return sorted(mark.sub(".tmp", str(path.relative_to(folder / "outputs"))) for path in found)


def saves_of(folder: Path, pid: int) -> set[str]:
    """The checkpoint folders that the process is filling: one at most."""
    return {path.name for path in (folder / "outputs").glob(f"*/*/checkpoints/.step_*.{pid}.tmp")}


def wait_for_save(process: BaseProcess, folder: Path, count: int) -> None:
    """Until the process begins its `count`th save, or ends."""
    seen: set[str] = set()
    while len(seen) < count and process.exitcode is None:
        seen |= saves_of(folder, process.pid or 0)
        time.sleep(0.0003)


# What a command left ------------------------------------------------------------------------------------------------


def without_clock(value: Any) -> Any:
    """A JSON value without the numbers that depend on the clock."""
    if isinstance(value, Mapping):
        return {key: without_clock(item) for key, item in value.items() if key not in CLOCK}
    return [without_clock(item) for item in value] if isinstance(value, list) else value


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [without_clock(json.loads(line)) for line in (run / "metrics.jsonl").read_text().splitlines()]


def differences(straight: Path, killed: Path) -> list[str]:
    """What is not the same in the runs of two folders, in words; empty where they are equal."""
    found = []
    names = [
        sorted(str(path.parent.relative_to(folder)) for path in folder.glob("outputs/*/*/status.json"))
        for folder in (straight, killed)
    ]
    if not names[0] or names[0] != names[1]:
        return [f"other runs: {names[1]} instead of {names[0]}"]
    for name in names[0]:
        a, b = straight / name, killed / name
        if (read_status(b) or {}).get("state") != "finished":
            found.append(f"{name} is not finished")
            continue
        if (a / "model/model.safetensors").read_bytes() != (b / "model/model.safetensors").read_bytes():
            found.append(f"{name}: other weights")
        if rows_of(a) != rows_of(b):
            found.append(f"{name}: other rows in metrics.jsonl")
        if without_clock(read_json(a / "summary.json")) != without_clock(read_json(b / "summary.json")):
            found.append(f"{name}: another summary.json")
    for path in straight.glob("outputs/sweeps/*/comparison.json"):
        other = killed / path.relative_to(straight)
        if not other.is_file() or without_clock(read_json(path)) != without_clock(read_json(other)):
            found.append(f"{path.parent.name}: another comparison")
    found += [f"left behind: {path.relative_to(killed)}" for path in killed.rglob(".*.tmp")]
    return found


def place_of(folder: Path, pid: int) -> dict[str, Any]:
    """Where the process was when it was killed: its run, the last row's step, the newest whole checkpoint."""
    mine = [
        status
        for status in (folder / "outputs").glob("*/*/status.json")
        if (facts := read_status(status.parent) or {}).get("pid") == pid and facts["state"] == "running"
    ]
    if not mine:
        return {"run": None, "step": None, "checkpoint": None}
    run = max(mine, key=lambda path: path.stat().st_mtime_ns).parent  # a policy is trained within a run of rlhf
    metrics = run / "metrics.jsonl"
    rows = [line for line in metrics.read_text().splitlines() if line.endswith("}")] if metrics.is_file() else []
    saved = sorted(path.parent.name for path in run.glob("checkpoints/step_*/MANIFEST.json"))
    return {
        "run": f"{run.parent.name}/{run.name}",
        "step": json.loads(rows[-1])["step"] if rows else None,
        "checkpoint": int(saved[-1].removeprefix("step_")) if saved else None,
    }


# Kills --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Straight:
    """A command that ran undisturbed."""

    command: str
    words: list[str]  # the same for all that are killed: the text is written once
    folder: Path  # of all its runs; this one's is `straight` in it
    seconds: float


@dataclass(frozen=True)
class Series:
    """Some of the kills of one command; seed and number decide their moments."""

    straight: Straight
    number: int
    kills: int
    seed: int


def run_straight(command: str, root: Path) -> Straight:
    """Write the command's text and run it undisturbed. RuntimeError where it fails."""
    folder = root / command / "straight"
    folder.mkdir(parents=True)
    words = COMMANDS[command][1](root / command)
    start(["--version"], folder).join()  # the process that all others are forked from imports torch
    began = time.monotonic()
    process = start(words, folder)
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"the undisturbed {command} ended with {process.exitcode}: see {folder}/output.log")
    return Straight(command, words, root / command, time.monotonic() - began)


def kill_series(series: Series) -> dict[str, list[dict[str, Any]]]:
    """Start, kill, start again; returns the kills and the rounds, each of which ended with a comparison."""
    straight = series.straight
    draw = random.Random(f"{series.seed}/{straight.command}/{series.number}")
    kills: list[dict[str, Any]] = []
    rounds: list[dict[str, Any]] = []
    while len(kills) < series.kills:
        facts = {"command": straight.command, "series": series.number, "round": len(rounds) + 1}
        folder = straight.folder / f"series_{series.number}_{len(rounds) + 1}"
        folder.mkdir()
        before, exit_code = len(kills), None
        while exit_code is None:
            process = start(straight.words, folder)
            began = time.monotonic()
            if len(kills) < series.kills:
                aimed = aim(process, folder, draw, straight.seconds)
                process.kill()
                seconds = time.monotonic() - began
            process.join()
            if process.exitcode != -9:
                exit_code = process.exitcode
                continue
            left = half_made(folder, process.pid or 0)
            kills.append(
                {
                    **facts,
                    "aimed_at": aimed,
                    "seconds_after_start": round(seconds, 3),
                    **place_of(folder, process.pid or 0),
                    "inside_a_save": any("checkpoints/.step_" in name for name in left),
                    "half_made": left,
                }
            )
        rounds.append(
            {
                **facts,
                "kills": len(kills) - before,
                "exit_code": exit_code,
                "differences": differences(straight.folder / "straight", folder),
            }
        )
    return {"kills": kills, "rounds": rounds}


def aim(process: BaseProcess, folder: Path, draw: random.Random, straight_seconds: float) -> str:
    """Wait for the moment of the next kill; returns what was aimed at. The process may end before."""
    if draw.random() < 0.5:
        process.join(draw.uniform(0, 0.9 * straight_seconds))
        return "any moment"
    wait_for_save(process, folder, draw.randint(1, 6))
    time.sleep(draw.uniform(0, SAVE_SECONDS))
    return "a save"


# All of it ----------------------------------------------------------------------------------------------------------


def verdict(result: Mapping[str, Any]) -> dict[str, Any]:
    """What kills and rounds say: it holds where every round ended equal to the undisturbed run, with exit code 0."""
    kills, rounds = result["kills"], result["rounds"]
    unequal = [entry for entry in rounds if entry["differences"] or entry["exit_code"] != 0]
    return {
        "kills": len(kills),
        "kills_of": {name: sum(kill["command"] == name for kill in kills) for name in COMMANDS},
        "inside_a_save": sum(kill["inside_a_save"] for kill in kills),
        "inside_another_write": sum(bool(kill["half_made"]) and not kill["inside_a_save"] for kill in kills),
        "rounds_compared": len(rounds),
        "rounds_unequal": len(unequal),
        "every_kill_compared": sum(entry["kills"] for entry in rounds) == len(kills),
        "holds": bool(rounds) and not unequal and sum(entry["kills"] for entry in rounds) == len(kills),
    }


def plan(kills: int, seed: int, straight: Sequence[Straight]) -> list[Series]:
    """The kills of every command in series of a few."""
    result = []
    for command in straight:
        left, number = round(kills * COMMANDS[command.command][0]), 0
        while left > 0:
            number += 1
            some = min(left, KILLS_A_SERIES)
            result.append(Series(command, number, some, seed))
            left -= some
    return result


def kill_many(kills: int, seed: int, root: Path) -> dict[str, Any]:
    """The whole experiment in the folder `root`, as a JSON document."""
    began, made_by = time.monotonic(), {"started": now(), **describe_environment()}
    with ProcessPoolExecutor(ROUNDS_AT_ONCE, mp_context=multiprocessing.get_context("spawn")) as pool:
        straight = list(pool.map(run_straight, COMMANDS, [root] * len(COMMANDS)))
        parts = list(pool.map(kill_series, plan(kills, seed, straight)))
    result: dict[str, Any] = {
        "verdict": {},
        "seed": seed,
        "seconds": round(time.monotonic() - began),
        "seconds_of_an_undisturbed_command": {one.command: round(one.seconds, 1) for one in straight},
        "settings": {
            one.command: [word for word in one.words if not word.startswith("data.path=")] for one in straight
        },
        **made_by,
        "rounds": [entry for part in parts for entry in part["rounds"]],
        "kills": [entry for part in parts for entry in part["kills"]],
    }
    return result | {"verdict": verdict(result)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--keep", type=Path, help="work in this new folder, and keep it")
    arguments = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.keep or Path(temporary)
        root.mkdir(parents=True, exist_ok=True)
        result = kill_many(arguments.kills, arguments.seed, root.resolve())
    write_json(arguments.output, result)
    print(json.dumps(result["verdict"], indent=2))
    sys.exit(0 if result["verdict"]["holds"] else 1)


if __name__ == "__main__":
    main()
