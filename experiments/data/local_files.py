"""A corpus of one's own: files and folders of .txt, .jsonl and .parquet, of which .txt and .jsonl may be compressed."""

from __future__ import annotations

import codecs
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from experiments.data.documents import STOP, BadRows, Document, OnBadRow, require_fraction
from experiments.data.row_text import MESSAGE_FIELDS, Template, missing_field, text_of_row
from experiments.runs.files import sha256_unless_unchanged

SUFFIXES = (".txt", ".jsonl", ".parquet")
COMPRESSED = (".gz", ".bz2", ".zst")  # of .txt and .jsonl
CHUNK = 1_000_000  # characters of a .txt file that are read at once
ROWS_AT_ONCE = 100  # of a .parquet file


@dataclass(frozen=True)
class LocalFiles:
    """One document per .txt file (or per part between `document_separator`), .jsonl line and .parquet row.

    `path` is a file, a folder, or several of them. `text_field` names the field of a .jsonl line and the column of a
    .parquet file, `meta.text` a field within one; lists of messages become text by `template`. `holdout_fraction` of
    the characters is held out by document, decided by a hash of the text, so that equal texts are on one side.
    """

    path: str | Sequence[str]
    text_field: str = "text"
    document_separator: str | None = None
    holdout_fraction: float = 0.05
    name: str = "local"
    bad_rows: BadRows = STOP
    template: Template | None = None

    def __post_init__(self) -> None:
        require_fraction("data.holdout_fraction", self.holdout_fraction)
        if self.document_separator == "":
            raise ValueError("data.document_separator is empty: use null for one document per .txt file")

    def files(self) -> list[Path]:
        """The files in the order of their names below each path. ValueError for a path that holds none."""
        return [file for file, _ in self._named_files()]

    def left_out(self) -> str:
        """What lies there and is not read: `2 files, 3,400 bytes: 1 hidden, 1 of other kinds (.md)`; else empty."""
        reasons, kinds, size = Counter[str](), set[str](), 0
        for root in self._roots():
            for file in _files_below(root) if root.is_dir() else ():
                kind = "hidden" if _is_hidden(file, root) else "" if _kind_of(file) else "of other kinds"
                if kind:
                    reasons[kind] += 1
                    size += file.stat().st_size if file.exists() else 0
                if kind == "of other kinds":
                    kinds.add("".join(file.suffixes[-2:]) or "no suffix")
        shown = f" ({_listed(sorted(kinds)[:5])})" if kinds else ""
        parts = [f"{count:,} {kind}{shown if kind == 'of other kinds' else ''}" for kind, count in reasons.items()]
        return f"{sum(reasons.values()):,} files, {size:,} bytes: {', '.join(parts)}" if parts else ""

    def require_text(self) -> None:
        """ValueError when there are no files, or the first one with any text cannot be read."""
        if not any(document.text.strip() for document in self.documents()):
            raise ValueError(f"data.path={self._shown()} is empty: it has no document with any text")

    def has_messages(self) -> bool:
        """Whether rows hold conversations, by the usual names of such fields."""
        return self.text_field.rsplit(".", 1)[-1] in MESSAGE_FIELDS

    def recipe(self) -> dict[str, Any]:
        """Names and contents of the files: the same files elsewhere are the same corpus. Reads every byte once."""
        digest, files = hashlib.sha256(), self._named_files()
        for file, name in files:
            digest.update(name.encode() + b"\0" + sha256_unless_unchanged(file).encode())
        return {
            "source": "local",
            "format": 2,
            "files": len(files),
            "files_sha256": digest.hexdigest(),
            "text_field": self.text_field,
            "document_separator": self.document_separator,
            "holdout_fraction": self.holdout_fraction,
            "bad_rows": str(self.bad_rows.action),
            "template": None if self.template is None else self.template.recipe_of_template(),
        }

    def documents(self) -> Iterator[Document]:
        """Every document of every file. ValueError names the file and the rows that cannot be read."""
        return self.bad_rows.sift((str(file), self._rows(file, name)) for file, name in self._named_files())

    def _shown(self) -> str:
        return self.path if isinstance(self.path, str) else f"[{','.join(self.path)}]"

    def _roots(self) -> list[Path]:
        return [Path(path).expanduser() for path in ([self.path] if isinstance(self.path, str) else self.path)]

    def _named_files(self) -> list[tuple[Path, str]]:
        return [(file, _name_of(file, root)) for root in self._roots() for file in self._readable(root)]

    def _readable(self, root: Path) -> list[Path]:
        kinds = _listed(SUFFIXES)
        if root.is_file():
            if not _kind_of(root):
                raise ValueError(
                    f"data.path={root}: {root.suffix or 'no suffix'} is not one of {kinds}; the first two may also be "
                    f"compressed ({_listed(COMPRESSED)})"
                )
            return [root]
        if not root.is_dir():
            raise ValueError(f"data.path={root} does not exist: name a file or a folder of {kinds}")
        found = [file for file in _files_below(root) if _kind_of(file) and not _is_hidden(file, root)]
        if not found:
            raise ValueError(f"data.path={root} holds no {kinds} file: put some there or name another")
        return sorted(found, key=lambda file: _name_of(file, root))

    def _rows(self, file: Path, name: str) -> Iterator[Document]:
        kind = _kind_of(file)
        if kind == ".parquet":
            return self._parquet(file, name)
        return self._text_file(file, name) if kind == ".txt" else self._json_lines(file, name)

    def _text_file(self, file: Path, name: str) -> Iterator[Document]:
        separator, rest, number = self.document_separator, "", 0
        try:
            if self.bad_rows.action is OnBadRow.skip:  # before a part of it is a document
                for _ in _pieces(file):
                    pass
            for piece in _pieces(file):
                if separator is None:
                    if rest:
                        yield Document(name, rest, more=True)
                    rest = piece
                    continue
                *parts, rest = (rest + piece).split(separator)
                for part in parts:
                    yield Document(f"{name} part {number}", part)
                    number += 1
                if len(rest) > CHUNK:  # all but what may be the beginning of a separator
                    yield Document(f"{name} part {number}", rest[: -len(separator)], more=True)
                    rest = rest[-len(separator) :]
        except UnicodeDecodeError as error:
            yield _undecodable(str(file), name, error)
            return
        yield Document(name if separator is None else f"{name} part {number}", rest)

    def _json_lines(self, file: Path, name: str) -> Iterator[Document]:
        with opened(file) as stream:
            for number, line in enumerate(io.BufferedReader(cast(io.RawIOBase, stream)), start=1):
                where, called = f"{file} line {number}", f"{name} line {number}"
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    yield _undecodable(where, called, error)
                    continue
                if not text.strip():
                    continue
                try:
                    value = json.loads(text)
                except (ValueError, RecursionError) as error:  # broken, a number of 4300 digits, nested too deep
                    reason = (
                        f"{where} is not JSON ({getattr(error, 'msg', error)}): a .jsonl file has one object a line"
                    )
                    yield Document(called, reason, problem="malformed")
                    continue
                if not isinstance(value, dict):
                    reason = f'{where} is not a JSON object: expected {{"{self.text_field}": "some text"}}'
                    yield Document(called, reason, problem="malformed")
                    continue
                yield text_of_row(value, self.text_field, where, called, self.template)

    def _parquet(self, file: Path, name: str) -> Iterator[Document]:
        import pyarrow
        import pyarrow.parquet

        try:
            with pyarrow.parquet.ParquetFile(file) as table:
                schema = table.schema_arrow
                column = self.text_field if self.text_field in schema.names else self.text_field.split(".")[0]
                if column not in schema.names:
                    types = {name: str(schema.field(name).type) for name in schema.names}
                    raise ValueError(missing_field(self.text_field, types, str(file)))
                number = 0
                for batch in table.iter_batches(batch_size=ROWS_AT_ONCE, columns=[column]):
                    for value in batch.column(0).to_pylist():
                        number += 1
                        at = f"row {number}"
                        row = {column: value}
                        yield text_of_row(row, self.text_field, f"{file} {at}", f"{name} {at}", self.template)
        except (pyarrow.ArrowException, OSError) as error:  # damaged pages are an OSError without a file name
            raise ValueError(f"{file} is not a readable parquet file: {str(error).splitlines()[0]}") from error


@contextmanager
def opened(file: Path) -> Iterator[BinaryIO]:
    """The bytes of a file, decompressed where its name says that it is compressed. ValueError for a damaged one."""
    import pyarrow

    compression = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}.get(file.suffix.lower())
    if compression is None:
        with file.open("rb") as plain:
            yield plain
        return
    try:
        with pyarrow.input_stream(str(file), compression=compression) as stream:
            yield stream
    except OSError as error:
        raise ValueError(f"{file} cannot be decompressed: {str(error).splitlines()[0]}") from error


def _pieces(file: Path) -> Iterator[str]:
    """The text of a file, about CHUNK characters at a time. UnicodeDecodeError counts the bytes of the file."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    lines, start = io.IncrementalNewlineDecoder(decoder, translate=True), 0
    with opened(file) as stream:
        while True:
            data = stream.read(CHUNK)
            waiting = len(decoder.getstate()[0])
            try:
                if text := lines.decode(data, final=not data):
                    yield text
            except UnicodeDecodeError as error:
                error.start += start - waiting
                raise
            if not data:
                return
            start += len(data)


def _kind_of(file: Path) -> str:
    """`.txt`, `.jsonl`, `.parquet`, or nothing for a file that is not read."""
    suffixes = [suffix.lower() for suffix in file.suffixes[-2:]]
    if len(suffixes) == 2 and suffixes[1] in COMPRESSED:
        return suffixes[0] if suffixes[0] in (".txt", ".jsonl") else ""
    return suffixes[-1] if suffixes and suffixes[-1] in SUFFIXES else ""


def _files_below(root: Path) -> Iterator[Path]:
    """Every file below a folder. A link to a folder is followed, and no folder is entered twice."""
    seen = set[str]()
    for folder, folders, names in os.walk(root, followlinks=True):
        place = os.path.realpath(folder)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        folders.sort()
        yield from (Path(folder) / name for name in sorted(names))


def _is_hidden(file: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(root).parts)


def _name_of(file: Path, root: Path) -> str:
    return file.name if file == root else file.relative_to(root).as_posix()


def _undecodable(where: str, name: str, error: UnicodeDecodeError) -> Document:
    reason = f"{where} is not UTF-8 ({error.reason} at byte {error.start}): convert it, for example with iconv"
    return Document(name, reason, problem="undecodable")


def _listed(items: Iterable[str]) -> str:
    return ", ".join(items)
