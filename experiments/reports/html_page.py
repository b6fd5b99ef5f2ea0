"""`rl-exp report html`: one page that holds everything, opens offline, and can be read on a phone and on paper."""

from __future__ import annotations

import base64
import shlex
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from experiments.reports.captions import caption_of
from experiments.reports.claims import VERDICT_COLOURS, Entry, Evidence, part_effects
from experiments.reports.figure_gallery import GalleryFigure, damage_of
from experiments.reports.run_records import RunRecord, shown
from experiments.reports.run_table import age_of
from experiments.reports.sweep_tables import SweepTable
from experiments.runs.files import read_json, write_text
from experiments.runs.manifest import now, package_versions

TEMPLATE = "html_page.html.j2"  # beside this module
MOST_RUNS = 100
MOST_FIGURES = 24
LARGEST_PICTURE = 2_000_000  # bytes


@dataclass(frozen=True)
class Picture:
    """A PNG inside the page."""

    uri: str
    width: int
    height: int
    caption: str

    @property
    def wide(self) -> bool:
        """Several panels beside each other: text would be too small in half a page."""
        return self.width > max(900, 1.5 * self.height)


def write_page(
    path: Path,
    *,
    entries: Sequence[Entry],
    records: Sequence[RunRecord],
    figures: Sequence[GalleryFigure],
    sweeps: Sequence[SweepTable] = (),
) -> Path:
    """Write the page: claims with their figures, further figures, sweeps, runs, and what made them."""
    shown_already = {item.figure for entry in entries for item in entry.evidence if item.figure is not None}
    further = one_of_each_kind_first([figure for figure in figures if figure.png not in shown_already])
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"shown": shown, "age": age_of, "effects": part_effects}
    pictures = {
        item.figure: picture(item.figure) for entry in entries for item in entry.evidence if item.figure is not None
    }
    verdicts = [entry.verdict for entry in entries]
    counts = {verdict: verdicts.count(verdict) for verdict in VERDICT_COLOURS if verdict in verdicts}
    text = environment.get_template(TEMPLATE).render(
        made=now().replace("T", " ").replace("+00:00", " UTC"),
        versions=package_versions(),
        entries=entries,
        papers=by_paper(entries),
        counts=counts,
        pictures=pictures,
        gallery=[(figure, picture(figure.png, figure.caption)) for figure in further[:MOST_FIGURES]],
        left_out_figures=max(0, len(further) - MOST_FIGURES),
        sweeps=sweeps,
        records=records[:MOST_RUNS],
        left_out_runs=max(0, len(records) - MOST_RUNS),
        evidence_places={str(item.place) for entry in entries for item in entry.evidence},
        manifests=manifests(entries, records[:MOST_RUNS]),
    )
    write_text(path, text)
    return path


def one_of_each_kind_first(figures: Sequence[GalleryFigure]) -> list[GalleryFigure]:
    """A page has room for some: every kind of figure once, then the second of each, and so on."""
    seen: dict[str, int] = {}
    ranked = []
    for figure in figures:
        kind = figure.png.stem
        ranked.append((seen.get(kind, 0), figure))
        seen[kind] = seen.get(kind, 0) + 1
    return [figure for _, figure in sorted(ranked, key=lambda item: item[0])]


def by_paper(entries: Sequence[Entry]) -> list[tuple[str, list[Entry]]]:
    """Papers in the order of their first claims."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.paper, []).append(entry)
    return list(groups.items())


def picture(path: Path, caption: str | None = None) -> Picture | None:
    """The file as a data URI; None where it is not a PNG, cannot be read, or is too large for a page."""
    if damage_of(path):
        return None
    content = path.read_bytes()
    if len(content) > LARGEST_PICTURE:
        return None
    width, height = struct.unpack(">II", content[16:24])
    uri = "data:image/png;base64," + base64.b64encode(content).decode("ascii")
    return Picture(uri, width, height, caption if caption is not None else caption_of(path))


def manifests(entries: Sequence[Entry], records: Sequence[RunRecord]) -> list[tuple[str, dict[str, str]]]:
    """What made the evidence and the runs: command, commit, versions, machine, times."""
    found: dict[str, dict[str, str]] = {}
    for item in (item for entry in entries for item in entry.evidence if item.place is not None):
        found.setdefault(str(item.place), _evidence_facts(item))
    for record in records:
        if record.manifest:
            found.setdefault(str(record.directory), _facts(record.manifest))
    return sorted(found.items())


def _evidence_facts(item: Evidence) -> dict[str, str]:
    assert item.place is not None
    for name in ("manifest.json", "provenance.json", "sweep.json"):
        try:
            document = read_json(item.place / name)
        except (OSError, ValueError):
            continue
        if not isinstance(document, dict):
            continue
        runs = document.get("runs", document)
        first = runs[0] if isinstance(runs, list) and runs and isinstance(runs[0], dict) else runs
        facts = _facts({**(first if isinstance(first, dict) else {}), **document})
        return facts | {"runs": ", ".join(item.run_ids)} if len(item.run_ids) > 1 else facts
    return {}


def _pasted(words: Sequence[Any]) -> str:
    """A command as a shell takes it, without the folder that a sweep gave its jobs."""
    return shlex.join(str(word) for word in words if not str(word).startswith("hydra.sweep.dir="))


def _facts(manifest: Mapping[str, Any]) -> dict[str, str]:
    facts: dict[str, str] = {}
    command = manifest.get("command")
    if isinstance(command, list):
        facts["command"] = _pasted(command)
    elif command and manifest.get("overrides") is not None:
        facts["command"] = _pasted(["rl-exp", command, *manifest["overrides"]])
    git, machine, versions = (manifest.get(name) for name in ("git", "machine", "versions"))
    if isinstance(git, dict) and git.get("commit"):
        facts["commit"] = str(git["commit"])[:12] + (" with local changes" if git.get("dirty") else "")
    for name in ("seed", "started", "ended"):
        value = manifest.get(name)
        if isinstance(value, list):
            if name == "seed" and value:
                facts["seeds"] = ", ".join(map(str, sorted(set(map(str, value)))))
            elif value:
                facts[name] = str(min(value, key=str) if name == "started" else max(value, key=str))
        elif value is not None:
            facts[name] = str(value)
    if isinstance(machine, dict):
        words = [str(machine.get("processor") or ""), f"{machine['cores']} cores" if machine.get("cores") else ""]
        words += [str(gpu) for gpu in machine.get("gpus") or []]
        facts["machine"] = ", ".join(word for word in words if word)
    if isinstance(versions, dict):
        facts["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    return facts
