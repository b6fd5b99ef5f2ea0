"""Checkpoints that survive a kill at any moment: written aside, checked by hash, renamed, manifest last.

checkpoints/step_00000400/
    tensors.safetensors   every tensor of the state, by path: model/..., optimizers/0/state/3/exp_avg
    state.json            everything else
    MANIFEST.json         sizes and SHA-256 of the others: a folder without it is no checkpoint

Where tensors are sharded over ranks, each rank writes its parts through torch.distributed.checkpoint, as files
`shard-<rank>-model-....safetensors` in place of the one. Any number of ranks reads either kind.
"""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from torch.distributed.checkpoint.state_dict_saver import save as save_shards
from torch.distributed.tensor import DTensor

from experiments.runs.files import flush_to_disk, naming_what_is_written, read_json, sha256_of_file, write_json
from experiments.runs.ranks import Ranks

logger = logging.getLogger(__name__)

WHOLE = "tensors.safetensors"
# What reading a damaged checkpoint raises: files that are missing, or JSON of another shape.
DAMAGE = (ValueError, KeyError, TypeError, AttributeError, FileNotFoundError, IsADirectoryError, NotADirectoryError)


def save_checkpoint(
    directory: Path, step: int, state: dict[str, Any], *, keep: int, ranks: Ranks | None = None
) -> Path:
    """Write `state` (nested dicts and lists of tensors, numbers, strings) as `step`; keep the `keep` newest ones.

    All of several ranks call this, with one directory that they share, and it returns when the checkpoint is whole. An
    OSError, such as that of a full disk, names the file, leaves nothing of this step, and touches no other one.
    """
    ranks = ranks or Ranks()
    final = directory / f"step_{step:08d}"
    aside = directory / f".step_{step:08d}.{ranks.broadcast(os.getpid())}.tmp"  # one folder for all ranks
    try:
        _write(aside, step, state, ranks)
    except BaseException:
        if ranks.is_first:
            shutil.rmtree(aside, ignore_errors=True)  # what it takes is missed on a full disk
        raise
    if ranks.is_first:
        shutil.rmtree(final, ignore_errors=True)
        os.replace(aside, final)
        flush_to_disk(directory)
        whole = list_checkpoints(directory)
        place = whole.index(final)
        # Later ones were damaged, or this run would have continued from them: they must not count among those kept.
        for old in [*whole[place + 1 :], *whole[: place + 1][:-keep]]:
            shutil.rmtree(old, ignore_errors=True)
    ranks.barrier()
    return final


def _write(folder: Path, step: int, state: dict[str, Any], ranks: Ranks) -> None:
    tensors: dict[str, torch.Tensor] = {}
    plain = _take_tensors(state, "", tensors)
    if ranks.is_first:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    ranks.barrier()
    with naming_what_is_written(folder / WHOLE):
        if any(isinstance(tensor, DTensor) for tensor in tensors.values()):
            writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
            with _first_failure():
                save_shards(tensors, storage_writer=writer)
            ranks.barrier()
        elif ranks.is_first:
            save_file(tensors, folder / WHOLE)
        if not ranks.is_first:
            return
        for path in folder.iterdir():
            flush_to_disk(path)
    write_json(folder / "state.json", plain)
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".")
    }
    write_json(folder / "MANIFEST.json", {"step": step, "files": files})
    flush_to_disk(folder)


def load_latest_checkpoint(directory: Path, ranks: Ranks | None = None) -> dict[str, Any] | None:
    """The state of the newest complete checkpoint, or None. A damaged one is named in a warning and skipped.

    Of several ranks the first one chooses and all load the same step. An OSError (a network file system that does not
    answer) is raised: falling back would lose the steps of a checkpoint that may be perfectly good.
    """
    ranks = ranks or Ranks()
    chosen, state = None, None
    if ranks.is_first:
        for leftover in directory.glob(".step_*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        for path in reversed(list_checkpoints(directory)):
            try:
                chosen, state = path.name, load_checkpoint(path)
                break
            except DAMAGE as error:
                logger.warning("checkpoint %s cannot be used (%s): trying the one before it", path, error)
                chosen = None
    chosen = ranks.broadcast(chosen)
    return load_checkpoint(directory / chosen) if chosen is not None and state is None else state


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state saved in `path`; ValueError names the file that is missing or damaged."""
    manifest = read_json(path / "MANIFEST.json")
    for name, expected in manifest["files"].items():
        file = path / name
        if not file.exists():
            raise ValueError(f"{file} is missing")
        if file.stat().st_size != expected["bytes"] or sha256_of_file(file) != expected["sha256"]:
            raise ValueError(f"{file} is damaged: its size or SHA-256 is not what MANIFEST.json says")
    is_whole = WHOLE in manifest["files"]
    try:
        tensors = load_file(path / WHOLE) if is_whole else _joined_shards(path)
    except SafetensorError as error:
        raise ValueError(f"{path / WHOLE if is_whole else path} is not a safetensors file ({error})") from error
    state = _put_tensors(read_json(path / "state.json"), tensors)
    assert isinstance(state, dict)
    return state


def _joined_shards(path: Path) -> dict[str, torch.Tensor]:
    """Whole tensors of what several ranks wrote; reads without any other rank."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as meant
        stored = HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
        items = {name: item for name, item in stored.items() if isinstance(item, TensorStorageMetadata)}
        for name, item in items.items():
            # The reader leaves a gap as it finds the memory: where a rank's file is not there, nobody would know.
            if sum(chunk.sizes.numel() for chunk in item.chunks) != item.size.numel():
                raise ValueError(f"{path}: the parts of {name} do not make {list(item.size)}: a rank's file is missing")
        tensors: dict[str, torch.Tensor] = {
            name: torch.empty(item.size, dtype=item.properties.dtype) for name, item in items.items()
        }
        with _first_failure():
            load_shards(tensors, storage_reader=HuggingFaceStorageReader(str(path)), no_dist=True)
    return tensors


@contextmanager
def _first_failure() -> Iterator[None]:
    """Inside, what fails in torch.distributed.checkpoint is the first rank's own error.

    It collects the errors of all ranks in a CheckpointException, which is no Exception.
    """
    try:
        yield
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from error


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
