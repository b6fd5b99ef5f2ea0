"""`rl-exp rlhf-sweep`: which property of a reward model predicts how good a teacher it is?

    rl-exp rlhf-sweep preset=good_teacher

Method. Its jobs are runs of `rl-exp rlhf`: reward models x policies x seeds, which share prompts and sampling noise. At
the end their directories are read and compared: the properties of every reward model for the initial policy against the
increase of proxy and ground truth reward after fixed numbers of steps and at equal KL divergence.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from experiments.reports.rlhf_summary import summarise_rlhf


def compare(runs: list[Path], sweep_directory: Path, console: Console) -> None:
    """The end of a sweep: tables, correlations, verdicts and figures."""
    summarise_rlhf(runs, sweep_directory, console)
