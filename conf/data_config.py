"""The schema of `data` and `tokenizer`: which text, and how it becomes tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from conf.limits import limited
from experiments.data.documents import BadRows, CorpusSource, OnBadRow, require_fraction
from experiments.data.hub_dataset import HubDataset
from experiments.data.local_files import LocalFiles
from experiments.data.markov import MarkovChain, SymbolTokenizer
from experiments.data.python_library import PythonDocstrings, PythonSource
from experiments.data.reasoning_gym_text import ReasoningGymText, parsed_arguments
from experiments.data.tokenizer import BytePairEncoding, HubTokenizer, PlainBytes, TokenizerChoice
from experiments.data.web_bible import WebBible


class DataSource(Enum):
    """Where the training text comes from. The first two are installed with the project, the last two are drawn."""

    web_bible = "web_bible"
    python_source = "python_source"
    local = "local"
    hub = "hub"
    markov = "markov"
    reasoning = "reasoning"


class HeldOutSet(Enum):
    """Held-out text of other domains, installed with the project."""

    web_bible = "web_bible"
    python_docstrings = "python_docstrings"
    python_source = "python_source"


class TokenizerKind(Enum):
    """How text becomes tokens."""

    bpe = "bpe"
    bytes = "bytes"
    hub = "hub"
    symbols = "symbols"


@dataclass
class DataConfig:
    """The training text, its own held-out part, and further held-out sets."""

    source: DataSource = DataSource.web_bible
    name: str = "web_bible"  # of its held-out set in metrics: eval/<name>/loss
    # local: a file, a folder, or several [a,b]; hub: a repository, a builder, a saved folder; reasoning: a name
    path: Any = None
    # of .jsonl lines, .parquet files and hub datasets; meta.text: a field in a field; messages: by the chat template
    text_field: str = "text"
    bad_rows: OnBadRow = OnBadRow.stop  # rows that are no text: stop, and list them, or skip, and count them
    most_bad_rows: float = limited(0.01, at_least=0, at_most=1)  # share of all rows that skip leaves out
    holdout_fraction: float = 0.05  # of the characters; local, and hub without evaluation_split
    document_separator: str | None = None  # local: splits .txt files; null: one document per file
    subset: str | None = None  # hub: configuration name; reasoning: arguments, as in max_terms=2,max_digits=1
    split: str = "train"  # hub
    evaluation_split: str | None = None  # hub; null: holdout_fraction of the training split
    data_files: str | None = None  # hub: files for a builder
    revision: str | None = None  # hub: commit, branch or tag
    streaming: bool = False  # hub: download only what is read
    most_documents: int | None = None  # hub: of each split, null: all; reasoning: examples
    document_start: str | None = None  # hub: regular expression of a row that begins a document; null: every row
    held_out_sets: list[HeldOutSet] = field(default_factory=lambda: [HeldOutSet.python_docstrings])

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_]+", self.name):
            raise ValueError(f"data.name={self.name!r}: must be letters, digits and underscores")
        names = [self.name, *(item.value for item in self.held_out_sets)]
        if len(set(names)) < len(names):
            raise ValueError(f"held-out sets {', '.join(names)} repeat a name: change data.name or data.held_out_sets")
        if self.source is DataSource.python_source and HeldOutSet.python_docstrings in self.held_out_sets:
            raise ValueError("data.held_out_sets: python_docstrings are part of python_source: choose web_bible")
        if self.source in (DataSource.local, DataSource.hub) and not self.path:
            example = "my_texts/" if self.source is DataSource.local else "roneneldan/TinyStories"
            raise ValueError(f"data.source={self.source.value} needs data.path, such as data.path={example}")
        if self.source is DataSource.reasoning and not self.path:
            raise ValueError("data.source=reasoning needs data.path: a data set of reasoning-gym, such as chain_sum")
        if self.source is DataSource.markov and self.held_out_sets:
            raise ValueError("data.held_out_sets: a Markov chain knows no text of other domains: use []")
        if not isinstance(self.path, str | None) and not (
            self.source is DataSource.local and all(isinstance(path, str) and path for path in self.path)
        ):
            raise ValueError(f"data.path={self.path}: must be one path, or with data=local a list of paths")
        require_fraction("data.holdout_fraction", self.holdout_fraction)
        source = self.corpus_source()
        if isinstance(source, LocalFiles):
            source.require_text()  # a missing or unreadable file: say so before anything heavy starts

    def corpus_source(self) -> CorpusSource:
        """The training text, with its held-out part."""
        if self.source is DataSource.web_bible:
            return WebBible(name=self.name)
        if self.source is DataSource.python_source:
            return PythonSource(name=self.name)
        if self.source is DataSource.markov:
            return MarkovChain(name=self.name, holdout_fraction=self.holdout_fraction)
        if self.source is DataSource.reasoning:
            return ReasoningGymText(
                self.path or "",
                parsed_arguments(self.subset or ""),
                examples=self.most_documents or 20_000,
                name=self.name,
                holdout_fraction=self.holdout_fraction,
            )
        if self.source is DataSource.local:
            return LocalFiles(
                path=self.path if isinstance(self.path, str) else tuple(self.path),
                text_field=self.text_field,
                bad_rows=BadRows(self.bad_rows, self.most_bad_rows),
                document_separator=self.document_separator,
                holdout_fraction=self.holdout_fraction,
                name=self.name,
            )
        return HubDataset(
            path=self.path or "",
            subset=self.subset,
            split=self.split,
            evaluation_split=self.evaluation_split,
            text_field=self.text_field,
            data_files=self.data_files,
            revision=self.revision,
            streaming=self.streaming,
            most_documents=self.most_documents,
            document_start=self.document_start,
            holdout_fraction=self.holdout_fraction,
            name=self.name,
            bad_rows=BadRows(self.bad_rows, self.most_bad_rows),
        )

    def held_out_sources(self) -> list[CorpusSource]:
        """The further held-out sets."""
        sources: dict[HeldOutSet, CorpusSource] = {
            HeldOutSet.web_bible: WebBible(),
            HeldOutSet.python_docstrings: PythonDocstrings(),
            HeldOutSet.python_source: PythonSource(),
        }
        return [sources[item] for item in self.held_out_sets]


@dataclass
class TokenizerConfig:
    """Byte-level BPE trained on the training text, plain bytes, a tokenizer of the hub, or the letters of `markov`."""

    kind: TokenizerKind = TokenizerKind.bpe
    vocabulary_size: int = 2048  # bpe: bytes and special tokens included
    path: str | None = None  # hub: a repository such as gpt2, or a folder
    revision: str | None = None  # hub

    def __post_init__(self) -> None:
        self.tokenizer_choice()

    def tokenizer_choice(self) -> TokenizerChoice:
        """The tokenizer. ValueError for an impossible one."""
        if self.kind is TokenizerKind.bpe:
            return BytePairEncoding(self.vocabulary_size)
        if self.kind is TokenizerKind.bytes:
            return PlainBytes()
        if self.kind is TokenizerKind.symbols:
            return SymbolTokenizer()
        return HubTokenizer(self.path or "", self.revision)
