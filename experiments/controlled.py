"""`rl-exp controlled`: the theory of both reward papers on tabular and log-linear policies.

    rl-exp controlled                                  the official exact plan of the imperfect-rewards paper
    rl-exp controlled experiment=teacher_bandit        another experiment
    rl-exp controlled -m 'experiment=glob(*)'          all of them
    rl-exp controlled problem=my_problem.yaml          a problem of your own

Method. Policies are softmax over a finite set of outputs, so that expected rewards, gradients and gradient flow are
exact; arms, seeds, prompts and outputs are dimensions of one float64 tensor. Each experiment, a file of
`controlled_experiments/`, sets up its arms, trains them, and judges statements of the papers by rule: a statement is
reproduced where the whole interval of the measured effect lies in the region that it claims.

A run leaves `statements.json`, `tables.json`, `reading.txt` and figures with captions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from enum import Enum
from textwrap import fill
from typing import TYPE_CHECKING, Any

import torch
from rich import box
from rich.table import Table

from conf.controlled_config import TAKES_PROBLEM, ControlledConfig
from experiments.controlled_experiments.error_categories import error_categories
from experiments.controlled_experiments.findings import Findings, Verdict, number
from experiments.controlled_experiments.imperfect_rewards import imperfect_rewards
from experiments.controlled_experiments.learnable_variance import learnable_variance
from experiments.controlled_experiments.partial_credit import partial_credit
from experiments.controlled_experiments.phase_diagram import phase_diagram
from experiments.controlled_experiments.policy_dependence import policy_dependence
from experiments.controlled_experiments.reward_variance import reward_variance
from experiments.controlled_experiments.teacher_bandit import teacher_bandit
from experiments.policies.problems import read_problem
from experiments.reports.findings_table import findings_table
from experiments.reports.style import DARK_GREY, save_figure
from experiments.runs.files import finite
from experiments.runs.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXPERIMENTS: dict[str, Callable[..., Findings]] = {
    experiment.__name__: experiment
    for experiment in (
        imperfect_rewards,
        phase_diagram,
        error_categories,
        reward_variance,
        teacher_bandit,
        policy_dependence,
        partial_credit,
        learnable_variance,
    )
}
MOST_ROWS_PRINTED = 20
MOST_COLUMNS_PRINTED = 9


def controlled(config: ControlledConfig, run: Run) -> dict[str, Any]:
    """Run one experiment, record and print what it found; returns the summary of the run."""
    # Most steps here are smaller than the cost of waking a second thread, which then only gets in the way.
    torch.set_num_threads(config.threads or 1)
    run.resume_metrics(0)  # an experiment takes seconds: an interrupted one starts over
    settings = settings_of(config)
    findings = EXPERIMENTS[config.experiment.name](**settings, streams=run.seeds, progress=run.progress)
    record(findings, run)
    show(findings, run)
    counts = {
        f"statements/{verdict}".replace(" ", "_"): sum(item.verdict is verdict for item in findings.statements)
        for verdict in Verdict
    }
    summary: dict[str, Any] = finite(findings.summary | counts)
    return summary


def settings_of(config: ControlledConfig) -> dict[str, Any]:
    """The experiment's settings as the keyword arguments of its function: the same names, enums by value."""
    experiment = config.experiment
    values = {item.name: getattr(experiment, item.name) for item in fields(experiment) if item.name != "name"}
    settings = {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}
    if experiment.name in TAKES_PROBLEM:
        settings["problem"] = None if config.problem is None else read_problem(config.problem)
    return settings


def record(findings: Findings, run: Run) -> None:
    """Metrics, statements, tables, the reading and the figures into the run directory."""
    for step, metrics in findings.trajectory:
        run.log(finite(metrics), step=step)
    last = findings.trajectory[-1][0] if findings.trajectory else 0
    run.log(finite({f"controlled/{name}": value for name, value in findings.summary.items()}), step=last)
    run.write_json("statements.json", [statement.as_dict() for statement in findings.statements])
    run.write_json("tables.json", finite(findings.tables))
    run.write_text("reading.txt", findings.reading + "\n")
    run.write_json("figures/captions.json", findings.captions)
    for name, figure in findings.figures.items():
        write_caption(figure, findings.captions[name])
        save_figure(figure, run.figures / name)


def write_caption(figure: Figure, caption: str) -> None:
    """Below everything else in the figure, once its layout is settled."""
    figure.draw_without_rendering()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    figure.set_layout_engine("none")
    text = fill(caption, int(17 * width))  # characters of this size that fit
    figure.text(box.x0 / width, (box.y0 - 0.1) / height, text, va="top", fontsize=7, color=DARK_GREY)


def show(findings: Findings, run: Run) -> None:
    """The reading, small tables, statements with their verdicts, and where the figures are."""
    for name, rows in findings.tables.items():
        if rows and len(rows) <= MOST_ROWS_PRINTED:
            run.console.print(table_of(name, rows))
    if findings.statements:
        run.console.print(findings_table(findings.statements))
    run.console.print(f"[bold]reading[/]   {findings.reading}", highlight=False)
    for name in findings.figures:
        run.console.print(f"[bold]figure[/]    {run.figures / name}.png", highlight=False, soft_wrap=True)


def table_of(name: str, rows: list[dict[str, Any]]) -> Table:
    """Rows of equal keys as a table; on its side where it has more columns than fit a terminal."""
    lines = [list(rows[0]), *([number(v) if isinstance(v, float) else str(v) for v in row.values()] for row in rows)]
    if len(rows[0]) > MOST_COLUMNS_PRINTED:
        lines = [list(line) for line in zip(*lines, strict=True)]
    table = Table(title=name.replace("_", " "), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for key in lines[0]:
        table.add_column(key.replace("_", " "), overflow="fold")
    for line in lines[1:]:
        table.add_row(line[0].replace("_", " "), *line[1:])
    return table
