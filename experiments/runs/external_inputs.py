"""The identity of models and data sets that a configuration names by path: contents of local files, a hub's commit.

A path says nothing of what lies there: a folder may be trained anew, and a hub's branch moves. So addresses of what is
made of such an input hold this identity instead of the path, and run ids the contents of its files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.runs.files import sha256_unless_unchanged
from experiments.runs.identity import content_hash


def local_files(path: str | None) -> list[Path]:
    """The file at `path`, or the files of the model folder there; [] for the name of a hub repository, or None."""
    if not path:
        return []
    place = Path(path)
    if place.is_file():
        return [place]
    if not place.is_dir():
        return []
    return sorted(file for file in place.iterdir() if file.is_file() and not file.name.startswith("."))


def identity_of_input(path: str, commit: str | None = None) -> dict[str, Any]:
    """Plain JSON: the hash of names and contents of a local folder, else hub name and commit.

    `commit` is what was loaded, as a loaded model's `config._commit_hash` has it.
    """
    if files := local_files(path):
        return {"content": content_hash([[file.name, sha256_unless_unchanged(file)] for file in files])}
    return {"hub": path, "commit": commit}
