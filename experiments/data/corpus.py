"""From a source and a tokenizer to token files: three artifacts, each made once and shared by all runs.

    source -> text (train, held_out) -> tokenizer (trained on train) -> tokens of each side

A corpus is the training tokens of one source and named held-out sets: its own, and those of other sources.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.data.documents import CorpusSource
from experiments.data.hub_dataset import HubDataset
from experiments.data.local_files import LocalFiles
from experiments.data.python_library import PythonDocstrings, PythonSource
from experiments.data.text import SourceText, prepare_text
from experiments.data.text_statistics import unigram_cross_entropy, unigram_entropy, vocabulary_coverage
from experiments.data.tokenizer import (
    BytePairEncoding,
    HubTokenizer,
    LostText,
    TokenizerChoice,
    encode_documents,
    load_tokenizer,
    prepare_tokenizer,
)
from experiments.runs.artifacts import Artifact, ArtifactStore, address_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from experiments.data.packing import Batch

FORMAT = 1  # raise it whenever equal text and tokenizer would give other tokens
BATCH_CHARACTERS = 1_000_000  # encoded at once: what the tokenizer notes of each takes a hundred times its memory

FEW_TOKENS = 1_000

Progress = Callable[[int, int], None]  # characters done, characters in all


@dataclass(frozen=True)
class TokenisedText:
    """One side of a source's text as token ids; every document ends with the end-of-document token."""

    artifact: Artifact

    @cached_property
    def tokens(self) -> np.ndarray:
        """[N] token ids, uint16 or uint32, memory-mapped and read-only."""
        return np.memmap(self.artifact.path / "tokens.bin", dtype=self.artifact.facts["dtype"], mode="r")

    @cached_property
    def offsets(self) -> np.ndarray:
        """[documents + 1] where documents begin, int64; the last is N."""
        return np.asarray(np.load(self.artifact.path / "offsets.npy", mmap_mode="r", allow_pickle=False))

    @cached_property
    def counts(self) -> np.ndarray:
        """[vocabulary] how often each token occurs, int64."""
        return np.asarray(np.load(self.artifact.path / "counts.npy", allow_pickle=False))

    @property
    def documents(self) -> int:
        """Number of documents."""
        return int(self.artifact.facts["documents"])

    @property
    def characters(self) -> int:
        """Unicode characters of the text, without end-of-document tokens."""
        return int(self.artifact.facts["characters"])

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of the text, without end-of-document tokens."""
        return int(self.artifact.facts["bytes"])

    @property
    def tokens_per_byte(self) -> float:
        """Tokens (ends of documents included) per byte of text: bits per byte = nats * tokens_per_byte / ln 2."""
        return len(self.tokens) / self.bytes

    def tokens_per_byte_of(self, targets: int, tokenizer: PreTrainedTokenizerFast) -> float:
        """`tokens_per_byte` of what an evaluation of the first `targets` predicted tokens covers."""
        if targets >= len(self.tokens) - 1:
            return self.tokens_per_byte
        covered = self.tokens[1 : targets + 1]
        return targets / max(len(str(tokenizer.decode(covered.tolist(), skip_special_tokens=True)).encode()), 1)

    @property
    def tokens_per_character(self) -> float:
        """Tokens (ends of documents included) per character of text."""
        return len(self.tokens) / self.characters

    def batches(
        self, sequence_length: int, batch_size: int, most_tokens: int | None = None
    ) -> Iterator[tuple[Any, Any]]:
        """(inputs, targets), int64 tensors [batch_size, sequence_length], in order, tail included.

        See experiments/data/packing.py, `held_out_batches`, for what fills the last batch.
        """
        for batch in self.batches_with_documents(sequence_length, batch_size, most_tokens):
            yield batch.inputs, batch.targets

    def batches_with_documents(
        self, sequence_length: int, batch_size: int, most_tokens: int | None = None
    ) -> Iterator[Batch]:
        """As `batches`, with the ids of the documents."""
        from experiments.data.packing import held_out_batches

        return held_out_batches(self.tokens, self.offsets, sequence_length, batch_size, most_tokens, document_ids=True)


@dataclass(frozen=True)
class TokenisedCorpus:
    """Training tokens, named held-out sets, and the tokenizer that made them."""

    name: str
    train: TokenisedText
    held_out: dict[str, TokenisedText]  # the corpus's own set first
    tokenizer_artifact: Artifact
    notes: tuple[str, ...] = ()  # what a user must know of the text: the split, what was left out; lines for the screen

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer; `save_pretrained` puts it beside a model. Its length is the model's vocabulary size."""
        return load_tokenizer(self.tokenizer_artifact.path)

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids, special tokens included; known without loading the tokenizer."""
        return int(self.tokenizer_artifact.facts["vocabulary_size"])

    @property
    def tokens(self) -> np.ndarray:
        """[N] training tokens, memory-mapped."""
        return self.train.tokens

    @property
    def offsets(self) -> np.ndarray:
        """[documents + 1] where training documents begin."""
        return self.train.offsets

    @cached_property
    def unigram_entropy(self) -> float:
        """Entropy of the training tokens' frequencies, nats per token: their own loss without context."""
        return unigram_entropy(self.train.counts)

    def unigram_perplexities(self) -> dict[str, float]:
        """Of the training text's token frequencies on every held-out set: what a model without context scores."""
        train = self.train.counts
        return {name: exp(unigram_cross_entropy(train, text.counts)) for name, text in self.held_out.items()}

    @property
    def fingerprints(self) -> dict[str, str]:
        """What the corpus consists of: addresses of artifacts, for a run's manifest."""
        sides = {"train": self.train, **{f"held_out/{name}": text for name, text in self.held_out.items()}}
        return {"tokenizer": self.tokenizer_artifact.address, **{k: t.artifact.address for k, t in sides.items()}}

    @property
    def address(self) -> str:
        """One content address for the whole corpus."""
        return address_of(self.fingerprints)

    def statistics(self) -> dict[str, dict[str, float]]:
        """Per text (`train` and each held-out set): sizes, tokens per byte and character, entropies, coverage."""
        rows: dict[str, dict[str, float]] = {}
        for name, text in {"train": self.train, **self.held_out}.items():
            rows[name] = {
                "documents": text.documents,
                "characters": text.characters,
                "bytes": text.bytes,
                "tokens": len(text.tokens),
                "tokens_per_byte": text.tokens_per_byte,
                "tokens_per_character": text.tokens_per_character,
                "unigram_entropy": unigram_entropy(text.counts),
                "unigram_cross_entropy": unigram_cross_entropy(self.train.counts, text.counts),
                "vocabulary_coverage": vocabulary_coverage(text.counts),
            }
        return rows


def prepare_corpus(
    store: ArtifactStore,
    source: CorpusSource,
    tokenizer: TokenizerChoice | None = None,
    *,
    held_out_sources: Sequence[CorpusSource] = (),
    progress: Progress | None = None,
) -> TokenisedCorpus:
    """Everything from the source to tokens; what exists is used. `tokenizer` is byte-level BPE of 2048 by default.

    `held_out_sources` add the held-out text of other sources, by their names. `progress(done, total)` counts
    characters while tokens are made. ValueError for a source that is missing, empty, unreadable, or held out twice.
    """
    names = [source.name, *(other.name for other in held_out_sources)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"two held-out sets are named {repeated[0]}: drop one, or give one another name")
    if isinstance(source, PythonSource) and any(isinstance(other, PythonDocstrings) for other in held_out_sources):
        raise ValueError("python_docstrings are part of python_source: they cannot be held out from each other")
    tokenizer = tokenizer or BytePairEncoding()
    if isinstance(source, LocalFiles | HubDataset) and isinstance(tokenizer, HubTokenizer) and source.has_messages():
        source = replace(source, template=tokenizer)
    text = prepare_text(store, source)
    if text.count("train", "documents") == 0:
        raise ValueError(f"the corpus {source.name} has held-out text only: nothing to train on")
    others = {other.name: prepare_text(store, other) for other in held_out_sources}
    for name, held_out in {source.name: text, **others}.items():
        if held_out.count("held_out", "documents") == 0:
            raise ValueError(f"the corpus {name} has no held-out text: nothing to evaluate on")
    artifact = prepare_tokenizer(store, tokenizer, text)

    sides = [(text, "train"), (text, "held_out"), *((other, "held_out") for other in others.values())]
    total = sum(part.count(side, "characters") for part, side in sides)
    done, tokenised = 0, []
    for part, side in sides:
        report = None if progress is None else _shifted(progress, done, total)
        tokenised.append(TokenisedText(_prepare_tokens(store, part, side, artifact, report)))
        done += part.count(side, "characters")
        if progress is not None:
            progress(done, total)
    train, *held_out_texts = tokenised
    by_name = dict(zip(names, held_out_texts, strict=True))
    return TokenisedCorpus(source.name, train, by_name, artifact, tuple(_notes(source, text, train, by_name)))


def _notes(
    source: CorpusSource, text: SourceText, train: TokenisedText, held_out: dict[str, TokenisedText]
) -> Iterator[str]:
    """The split of the training text, and whatever of it, or of its words, is not in the tokens."""
    own = held_out[source.name]
    share = own.characters / (own.characters + train.characters)
    names = text.artifact.facts.get("held_out_names", [])
    shown = f": {', '.join(names[:5])}{', ...' if own.documents > 5 else ''}" if names else ""
    yield (
        f"held out: {own.documents:,} of {own.documents + train.documents:,} documents, "
        f"{share:.1%} of the characters, {len(own.tokens):,} tokens{shown}"
    )
    if isinstance(source, LocalFiles) and (files := source.left_out()):
        yield f"not read: {files}"
    if text.dropped:
        yield f"left out: {', '.join(f'{count:,} {kind}' for kind, count in text.dropped.items())} (documents or rows)"
    for name, side in {"training text": train, **held_out}.items():
        if len(side.tokens) < FEW_TOKENS:
            yield f"warning: {name} has {len(side.tokens):,} tokens only, on which a loss says little"
        if lost := side.artifact.facts.get("lost"):
            before, after = lost["example"]
            yield (
                f"warning: the tokenizer does not give the text of {name} back ({lost['changed']} of {lost['tried']} "
                f"pieces): {before!r} comes back as {after!r}"
            )


def _prepare_tokens(
    store: ArtifactStore, text: SourceText, side: str, tokenizer: Artifact, report: Callable[[int], None] | None
) -> Artifact:
    """The tokens of one side of a text, made when missing."""
    recipe = {"format": FORMAT, "text": text.artifact.address, "side": side, "tokenizer": tokenizer.address}
    return store.get_or_make("tokens", recipe, lambda folder: _write_tokens(folder, text, side, tokenizer, report))


def _write_tokens(
    folder: Path, text: SourceText, side: str, artifact: Artifact, report: Callable[[int], None] | None
) -> dict[str, Any]:
    """tokens.bin (little-endian), offsets.npy, counts.npy."""
    tokenizer = load_tokenizer(artifact.path)
    vocabulary, end = len(tokenizer), tokenizer.eos_token_id
    dtype = "<u2" if vocabulary <= 2**16 else "<u4"
    counts, offsets = np.zeros(vocabulary, dtype=np.int64), array("q", [0])
    total, characters, lost = 0, 0, LostText()
    rendered = text.artifact.recipe["source"].get("template") is not None
    with (folder / "tokens.bin").open("wb") as stream:

        def put(ids: list[int]) -> int:
            values = np.array(ids, dtype=dtype)
            stream.write(values.tobytes())
            np.add(counts, np.bincount(values, minlength=vocabulary), out=counts)
            return len(values)

        for batch in _batches(text.pieces(side)):
            encoded = encode_documents(tokenizer, [piece for _, piece in batch], rendered=rendered)
            lost.check(tokenizer, batch[0][1], encoded[0])
            for (name, piece), ids in zip(batch, encoded, strict=True):
                if name is not None and total:
                    total += put([end])
                    offsets.append(total)
                total += put(ids)
                characters += len(piece)
            if report is not None:
                report(characters)
        total += put([end])
        offsets.append(total)
    np.save(folder / "offsets.npy", np.array(offsets, dtype=np.int64))
    np.save(folder / "counts.npy", counts)
    sizes = {what: text.count(side, what) for what in ("documents", "characters", "bytes")}
    return {"dtype": dtype, "tokens": total, "unigram_entropy": unigram_entropy(counts), **sizes, **lost.facts()}


def _batches(pieces: Iterator[tuple[str | None, str]]) -> Iterator[list[tuple[str | None, str]]]:
    """Pieces of about BATCH_CHARACTERS together."""
    batch, waiting = [], 0
    for piece in pieces:
        batch.append(piece)
        waiting += len(piece[1])
        if waiting >= BATCH_CHARACTERS:
            yield batch
            batch, waiting = [], 0
    if batch:
        yield batch


def _shifted(progress: Progress, done: int, total: int) -> Callable[[int], None]:
    return lambda characters: progress(done + characters, total)
