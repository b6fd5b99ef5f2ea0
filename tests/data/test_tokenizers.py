"""Every tokenizer gives back any Unicode text, has an end-of-document token, and travels in a folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from experiments.data.local_files import LocalFiles
from experiments.data.text import SourceText, prepare_text
from experiments.data.tokenizer import (
    END_OF_DOCUMENT,
    BytePairEncoding,
    HubTokenizer,
    PlainBytes,
    encode_documents,
    load_tokenizer,
    prepare_tokenizer,
)
from experiments.runs.artifacts import ArtifactStore

UNICODE = st.text(alphabet=st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    ["", " ", "\n\n\t ", "\x00", "naïve café 你好 🦊🏽", END_OF_DOCUMENT, f"a{END_OF_DOCUMENT} b", " it 's , so . "]
)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ArtifactStore:
    return ArtifactStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def text(store, tmp_path_factory) -> SourceText:
    folder = tmp_path_factory.mktemp("texts")
    sentence = "the cat sat on a mat and then the dog came and the cat ran to the mat"
    words = sentence.split()
    for number in range(30):
        shift = number % len(words)
        (folder / f"{number}.txt").write_text(" ".join(words[shift:] + words[:shift]) + f" {number} times.\n")
    return prepare_text(store, LocalFiles(str(folder), holdout_fraction=0.2))


@pytest.fixture(scope="module", params=["bpe", "bytes", "hub"])
def tokenizer(request, store, text):
    """Each kind; `hub` reads the folder of a saved BPE."""
    choice = {"bpe": BytePairEncoding(300), "bytes": PlainBytes()}.get(request.param)
    if choice is None:
        choice = HubTokenizer(str(prepare_tokenizer(store, BytePairEncoding(280), text).path))
    return load_tokenizer(prepare_tokenizer(store, choice, text).path)


@given(document=UNICODE)
def test_any_unicode_text_comes_back(tokenizer, document):
    (ids,) = encode_documents(tokenizer, [document])
    assert tokenizer.decode(ids) == document
    assert all(0 <= token < len(tokenizer) for token in ids)


@given(document=UNICODE)
def test_no_text_contains_the_end_of_document(tokenizer, document):
    """Not even text that spells it: a document ends where the corpus says."""
    (ids,) = encode_documents(tokenizer, [document])
    assert tokenizer.eos_token_id not in ids
    assert tokenizer.pad_token_id not in ids


def test_special_tokens_are_defined_and_padding_is_another_token(tokenizer):
    assert tokenizer.eos_token == tokenizer.bos_token == END_OF_DOCUMENT
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    assert tokenizer(END_OF_DOCUMENT).input_ids == [tokenizer.eos_token_id]  # spelt out in a prompt, it is the token


def test_encoding_documents_leaves_the_tokenizer_as_it_was(tokenizer):
    before = tokenizer(f"the cat{END_OF_DOCUMENT}").input_ids
    encode_documents(tokenizer, ["the cat"])
    assert tokenizer(f"the cat{END_OF_DOCUMENT}").input_ids == before


def test_saved_tokenizer_is_read_by_auto_tokenizer(tokenizer, tmp_path):
    """What a trained model's folder carries encodes as before."""
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    sentence = "the cat, naïve, sat on 12 mats."
    assert again(sentence).input_ids == tokenizer(sentence).input_ids
    assert (again.eos_token_id, again.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert len(again) == len(tokenizer)


def test_bytes_are_their_own_token_ids(store, text):
    tokenizer = load_tokenizer(prepare_tokenizer(store, PlainBytes(), text).path)
    sentence = "héllo 你\n\x00\x7f"
    assert encode_documents(tokenizer, [sentence]) == [list(sentence.encode("utf-8"))]
    assert len(tokenizer) == 258


def test_bpe_has_the_size_that_was_asked_for_and_shortens_its_text(store, text):
    artifact = prepare_tokenizer(store, BytePairEncoding(300), text)
    tokenizer = load_tokenizer(artifact.path)
    assert len(tokenizer) == artifact.facts["vocabulary_size"] == 300
    documents = list(text.documents("train"))
    assert sum(map(len, encode_documents(tokenizer, documents))) < 0.5 * sum(map(len, documents))


def test_too_small_a_text_gives_a_smaller_vocabulary_and_says_so(store, text, caplog):
    artifact = prepare_tokenizer(store, BytePairEncoding(5000), text)
    assert artifact.facts["vocabulary_size"] == len(load_tokenizer(artifact.path)) < 5000
    assert "tokenizer.vocabulary_size=5000" in caplog.text


def test_bpe_is_the_same_in_another_process_with_other_threads(text, tmp_path):
    script = """
import sys
from pathlib import Path
from experiments.data.text import SourceText
from experiments.data.tokenizer import BytePairEncoding
from experiments.runs.artifacts import Artifact
folder = Path(sys.argv[1])
text = SourceText(Artifact("text", folder.name, folder, {}, {}, {}))
BytePairEncoding(300).make(text).save_pretrained(sys.argv[2])
"""
    for threads, parallel in (("1", "false"), ("4", "true")):
        subprocess.run(
            [sys.executable, "-c", script, str(text.artifact.path), str(tmp_path / threads)],
            env={"RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": parallel, "PYTHONHASHSEED": threads},
            check=True,
            cwd=Path(__file__).parents[2],
        )
    assert (tmp_path / "1" / "tokenizer.json").read_bytes() == (tmp_path / "4" / "tokenizer.json").read_bytes()


def test_impossible_choices_are_refused(store, text, tmp_path):
    with pytest.raises(ValueError, match=r"tokenizer.vocabulary_size=257 .* 258 at least"):
        BytePairEncoding(257)
    with pytest.raises(ValueError, match=r"tokenizer=hub needs tokenizer.path"):
        HubTokenizer("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"tokenizer.path=.*empty"):
        prepare_tokenizer(store, HubTokenizer(str(tmp_path / "empty")), text)


def test_hub_tokenizer_without_end_of_sequence_is_refused(store, text, tmp_path):
    tokenizer = load_tokenizer(prepare_tokenizer(store, PlainBytes(), text).path)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no end-of-sequence token"):
        prepare_tokenizer(store, HubTokenizer(str(tmp_path)), text)


def test_hub_tokenizer_without_padding_pads_with_its_end_of_sequence(store, text, tmp_path):
    tokenizer = load_tokenizer(prepare_tokenizer(store, PlainBytes(), text).path)
    tokenizer.pad_token = tokenizer.bos_token = None
    tokenizer.save_pretrained(tmp_path)
    ours = load_tokenizer(prepare_tokenizer(store, HubTokenizer(str(tmp_path)), text).path)
    assert ours.pad_token_id == ours.bos_token_id == ours.eos_token_id == 256
