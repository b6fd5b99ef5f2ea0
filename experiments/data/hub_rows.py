"""Rows of a dataset of the Hugging Face hub, or of anything else that `datasets.load_dataset` reads."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.runs.files import sha256_of_file

BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}


@dataclass(frozen=True)
class HubRows:
    """One split as rows (dicts).

    `path` is a repository of the hub, a builder such as "json" or "parquet" with `data_files`, a folder that
    `save_to_disk` wrote, or a .jsonl, .json, .parquet or .csv file. `setting` names the settings in messages.
    """

    path: str
    subset: str | None = None
    split: str = "train"
    data_files: str | None = None
    revision: str | None = None
    setting: str = "data"

    def recipe(self) -> dict[str, Any]:
        """What is asked of the hub, or the contents of local files. Name a `revision` to pin the hub's."""
        recipe: dict[str, Any] = {"subset": self.subset, "split": self.split, "revision": self.revision}
        local = self.local_files()
        if not local:
            return {"path": self.path, "data_files": self.data_files, **recipe}
        digest = hashlib.sha256()
        for file in local:
            digest.update(file.name.encode() + b"\0" + sha256_of_file(file).encode())
        return {"files_sha256": digest.hexdigest(), **recipe}

    def local_files(self) -> list[Path]:
        """The files on this machine, [] where the hub has them."""
        path = Path(self.path)
        if self.data_files is not None:
            pattern = Path(self.data_files)
            return sorted(pattern.parent.glob(pattern.name)) if pattern.parent.is_dir() else []
        if path.is_file():
            return [path]
        return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else []

    def read(self, *, streaming: bool = False) -> Any:
        """The split, cached or streamed. Every way of not getting it is one ValueError."""
        import datasets

        where = f"{self.setting}.path={self.path}" + (f" {self.setting}.subset={self.subset}" if self.subset else "")
        path, data_files = self.path, self.data_files
        if Path(path).is_file():
            suffix = Path(path).suffix.lower()
            if suffix not in BUILDERS:
                raise ValueError(f"{where}: {suffix or 'no suffix'} is not one of {', '.join(BUILDERS)}")
            path, data_files = BUILDERS[suffix], path
        try:
            if _saved_to_disk(Path(path)):
                return _split_of(datasets.load_from_disk(path), self.split)
            return datasets.load_dataset(
                path,
                self.subset,
                split=self.split,
                data_files=None if data_files is None else {self.split: data_files},
                revision=self.revision,
                streaming=streaming,
            )
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ValueError(
                f"{where} split {self.split}: {lines[0]} (check the spelling and the network, or use local files)"
            ) from error


def _saved_to_disk(folder: Path) -> bool:
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _split_of(saved: Any, split: str) -> Any:
    """The named split of a saved DatasetDict; a saved Dataset has one split, whatever its name."""
    if not isinstance(saved, dict):
        return saved
    if split not in saved:
        raise ValueError(f"no split {split!r} among {', '.join(saved)}")
    return saved[split]
