"""The evidence behind the ledger of claims: found among runs and published results, and judged by statements.

    rl-exp report claims                   all claims of conf/claim/
    rl-exp report claims --run gta         make the evidence of one claim, from nothing

Evidence is what the command of a claim leaves. Among local runs it is a finished run with exactly the command's
settings, or a sweep of its overrides; seeds, threads, devices and tracking may differ. Of several the one of most runs
counts, then the newest; what is published under outputs/reference/ takes part. Nothing is computed here but verdicts.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from conf.claim_config import STATEMENTS, ClaimConfig, EvidenceConfig, load_claims, require_claim
from conf.commands import COMMANDS, Command
from conf.compose import plain, plan_jobs
from conf.override_rules import UserError
from experiments.reports.claims import Entry, Evidence, Part
from experiments.reports.run_records import RunRecord, read_record, run_directories
from experiments.runs.files import read_json
from experiments.runs.identity import NOT_IDENTITY, flatten
from experiments.runs.run import RunState
from experiments.runs.sweeps import read_sweep

PUBLISHED = Path(__file__).resolve().parent.parent / "outputs" / "reference"
FREE = ("seed", "threads", "device", *NOT_IDENTITY)  # may differ between a claim's command and its evidence
SWEEPING = ("rlhf-sweep",)  # commands that sweep without -m
DEFAULT_PRESET = "small"  # of conf/rlhf_sweep.yaml


def ledger(output_dir: Path, names: Sequence[str] = ()) -> list[Entry]:
    """The entries of all claims, or of those named. ValueError for a name that is no claim."""
    claims = load_claims()
    chosen = {name: require_claim(name, claims) for name in names} if names else claims
    records: dict[str, list[RunRecord]] = {}
    return [entry(name, claim, output_dir, records) for name, claim in chosen.items()]


def entry(name: str, claim: ClaimConfig, output_dir: Path, records: dict[str, list[RunRecord]]) -> Entry:
    """One claim, judged. `records` keeps what was read of each experiment's runs."""
    evidence, parts = [], []
    for key, config in claim.evidence.items():
        found, document = find_evidence(key, config, output_dir, records)
        evidence.append(found)
        for statement in (STATEMENTS[name] for name in config.statements):
            findings = None if found.place is None else tuple(statement.found_in(document))
            parts.append(Part(statement, found, findings))
    return Entry(
        name, claim.title, claim.statement, claim.paper, claim.source, claim.published, tuple(evidence), tuple(parts)
    )


def where_published_results_are(output_dir: Path) -> str | None:
    """One line for who has none of them, as outside of a checkout; None where they are found."""
    if any(root.is_dir() for root in (output_dir / "reference", PUBLISHED)):
        return None
    return (
        "the published results are not installed: they are in outputs/reference/ of a checkout of rl-exp; run this "
        f"there, or copy that folder to {output_dir / 'reference'}"
    )


def commands_of(name: str) -> list[list[str]]:
    """The commands that make the evidence of `claim` or `claim/evidence`, without the leading `rl-exp`."""
    claim_name, _, only = name.partition("/")
    claim = require_claim(claim_name, load_claims())
    if only and only not in claim.evidence:
        raise ValueError(f"claim {claim_name} has no evidence {only}: there is {', '.join(claim.evidence)}")
    wanted = [config.command for key, config in claim.evidence.items() if not only or key == only]
    return [shlex.split(command)[1:] for command in dict.fromkeys(wanted)]


def figure_places(output_dir: Path, *, most_runs: int | None = None) -> list[Path]:
    """Folders that have figures: sweeps and comparisons first, then runs (the newest), then published results."""
    sweeps = [path for path in _folders(output_dir / "sweeps") if (path / "figures").is_dir()]
    runs = [path for path in run_directories(output_dir) if _has_figures(path)]
    runs.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    root = next((root for root in (output_dir / "reference", PUBLISHED) if root.is_dir()), None)
    published = [] if root is None else sorted(path.parent for path in root.rglob("figures") if path.is_dir())
    return [*sweeps, *runs[:most_runs], *published]


def _folders(folder: Path) -> list[Path]:
    """Sorted; none where the folder is missing or may not be read."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def _has_figures(run: Path) -> bool:
    try:
        return any(name.endswith(".png") for name in os.listdir(run / "figures"))
    except OSError:
        return False


def find_evidence(
    key: str, config: EvidenceConfig, output_dir: Path, records: dict[str, list[RunRecord]]
) -> tuple[Evidence, Any]:
    """The best evidence, and the document in its file; a damaged candidate is named and passed over."""
    problems = []
    candidates = sorted(_candidates(config, output_dir, records), key=lambda item: item[:3], reverse=True)
    for _, _, date, place, run_ids in candidates:
        try:
            document = read_json(place / config.file)
        except FileNotFoundError:
            continue
        except (OSError, ValueError):
            problems.append(f"{place / config.file} is damaged and was passed over")
            continue
        figure = place / "figures" / f"{config.figure}.png"
        published = PUBLISHED in place.parents or (output_dir / "reference") in place.parents
        found = Evidence(
            key, config.scale, config.command, place, published, tuple(run_ids), date,
            figure if config.figure and figure.is_file() else None, "; ".join(problems),
        )  # fmt: skip
        return found, document
    return Evidence(key, config.scale, config.command, problem="; ".join(problems)), None


Candidate = tuple[int, bool, str, Path, list[str]]  # finished runs, local, date, place, run ids


def _candidates(config: EvidenceConfig, output_dir: Path, records: dict[str, list[RunRecord]]) -> Iterator[Candidate]:
    for command_line, reference in {config.command: config.reference, **config.alternatives}.items():
        words = shlex.split(command_line)[1:]
        command = COMMANDS[words[0]]
        if "-m" in words or command.name in SWEEPING:
            yield from _sweeps(command, [word for word in words[1:] if word != "-m"], output_dir)
        else:
            yield from _runs(command, words[1:], output_dir, records)
        for root in dict.fromkeys((output_dir / "reference", PUBLISHED)):
            place = root / reference
            if (place / config.file).is_file():
                ids, date = _provenance(place)
                yield len(ids), False, date, place, ids
                break


def _sweeps(command: Command, overrides: list[str], output_dir: Path) -> Iterator[Candidate]:
    wanted = _bound(command, overrides)
    for path in sorted((output_dir / "sweeps").glob("*/sweep.json")):
        try:
            sweep = read_sweep(path.parent)
        except ValueError:
            continue
        if sweep.command != command.name or _bound(command, sweep.overrides) != wanted:
            continue
        finished = [record for record in map(read_record, sweep.runs) if record.state == RunState.finished]
        if finished:
            yield len(finished), True, max(_date(r.manifest) for r in finished), path.parent, [r.id for r in finished]


def _bound(command: Command, overrides: Iterable[str]) -> set[str]:
    """The overrides that make a sweep what it is, with the preset that is one's own when none is named."""
    words = {word for word in overrides if word.partition("=")[0].split(".")[0].split("/")[0] not in FREE}
    unnamed = command.name == "rlhf-sweep" and not any(word.startswith("preset=") for word in words)
    return words | ({f"preset={DEFAULT_PRESET}"} if unnamed else set())


def _runs(
    command: Command, overrides: list[str], output_dir: Path, records: dict[str, list[RunRecord]]
) -> Iterator[Candidate]:
    folder = output_dir / command.experiment
    if command.experiment not in records:
        found = [read_record(path) for path in _folders(folder)]
        records[command.experiment] = [record for record in found if record.state == RunState.finished]
    if not records[command.experiment]:
        return
    wanted = _settings_of(command.name, tuple(overrides))
    for record in records[command.experiment]:
        if _without_free(record.settings) == wanted:
            yield 1, True, _date(record.manifest), record.directory, [record.id]


@lru_cache(maxsize=64)
def _settings_of(command: str, overrides: tuple[str, ...]) -> dict[str, str]:
    try:
        (job,), _ = plan_jobs(COMMANDS[command], list(overrides), multirun=False)
    except UserError as error:
        raise ValueError(f"a claim's command no longer fits ({command} {' '.join(overrides)}): {error}") from error
    return _without_free(flatten(plain(job.config)))


def _without_free(settings: Any) -> dict[str, str]:
    return {key: str(value) for key, value in settings.items() if key.split(".")[0] not in FREE}


def _provenance(place: Path) -> tuple[list[str], str]:
    """Run ids and date of a published result."""
    try:
        runs = read_json(place / "provenance.json")["runs"]
        runs = runs if isinstance(runs, list) else [runs]
        ids = [item for run in runs for item in _listed(run.get("run_id"))]
        return ids, max((str(item) for run in runs for item in _listed(run.get("ended"))), default="")[:10]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [], ""


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _date(manifest: Any) -> str:
    return str(manifest.get("ended") or manifest.get("started") or "")[:10]
