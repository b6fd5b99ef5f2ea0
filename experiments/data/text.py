"""The text artifact: a source's documents on disk, split into training and held-out text.

Written as parquet with the columns `name` and `text`, so that hub data is read once, tokenizers are trained and applied
from disk, and bytes and characters are known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.data.documents import CorpusSource, Document
from experiments.runs.artifacts import Artifact, ArtifactStore

FORMAT = 1  # raise it whenever equal sources would give another text
GROUP_CHARACTERS = 8_000_000  # of one parquet row group: what is in memory at once


@dataclass(frozen=True)
class SourceText:
    """The text of one source: two sides, `train` (may be empty) and `held_out`."""

    artifact: Artifact

    def documents(self, side: str) -> Iterator[str]:
        """The texts of `side`, from disk, a row group at a time."""
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(self.artifact.path / f"{side}.parquet") as table:
            for group in range(table.num_row_groups):
                yield from table.read_row_group(group, columns=["text"]).column(0).to_pylist()

    def count(self, side: str, what: str) -> int:
        """`what` is documents, characters or bytes (of UTF-8)."""
        return int(self.artifact.facts[side][what])


def prepare_text(store: ArtifactStore, source: CorpusSource) -> SourceText:
    """The text artifact of `source`, made when it is missing. ValueError for a source that yields no text."""
    recipe = {"format": FORMAT, "source": source.recipe()}
    return SourceText(store.get_or_make("text", recipe, lambda folder: _write_text(folder, source)))


def _write_text(folder: Path, source: CorpusSource) -> dict[str, Any]:
    """Read the source once; decide what is held out when every length is known; write both sides."""
    undecided = _Side(folder / "undecided.parquet")
    sides = {"train": _Side(folder / "train.parquet"), "held_out": _Side(folder / "held_out.parquet")}
    lengths: dict[bytes, int] = {}  # hash of an undecided text -> its characters, all copies together
    held_out: list[Document] = []  # in memory: evaluation sets are small
    try:
        for document in source.documents():
            if not document.text.strip():
                continue
            if document.held_out is None:
                key = _hash(document)
                lengths[key] = lengths.get(key, 0) + len(document.text)
                undecided.write(document)
            elif document.held_out:
                held_out.append(document)
            else:
                sides["train"].write(document)
        undecided.close()
        if len(lengths) == 1:
            first = next(undecided.read())
            head, tail = cut_tail(first.text, source.holdout_fraction)
            sides["train"].write(Document(first.name, head))
            held_out.append(Document(f"{first.name} (end)", tail))
        else:
            chosen = choose_held_out(lengths, source.holdout_fraction)
            for document in undecided.read():
                if _hash(document) in chosen:
                    held_out.append(document)
                else:
                    sides["train"].write(document)
        # In the order of a hash: an evaluation that stops early has seen a sample of the whole set.
        for document in sorted(held_out, key=_hash):
            sides["held_out"].write(document)
    finally:
        for side in (undecided, *sides.values()):
            side.close()
    undecided.file.unlink()
    if sides["train"].documents + sides["held_out"].documents == 0:
        raise ValueError(f"the corpus {source.name} is empty: it has no document with any text")
    return {name: side.facts() for name, side in sides.items()}


def choose_held_out(lengths: dict[bytes, int], fraction: float) -> set[bytes]:
    """Documents with the smallest hashes that together have at most `fraction` of the characters; at least one.

    The choice depends on the texts only, not on their order or names.
    """
    budget, taken, chosen = fraction * sum(lengths.values()), 0, set[bytes]()
    for key in sorted(lengths):
        if taken + lengths[key] <= budget:
            chosen.add(key)
            taken += lengths[key]
        elif chosen:
            break
    if not chosen and lengths:
        chosen.add(min(lengths, key=lambda key: (lengths[key], key)))
    return chosen


def cut_tail(text: str, fraction: float) -> tuple[str, str]:
    """The only document of a corpus in two: its last `fraction` is held out, cut after white space where there is any.

    ValueError for a text too short to be cut.
    """
    cut = min(len(text) - 1, int(len(text) * (1 - fraction)))
    while cut > 0 and not text[cut - 1].isspace():
        cut -= 1
    cut = cut or int(len(text) * (1 - fraction))
    head, tail = text[:cut], text[cut:]
    if not head.strip() or not tail.strip():
        raise ValueError(f"the corpus is one document of {len(text)} characters: too short to hold a part of it out")
    return head, tail


class _Side:
    """A parquet file that is written document by document."""

    def __init__(self, file: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        self.file = file
        self.documents = self.characters = self.bytes = 0
        self._schema = pyarrow.schema([("name", pyarrow.string()), ("text", pyarrow.string())])
        self._writer = pyarrow.parquet.ParquetWriter(file, self._schema, compression="zstd")
        self._rows: list[dict[str, str]] = []
        self._waiting = 0

    def write(self, document: Document) -> None:
        """Add one document. ValueError for text that has no UTF-8 form."""
        try:
            self.bytes += len(document.text.encode("utf-8"))
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{document.name} holds half a surrogate pair at character {error.start}, which is no text"
            ) from error
        self.documents += 1
        self.characters += len(document.text)
        self._rows.append({"name": document.name, "text": document.text})
        self._waiting += len(document.text)
        if self._waiting >= GROUP_CHARACTERS:
            self._flush()

    def close(self) -> None:
        """Write what is waiting and the footer. A second call does nothing."""
        self._flush()
        self._writer.close()

    def read(self) -> Iterator[Document]:
        """What was written, after `close`."""
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(self.file) as table:
            for group in range(table.num_row_groups):
                rows: Iterable[dict[str, str]] = table.read_row_group(group).to_pylist()
                for row in rows:
                    yield Document(row["name"], row["text"])

    def facts(self) -> dict[str, int]:
        """Counts for the side-car."""
        return {"documents": self.documents, "characters": self.characters, "bytes": self.bytes}

    def _flush(self) -> None:
        import pyarrow

        if self._rows:
            self._writer.write_table(pyarrow.Table.from_pylist(self._rows, schema=self._schema))
            self._rows, self._waiting = [], 0


def _hash(document: Document) -> bytes:
    return hashlib.sha256(document.text.encode("utf-8", "surrogatepass")).digest()[:16]
