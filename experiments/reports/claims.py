"""The ledger: claims of the papers, the statements into which they are tested, and verdicts that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from experiments.reports.findings_table import VERDICT_COLOURS as FINDING_COLOURS
from experiments.reports.findings_table import effect_text
from experiments.reward_metrics.statements import Finding, Kind, Statement, Verdict

NO_EVIDENCE = "no evidence yet"
PARTLY = "partly measured"
VERDICT_COLOURS = {
    **{str(verdict): colour for verdict, colour in FINDING_COLOURS.items()},
    PARTLY: "cyan",
    NO_EVIDENCE: "dim",
}
MOST_EFFECTS = 4  # named of one statement
VERDICTS = tuple(VERDICT_COLOURS)


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
    """One statement of a claim, and what the evidence says of it."""

    statement: Statement
    evidence: Evidence
    findings: tuple[Finding, ...] | None  # None: no evidence

    @property
    def says(self) -> str:
        """The statement in words."""
        return self.statement.says

    @property
    def counts(self) -> bool:
        """Whether the claim's verdict rests on it, too."""
        return self.statement.counts

    @property
    def verdict(self) -> str:
        """All findings have to hold; one that fails decides. Evidence without the rows asked for is inconclusive."""
        return NO_EVIDENCE if self.findings is None else _all_of([str(item.verdict) for item in self.findings])

    @property
    def exploratory(self) -> bool:
        """Whether the evidence is not of a day after the rule: then it may have been seen when the rule was made."""
        return self.findings is not None and self.evidence.date[:10] <= self.statement.ruled

    @property
    def note(self) -> str:
        """What a reader must know beside the verdict: why it does not count, and whether it is exploratory."""
        words = [self.statement.why_not_counted and f"beside the verdict: {self.statement.why_not_counted}"]
        words += ["exploratory" if self.exploratory else ""]
        return "; ".join(word for word in words if word)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "id": self.statement.id,
            "says": self.says,
            "source": self.statement.source,
            "kind": str(self.statement.kind),
            "counts": self.counts,
            "why_not_counted": self.statement.why_not_counted,
            "unit": self.statement.unit or "exact",
            "holds": self.statement.region,
            "ruled": self.statement.ruled,
            "exploratory": self.exploratory,
            "evidence": self.evidence.name,
            "verdict": self.verdict,
            "findings": [item.as_dict() | {"drawn": item.drawn} for item in self.findings or ()],
        }


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
        """The parts that the verdict rests on: the paper's own that have evidence."""
        return [part for part in self.parts if part.counts and part.findings is not None]

    @property
    def verdict(self) -> str:
        """All counted parts have to hold; one that fails decides. Reproduced only where none is without evidence."""
        if not self.counted:
            return NO_EVIDENCE
        verdict = _all_of([part.verdict for part in self.counted])
        complete = all(part.findings is not None for part in self.parts if part.counts)
        return verdict if complete or verdict != Verdict.reproduced else PARTLY

    @property
    def deciding(self) -> Part | None:
        """The part to look at first: the first whose verdict is the claim's."""
        same = (part for part in self.counted if part.verdict == self.verdict)
        return next(same, self.counted[0] if self.counted else None)

    @property
    def reproduced(self) -> int:
        """How many of the counted parts are."""
        return sum(part.verdict == Verdict.reproduced for part in self.counted)

    @property
    def summary(self) -> str:
        """`2 of 4 parts, 1 exploratory; 1 check`."""
        exploratory = sum(part.exploratory for part in self.counted)
        checks = sum(part.statement.kind is Kind.check and part.findings is not None for part in self.parts)
        text = f"{self.reproduced} of {len(self.counted)} part{'' if len(self.counted) == 1 else 's'}"
        text += f", {exploratory} exploratory" if exploratory else ""
        return text + (f"; {checks} check{'' if checks == 1 else 's'}" if checks else "")

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
            "exploratory": any(part.exploratory for part in self.counted),
            "parts_reproduced": self.reproduced,
            "parts_measured": len(self.counted),
            "parts": [part.as_dict() for part in self.parts],
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


def part_effects(part: Part) -> str:
    """`after 30 updates: -0.023 [-0.029, -0.017]; ..., n = 10 seeds`: what was found, and what intervals are over."""
    items = part.findings or ()
    if not items:
        return "the evidence has no such row"
    several = len(items) > 1
    texts = [
        (f"{item.case}: " if several and item.case else "") + effect_text(item.effect) for item in items[:MOST_EFFECTS]
    ]
    more = f" and {len(items) - MOST_EFFECTS} more" if len(items) > MOST_EFFECTS else ""
    drawn = [item.drawn for item in items if item.drawn not in ("", "exact")]
    n = f", n = {' or '.join(dict.fromkeys((drawn[0], drawn[-1])))}" if drawn else ""
    return "; ".join(texts) + more + n


def ledger_table(entries: Sequence[Entry], *, details: bool = False) -> Table:
    """A row for each claim: verdict, what was found beside what the paper has, and what is missing."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_lines=True)
    table.add_column("verdict", no_wrap=False, width=14)
    table.add_column("claim, the paper's figures, and ours", overflow="fold", ratio=1)
    for entry in entries:
        colour = VERDICT_COLOURS[entry.verdict]
        verdict = f"[{colour}]{entry.verdict}[/]"
        if entry.counted:
            verdict += f"\n[dim]{entry.summary}[/]"
        lines = [f"[bold]{escape(entry.title)}[/]  [dim]{entry.name}[/]"]
        if details:
            lines += [escape(entry.statement), f"[dim]{escape(entry.paper)}, {escape(entry.source)}[/]"]
        lines.append(f"paper: {escape(entry.published)}")
        shown = entry.parts if details else [part for part in entry.parts if part.findings is not None]
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
    found = "" if part.findings is None else f": [bold]{escape(part_effects(part))}[/]"
    note = f" [dim]({escape(part.note)})[/]" if part.note else ""
    return f"[{colour}]{mark}[/] {escape(part.says)}{found} [dim](holds {escape(part.statement.region)})[/]{note}"
