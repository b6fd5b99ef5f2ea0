"""How `rl-exp bench` records its rows: metrics, parquet, W&B."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from conf.bench_config import BenchConfig
from experiments.runs.metrics import choose_wandb_mode
from experiments.runs.run import Run

Row = dict[str, Any]


def log_rows(rows: list[Row], run: Run) -> None:
    """A line of metrics for every row."""
    for number, row in enumerate(rows):
        labels = {name: value for name, value in row.items() if not isinstance(value, float)}
        measures = {f"decode/{name}": value for name, value in row.items() if isinstance(value, float)}
        run.log(labels | measures, cell=number)


def write_parquet(rows: list[Row], path: Path) -> None:
    """All rows with the union of their columns."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    pyarrow.parquet.write_table(pa.table({name: [row.get(name) for row in rows] for name in columns}), path)


def send_media(config: BenchConfig, run: Run, rows: list[Row], figures: list[Path]) -> None:
    """Rows and figures to W&B, where it is used."""
    if choose_wandb_mode(config.tracking.mode.value) == "disabled":
        return
    import wandb

    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = wandb.Table(columns=columns, data=[[row.get(name) for name in columns] for row in rows])
    run.log_media({"rows": table} | {f"figures/{path.stem}": wandb.Image(str(path)) for path in figures})
