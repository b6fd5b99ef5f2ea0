"""The identity of models and data sets that a configuration names by path: contents of local files, a hub's commit.

A path says nothing of what lies there: a folder may be trained anew, and a hub's branch moves. So addresses of what is
made of such an input hold this identity instead of the path, and run ids the contents of its files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.runs.files import sha256_unless_unchanged
from experiments.runs.identity import content_hash

HUB_NAME = r"[\w.-]+(/[\w.-]+)?"  # a regular expression


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


def identity_of_input(path: str, revision: str | None = None) -> dict[str, Any]:
    """Plain JSON: the hash of names and contents of a local folder, else the hub name and the commit of `revision`.

    Call it after the model was loaded: then the hub's files, and with them the commit, are in the local cache.
    """
    if files := local_files(path):
        return {"content": content_hash([[file.name, sha256_unless_unchanged(file)] for file in files])}
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(path, "config.json", revision=revision)  # .../snapshots/<commit>/config.json
    return {"hub": path, "commit": Path(file).parent.name if isinstance(file, str) else revision}
