"""Keep a small result under outputs/reference/, with what made it.

    python -m experiments.reports.publish outputs/sweeps/train-<id> outputs/reference/train/mechanisms
    python -m experiments.reports.publish outputs/controlled/<run id> outputs/reference/controlled/teacher_bandit

Copies the result's JSON and text files and its figures (no weights, no metrics, nothing above a megabyte), and writes
`provenance.json`: the command, the settings, versions, machine, commit and date of the runs behind it.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.runs.files import read_json, write_json
from experiments.runs.sweeps import read_sweep

CHECKOUT = Path(__file__).resolve().parents[2]

KEPT = (
    "comparison.json",
    "statements.json",
    "reading.txt",
    "results.json",
    "summary.json",
    "figures/*.png",
    "figures/captions.json",
    "samples.txt",
)
LARGEST_FILE = 1_000_000  # bytes
PROVENANCE = ("experiment", "run_id", "seed", "started", "ended", "versions", "machine", "git", "command")


def publish(result: Path, destination: Path) -> list[Path]:
    """Copy the small files of a run or sweep directory. ValueError where it is neither, or is not finished."""
    output = result.resolve().parent.parent
    if (result / "sweep.json").is_file():
        sweep = read_sweep(result)
        runs = list(sweep.runs)
        made_by: dict[str, Any] = {"command": portable(["rl-exp", sweep.command, "-m", *sweep.overrides], output)}
    elif (result / "manifest.json").is_file():
        runs, made_by = [result], {}
    else:
        raise ValueError(
            f"{result} is neither a run nor a sweep: use outputs/<experiment>/<run id> or outputs/sweeps/<id>"
        )
    manifests = [read_json(run / "manifest.json") for run in runs]
    unfinished = [
        run.name for run, manifest in zip(runs, manifests, strict=True) if manifest.get("exit_reason") != "finished"
    ]
    if unfinished:
        raise ValueError(f"{', '.join(unfinished)} did not finish: run the same command again first")
    copied = []
    for pattern in KEPT:
        for file in sorted(result.glob(pattern)):
            if file.stat().st_size <= LARGEST_FILE:
                target = destination / file.relative_to(result)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
                copied.append(target)
    facts = [{name: manifest.get(name) for name in PROVENANCE if name in manifest} for manifest in manifests]
    for fact in facts:
        if "command" in fact:
            fact["command"] = portable(fact["command"], output)
    write_json(destination / "provenance.json", made_by | {"runs": facts if len(facts) == 1 else _shared(facts)})
    return [*copied, destination / "provenance.json"]


def portable(command: Sequence[str], output: Path) -> list[str]:
    """A command line whose paths below the checkout, or beside the output folder, are relative to where they lie."""
    folders = sorted((str(CHECKOUT), str(output.parent)), key=len, reverse=True)
    words = []
    for word in command:
        name, sign, value = word.partition("=")
        head, path = (name + sign, value) if sign else ("", word)
        for folder in folders:
            path = "." if path == folder else path.removeprefix(f"{folder.rstrip('/')}/")
        words.append(head + path)
    return words


def _shared(facts: list[dict[str, Any]]) -> dict[str, Any]:
    """What all runs have in common once, the rest as lists in the order of the runs."""
    return {
        name: facts[0].get(name)
        if all(f.get(name) == facts[0].get(name) for f in facts)
        else [f.get(name) for f in facts]
        for name in PROVENANCE
        if name not in ("machine", "command")
    } | {"machine": facts[0].get("machine")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="a run or sweep directory")
    parser.add_argument("destination", type=Path, help="a folder below outputs/reference/")
    arguments = parser.parse_args()
    try:
        for path in publish(arguments.result, arguments.destination):
            print(path)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
