"""From source to tokens: content-addressed, made once, nothing lost, nothing held out seen in training."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from experiments.data.corpus import prepare_corpus
from experiments.data.local_files import LocalFiles
from experiments.data.python_library import PythonDocstrings, PythonSource
from experiments.data.text import cut, prepare_text
from experiments.data.tokenizer import BytePairEncoding, HubTokenizer, PlainBytes, encode_documents
from experiments.data.web_bible import HELD_OUT_BOOKS, WebBible
from experiments.runs.artifacts import ArtifactStore


@pytest.fixture(scope="module")
def bible_store(tmp_path_factory) -> ArtifactStore:
    return ArtifactStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def bible(bible_store):
    """The default corpus of `rl-exp train`, from nothing."""
    return prepare_corpus(bible_store, WebBible(), held_out_sources=[PythonDocstrings(characters=20_000)])


def documents_of(text, tokenizer):
    ends = [int(end) for end in text.offsets]
    tokens = [text.tokens[a:b].tolist() for a, b in pairwise(ends)]
    assert all(document[-1] == tokenizer.eos_token_id for document in tokens)
    return [tokenizer.decode(document[:-1]) for document in tokens]


def test_the_tokens_are_the_text(bible, bible_store):
    text = prepare_text(bible_store, WebBible())
    assert documents_of(bible.train, bible.tokenizer) == list(text.documents("train"))
    assert documents_of(bible.held_out["web_bible"], bible.tokenizer) == list(text.documents("held_out"))


def test_no_held_out_text_is_trained_on(bible):
    """Neither a held-out chapter nor a long run of one occurs in the training text."""
    training = "\n".join(documents_of(bible.train, bible.tokenizer))
    held_out = documents_of(bible.held_out["web_bible"], bible.tokenizer)
    assert len(held_out) == 72
    for chapter in held_out:
        assert not any(chapter[place : place + 150] in training for place in range(0, len(chapter) - 150, 150))
    assert set(bible.held_out) == {"web_bible", "python_docstrings"}


def test_the_default_corpus_is_large_enough_to_learn_from(bible):
    assert len(bible.tokenizer) == bible.vocabulary_size == 2048
    assert 900_000 < len(bible.tokens) < 1_200_000
    assert bible.tokens.dtype == np.uint16
    assert int(bible.tokens.max()) < 2048
    assert len(HELD_OUT_BOOKS) == 7
    assert bible.train.documents == len(bible.offsets) - 1 == 1189 - 72


def test_statistics_agree_with_a_second_count(bible):
    rows = bible.statistics()
    shares = np.unique(np.asarray(bible.tokens), return_counts=True)[1] / len(bible.tokens)
    entropy = -sum(share * math.log(share) for share in shares)
    assert bible.unigram_entropy == rows["train"]["unigram_entropy"] == pytest.approx(entropy, rel=1e-9)
    assert rows["train"]["vocabulary_coverage"] == len(shares) / 2048
    held_out = bible.held_out["web_bible"]
    assert rows["web_bible"]["tokens_per_byte"] == len(held_out.tokens) / held_out.bytes
    assert rows["web_bible"]["unigram_entropy"] < rows["web_bible"]["unigram_cross_entropy"]
    assert rows["python_docstrings"]["unigram_cross_entropy"] > rows["web_bible"]["unigram_cross_entropy"]


def test_tokens_are_memory_mapped_and_read_only(bible):
    assert isinstance(bible.tokens, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        bible.tokens[0] = 1


def test_held_out_batches_come_from_the_held_out_text(bible):
    text = bible.held_out["web_bible"]
    inputs, targets = next(text.batches(64, 4))
    assert inputs.flatten().tolist() == text.tokens[:256].tolist()
    assert targets.flatten().tolist() == text.tokens[1:257].tolist()


def test_second_preparation_makes_nothing(bible, bible_store):
    files = {file: file.stat().st_mtime_ns for file in bible_store.root.rglob("*") if file.is_file()}
    again = prepare_corpus(bible_store, WebBible(), held_out_sources=[PythonDocstrings(characters=20_000)])
    assert again.address == bible.address
    assert {file: file.stat().st_mtime_ns for file in bible_store.root.rglob("*") if file.is_file()} == files


def test_another_vocabulary_is_another_corpus_of_the_same_text(bible, bible_store):
    other = prepare_corpus(bible_store, WebBible(), BytePairEncoding(512))
    assert other.address != bible.address
    assert len(list((bible_store.root / "text").glob("[!.]*"))) == 2  # the Bible and the docstrings
    assert other.train.bytes == bible.train.bytes
    assert len(other.tokens) > len(bible.tokens)


@pytest.fixture
def stories(tmp_path) -> LocalFiles:
    (tmp_path / "stories").mkdir()
    for number in range(20):
        (tmp_path / "stories" / f"{number}.txt").write_text(f"Once there were {number} foxes. " * (3 + number % 4))
    return LocalFiles(str(tmp_path / "stories"), holdout_fraction=0.2)


def test_preparing_twice_from_nothing_gives_the_same_bytes(stories, tmp_path):
    corpora = [prepare_corpus(ArtifactStore(tmp_path / name), stories, BytePairEncoding(300)) for name in "ab"]
    assert corpora[0].address == corpora[1].address
    for one, other in zip(
        (corpora[0].train, *corpora[0].held_out.values()),
        (corpora[1].train, *corpora[1].held_out.values()),
        strict=True,
    ):
        for name in ("tokens.bin", "offsets.npy", "counts.npy"):
            assert one.artifact.files[name] == other.artifact.files[name]


def test_progress_counts_characters_up_to_the_total(stories, tmp_path):
    reports = []
    prepare_corpus(
        ArtifactStore(tmp_path / "store"), stories, PlainBytes(), progress=lambda *report: reports.append(report)
    )
    total = sum(map(len, (document.text for document in stories.documents())))
    assert reports[-1] == (total, total)
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    assert {whole for _, whole in reports} == {total}


def test_large_vocabularies_use_four_bytes(stories, tmp_path):
    """A vocabulary of 70 000 ids does not fit uint16."""
    words = {f"<extra{n}>": n for n in range(70_000)}
    letters = {character: 70_000 + n for n, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(vocab=words | letters, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<extra0>").save_pretrained(tmp_path / "big")

    store = ArtifactStore(tmp_path / "store")
    corpus = prepare_corpus(store, stories, HubTokenizer(str(tmp_path / "big")))
    assert corpus.tokens.dtype == np.uint32
    assert int(corpus.tokens.max()) > 70_000
    assert documents_of(corpus.train, corpus.tokenizer) == list(prepare_text(store, stories).documents("train"))


@given(st.text(alphabet=" ab\n\t\r\x1c.'é1", max_size=300), st.integers(1, 40))
def test_long_documents_encode_in_pieces_as_they_do_whole(piece_tokenizer, text, longest):
    pieces = cut(text, longest)
    assert "".join(pieces) == text
    whole = encode_documents(piece_tokenizer, [text])[0]
    assert [token for ids in encode_documents(piece_tokenizer, pieces) for token in ids] == whole


def test_a_word_without_end_is_cut_whatever_pieces_it_comes_in():
    word, parts = "a" * 95 + " b", []
    for start in range(0, len(word), 7):
        *done, rest = cut(("" if not parts else parts.pop()) + word[start : start + 7], 20, gap=10)
        parts += [*done, rest]
    assert parts == cut(word, 20, gap=10)
    assert "".join(parts) == word
    assert max(map(len, parts)) <= 30


@pytest.fixture(scope="module")
def piece_tokenizer(tmp_path_factory):
    file = tmp_path_factory.mktemp("pieces") / "a.txt"
    file.write_text("ab a b ba'a ab. é 11 1 aab\n\n b a  a   b " * 20)
    store = ArtifactStore(tmp_path_factory.mktemp("store"))
    return prepare_corpus(store, LocalFiles(str(file)), BytePairEncoding(320)).tokenizer


def test_cut_makes_pieces_of_the_asked_length():
    pieces = cut("word " * 1000, 100)
    assert len(pieces) > 40
    assert max(map(len, pieces)) <= 110


def test_impossible_corpora_are_refused(stories, tmp_path):
    store = ArtifactStore(tmp_path / "store")
    with pytest.raises(ValueError, match="nothing to train on"):
        prepare_corpus(store, PythonDocstrings(characters=100))
    with pytest.raises(ValueError, match="two held-out sets are named local"):
        prepare_corpus(store, stories, held_out_sources=[stories])
    with pytest.raises(ValueError, match="python_docstrings are part of python_source"):
        prepare_corpus(store, PythonSource(name="mine"), held_out_sources=[PythonDocstrings()])
