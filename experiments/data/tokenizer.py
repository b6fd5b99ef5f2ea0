"""Tokenizers: byte-level BPE trained once on the training text, plain bytes, or any tokenizer of the hub.

All three become a folder that transformers' AutoTokenizer reads, with an end-of-document token: `eos_token`. Where the
tokenizer is ours it is `bos_token` too, since a document begins where another ended; padding has a token of its own.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
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
LONGEST_WORD = 1_000  # characters of a word, or of white space, in training
_LONG_WORD = re.compile(rf"\S{{{LONGEST_WORD}}}|\s{{{LONGEST_WORD}}}")
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
        train_in_the_background(tokenizer, training_pieces(text), trainer)
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
            return {"tokenizer": "hub", "uncut": True, "path": self.path, "revision": self.revision}
        digest = hashlib.sha256()
        for pattern in ("*token*", "*vocab*", "merges.txt"):
            for file in sorted(folder.glob(pattern)):
                if file.is_file():
                    digest.update(file.name.encode() + b"\0" + file.read_bytes())
        return {"tokenizer": "hub", "uncut": True, "files_sha256": digest.hexdigest()}

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
        tokenizer.backend_tokenizer.no_truncation()  # of its file, for the inputs of a model
        tokenizer.backend_tokenizer.no_padding()
        return tokenizer

    def recipe_of_template(self) -> str:
        """The chat template itself. ValueError where the tokenizer has none."""
        template = _chat_tokenizer(self).chat_template
        if not template:
            raise ValueError(
                f"tokenizer.path={self.path} has no chat template, which makes texts of messages: choose a tokenizer "
                "that has one, or a data.text_field of text"
            )
        return str(template)

    def render(self, messages: list[dict[str, str]]) -> str:
        """The text of a conversation, as the chat template writes it."""
        return str(_chat_tokenizer(self).apply_chat_template(messages, tokenize=False))


@lru_cache(maxsize=1)
def _chat_tokenizer(choice: HubTokenizer) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer

    with loading("tokenizer.path", choice.path, "name a folder or repository with a tokenizer.json"):
        loaded = AutoTokenizer.from_pretrained(choice.path, revision=choice.revision, trust_remote_code=False)
    return cast("PreTrainedTokenizerFast", loaded)


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


def encode_documents(
    tokenizer: PreTrainedTokenizerFast, texts: Iterable[str], *, rendered: bool = False
) -> list[list[int]]:
    """Token ids of each text, none added. "<|endoftext|>" within a text is text, unless a chat template wrote it."""
    backend = tokenizer.backend_tokenizer
    before = backend.encode_special_tokens
    backend.encode_special_tokens = not rendered  # the library's name for: treat special tokens as text
    try:
        return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]
    finally:
        backend.encode_special_tokens = before


@dataclass
class LostText:
    """Whether decoding gives the text back, tried on a piece of every batch that is encoded."""

    tried: int = 0
    changed: int = 0
    example: tuple[str, str] = ("", "")  # of the first piece that does not come back: its text, and what comes

    def check(self, tokenizer: PreTrainedTokenizerFast, text: str, ids: list[int]) -> None:
        """Decode `ids`, which are those of `text`. White space at the beginning may be lost: some tokenizers add it."""
        back = str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        self.tried += 1
        if back.lstrip() == text.lstrip():
            return
        if not self.changed:
            pairs = enumerate(zip(text, back, strict=False))
            place = next((place for place, (one, other) in pairs if one != other), min(len(text), len(back)))
            self.example = text[max(0, place - 10) : place + 20], back[max(0, place - 10) : place + 20]
        self.changed += 1

    def facts(self) -> dict[str, Any]:
        """For the side-car; nothing where all pieces came back."""
        return {"lost": {"tried": self.tried, "changed": self.changed, "example": self.example}} if self.changed else {}


def training_pieces(text: SourceText) -> Iterator[str]:
    """The training text in pieces in which no word is longer than LONGEST_WORD characters.

    Training takes the square of a word's length: 5 MB of one letter take hours. Pieces of other texts are as they are.
    """
    for _, piece in text.pieces("train"):
        start = 0
        for found in _LONG_WORD.finditer(piece):
            yield piece[start : found.end()]
            start = found.end()
        yield piece[start:]


def train_in_the_background(tokenizer: Any, pieces: Iterator[str], trainer: Any) -> None:
    """`train_from_iterator`, which knows no signals, in a thread, so that Ctrl-C and SIGTERM end the wait for it."""
    failed: list[BaseException] = []

    def train() -> None:
        try:
            tokenizer.train_from_iterator(pieces, trainer)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=train, name="tokenizer", daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


def with_special_tokens(tokenizer: Any) -> PreTrainedTokenizerFast:
    """A tokenizer that knows SPECIAL_TOKENS already, for transformers."""
    from transformers import PreTrainedTokenizerFast

    special = {"bos_token": END_OF_DOCUMENT, "eos_token": END_OF_DOCUMENT, "pad_token": PADDING}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def _byte_characters() -> list[str]:
    """The printable character that byte-level tokenizers write for each of the 256 bytes (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
