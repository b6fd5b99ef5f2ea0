"""`rl-exp report runs`: a table of run directories, chosen and sorted."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from rich.markup import escape
from rich.table import Table

from experiments.reports.run_records import EMPTY, STALE, STATES, UNREADABLE, RunRecord, printable, shown
from experiments.reports.tables import Column, rich_table

STATE_COLOURS = {
    "finished": "green", "running": "cyan", "failed": "red", "interrupted": "yellow", STALE: "yellow",
    EMPTY: "dim", UNREADABLE: "red",
}  # fmt: skip


def choose_runs(
    records: Sequence[RunRecord],
    *,
    experiments: Sequence[str] = (),
    states: Sequence[str] = (),
    filters: Sequence[str] = (),
) -> list[RunRecord]:
    """The runs of these experiments and states, for which every `key=value` holds (`*` and `?` match anything).

    Raises ValueError for a state, an experiment or a key that no run has.
    """
    for state in states:
        if state not in STATES:
            raise ValueError(f"status {state} does not exist: use {', '.join(STATES)}")
    known = sorted({record.experiment for record in records})
    for experiment in experiments:
        if records and experiment not in known:
            raise ValueError(f"no run of experiment {experiment} is here: there are {', '.join(known)}")
    chosen = [
        record
        for record in records
        if (not experiments or record.experiment in experiments) and (not states or record.state in states)
    ]
    for text in filters:
        key, sign, wanted = text.partition("=")
        if not sign or not key:
            raise ValueError(f"filter {text!r} cannot be read: write key=value, such as attention.mechanism=gta")
        _require_key(key, chosen)
        chosen = [record for record in chosen if _matches(record.value_of(key), wanted)]
    return chosen


def sort_runs(records: Sequence[RunRecord], key: str, *, reverse: bool = False) -> list[RunRecord]:
    """By age (newest first), id, experiment, status, or any setting or metric (smallest first; runs without it last).

    Raises ValueError for a key that no run has.
    """
    if key == "age":
        return _sorted(records, lambda record: record.age, reverse)
    if key == "status":
        return _sorted(records, lambda record: record.state, reverse)
    _require_key(key, records)
    return _sorted(records, lambda record: record.value_of(key), reverse)


def _sorted(records: Sequence[RunRecord], value: Any, reverse: bool) -> list[RunRecord]:
    have = [record for record in records if value(record) is not None]
    rest = [record for record in records if value(record) is None]
    numbers = all(isinstance(value(record), int | float) for record in have)
    have.sort(key=value if numbers else lambda record: str(value(record)), reverse=reverse)
    return [*have, *rest]


def runs_table(records: Sequence[RunRecord]) -> Table:
    """One row per run: identity, state, age, what is special about it, and the numbers that it is known by."""
    experiment = Column[RunRecord](
        "experiment", lambda record: escape(printable(record.experiment)), left=True, fold=True
    )
    several = len({record.experiment for record in records}) > 1
    return rich_table(
        [
            Column("run", lambda record: escape(printable(record.id)), left=True, no_wrap=True),
            *([experiment] if several else []),
            Column("status", _state, left=True, no_wrap=True),
            Column("age", lambda record: age_of(record.age), no_wrap=True),
            Column("what differs from the defaults; results", _description, left=True, fold=True, ratio=1),
        ],
        records,
        title=f"{len(records)} run{'' if len(records) == 1 else 's'}",
    )


def _state(record: RunRecord) -> str:
    return f"[{STATE_COLOURS.get(record.state, 'red')}]{escape(printable(record.state))}[/]"


def _description(record: RunRecord) -> str:
    """What differs from the defaults, the results, and what is wrong, a line each."""
    differences = "  ".join(f"{_short_key(key)}={shown(value)}" for key, value in record.differences.items())
    results = " · ".join(f"{_short_name(name)} {shown(value)}" for name, value in record.headlines.items())
    if differences:
        first = f"[cyan]{escape(printable(differences))}[/]"
    else:
        first = "[dim]all defaults[/]" if record.settings and record.differences_known else ""
    problem = f"[dim]{escape(printable(record.problem))}[/]" if record.problem else ""
    return "\n".join(line for line in (first, escape(printable(results)), problem) if line)


def age_of(seconds: float | None) -> str:
    """`3 min`, `5 h`, `12 d`."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _require_key(key: str, records: Sequence[RunRecord]) -> None:
    if not records or any(record.value_of(key) is not None for record in records):
        return
    known = sorted(set().union(*(record.names() for record in records)))
    if any(name == key or name.endswith((f".{key}", f"/{key}")) for name in known):
        return  # there, and null everywhere
    near = difflib.get_close_matches(key, [*known, *(name.rsplit(".", 1)[-1] for name in known)], n=1)
    hint = f"Did you mean {near[0]}?" if near else "rl-exp report runs --json shows what there is"
    raise ValueError(f"no run has a setting or metric {key!r}. {hint}")


def _matches(value: Any, wanted: str) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(wanted.replace(",", "")) == value
        except ValueError:
            pass
    if isinstance(value, bool) or value is None:
        return shown(value) == wanted.lower()
    return wanted in (str(value), shown(value)) or fnmatchcase(str(value), wanted)


def _short_key(key: str) -> str:
    return key.rsplit(".", 1)[-1] if key.count(".") > 1 else key


def _short_name(name: str) -> str:
    """`eval/web_bible/perplexity` as `web bible perplexity`."""
    parts = name.split("/")
    return " ".join(parts[1:] if len(parts) > 1 and parts[0] in ("eval", "probe", "statements") else parts).replace(
        "_", " "
    )
