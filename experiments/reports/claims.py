"""The ledger: claims of the papers, the parts into which they are tested, and verdicts that follow from the parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from experiments.reward_metrics.correlations import Interval
from experiments.reward_metrics.statements import Statement, Verdict

NO_EVIDENCE = "no evidence yet"
VERDICT_COLOURS = {
    str(Verdict.reproduced): "green",
    str(Verdict.not_reproduced): "red",
    str(Verdict.inconclusive): "yellow",
    NO_EVIDENCE: "dim",
}


@dataclass(frozen=True)
class Evidence:
    """What a command left, or where it would be."""

    name: str
    scale: str
    command: str
    place: Path | None = None  # run, sweep or reference folder; None where there is none
    published: bool = False  # from outputs/reference/
    run_ids: tuple[str, ...] = ()
    date: str = ""
    figure: Path | None = None
    problem: str = ""


@dataclass(frozen=True)
class Part:
    """One rule of a claim, and what the evidence says of it."""

    says: str
    region: str
    evidence: str
    counts: bool
    statements: tuple[Statement, ...] | None  # None: no evidence
    interval: str = "95 % interval"  # what the intervals are

    @property
    def verdict(self) -> str:
        """All statements have to hold; one that fails decides. Evidence without the rows asked for is inconclusive."""
        return NO_EVIDENCE if self.statements is None else _all_of([str(item.verdict) for item in self.statements])


@dataclass(frozen=True)
class Entry:
    """A claim with its verdict."""

    name: str
    title: str
    statement: str
    paper: str
    source: str
    published: str
    evidence: tuple[Evidence, ...]
    parts: tuple[Part, ...]

    @property
    def counted(self) -> list[Part]:
        """The parts that the verdict rests on: those that count and have evidence."""
        return [part for part in self.parts if part.counts and part.statements is not None]

    @property
    def verdict(self) -> str:
        """All counted parts have to hold; one that fails decides."""
        return _all_of([part.verdict for part in self.counted]) if self.counted else NO_EVIDENCE

    @property
    def deciding(self) -> Part | None:
        """The part to look at first: the first whose verdict is the claim's."""
        return next((part for part in self.counted if part.verdict == self.verdict), None)

    @property
    def reproduced(self) -> int:
        """How many of the counted parts are."""
        return sum(part.verdict == Verdict.reproduced for part in self.counted)

    def scale_of(self, part: Part) -> str:
        """What the part was measured on."""
        return next(item.scale for item in self.evidence if item.name == part.evidence)

    @property
    def missing(self) -> list[Evidence]:
        """Evidence that is not there."""
        return [item for item in self.evidence if item.place is None]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "claim": self.name,
            "title": self.title,
            "statement": self.statement,
            "paper": self.paper,
            "source": self.source,
            "published": self.published,
            "verdict": self.verdict,
            "parts_reproduced": self.reproduced,
            "parts_measured": len(self.counted),
            "parts": [
                {
                    "says": part.says,
                    "holds": part.region,
                    "evidence": part.evidence,
                    "counts": part.counts,
                    "interval": part.interval,
                    "verdict": part.verdict,
                    "statements": [item.as_dict() for item in part.statements or ()],
                }
                for part in self.parts
            ],
            "evidence": [
                {
                    "name": item.name,
                    "scale": item.scale,
                    "command": item.command,
                    "place": None if item.place is None else str(item.place),
                    "published": item.published,
                    "runs": list(item.run_ids),
                    "date": item.date,
                    "figure": None if item.figure is None else str(item.figure),
                    "problem": item.problem,
                }
                for item in self.evidence
            ],
        }


def _all_of(verdicts: Sequence[str]) -> str:
    if str(Verdict.not_reproduced) in verdicts:
        return str(Verdict.not_reproduced)
    if verdicts and all(verdict == Verdict.reproduced for verdict in verdicts):
        return str(Verdict.reproduced)
    return str(Verdict.inconclusive)


def effect_text(effect: Interval) -> str:
    """`1.61 [1.52, 1.7]`; computed numbers have no interval."""
    if math.isnan(effect.value):
        return "not measured"
    value = _number(effect.value)
    if math.isnan(effect.low):
        return f"{value} (no interval)"
    if effect.low == effect.high:
        return f"{value} (exact)" if effect.n == 1 else value
    return f"{value} [{_number(effect.low)}, {_number(effect.high)}]"


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}" if abs(value) < 1e7 else f"{value:.2e}"


def part_effects(part: Part, most: int = 4) -> str:
    """Effects of a part's statements, with n."""
    items = part.statements or ()
    texts = [effect_text(item.effect) for item in items[:most]]
    more = f" and {len(items) - most} more" if len(items) > most else ""
    counts = sorted({item.effect.n for item in items if item.effect.n > 1})
    n = "" if not counts else f", n = {counts[0]}" + (f" to {counts[-1]}" if len(counts) > 1 else "")
    kind = "" if part.interval.startswith("95") or not counts else f" ({part.interval})"
    return ("; ".join(texts) + more + n + kind) if texts else "the evidence has no such row"


def ledger_table(entries: Sequence[Entry], *, details: bool = False) -> Table:
    """A row for each claim: verdict, what was found beside what the paper has, and what is missing."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_lines=True)
    table.add_column("verdict", no_wrap=False, width=14)
    table.add_column("claim, the paper's figures, and ours", overflow="fold", ratio=1)
    for entry in entries:
        colour = VERDICT_COLOURS[entry.verdict]
        verdict = f"[{colour}]{entry.verdict}[/]"
        if entry.counted:
            verdict += (
                f"\n[dim]{entry.reproduced} of {len(entry.counted)} part{'' if len(entry.counted) == 1 else 's'}[/]"
            )
        lines = [f"[bold]{escape(entry.title)}[/]  [dim]{entry.name}[/]"]
        if details:
            lines += [escape(entry.statement), f"[dim]{escape(entry.paper)}, {escape(entry.source)}[/]"]
        lines.append(f"paper: {escape(entry.published)}")
        shown = entry.parts if details else [part for part in entry.counted if part.statements is not None]
        lines += [_part_line(part) for part in shown]
        for item in entry.evidence:
            if item.problem:
                lines.append(f"[yellow]{escape(item.problem)}[/]")
            if item.place is None:
                lines.append(f"[dim]{NO_EVIDENCE} ({escape(item.scale)}): run {escape(item.command)}[/]")
            elif details:
                where = f"{item.place}, {_runs_of(item)}, {item.date or 'no date'}"
                lines.append(f"[dim]evidence: {escape(where)}: {escape(item.scale)}[/]")
                lines.append(f"[dim]made by: {escape(item.command)}[/]")
                if len(item.run_ids) > 1:
                    lines.append(f"[dim]runs: {escape(', '.join(item.run_ids))}[/]")
            else:
                made = f"{item.command} ({_runs_of(item)}, {item.date or 'no date'})"
                lines.append(f"[dim]on {escape(item.scale)}: {escape(made)}[/]")
        table.add_row(verdict, "\n".join(lines))
    return table


def _runs_of(item: Evidence) -> str:
    """`run 3f2a...` or `15 runs`."""
    return f"run {item.run_ids[0]}" if len(item.run_ids) == 1 else f"{len(item.run_ids)} runs"


def _part_line(part: Part) -> str:
    colour = VERDICT_COLOURS[part.verdict]
    mark = {"reproduced": "+", "not reproduced": "-", "inconclusive": "?"}.get(part.verdict, "·")
    beside = "" if part.counts else " [dim](beside the verdict)[/]"
    found = "" if part.statements is None else f": [bold]{escape(part_effects(part))}[/]"
    return f"[{colour}]{mark}[/] {escape(part.says)}{found} [dim](holds {escape(part.region)})[/]{beside}"
