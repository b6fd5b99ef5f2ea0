"""What made a run: versions, machine, code, command. Enough to tell two results apart, and no secrets."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

PACKAGES = (
    "rl-exp",
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "numpy",
    "hydra-core",
    "wandb",
    "triton",
)


def now() -> str:
    """The present moment in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def describe_environment() -> dict[str, Any]:
    """Versions, machine and git state. Environment variables are left out on purpose: they hold keys."""
    return {
        "versions": package_versions(),
        "machine": _machine(),
        "git": _git_state(),
        "command": [os.path.basename(sys.argv[0]), *sys.argv[1:]],
    }


def package_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that results may depend on."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _machine() -> dict[str, Any]:
    machine: dict[str, Any] = {
        "system": platform.system(),
        "processor": _processor_name(),
        "cores": os.cpu_count(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }
    if "torch" in sys.modules:
        import torch

        machine["torch_threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            machine["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
            machine["cuda"] = torch.version.cuda
    return machine


def _processor_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            names = [line.split(":", 1)[1].strip() for line in stream if line.startswith("model name")]
        return names[0] if names else platform.machine()
    except OSError:
        return platform.processor() or platform.machine()


def _git_state() -> dict[str, Any] | None:
    here = os.path.dirname(os.path.abspath(__file__))

    def git(*arguments: str) -> str:
        command = ["git", "-C", here, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None
