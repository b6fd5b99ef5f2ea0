"""The Markov chain: a corpus of letters and its tokenizer of sixteen tokens."""

from __future__ import annotations

from itertools import islice, pairwise

import numpy as np
import pytest

from experiments.data.corpus import prepare_corpus
from experiments.data.local_files import LocalFiles
from experiments.data.markov import SYMBOLS, MarkovChain, SymbolTokenizer
from experiments.runs.artifacts import ArtifactStore
from experiments.tasks.enumerable import prepare_enumerable


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    store = ArtifactStore(tmp_path_factory.mktemp("artifacts"))
    return prepare_corpus(store, MarkovChain(words=200), SymbolTokenizer())


def test_the_words_follow_the_chain():
    chain = MarkovChain()
    counts = np.zeros((len(SYMBOLS), len(SYMBOLS)))
    for document in islice(chain.documents(), 2000):
        assert len(document.text) == 60
        for a, b in pairwise(document.text):
            counts[SYMBOLS.index(a), SYMBOLS.index(b)] += 1
    frequencies = counts / counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(frequencies, chain.transitions(), atol=0.02)


def test_words_follow_from_the_seed():
    def first(seed: int) -> list[str]:
        return [document.text for document in islice(MarkovChain(seed=seed).documents(), 5)]

    assert first(0) == first(0) != first(1)


def test_the_corpus_has_a_vocabulary_of_sixteen(corpus):
    assert corpus.vocabulary_size == len(corpus.tokenizer) == 16
    word = corpus.tokens[corpus.offsets[3] : corpus.offsets[4]].tolist()
    assert len(word) == 61
    assert word[-1] == corpus.tokenizer.eos_token_id == corpus.tokenizer.bos_token_id == 14
    text = corpus.tokenizer.decode(word, skip_special_tokens=True)
    assert [SYMBOLS.index(letter) for letter in text] == word[:-1]


def test_the_enumerable_task_speaks_its_language(corpus):
    task = prepare_enumerable(tokenizer=corpus.tokenizer)
    for prompt in task.prompts:
        assert [SYMBOLS.index(letter) for letter in prompt.text] == list(prompt.tokens)


def test_symbols_refuse_other_text(tmp_path):
    (tmp_path / "a.txt").write_text("abc def")
    with pytest.raises(ValueError, match="tokenizer=symbols knows a to n only and the text has ' ': use it with data="):
        prepare_corpus(ArtifactStore(tmp_path / "artifacts"), LocalFiles(str(tmp_path / "a.txt")), SymbolTokenizer())
