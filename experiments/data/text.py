"""The text artifact: a source's documents on disk, split into training and held-out text.

Written as parquet with the columns `name` and `text`, so that hub data is read once, tokenizers are trained and applied
from disk, and bytes and characters are known. A long document has several rows, of which the first has its name and the
others null: whatever the documents, a row group's characters are all that is in memory at once.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from experiments.data.documents import CorpusSource, Document
from experiments.runs.artifacts import Artifact, ArtifactStore

FORMAT = 1  # raise it whenever equal sources would give another text
GROUP_CHARACTERS = 8_000_000  # of one parquet row group: what is in memory at once
LONGEST_PIECE = 200_000  # characters; longer documents are written and encoded in pieces
LEAST_TAIL = 100  # characters of a document's end that is held out
NAMES_KEPT = 20  # of held-out documents, for the first screen

_WHERE_WORDS_BEGIN = re.compile(r"(?<=\S)[ \n]")


@dataclass(frozen=True)
class SourceText:
    """The text of one source: two sides, `train` (may be empty) and `held_out`."""

    artifact: Artifact

    def pieces(self, side: str) -> Iterator[tuple[str | None, str]]:
        """The texts of `side` in pieces, from disk; one without a name goes on with the document before it."""
        return _read(self.artifact.path / f"{side}.parquet")

    def documents(self, side: str) -> Iterator[str]:
        """The texts of `side`, each as one."""
        parts: list[str] = []
        for name, text in self.pieces(side):
            if name is not None and parts:
                yield "".join(parts)
                parts = []
            parts.append(text)
        if parts:
            yield "".join(parts)

    def count(self, side: str, what: str) -> int:
        """`what` is documents, characters or bytes (of UTF-8)."""
        return int(self.artifact.facts[side][what])

    @property
    def dropped(self) -> dict[str, int]:
        """Rows that are in neither side, by kind: `blank`, `null`, `malformed` and so on."""
        return dict(self.artifact.facts.get("dropped", {}))


def prepare_text(store: ArtifactStore, source: CorpusSource) -> SourceText:
    """The text artifact of `source`, made when it is missing. ValueError for a source that yields no text."""
    recipe = {"format": FORMAT, "source": source.recipe()}
    return SourceText(store.get_or_make("text", recipe, lambda folder: _write_text(folder, source)))


class _Part(NamedTuple):
    name: str | None  # of the document that begins here
    text: str
    held_out: bool | None
    last: bool  # the document ends here


def _parts_of(documents: Iterable[Document], dropped: Counter[str]) -> Iterator[_Part]:
    """Documents in pieces, however they come; those that are blank or bad are only counted."""
    rest, begun = "", False
    for document in documents:
        if document.problem:
            dropped[document.problem] += 1
            continue
        *pieces, rest = cut(rest + document.text, LONGEST_PIECE)
        if not document.more:
            if not begun and not pieces and not rest.strip():
                dropped["blank"] += 1
                rest = ""
                continue
            pieces.append(rest)
        for place, piece in enumerate(pieces):
            last = not document.more and place == len(pieces) - 1
            yield _Part(None if begun else document.name, piece, document.held_out, last)
            begun = True
        if not document.more:
            rest, begun = "", False


def _write_text(folder: Path, source: CorpusSource) -> dict[str, Any]:
    """Read the source once; decide what is held out when every length is known; write both sides."""
    undecided, train = _Side(folder / "undecided.parquet"), _Side(folder / "train.parquet")
    aside = _Aside(folder / "held_out.arrow")
    held_out = _Side(folder / "held_out.parquet")
    dropped = Counter[str]()
    documents: list[tuple[bytes, int]] = []  # hash and characters of the undecided ones
    try:
        digest, characters, name = hashlib.sha256(), 0, ""
        for part in _parts_of(source.documents(), dropped):
            name = name if part.name is None else part.name
            digest.update(utf8(part.text, name))
            characters += len(part.text)
            if part.held_out:
                aside.write(part.name, part.text)
            else:
                (undecided if part.held_out is None else train).write(part.name, part.text)
            if part.last:
                if part.held_out:
                    aside.keys.append(digest.digest()[:16])
                elif part.held_out is None:
                    documents.append((digest.digest()[:16], characters))
                digest, characters = hashlib.sha256(), 0
        undecided.close()
        _divide(undecided.file, documents, source.holdout_fraction, train, aside)
        if not train.documents and not aside.keys:
            raise ValueError(f"the corpus {source.name} is empty: it has no document with any text")
        # In the order of a hash: an evaluation that stops early has seen a sample of the whole set.
        names: list[str] = []
        for begins, text in aside.in_order():
            held_out.write(begins, text)
            if begins is not None and len(names) < NAMES_KEPT:
                names.append(begins)
    finally:
        for side in (undecided, train, aside, held_out):
            side.close()
    undecided.file.unlink()
    aside.file.unlink()
    sides = {"train": train.facts(), "held_out": held_out.facts()}
    return sides | {"dropped": dict(dropped), "held_out_names": names}


def _divide(file: Path, documents: list[tuple[bytes, int]], fraction: float, train: _Side, aside: _Aside) -> None:
    """The undecided documents to both sides: complete ones are held out, or the ends of long ones."""
    lengths: dict[bytes, int] = {}  # all copies together
    for key, characters in documents:
        lengths[key] = lengths.get(key, 0) + characters
    chosen, share = choose_held_out(lengths, fraction)
    number, begun, tailing, before = -1, "", False, len(aside.keys)
    position = place = 0  # of this piece, and of where the document's held-out part begins
    for name, text in _read(file):
        if name is not None:
            number, position, begun, tailing = number + 1, 0, name, False
            key, characters = documents[number]
            place = 0 if key in chosen else characters
            if place and share and (len(lengths) == 1 or fraction * lengths[key] >= LEAST_TAIL):
                place = max(1, min(characters - 1, int(characters * (1 - share))))
        head, tail = cut_before(text, place - position)
        if head:
            train.write(name, head)
        if tail:
            aside.write(None if tailing else f"{begun} (end)" if place else begun, tail)
            if not tailing:
                aside.keys.append(documents[number][0])
            tailing = True
        position += len(text)
    if len(lengths) == 1 and len(aside.keys) == before:
        raise ValueError(
            f"the corpus is one document of {sum(lengths.values())} characters: too short to hold a part of it out"
        )


def choose_held_out(lengths: dict[bytes, int], fraction: float) -> tuple[set[bytes], float]:
    """What is held out of documents with these characters: some of them, and this share of the end of all others.

    Documents with the smallest hashes that together have at most `fraction` of the characters, and at least half of it;
    where documents are too long for that, the ends of all but the short ones make up for it. The choice depends on the
    texts only, not on their order or names.
    """
    budget, taken, chosen = fraction * sum(lengths.values()), 0, set[bytes]()
    for key in sorted(lengths):
        if taken + lengths[key] <= budget:
            chosen.add(key)
            taken += lengths[key]
        elif 2 * taken >= budget:
            break
    if 2 * taken >= budget:
        return chosen, 0.0
    long = [characters for key, characters in lengths.items() if fraction * characters >= LEAST_TAIL]
    if len(lengths) == 1:
        return set(), fraction
    if long:
        return chosen, min(0.5, (budget - taken) / sum(long))
    return chosen or {min(lengths, key=lambda key: (lengths[key], key))}, 0.0


def cut_before(text: str, place: int) -> tuple[str, str]:
    """`text` up to `place` and from there on; inside of it the cut comes behind the white space before `place`.

    All is head, or all tail, where the other part would be blank.
    """
    if not 0 < place < len(text):
        return ("", text) if place <= 0 else (text, "")
    cut = place
    while cut > 0 and not text[cut - 1].isspace():
        cut -= 1
    head, tail = text[: cut or place], text[cut or place :]
    return (head, tail) if head.strip() and tail.strip() else (text, "")


def cut(text: str, longest: int, gap: int = LONGEST_PIECE) -> list[str]:
    """`text` in pieces of about `longest` characters.

    Cut where white space begins with a space or a line break: there byte-level BPE never has a token across, so the
    pieces encode as the whole does. Where the next such place is `gap` characters off, a word is cut.
    """
    pieces, start = [], 0
    while len(text) - start > longest:
        place, end = start + longest, start + longest + gap
        if found := _WHERE_WORDS_BEGIN.search(text, place, end):
            place = found.start()
        elif len(text) < end:
            break
        pieces.append(text[start:place])
        start = place
    return [*pieces, text[start:]]


def utf8(text: str, name: str) -> bytes:
    """ValueError for text that has no UTF-8 form."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} holds half a surrogate pair at character {error.start}, which is not text") from error


def _read(file: Path) -> Iterator[tuple[str | None, str]]:
    """The rows that a `_Side` wrote."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(file) as table:
        for group in range(table.num_row_groups):
            columns = table.read_row_group(group)
            yield from zip(columns.column("name").to_pylist(), columns.column("text").to_pylist(), strict=True)


class _Side:
    """A parquet file that is written piece by piece."""

    def __init__(self, file: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        self.file = file
        self.documents = self.characters = self.bytes = 0
        self._schema = pyarrow.schema([("name", pyarrow.string()), ("text", pyarrow.string())])
        self._writer = pyarrow.parquet.ParquetWriter(file, self._schema, compression="zstd")
        self._rows: list[dict[str, str | None]] = []
        self._waiting = 0

    def write(self, name: str | None, text: str) -> None:
        """Add a document, or without a name a further piece of the last one."""
        self.bytes += len(utf8(text, name or ""))
        self.documents += name is not None
        self.characters += len(text)
        self._rows.append({"name": name, "text": text})
        self._waiting += len(text)
        if self._waiting >= GROUP_CHARACTERS:
            self._flush()

    def close(self) -> None:
        """Write what is waiting and the footer. A second call does nothing."""
        self._flush()
        self._writer.close()

    def facts(self) -> dict[str, int]:
        """Counts for the side-car."""
        return {"documents": self.documents, "characters": self.characters, "bytes": self.bytes}

    def _flush(self) -> None:
        import pyarrow

        if self._rows:
            self._writer.write_table(pyarrow.Table.from_pylist(self._rows, schema=self._schema))
            self._rows, self._waiting = [], 0


class _Aside:
    """Held-out documents on disk, until all are there and can be read in the order of their hashes."""

    def __init__(self, file: Path) -> None:
        import pyarrow

        self.file = file
        self.keys: list[bytes] = []  # of complete documents
        self._first: list[int] = []  # number of each document's first piece
        self._pieces = 0
        self._schema = pyarrow.schema([("name", pyarrow.string()), ("text", pyarrow.large_string())])
        self._sink = pyarrow.OSFile(str(file), "wb")
        self._writer = pyarrow.ipc.new_file(self._sink, self._schema)

    def write(self, name: str | None, text: str) -> None:
        """Add a document, or without a name a further piece of the last one."""
        import pyarrow

        if name is not None:
            self._first.append(self._pieces)
        self._pieces += 1
        self._writer.write_batch(pyarrow.record_batch([[name], [text]], schema=self._schema))

    def in_order(self) -> Iterator[tuple[str | None, str]]:
        """All pieces; nothing is written afterwards."""
        import pyarrow

        self.close()
        with pyarrow.memory_map(str(self.file)) as source:
            reader = pyarrow.ipc.open_file(source)
            ends = [*self._first[1:], self._pieces]
            for place in sorted(range(len(self.keys)), key=lambda place: self.keys[place]):
                for piece in range(self._first[place], ends[place]):
                    batch = reader.get_batch(piece)
                    yield batch.column(0)[0].as_py(), batch.column(1)[0].as_py()

    def close(self) -> None:
        """Write the footer. A second call does nothing."""
        if not self._sink.closed:
            self._writer.close()
            self._sink.close()
