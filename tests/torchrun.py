"""The command line under a real torchrun, with gloo ranks on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def torchrun(
    folder: Path, *words: str, ranks: int = 2, program: tuple[str, ...] = ("-m", "cli.main")
) -> subprocess.CompletedProcess[str]:
    """Run `program` with `words` as `ranks` processes in `folder`, to their end."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return subprocess.run(
        [*launcher, *program, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=240,
    )
