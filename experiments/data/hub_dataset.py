"""A dataset of the Hugging Face hub, or anything else that `datasets.load_dataset` reads."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from experiments.data.documents import STOP, BadRows, Document, require_fraction
from experiments.data.hub_rows import HubRows
from experiments.data.row_text import MESSAGE_FIELDS, Template, missing_field, text_of_row
from experiments.runs.files import sha256_of_file


@dataclass(frozen=True)
class HubDataset:
    """One document per row, or per run of rows that begins with one that matches `document_start`.

    `path` is a repository of the hub, a builder such as "json" or "parquet" with `data_files`, or a folder that
    `save_to_disk` wrote. Without `evaluation_split`, `holdout_fraction` of the characters of `split` is held out
    by document. `most_documents` bounds each split; with `streaming` nothing beyond it is downloaded.
    """

    path: str
    subset: str | None = None
    split: str = "train"
    evaluation_split: str | None = None
    text_field: str = "text"
    data_files: str | None = None
    revision: str | None = None
    streaming: bool = False
    most_documents: int | None = None
    document_start: str | None = None  # regular expression
    holdout_fraction: float = 0.05
    name: str = "hub"
    bad_rows: BadRows = STOP
    template: Template | None = None

    def __post_init__(self) -> None:
        require_fraction("data.holdout_fraction", self.holdout_fraction)
        if self.most_documents is not None and self.most_documents < 1:
            raise ValueError(f"data.most_documents={self.most_documents} is impossible: use 1 or more, or null for all")
        if self.evaluation_split is not None and self.evaluation_split == self.split:
            raise ValueError(
                f"data.evaluation_split={self.evaluation_split} is the training split: name another or null"
            )
        if self.evaluation_split is not None and self.data_files is not None:
            raise ValueError(
                f"data.evaluation_split={self.evaluation_split} with data.data_files would evaluate on the training "
                "files: drop one of them; without evaluation_split, data.holdout_fraction is held out"
            )
        if self.document_start is not None:
            try:
                re.compile(self.document_start)
            except re.error as error:
                raise ValueError(
                    f"data.document_start={self.document_start!r} is not a regular expression: {error}"
                ) from error

    def has_messages(self) -> bool:
        """Whether rows hold conversations, by the usual names of such fields."""
        return self.text_field.rsplit(".", 1)[-1] in MESSAGE_FIELDS

    def recipe(self) -> dict[str, Any]:
        """What is asked of the hub; contents of files where they are local. Name a `revision` to pin the rest."""
        recipe: dict[str, Any] = {
            "source": "hub",
            "format": 2,
            "path": self.path,
            "subset": self.subset,
            "split": self.split,
            "evaluation_split": self.evaluation_split,
            "text_field": self.text_field,
            "data_files": self.data_files,
            "revision": self.revision,
            "most_documents": self.most_documents,
            "document_start": self.document_start,
            "holdout_fraction": self.holdout_fraction,
            "bad_rows": str(self.bad_rows.action),
            "template": None if self.template is None else self.template.recipe_of_template(),
        }
        local = self._split(self.split).local_files()
        if local:
            digest = hashlib.sha256()
            for file in local:
                digest.update(file.name.encode() + b"\0" + sha256_of_file(file).encode())
            recipe["files_sha256"] = digest.hexdigest()
        return recipe

    def documents(self) -> Iterator[Document]:
        """The training split, then the evaluation split. ValueError for what cannot be found or read."""
        yield from self._documents(self.split, held_out=None if self.evaluation_split is None else False)
        if self.evaluation_split is not None:
            yield from self._documents(self.evaluation_split, held_out=True)

    def _documents(self, split: str, held_out: bool | None) -> Iterator[Document]:
        rows = self.bad_rows.sift([(f"{self.path} split {split}", self._rows(split))])
        documents = islice(self._joined(rows), self.most_documents)
        for number, document in enumerate(documents):
            yield document._replace(name=f"{split} {number}", held_out=held_out)

    def _joined(self, rows: Iterator[Document]) -> Iterator[Document]:
        """Rows as they come, or joined up to the next row that matches `document_start`."""
        if self.document_start is None:
            yield from rows
            return
        start, parts = re.compile(self.document_start), list[str]()
        for row in rows:
            if row.problem:
                yield row
                continue
            if parts and start.match(row.text):
                yield Document("", "".join(parts))
                parts = []
            parts.append(row.text)
        if parts:
            yield Document("", "".join(parts))

    def _rows(self, split: str) -> Iterator[Document]:
        rows = self._split(split).read(streaming=self.streaming)
        names = getattr(rows, "column_names", None)
        if names is not None and self.text_field not in names and self.text_field.split(".")[0] not in names:
            types = {name: str(getattr(kind, "dtype", "nested")) for name, kind in (rows.features or {}).items()}
            raise ValueError(missing_field(self.text_field, types, f"data.path={self.path}"))
        for number, row in enumerate(rows, start=1):
            name = f"{split} row {number}"
            yield text_of_row(row, self.text_field, f"{self.path} split {name}", name, self.template)

    def _split(self, split: str) -> HubRows:
        return HubRows(self.path, self.subset, split, self.data_files, self.revision)
