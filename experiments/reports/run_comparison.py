"""`rl-exp report compare`: arms of runs against each other, number by number, with intervals and tests over seeds.

Runs that differ in their seed only are one arm. Intervals: Student's t over seeds. Tests are two-sided against the
first arm: paired t on the seeds that both arms have (they share data order and noise), Welch's t where they share fewer
than two; p values are corrected for the number of arms (Holm). Where every difference is the same number there is
nothing to test: it is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os.path import getmtime, isdir, isfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table
from scipy import stats

from experiments.reports.run_records import RunRecord, arm_settings, finite_number, read_record, run_directories, shown
from experiments.reports.tables import Column, rich_table
from experiments.reward_metrics.correlations import Interval, student_interval
from experiments.runs.files import finite
from experiments.runs.run import RunState
from experiments.runs.sweeps import read_sweep

MOST_METRICS_PRINTED = 12
MOST_NULLS_NAMED = 4
NO_METRICS = ("objective", "seed")
TELLING_KEYS = ("mechanism", "name", "family")  # of several settings that tell arms apart, these are shown


@dataclass(frozen=True)
class ComparedArm:
    """Finished runs that differ in their seed only."""

    label: str
    runs: tuple[RunRecord, ...]  # in order of seed

    def values(self, metric: str) -> dict[int, float]:
        """By seed; runs without the number are left out."""
        found = {}
        for number, run in enumerate(self.runs):
            value = finite_number(run.summary.get(metric))
            if value is not None:
                found[number if run.seed is None else run.seed] = value
        return found


@dataclass(frozen=True)
class Contrast:
    """An arm minus the first arm."""

    difference: Interval
    test: str  # what was done, in words
    p: float  # two-sided; NaN where there is no test
    corrected_p: float = math.nan


@dataclass(frozen=True)
class MetricRow:
    """One number of the summaries: an interval per arm, a contrast per arm but the first."""

    metric: str
    intervals: tuple[Interval, ...]
    contrasts: tuple[Contrast | None, ...]  # None for the first arm


# Which runs -------------------------------------------------------------------------------------------------------


def find_runs(names: Sequence[str], output_dir: Path) -> list[Path]:
    """Run directories for run ids, unique prefixes, directories of runs or sweeps, and sweep ids.

    Raises ValueError for a name that is nothing, or more than one run.
    """
    everything = list(run_directories(output_dir))
    found: list[Path] = []
    sweeps = sweep_directories(output_dir)
    for name in names:
        if not name.strip():
            raise ValueError("an empty name names no run: rl-exp report runs lists runs and sweeps")
        path = Path(name)
        # os.path: a name that is too long for a file system is no file, and no error.
        sweep = next((place for place in (path, output_dir / "sweeps" / name) if isfile(place / "sweep.json")), None)
        if sweep is not None:
            found += read_sweep(sweep).runs
        elif isdir(path) and any(isfile(path / file) for file in ("status.json", "config.yaml", "manifest.json")):
            found.append(path)
        else:
            fitting = [place for place in [*everything, *sweeps] if place.name.startswith(name)]
            fitting = [place for place in fitting if place.name == name] or fitting
            if not fitting:
                raise ValueError(
                    f"{_short(name)} is not a run, sweep or run directory below {output_dir}: "
                    "rl-exp report runs lists them"
                )
            if len(fitting) > 1:
                ids = ", ".join(f"{place.parent.name}/{place.name}" for place in fitting[:5])
                raise ValueError(f"{name} begins {len(fitting)} runs or sweeps ({ids}): write more of the id")
            found += list(read_sweep(fitting[0]).runs) if fitting[0] in sweeps else fitting
    return list(dict.fromkeys(found))


def sweep_directories(output_dir: Path) -> list[Path]:
    """The folders of sweeps, the newest first."""
    found = [path.parent for path in (output_dir / "sweeps").glob("*/sweep.json") if isfile(path)]
    return sorted(found, key=lambda path: getmtime(path / "sweep.json"), reverse=True)


def _short(name: str) -> str:
    return name if len(name) <= 80 else name[:77] + "..."


# Arms -------------------------------------------------------------------------------------------------------------


def compare_arms(directories: Sequence[Path]) -> tuple[list[ComparedArm], list[str]]:
    """Arms in the order given, and a line for every run that is left out. ValueError for runs of several commands."""
    records, left_out = [], []
    for directory in directories:
        record = read_record(directory)
        if record.state != RunState.finished or not record.summary:
            reason = record.problem or ("its summary.json is empty" if record.state == RunState.finished else "")
            left_out.append(f"{record.id}: {record.state}" + (f" ({reason})" if reason else ""))
        else:
            records.append(record)
            left_out += _null_numbers(record)
    experiments = sorted({record.experiment for record in records})
    if len(experiments) > 1:
        raise ValueError(f"runs of {' and '.join(experiments)} have no numbers in common: compare runs of one command")
    settings = [arm_settings(record) for record in records]
    keys = telling_keys(settings)
    groups: dict[tuple[str, ...], list[RunRecord]] = {}
    for record, setting in zip(records, settings, strict=True):
        groups.setdefault(tuple(str(setting.get(key)) for key in _varying(settings)), []).append(record)
    arms = []
    for several in groups.values():
        group = _one_per_seed(several, left_out)
        setting = arm_settings(group[0])
        label = "  ".join(_label(key, setting.get(key)) for key in keys) or group[0].experiment
        arms.append(ComparedArm(label, tuple(sorted(group, key=lambda run: -1 if run.seed is None else run.seed))))
    return arms, left_out


def _null_numbers(record: RunRecord) -> list[str]:
    """A line where numbers of a finished run are null: its evaluation gave NaN, and means are taken without it."""
    names = [name for name, value in record.summary.items() if value is None]
    if not names:
        return []
    more = f" and {len(names) - MOST_NULLS_NAMED} more" if len(names) > MOST_NULLS_NAMED else ""
    return [f"{record.id}: {', '.join(names[:MOST_NULLS_NAMED])}{more} (null in its summary.json)"]


def _one_per_seed(runs: Sequence[RunRecord], left_out: list[str]) -> list[RunRecord]:
    """The first run of each seed; the others are repetitions, and named as left out."""
    kept: dict[int, RunRecord] = {}
    for number, run in enumerate(runs):
        seed = -1 - number if run.seed is None else run.seed
        if seed in kept:
            left_out.append(f"{run.id}: the same settings and seed as {kept[seed].id}, which is named before it")
        else:
            kept[seed] = run
    return list(kept.values())


def _varying(settings: Sequence[dict[str, Any]]) -> list[str]:
    keys = sorted({key for setting in settings for key in setting})
    return [key for key in keys if len({str(setting.get(key)) for setting in settings}) > 1]


def telling_keys(settings: Sequence[dict[str, Any]]) -> list[str]:
    """The fewest settings that tell the arms apart: those that follow from others are left out."""

    def rank(key: str) -> tuple[int, int, str]:
        last = key.rsplit(".", 1)[-1]
        return TELLING_KEYS.index(last) if last in TELLING_KEYS else len(TELLING_KEYS), key.count("."), key

    order = sorted(_varying(settings), key=rank)
    chosen: list[str] = []
    parts = 1
    for key in order:
        refined = len({tuple(str(setting.get(name)) for name in [*chosen, key]) for setting in settings})
        if refined > parts:
            chosen.append(key)
            parts = refined
    return chosen


def _label(key: str, value: Any) -> str:
    last = key.rsplit(".", 1)[-1]
    return shown(value) if last in TELLING_KEYS else f"{last}={shown(value)}"


# Numbers ----------------------------------------------------------------------------------------------------------


def compare_metrics(arms: Sequence[ComparedArm], wanted: Sequence[str] = ()) -> list[MetricRow]:
    """A row for every number that all arms have and that is not the same everywhere, or for the `wanted` ones.

    Raises ValueError for a wanted number that no run has.
    """
    if not arms:
        return []
    names = list(dict.fromkeys(name for arm in arms for run in arm.runs for name in run.summary))
    for name in wanted:
        if not any(arm.values(name) for arm in arms):
            numbers = [known for known in names if any(arm.values(known) for arm in arms)]
            raise ValueError(f"no run has a number {name!r} in its summary: there are {', '.join(numbers) or 'none'}")
    rows = []
    for name in wanted or [name for name in names if name not in NO_METRICS]:
        values = [arm.values(name) for arm in arms]
        if not all(values) or (not wanted and len({value for found in values for value in found.values()}) < 2):
            continue
        contrasts = [contrast(values[0], found) for found in values[1:]]
        rows.append(MetricRow(name, tuple(seed_interval(v) for v in values), (None, *_corrected(contrasts))))
    return rows


def seed_interval(values: dict[int, float]) -> Interval:
    """Mean over seeds with Student's interval."""
    return student_interval(list(values.values()))


def contrast(base: dict[int, float], other: dict[int, float]) -> Contrast:
    """`other` minus `base`."""
    shared = sorted(set(base) & set(other))
    if len(shared) >= 2:
        gaps = [other[seed] - base[seed] for seed in shared]
        interval = student_interval(gaps)
        if np.ptp(gaps) <= 1e-12 * max(1.0, abs(gaps[0])):
            return Contrast(interval, "exact: the same difference in every seed", math.nan)
        p = float(stats.ttest_1samp(gaps, 0.0).pvalue)
        return Contrast(interval, f"paired t, {len(shared)} shared seeds", p)
    first, second = list(base.values()), list(other.values())
    gap = float(np.mean(second) - np.mean(first))
    if len(first) < 2 or len(second) < 2 or (np.ptp(first) == 0 and np.ptp(second) == 0):
        n = min(len(first), len(second))
        return Contrast(Interval(gap, math.nan, math.nan, n), "no test: needs two seeds per arm", math.nan)
    result = stats.ttest_ind(second, first, equal_var=False)
    low, high = result.confidence_interval(0.95)
    n = min(len(first), len(second))
    return Contrast(Interval(gap, float(low), float(high), n), "Welch's t, seeds not shared", float(result.pvalue))


def _corrected(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """Holm's correction over the arms that were tested."""
    tested = sorted((i for i, item in enumerate(contrasts) if math.isfinite(item.p)), key=lambda i: contrasts[i].p)
    corrected = [math.nan] * len(contrasts)
    highest = 0.0
    for rank, i in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - rank) * contrasts[i].p))
        corrected[i] = highest
    return [
        Contrast(item.difference, item.test, item.p, value) for item, value in zip(contrasts, corrected, strict=True)
    ]


# What is shown ----------------------------------------------------------------------------------------------------


def comparison_document(arms: Sequence[ComparedArm], rows: Sequence[MetricRow], left_out: Sequence[str]) -> Any:
    """For JSON."""
    return finite(
        {
            "arms": [
                {"arm": arm.label, "runs": [r.id for r in arm.runs], "seeds": [r.seed for r in arm.runs]}
                for arm in arms
            ],
            "left_out": list(left_out),
            "metrics": [
                {
                    "metric": row.metric,
                    "arms": [
                        {"arm": arm.label, **interval.as_dict()}
                        | (
                            {}
                            if item is None
                            else {
                                "minus_first": item.difference.as_dict(),
                                "test": item.test,
                                "p": item.p,
                                "corrected_p": item.corrected_p,
                            }
                        )
                        for arm, interval, item in zip(arms, row.intervals, row.contrasts, strict=True)
                    ],
                }
                for row in rows
            ],
        }
    )


Line = tuple[ComparedArm, Interval, Contrast | None]  # of the table of one metric


def comparison_table(arms: Sequence[ComparedArm], row: MetricRow) -> Table:
    """One metric: arms below each other, the tests named beneath."""
    tests = list(dict.fromkeys(item.test for item in row.contrasts if item is not None))
    several = len(tests) > 1

    def difference(line: Line) -> str | None:
        item = line[2]
        return None if item is None else f"{_signed(item.difference.value)} {_span(item.difference, _signed)}".strip()

    def p_value(line: Line) -> str | None:
        item = line[2]
        if item is None:
            return None
        clear = math.isfinite(item.corrected_p) and item.corrected_p <= 0.05
        p = f"[bold]{_p(item.corrected_p)}[/]" if clear else _p(item.corrected_p)
        return p + (f" ({tests.index(item.test) + 1})" if several else "")

    return rich_table(
        [
            Column[Line]("arm", lambda line: escape(line[0].label), left=True, fold=True),
            Column("mean", lambda line: _number(line[1].value)),
            Column("95 % interval", lambda line: _span(line[1], _number)),
            Column("n", lambda line: line[1].n),
            Column("minus first", difference),
            Column("p (Holm)", p_value),
        ],
        zip(arms, row.intervals, row.contrasts, strict=True),
        title=row.metric,
        caption="; ".join(f"{number}: {text}" if several else text for number, text in enumerate(tests, start=1)),
    )


def _span(interval: Interval, form: Callable[[float], str]) -> str:
    if math.isnan(interval.low) or interval.low == interval.high:
        return ""
    return escape(f"[{form(interval.low)}, {form(interval.high)}]")


def _number(value: float) -> str:
    return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def _signed(value: float) -> str:
    return f"{value:+,.3g}" if abs(value) < 1000 else f"{value:+,.0f}"


def _p(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2g}" if value >= 0.001 else "< .001"
