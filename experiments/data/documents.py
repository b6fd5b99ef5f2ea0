"""What a corpus is made of: named documents. Standard library only; every source has this shape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol


class Document(NamedTuple):
    """One text with a name for messages and side-cars."""

    name: str
    text: str
    held_out: bool | None = None  # None: the source's holdout_fraction decides, by a hash of the text


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


def require_fraction(name: str, value: float) -> None:
    """Raise ValueError unless 0 < value < 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name}={value} is impossible: it must be more than 0 and less than 1, such as 0.05")
