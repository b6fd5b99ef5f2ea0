"""What a corpus is made of: named documents, and what becomes of rows that are none. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

MOST_NAMED = 10  # bad rows in a message
MOST_SEARCHED = 1000  # after as many a file is not searched for more


class Document(NamedTuple):
    """One text with a name for messages and side-cars."""

    name: str
    text: str
    held_out: bool | None = None  # None: the source's holdout_fraction decides, by a hash of the text
    more: bool = False  # the next document goes on where this one ends: a part, of a text too long to hold in memory
    problem: str = ""  # the kind of a row that is no document, such as `null`; its text is then the reason, one line


class CorpusSource(Protocol):
    """Where a corpus comes from. Sources are small frozen dataclasses; creating one reads nothing."""

    @property
    def name(self) -> str:
        """Name of its held-out set: letters, digits and underscores."""

    @property
    def holdout_fraction(self) -> float:
        """Share of the characters held out among the documents whose `held_out` is None."""

    def recipe(self) -> dict[str, Any]:
        """All that decides the text, as plain JSON. Raises ValueError when something named is missing."""

    def documents(self) -> Iterator[Document]:
        """The documents in a fixed order. Raises ValueError for text that cannot be read."""


class OnBadRow(StrEnum):
    """What rows do that are no text: null, malformed, of another type, not UTF-8."""

    stop = "stop"
    skip = "skip"


@dataclass(frozen=True)
class BadRows:
    """`stop` at the first file with bad rows, all of which are listed; or `skip` up to a share of all rows."""

    action: OnBadRow = OnBadRow.stop
    most: float = 0.01

    def sift(self, files: Iterable[tuple[str, Iterator[Document]]]) -> Iterator[Document]:
        """The rows of (name of a file, its rows). ValueError for the bad ones of a file, or for more than `most`."""
        bad = rows = 0
        for name, documents in files:
            found: list[Document] = []
            for document in documents:
                document = _refuse_surrogates(document)
                rows += not document.more
                if document.problem:
                    found.append(document)
                if self.action is OnBadRow.skip or not found:
                    yield document
                elif len(found) == MOST_SEARCHED:
                    break
            if found and self.action is OnBadRow.stop:
                raise ValueError(_listed(name, found))
            bad += len(found)
        if bad > self.most * rows:
            raise ValueError(
                f"{bad:,} of {rows:,} rows are no text, more than data.most_bad_rows={self.most}: data.bad_rows=stop "
                "lists them"
            )


STOP = BadRows()


def _refuse_surrogates(document: Document) -> Document:
    try:
        document.text.encode("utf-8")
    except UnicodeEncodeError as error:
        reason = f"{document.name} holds half a surrogate pair at character {error.start}, which is not text"
        return document._replace(text=reason, problem="undecodable")
    return document


def _listed(name: str, found: list[Document]) -> str:
    """The reason of the first bad row, and the places of the others."""
    others = [f"{' '.join(row.name.split()[-2:])} ({row.problem})" for row in found[1:MOST_NAMED]]
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    count = f"{name} has {len(found)} bad rows, or more: " if len(found) == MOST_SEARCHED else ""
    also = f"; also {', '.join(others)}{more}" if others else ""
    return f"{count}{found[0].text}{also}; data.bad_rows=skip leaves such rows out"


def require_fraction(name: str, value: float) -> None:
    """Raise ValueError unless 0 < value < 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name}={value} is impossible: it must be more than 0 and less than 1, such as 0.05")
