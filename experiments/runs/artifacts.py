"""Artifacts: what is expensive to make, made once and shared by every run. Standard library and filelock.

    outputs/artifacts/<kind>/<address>/            the artifact: files, and artifact.json written last
    outputs/artifacts/<kind>/.<address>.lock       held while it is made
    outputs/artifacts/<kind>/.<address>.<host>-<pid>.tmp  being made; renamed into place when complete

The address is a hash of the recipe: of everything that decides the content. Whoever has the same recipe gets
the same folder. A kill at any moment leaves a whole artifact, or a leftover that the next maker removes.

Between nodes this holds where flock does: NFSv4, NFSv3 with lockd, Lustre mounted with `-o flock`. Under `localflock`
or `nolock` each node locks for itself, and two nodes may make the same artifact at once: make it on one node first.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from experiments.runs.files import (
    flush_to_disk,
    naming_what_is_written,
    read_json,
    sha256_of_file,
    sha256_unless_unchanged,
    write_json,
)
from experiments.runs.identity import canonical_json, content_hash
from experiments.runs.manifest import now, package_versions

log = logging.getLogger(__name__)

SIDE_CAR = "artifact.json"
ADDRESS_DIGITS = 16


@dataclass(frozen=True)
class Artifact:
    """A complete artifact on disk."""

    kind: str
    address: str
    path: Path
    recipe: dict[str, Any]  # what decides the content
    facts: dict[str, Any]  # what the maker found out: counts, sizes, statistics
    files: dict[str, dict[str, Any]]  # relative name -> {"bytes": int, "sha256": str}

    def damage(self) -> str | None:
        """What is wrong with the files, or None: their sizes and contents (sha256) are not what the side-car says."""
        for name, entry in self.files.items():
            file = self.path / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != entry["bytes"]:
                return f"{name} has {file.stat().st_size} bytes instead of {entry['bytes']}"
            if sha256_unless_unchanged(file) != entry["sha256"]:
                return f"{name} has the right size but another content (sha256 differs)"
        return None


class ArtifactStore:
    """Artifacts by kind and recipe under one folder, usually outputs/artifacts."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def folder(self, kind: str, recipe: Mapping[str, Any]) -> Path:
        """Where the artifact lies or would lie."""
        _check_kind(kind)
        return self.root / kind / address_of(recipe)

    def find(self, kind: str, recipe: Mapping[str, Any]) -> Artifact | None:
        """The artifact if it is there and whole, else None. A damaged one is named in a warning."""
        artifact, problem = self._look(kind, recipe)
        if problem is not None:
            log.warning("artifact %s is damaged: %s", self.folder(kind, recipe), problem)
        return artifact

    def get_or_make(
        self, kind: str, recipe: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any] | None]
    ) -> Artifact:
        """The artifact of `recipe`. Where there is none, `make(folder)` fills a folder and may return facts.

        Sizes and contents (sha256) are checked, once a process for a file that stays as it is. A damaged artifact is
        named in a warning and made again. Processes that ask at once wait for the one that makes it. An error in
        `make` leaves nothing behind. Raises ValueError for a recipe or facts that are not plain JSON.
        """
        artifact, problem = self._look(kind, recipe)
        if artifact is not None:
            return artifact
        folder = self.folder(kind, recipe)
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.parent / f".{folder.name}.lock")
        try:
            lock.acquire(timeout=2)
        except Timeout:
            log.warning("waiting for another process that makes %s (lock %s)", folder, lock.lock_file)
            lock.acquire()
        try:
            for leftover in folder.parent.glob(f".{folder.name}.*.tmp"):  # its maker held this lock, so it is dead
                log.warning("artifact %s was half made by a process that ended early: made again", leftover)
                shutil.rmtree(leftover)
            artifact, problem = self._look(kind, recipe)
            if artifact is not None:
                return artifact
            if problem is not None:
                log.warning("artifact %s is damaged: %s; it is made again", folder, problem)
            return _make(folder, kind, recipe, make)
        finally:
            lock.release()

    def _look(self, kind: str, recipe: Mapping[str, Any]) -> tuple[Artifact, None] | tuple[None, str | None]:
        """(artifact, None) when whole, (None, None) when absent, (None, problem) when damaged."""
        folder = self.folder(kind, recipe)
        if not folder.exists():
            return None, None
        try:
            artifact = _load(folder)
            problem = artifact.damage()
        except (OSError, ValueError) as error:
            return None, str(error)
        if problem is not None:
            return None, problem
        if artifact.kind != kind or artifact.recipe != _plain(recipe):
            return None, f"{SIDE_CAR} describes another artifact"
        return artifact, None


def address_of(recipe: Mapping[str, Any]) -> str:
    """The content address: the first 16 hexadecimal digits of the sha256 of the recipe's canonical JSON."""
    return content_hash(recipe, ADDRESS_DIGITS)


def _plain(recipe: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(canonical_json(recipe))
    return plain


def _check_kind(kind: str) -> None:
    if not kind or kind.startswith(".") or "/" in kind or os.sep in kind:
        raise ValueError(f"artifact kind {kind!r} is not a folder name: use a plain word such as tokenizer")


def _load(folder: Path) -> Artifact:
    """Read the side-car. OSError or ValueError when it is missing or is no side-car."""
    side_car = folder / SIDE_CAR
    if not side_car.is_file():
        raise ValueError(f"{SIDE_CAR} is missing")
    value = read_json(side_car)
    try:
        files = {
            str(name): {"bytes": int(e["bytes"]), "sha256": str(e["sha256"])} for name, e in value["files"].items()
        }
        kind, recipe, facts = str(value["kind"]), dict(value["recipe"]), dict(value["facts"])
        damaged = value["checksum"] != content_hash([kind, recipe, facts, files])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{side_car} is not an artifact's side-car ({error!r})") from error
    if damaged:
        raise ValueError(f"{SIDE_CAR} was changed: its content is not what its checksum says")
    return Artifact(kind=kind, address=folder.name, path=folder, recipe=recipe, facts=facts, files=files)


def _make(
    folder: Path, kind: str, recipe: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any] | None]
) -> Artifact:
    """Make aside, flush to disk, write the side-car last, rename. The caller holds the lock."""
    aside = folder.parent / f".{folder.name}.{socket.gethostname()}-{os.getpid()}.tmp"
    aside.mkdir()
    try:
        with naming_what_is_written(folder):
            facts = make(aside)
        files: dict[str, dict[str, Any]] = {}
        for item in sorted(aside.rglob("*")):
            if item.is_symlink():
                raise ValueError(f"an artifact holds plain files, but {item} is a link")
            if item.is_file():
                files[item.relative_to(aside).as_posix()] = {
                    "bytes": item.stat().st_size,
                    "sha256": sha256_of_file(item),
                }
            flush_to_disk(item)
        plain_recipe, plain_facts = _plain(recipe), _plain(facts or {})
        side_car = {
            "kind": kind,
            "recipe": plain_recipe,
            "facts": plain_facts,
            "files": files,
            "checksum": content_hash([kind, plain_recipe, plain_facts, files]),
            "versions": package_versions(),
            "made": now(),
        }
        write_json(aside / SIDE_CAR, side_car)
        flush_to_disk(aside)
        if folder.exists():  # damaged, and already named in a warning
            shutil.rmtree(folder)
        os.replace(aside, folder)
        flush_to_disk(folder.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return _load(folder)
