"""Rows of results as a parquet file, and as a table of W&B beside the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.runs.metrics import choose_wandb_mode
from experiments.runs.run import Run

Rows = Sequence[Mapping[str, Any]]


def write_parquet(rows: Rows, path: Path) -> None:
    """All rows with the union of their columns."""
    import pyarrow as pa
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pa.table({name: [row.get(name) for row in rows] for name in columns(rows)}), path)


def send_media(run: Run, tracking_mode: str, name: str, rows: Rows, figures: Sequence[Path]) -> None:
    """Rows as the table `name`, and figures, to W&B where `tracking_mode` uses it."""
    if choose_wandb_mode(tracking_mode) == "disabled":
        return
    import wandb

    names: list[str | int] = [*columns(rows)]
    table = wandb.Table(columns=names, data=[[row.get(str(name)) for name in names] for row in rows])
    run.log_media({name: table} | {f"figures/{path.stem}": wandb.Image(str(path)) for path in figures})


def columns(rows: Rows) -> list[str]:
    """The columns of any row, in the order in which they come first."""
    return list(dict.fromkeys(name for row in rows for name in row))
