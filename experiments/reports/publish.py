"""Keep a small result under outputs/reference/, with what made it.

    python -m experiments.reports.publish outputs/sweeps/train-<id> outputs/reference/train/mechanisms
    python -m experiments.reports.publish outputs/controlled/<run id> outputs/reference/controlled/teacher_bandit

Copies the result's JSON and text files and its figures (no weights, no metrics, nothing above a megabyte), and writes
`provenance.json`: the command, the settings, versions, machine, commit and date of the runs behind it.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from experiments.runs.files import read_json, write_json

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
    if (result / "sweep.json").is_file():
        sweep = read_json(result / "sweep.json")
        folder = result.parent.parent / sweep.get("experiment", sweep["command"])
        runs = [folder / job["run_id"] for job in sweep["jobs"]]
        made_by: dict[str, Any] = {"command": ["rl-exp", sweep["command"], "-m", *sweep["overrides"]]}
    elif (result / "manifest.json").is_file():
        runs, made_by = [result], {}
    else:
        raise ValueError(f"{result} is no run and no sweep: name a folder in outputs/<experiment>/ or outputs/sweeps/")
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
    write_json(destination / "provenance.json", made_by | {"runs": facts if len(facts) == 1 else _shared(facts)})
    return [*copied, destination / "provenance.json"]


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
