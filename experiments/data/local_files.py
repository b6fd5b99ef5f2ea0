"""A corpus of one's own: a file or a folder of .txt, .jsonl and .parquet files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.data.documents import Document, require_fraction
from experiments.runs.files import sha256_of_file

SUFFIXES = (".txt", ".jsonl", ".parquet")


@dataclass(frozen=True)
class LocalFiles:
    """One document per .txt file (or per part between `document_separator`), .jsonl line and .parquet row.

    `text_field` names the field of a .jsonl line and the column of a .parquet file. `holdout_fraction` of the
    characters is held out by document, decided by a hash of the text, so that equal texts are on one side.
    """

    path: str
    text_field: str = "text"
    document_separator: str | None = None
    holdout_fraction: float = 0.05
    name: str = "local"

    def __post_init__(self) -> None:
        require_fraction("data.holdout_fraction", self.holdout_fraction)
        if self.document_separator == "":
            raise ValueError("data.document_separator is empty: use null for one document per .txt file")

    def files(self) -> list[Path]:
        """The files in the order of their names below `path`. ValueError when there are none."""
        path = Path(self.path).expanduser()
        if path.is_file():
            if path.suffix.lower() not in SUFFIXES:
                raise ValueError(
                    f"data.path={self.path}: {path.suffix or 'no suffix'} is not one of {_listed(SUFFIXES)}"
                )
            return [path]
        if not path.is_dir():
            raise ValueError(f"data.path={self.path} does not exist: name a file or a folder of {_listed(SUFFIXES)}")
        found = [file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()]
        visible = [file for file in found if not any(p.startswith(".") for p in file.relative_to(path).parts)]
        if not visible:
            raise ValueError(f"data.path={self.path} holds no {_listed(SUFFIXES)} file: put some there or name another")
        return sorted(visible, key=lambda file: file.relative_to(path).as_posix())

    def require_text(self) -> None:
        """ValueError when there are no files, or the first one with any text cannot be read."""
        if not any(document.text.strip() for document in self.documents()):
            raise ValueError(f"data.path={self.path} is empty: it has no document with any text")

    def recipe(self) -> dict[str, Any]:
        """Names and contents of the files: the same files elsewhere are the same corpus. Reads every byte once."""
        files = self.files()
        digest = hashlib.sha256()
        for file in files:
            digest.update(self._name_of(file).encode() + b"\0" + sha256_of_file(file).encode())
        return {
            "source": "local",
            "files": len(files),
            "files_sha256": digest.hexdigest(),
            "text_field": self.text_field,
            "document_separator": self.document_separator,
            "holdout_fraction": self.holdout_fraction,
        }

    def documents(self) -> Iterator[Document]:
        """Every document of every file. ValueError names the file and the line that cannot be read."""
        for file in self.files():
            name = self._name_of(file)
            try:
                if file.suffix.lower() == ".txt":
                    yield from self._text_file(file, name)
                elif file.suffix.lower() == ".jsonl":
                    yield from self._json_lines(file, name)
                else:
                    yield from self._parquet(file, name)
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{file} is not UTF-8 ({error.reason} at byte {error.start}): convert it, for example with iconv"
                ) from error

    def _name_of(self, file: Path) -> str:
        root = Path(self.path).expanduser()
        return file.name if file == root else file.relative_to(root).as_posix()

    def _text_file(self, file: Path, name: str) -> Iterator[Document]:
        text = file.read_text(encoding="utf-8-sig")
        if self.document_separator is None:
            yield Document(name, text)
        else:
            for number, part in enumerate(text.split(self.document_separator)):
                yield Document(f"{name} part {number}", part)

    def _json_lines(self, file: Path, name: str) -> Iterator[Document]:
        with file.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, start=1):
                if not line.strip():
                    continue
                where = f"{file} line {number}"
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError) as error:  # broken, a number of 4300 digits, nested too deep
                    reason = getattr(error, "msg", error)
                    raise ValueError(
                        f"{where} is not JSON ({reason}): a .jsonl file has one object per line"
                    ) from error
                if not isinstance(value, dict):
                    raise ValueError(f'{where} is no JSON object: expected {{"{self.text_field}": "some text"}}')
                yield Document(f"{name} line {number}", text_of(value, self.text_field, where))

    def _parquet(self, file: Path, name: str) -> Iterator[Document]:
        import pyarrow
        import pyarrow.parquet

        try:
            with pyarrow.parquet.ParquetFile(file) as table:
                columns = table.schema_arrow.names
                if self.text_field not in columns:
                    raise ValueError(missing_field(self.text_field, columns, str(file)))
                row = 0
                for batch in table.iter_batches(batch_size=1000, columns=[self.text_field]):
                    for value in batch.column(0).to_pylist():
                        where = f"{file} row {row}"
                        yield Document(f"{name} row {row}", text_of({self.text_field: value}, self.text_field, where))
                        row += 1
        except (pyarrow.ArrowException, OSError) as error:  # damaged pages are an OSError without a file name
            raise ValueError(f"{file} is no readable parquet file: {str(error).splitlines()[0]}") from error


def text_of(row: dict[str, Any], field: str, where: str) -> str:
    """The text in `row[field]`. ValueError when the field is missing or is no text."""
    if field not in row:
        raise ValueError(missing_field(field, row, where))
    text = row[field]
    if not isinstance(text, str):
        raise ValueError(f"{where}: {field!r} holds {type(text).__name__} instead of text: set data.text_field")
    return text


def missing_field(field: str, present: Iterable[str], where: str) -> str:
    """The message for a field or column that is not there."""
    return f"{where} has no {field!r}: set data.text_field to one of {_listed(sorted(present)) or 'its columns'}"


def _listed(items: Iterable[str]) -> str:
    return ", ".join(items)
