"""A small corpus of sentences with its tokenizer, and a tokenizer of plain bytes."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest

from experiments.data.corpus import prepare_corpus
from experiments.data.local_files import LocalFiles
from experiments.data.tokenizer import BytePairEncoding, PlainBytes
from experiments.runs.artifacts import ArtifactStore

SUBJECTS = "The king,The shepherd,A woman,Your father,My brother,The old prophet,One of them,Every child".split(",")
VERBS = "spoke to,looked for,went up to,was afraid of,gave bread to,sang before,counted".split(",")
OBJECTS = "the people,the good city,a great river,his enemies,seven sheep,the house,her sons,the mountain".split(",")
ENDS = "in the morning,with joy,and wept,because of the war,for many days,by the sea".split(",")


def sentence(generator: np.random.Generator) -> str:
    words = [part[generator.integers(len(part))] for part in (SUBJECTS, VERBS, OBJECTS, ENDS)]
    return " ".join(words) + ".!?"[generator.integers(3)]


@pytest.fixture(scope="session")
def stories() -> list[list[str]]:
    """Documents as lists of sentences."""
    generator = np.random.default_rng(0)
    return [[sentence(generator) for _ in range(8)] for _ in range(60)]


@pytest.fixture(scope="session")
def story_corpus(stories, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "text.txt").write_text("\n---\n".join(" ".join(document) for document in stories))
    source = LocalFiles(path=str(folder / "text.txt"), document_separator="\n---\n", holdout_fraction=0.1)
    return prepare_corpus(ArtifactStore(folder / "artifacts"), source, BytePairEncoding(400))


@pytest.fixture(scope="session")
def story_sentences(story_corpus, stories) -> set[str]:
    """The sentences of the training side."""
    tokens, offsets = story_corpus.tokens, story_corpus.offsets
    train = {story_corpus.tokenizer.decode(tokens[a : b - 1]) for a, b in itertools.pairwise(offsets)}
    return {sentence for document in stories if " ".join(document) in train for sentence in document}


@pytest.fixture(scope="session")
def byte_tokenizer():
    return PlainBytes().make(None)


@pytest.fixture(scope="session")
def chat_tokenizer(byte_tokenizer):
    """Bytes, and a chat template whose end-of-turn token is another than the end-of-text token."""
    tokenizer = copy.deepcopy(byte_tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|end|>"]})
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    return tokenizer
