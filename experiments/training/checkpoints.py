"""Checkpoints that survive a kill at any moment: written aside, checked by hash, renamed, manifest last.

checkpoints/step_00000400/
    tensors.safetensors   every tensor of the state, by path: model/..., optimizers/0/state/3/exp_avg
    state.json            everything else
    MANIFEST.json         sizes and SHA-256 of both: a folder without it is no checkpoint
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from experiments.runs.files import flush_to_disk, read_json, sha256_of_file, write_json

logger = logging.getLogger(__name__)

FILES = ("tensors.safetensors", "state.json")


def save_checkpoint(directory: Path, step: int, state: dict[str, Any], *, keep: int) -> Path:
    """Write `state` (nested dicts and lists of tensors, numbers, strings) as `step`; keep the `keep` newest ones."""
    final = directory / f"step_{step:08d}"
    aside = directory / f".step_{step:08d}.{os.getpid()}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    tensors: dict[str, torch.Tensor] = {}
    plain = _take_tensors(state, "", tensors)
    save_file(tensors, aside / "tensors.safetensors")
    write_json(aside / "state.json", plain)
    files = {name: {"bytes": (aside / name).stat().st_size, "sha256": sha256_of_file(aside / name)} for name in FILES}
    flush_to_disk(aside / "tensors.safetensors")
    write_json(aside / "MANIFEST.json", {"step": step, "files": files})
    flush_to_disk(aside)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(aside, final)
    flush_to_disk(directory)
    whole = list_checkpoints(directory)
    place = whole.index(final)
    # Later ones were damaged, or this run would have continued from them: they must not count among those kept.
    for old in [*whole[place + 1 :], *whole[: place + 1][:-keep]]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def load_latest_checkpoint(directory: Path) -> dict[str, Any] | None:
    """The newest whole checkpoint's state, or None. A damaged one is named in a warning and passed over."""
    for leftover in directory.glob(".step_*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    for path in reversed(list_checkpoints(directory)):
        try:
            return load_checkpoint(path)
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:  # also JSON of another shape
            logger.warning("checkpoint %s cannot be used (%s): trying the one before it", path, error)
    return None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state saved in `path`; ValueError names the file that is missing or damaged."""
    manifest = read_json(path / "MANIFEST.json")
    for name, expected in manifest["files"].items():
        file = path / name
        if not file.exists():
            raise ValueError(f"{file} is missing")
        if file.stat().st_size != expected["bytes"] or sha256_of_file(file) != expected["sha256"]:
            raise ValueError(f"{file} is damaged: its size or SHA-256 is not what MANIFEST.json says")
    try:
        tensors = load_file(path / "tensors.safetensors")
    except SafetensorError as error:
        raise ValueError(f"{path / 'tensors.safetensors'} is no safetensors file ({error})") from error
    state = _put_tensors(read_json(path / "state.json"), tensors)
    assert isinstance(state, dict)
    return state


def list_checkpoints(directory: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(path.parent for path in directory.glob("step_*/MANIFEST.json"))


# JSON has no integer keys and no tensors; optimizer states have both.
def _take_tensors(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        tensors[path] = value.detach().contiguous()
        return {"__tensor__": path}
    if isinstance(value, dict):
        items = [[key, _take_tensors(item, f"{path}/{key}", tensors)] for key, item in value.items()]
        return {"__dict__": items}
    if isinstance(value, list | tuple):
        return [_take_tensors(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__} (at {path})")


def _put_tensors(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_put_tensors(item, tensors) for item in value]
    if isinstance(value, dict):
        if "__tensor__" in value:
            return tensors[value["__tensor__"]]
        return {key: _put_tensors(item, tensors) for key, item in value["__dict__"]}
    return value
