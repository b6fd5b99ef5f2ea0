"""Tokenizers: byte-level BPE trained once on the training text, plain bytes, or any tokenizer of the hub.

All three become a folder that transformers' AutoTokenizer reads, with an end-of-document token: `eos_token`. Where the
tokenizer is ours it is `bos_token` too, since a document begins where another ended; padding has a token of its own.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from experiments.data.text import SourceText
from experiments.runs.artifacts import Artifact, ArtifactStore
from experiments.runs.foreign_files import loading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger(__name__)

END_OF_DOCUMENT = "<|endoftext|>"
PADDING = "<|padding|>"
SPECIAL_TOKENS = (END_OF_DOCUMENT, PADDING)
SMALLEST_BPE_VOCABULARY = 256 + len(SPECIAL_TOKENS)
FORMAT = 1  # raise it whenever equal choices would give another tokenizer


class TokenizerChoice(Protocol):
    """Which tokenizer. Choices are small frozen dataclasses; creating one reads nothing."""

    def recipe(self, text: SourceText) -> dict[str, Any]:
        """All that decides the tokenizer, as plain JSON. `text` is what it may be trained on."""

    def make(self, text: SourceText) -> PreTrainedTokenizerFast:
        """The tokenizer itself. ValueError when there is no such tokenizer."""


@dataclass(frozen=True)
class BytePairEncoding:
    """Byte-level BPE trained on the training text, never on held-out text. Any Unicode text comes back exactly."""

    vocabulary_size: int = 2048  # with the two special tokens and the 256 bytes

    def __post_init__(self) -> None:
        if self.vocabulary_size < SMALLEST_BPE_VOCABULARY:
            raise ValueError(
                f"tokenizer.vocabulary_size={self.vocabulary_size} is too small: byte-level BPE needs 256 bytes and "
                f"{len(SPECIAL_TOKENS)} special tokens, {SMALLEST_BPE_VOCABULARY} at least (or use tokenizer=bytes)"
            )

    def recipe(self, text: SourceText) -> dict[str, Any]:
        """The size and the address of the text."""
        return {"tokenizer": "bpe", "vocabulary_size": self.vocabulary_size, "text": text.artifact.address}

    def make(self, text: SourceText) -> PreTrainedTokenizerFast:
        """Train. The result depends on the counts of words only, not on threads."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocabulary_size,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(text.documents("train"), trainer)
        if tokenizer.get_vocab_size() < self.vocabulary_size:
            log.warning(
                "the text is too small for tokenizer.vocabulary_size=%d: the vocabulary has %d tokens",
                self.vocabulary_size,
                tokenizer.get_vocab_size(),
            )
        return with_special_tokens(tokenizer)


@dataclass(frozen=True)
class PlainBytes:
    """Every byte of UTF-8 is a token, whose id is its value; the special tokens are 256 and 257."""

    def recipe(self, text: SourceText) -> dict[str, Any]:
        """Always the same: it depends on no text."""
        return {"tokenizer": "bytes"}

    def make(self, text: SourceText) -> PreTrainedTokenizerFast:
        """A BPE without merges."""
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

        vocabulary = {character: byte for byte, character in enumerate(_byte_characters())}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
        return with_special_tokens(tokenizer)


@dataclass(frozen=True)
class HubTokenizer:
    """Any fast tokenizer that AutoTokenizer reads: a repository of the hub, or a folder. No code of it is run."""

    path: str
    revision: str | None = None

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("tokenizer=hub needs tokenizer.path: a repository such as gpt2, or a folder")

    def recipe(self, text: SourceText) -> dict[str, Any]:
        """Name and revision, or the contents of a folder."""
        folder = Path(self.path)
        if not folder.is_dir():
            return {"tokenizer": "hub", "path": self.path, "revision": self.revision}
        digest = hashlib.sha256()
        for pattern in ("*token*", "*vocab*", "merges.txt"):
            for file in sorted(folder.glob(pattern)):
                if file.is_file():
                    digest.update(file.name.encode() + b"\0" + file.read_bytes())
        return {"tokenizer": "hub", "files_sha256": digest.hexdigest()}

    def make(self, text: SourceText) -> PreTrainedTokenizerFast:
        """Load it; `bos` and `pad` fall back to its end-of-sequence token. ValueError when it has none."""
        from transformers import AutoTokenizer, PreTrainedTokenizerFast

        with loading("tokenizer.path", self.path, "name a folder or repository with a tokenizer.json"):
            tokenizer = AutoTokenizer.from_pretrained(self.path, revision=self.revision, trust_remote_code=False)
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise ValueError(f"tokenizer.path={self.path} has no fast version (tokenizer.json): choose another")
        if tokenizer.eos_token is None:
            raise ValueError(f"tokenizer.path={self.path} has no end-of-sequence token, so it cannot end a document")
        if tokenizer.bos_token is None:
            tokenizer.bos_token = tokenizer.eos_token
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer


def prepare_tokenizer(store: ArtifactStore, choice: TokenizerChoice, text: SourceText) -> Artifact:
    """The tokenizer artifact of `choice`, made when it is missing."""

    def make(folder: Path) -> dict[str, Any]:
        tokenizer = choice.make(text)
        tokenizer.save_pretrained(folder)
        return {"vocabulary_size": len(tokenizer), "end_of_document": tokenizer.eos_token_id}

    return store.get_or_make("tokenizer", {"format": FORMAT, **choice.recipe(text)}, make)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in `folder`, by AutoTokenizer."""
    from transformers import AutoTokenizer

    return cast("PreTrainedTokenizerFast", AutoTokenizer.from_pretrained(folder, trust_remote_code=False))


def encode_documents(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> list[list[int]]:
    """Token ids of each text, without special tokens: "<|endoftext|>" within a text is text."""
    backend = tokenizer.backend_tokenizer
    before = backend.encode_special_tokens
    backend.encode_special_tokens = True  # the library's name for: treat special tokens as text
    try:
        return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]
    finally:
        backend.encode_special_tokens = before


def with_special_tokens(tokenizer: Any) -> PreTrainedTokenizerFast:
    """A tokenizer that knows SPECIAL_TOKENS already, for transformers."""
    from transformers import PreTrainedTokenizerFast

    special = {"bos_token": END_OF_DOCUMENT, "eos_token": END_OF_DOCUMENT, "pad_token": PADDING}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)  # type: ignore[no-untyped-call]


def _byte_characters() -> list[str]:
    """The printable character that byte-level tokenizers write for each of the 256 bytes (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
