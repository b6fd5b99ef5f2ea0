"""Synthetic run directories with planted effects, as `rl-exp` would have left them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

NOW = "2026-01-02T03:04:05+00:00"


def made_run(
    output_dir: Path,
    run_id: str,
    *,
    experiment: str = "train",
    seed: int = 0,
    state: str = "finished",
    heartbeat: str = NOW,
    settings: dict[str, Any] | None = None,
    summary: dict[str, Any] | None = None,
    rows: list[dict[str, Any]] | None = None,
) -> Path:
    """A whole run directory."""
    run = output_dir / experiment / run_id
    run.mkdir(parents=True)
    nested: dict[str, Any] = {"seed": seed, "output_dir": str(output_dir), "tracking": {"mode": "disabled"}}
    for key, value in (settings or {}).items():
        node = nested
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    (run / "config.yaml").write_text(yaml.safe_dump(nested))
    (run / "overrides.yaml").write_text(yaml.safe_dump({**(settings or {}), "seed": seed}))
    manifest = {"run_id": run_id, "experiment": experiment, "seed": seed, "started": NOW, "exit_reason": state}
    manifest |= {"versions": {"torch": "2.0"}, "git": {"commit": "0" * 40, "dirty": False}, "command": ["rl-exp"]}
    (run / "manifest.json").write_text(json.dumps(manifest))
    (run / "status.json").write_text(json.dumps({"state": state, "heartbeat": heartbeat, "pid": 1, "attempt": 1}))
    if summary is not None:
        (run / "summary.json").write_text(json.dumps(summary))
    if rows is not None:
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run
