"""Files that are either whole or absent: written aside, flushed to disk, renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

# No space, over quota, read-only, a bad device: errors of where a file lies, whatever was written.
STORAGE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


def flush_to_disk(path: Path) -> None:
    """fsync a file or a folder, so that a rename after it cannot be seen before its content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write `text` so that a reader sees the old content or the new, never a part. An OSError names the file."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, path)
    except BaseException as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise naming(error, path) from error
        raise


def naming(error: OSError, path: Path) -> OSError:
    """The same error with the file's name in its message: a full disk is reported by `write`, which knows no names."""
    return type(error)(error.errno, error.strerror or str(error), str(path))


@contextmanager
def naming_what_is_written(path: Path) -> Iterator[None]:
    """Inside, a full or read-only disk is an OSError that names `path`, unless it names a file already.

    Libraries that write for us say no name, and those in Rust (safetensors, tokenizers) raise errors of their own.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError):
            number = error.errno if error.filename is None else None
        else:
            found = re.search(r"\(os error (\d+)\)", str(error))
            number = int(found.group(1)) if found else None
        if number not in STORAGE_ERRORS:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def write_in_place(path: Path, text: str) -> None:
    """Overwrite a small file where it lies: the way that is left on a full disk, which has no room for a copy aside."""
    with path.open("r+", encoding="utf-8") as stream:
        stream.write(text)
        stream.truncate()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all; non-finite numbers become null."""
    write_text(path, json.dumps(finite(value), indent=2, default=str) + "\n")


def read_json(path: Path) -> Any:
    """Parse a JSON file; ValueError names the file when it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}): it was damaged or half written") from error


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_unless_unchanged(path: Path) -> str:
    """`sha256_of_file`, read once a process as long as the file's size and times stay."""
    facts = path.stat()
    return _sha256_of(path, (facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns))


@lru_cache(maxsize=4096)
def _sha256_of(path: Path, _version: tuple[int, ...]) -> str:
    return sha256_of_file(path)


def finite(value: Any) -> Any:
    """`value` with NaN and infinities replaced by None: JSON has no word for them."""
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
