"""Names that follow from content: canonical JSON, short hashes, run ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.runs.files import sha256_unless_unchanged

# What does not change a run's numbers does not change its name.
NOT_IDENTITY = ("tracking", "output_dir", "force", "distribution", "sweep", "hydra")


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no white space, so that equal values have equal texts.

    ValueError for what is no plain JSON: objects, NaN.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"only plain JSON (text, numbers, lists, mappings) has a content hash: {error}") from error


def content_hash(value: object, digits: int = 16) -> str:
    """The first hexadecimal digits of the SHA-256 of `value`'s canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:digits]


def run_id(config: Mapping[str, Any], input_files: Sequence[Path] = (), processes: int | None = None) -> str:
    """Ten hexadecimal digits: the same for a single run and for the same job of any sweep under any launcher.

    `input_files` are files that the configuration names: a run over other contents is another run. `processes` is
    given where a result belongs to a number of them.
    """
    identity: dict[str, Any] = {key: value for key, value in config.items() if key not in NOT_IDENTITY}
    if input_files:
        identity["input_files"] = [sha256_unless_unchanged(path) for path in input_files]  # once for all jobs
    if processes is not None:
        identity["processes"] = processes
    return content_hash(identity, digits=10)


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`; an empty mapping stays a value."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
