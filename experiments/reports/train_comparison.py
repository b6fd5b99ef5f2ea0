"""What a sweep of `rl-exp train` ends with: a table, and perplexity against cache bytes."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from experiments.reports.captions import n_of
from experiments.reports.run_records import read_record
from experiments.reports.style import MECHANISM_COLOURS, figure_style, save_figure
from experiments.reports.tables import Column, rich_table
from experiments.runs.files import read_json, write_json
from experiments.runs.identity import NOT_IDENTITY, flatten


@dataclass
class Arm:
    """Runs that differ in their seed only."""

    label: str
    mechanism: str
    runs: list[Path] = field(default_factory=list)
    summaries: list[dict[str, Any]] = field(default_factory=list)

    def mean(self, name: str) -> float:
        """Mean over seeds."""
        return statistics.fmean(summary[name] for summary in self.summaries)

    def spread(self, name: str) -> float | None:
        """Standard deviation over seeds; None with one seed."""
        values = [summary[name] for summary in self.summaries]
        return statistics.stdev(values) if len(values) > 1 else None

    def by_seed(self) -> dict[str, dict[str, float]]:
        """Every number of the summaries by seed: what intervals and paired differences are made of."""
        seeds = [read_record(run).seed for run in self.runs]
        keys = [str(number if seed is None else seed) for number, seed in enumerate(seeds)]
        numbers = [name for name, value in self.summaries[0].items() if isinstance(value, int | float)]
        return {name: dict(zip(keys, (s[name] for s in self.summaries), strict=True)) for name in numbers}


def compare_training_runs(runs: list[Path], sweep_directory: Path, console: Console) -> None:
    """Print the table of a sweep's finished runs, and write comparison.json and figures/perplexity_against_cache.

    A run that has null among its results, whose evaluation gave NaN, is named and left out.
    """
    nulls = {run: [name for name, value in read_json(run / "summary.json").items() if value is None] for run in runs}
    for run, names in nulls.items():
        if names:
            console.print(
                f"[yellow]left out:[/] {run.name}: {', '.join(names)} null in its summary.json", soft_wrap=True
            )
    runs = [run for run in runs if not nulls[run]]
    if not runs:
        console.print("no run with results: nothing to compare", highlight=False)
        return
    arms = gather_arms(runs)
    sets = [key.split("/")[1] for key in arms[0].summaries[0] if key.endswith("/perplexity")]
    console.print(comparison_table(arms, sets))
    rows = [
        {"arm": arm.label, "mechanism": arm.mechanism, "seeds": len(arm.summaries)}
        | {name: arm.mean(name) for name, value in arm.summaries[0].items() if isinstance(value, int | float)}
        | {"by_seed": arm.by_seed()}
        for arm in arms
    ]
    write_json(sweep_directory / "comparison.json", {"runs": [run.name for run in runs], "arms": rows})
    if len({arm.mean("cache_bytes_per_token_per_layer") for arm in arms}) > 1:
        figure = draw_perplexity_against_cache(arms, sets, sweep_directory / "figures")
        console.print(f"[bold]figure[/]    {figure}", highlight=False, soft_wrap=True)


def gather_arms(runs: list[Path]) -> list[Arm]:
    """Group runs by what differs between their configurations, seeds aside; largest cache, then lowest loss first."""
    settings = [_settings(run) for run in runs]
    varying = sorted(key for key in set().union(*settings) if len({str(setting.get(key)) for setting in settings}) > 1)
    arms: dict[tuple[str, ...], Arm] = {}
    for run, setting in zip(runs, settings, strict=True):
        summary = read_json(run / "summary.json")
        mechanism = summary["mechanism"]
        shown = {key: setting.get(key) for key in varying if key != "attention.mechanism"}
        parts = [f"{key.rsplit('.', 1)[-1]}={value}" for key, value in shown.items() if value not in (None, False)]
        identity = tuple(str(setting.get(key)) for key in varying)
        arm = arms.setdefault(identity, Arm(" ".join([mechanism.upper(), *parts]), mechanism))
        arm.runs.append(run)
        arm.summaries.append(summary)
    return sorted(arms.values(), key=lambda arm: (-arm.mean("cache_bytes_per_token_per_layer"), arm.mean("objective")))


def _settings(run: Path) -> dict[str, Any]:
    loaded = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    assert isinstance(loaded, dict)
    return {
        key: value
        for key, value in flatten({str(key): value for key, value in loaded.items()}).items()
        if key != "seed" and key.split(".")[0] not in NOT_IDENTITY
    }


def comparison_table(arms: list[Arm], sets: list[str]) -> Table:
    """One row per arm: parameters, cache, perplexity per held-out set, speed."""

    def perplexity(name: str) -> Column[Arm]:
        def cell(arm: Arm) -> str:
            spread = arm.spread(f"eval/{name}/perplexity")
            return f"{arm.mean(f'eval/{name}/perplexity'):.2f}" + ("" if spread is None else f" ± {spread:.2f}")

        return Column(f"perplexity\n{name.replace('_', ' ')}", cell, fold=True)

    return rich_table(
        [
            Column("arm", lambda arm: arm.label.replace(" ", "\n"), left=True, fold=True),
            Column("para-\nmeters", lambda arm: f"{arm.mean('parameters') / 1e6:.2f}M"),
            Column("cache\nbytes", lambda arm: f"{arm.mean('cache_bytes_per_token_per_layer'):,.0f}"),
            *map(perplexity, sets),
            Column("tokens\nper s", lambda arm: f"{arm.mean('tokens_per_second'):,.0f}"),
            Column("seeds", lambda arm: len(arm.summaries)),
        ],
        arms,
        title="held-out perplexity, mean ± standard deviation over seeds",
        caption="cache: bytes per token and layer in bf16; speed: training tokens per second",
    )


def draw_perplexity_against_cache(arms: list[Arm], sets: list[str], directory: Path) -> Path:
    """One panel per held-out set; each arm a point with its spread over seeds."""
    import matplotlib.pyplot as plt

    with figure_style():
        figure, axes = plt.subplots(1, len(sets), figsize=(4.2 * len(sets), 3.4), squeeze=False)
        for axis, name in zip(axes[0], sets, strict=True):
            for arm in arms:
                cache = arm.mean("cache_bytes_per_token_per_layer")
                beside = [other for other in arms if other.mean("cache_bytes_per_token_per_layer") == cache]
                step = beside.index(arm) - (len(beside) - 1) / 2  # arms of one cache size stand side by side
                axis.errorbar(
                    cache * 1.12**step,
                    arm.mean(f"eval/{name}/perplexity"),
                    yerr=arm.spread(f"eval/{name}/perplexity"),
                    fmt="o",
                    capsize=3,
                    color=MECHANISM_COLOURS.get(arm.mechanism, "black"),
                    label=arm.label,
                )
            axis.set_xscale("log", base=2)
            caches = sorted({arm.mean("cache_bytes_per_token_per_layer") for arm in arms})
            axis.set_xticks(caches, [f"{value:,.0f}" for value in caches])
            axis.minorticks_off()
            axis.margins(x=0.2, y=0.15)
            axis.set_xlabel("cache bytes per token and layer (bf16)")
            axis.set_ylabel("held-out perplexity")
            axis.set_title(name.replace("_", " "))
        axes[0][-1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        seeds = [len(arm.summaries) for arm in arms]
        bars = "; bars: standard deviation over seeds" if max(seeds) > 1 else ""
        note = f"{n_of(seeds, 'seed')} per point{bars}"
        return save_figure(figure, directory / "perplexity_against_cache", note)
