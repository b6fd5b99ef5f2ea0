"""One's own files: every format reads the same text, the split is by document, mistakes are one clear line."""

from __future__ import annotations

import json
import re

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.data.local_files import LocalFiles
from experiments.data.text import LEAST_TAIL, choose_held_out, cut_before, prepare_text
from experiments.runs.artifacts import ArtifactStore

TEXTS = [f"This is story number {n}: " + "and then? " * (n % 7) + "The end — 終." for n in range(40)]


def write_texts(folder, suffix, field="text"):
    folder.mkdir()
    if suffix == ".txt":
        for number, text in enumerate(TEXTS):
            (folder / f"{number:02}.txt").write_text(text, encoding="utf-8")
    elif suffix == ".jsonl":
        (folder / "all.jsonl").write_text("\n\n".join(json.dumps({"id": 1, field: text}) for text in TEXTS))
    else:
        pyarrow.parquet.write_table(pyarrow.table({"id": range(40), field: TEXTS}), folder / "all.parquet")
    return folder


def sides(source, store_folder):
    text = prepare_text(ArtifactStore(store_folder), source)
    return list(text.documents("train")), list(text.documents("held_out")), text


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".parquet"])
def test_every_format_yields_the_same_documents_and_split(tmp_path, suffix):
    source = LocalFiles(str(write_texts(tmp_path / "in", suffix)), holdout_fraction=0.2)
    assert [document.text for document in source.documents()] == TEXTS
    reference = LocalFiles(str(write_texts(tmp_path / "reference", ".txt")), holdout_fraction=0.2)
    train, held_out, _ = sides(source, tmp_path / "a")
    assert (train, held_out) == sides(reference, tmp_path / "b")[:2]
    assert sorted(train + held_out) == sorted(TEXTS)
    assert 0 < sum(map(len, held_out)) <= 0.2 * sum(map(len, TEXTS))


def test_a_single_file_and_its_folder_are_the_same_corpus(tmp_path):
    folder = write_texts(tmp_path / "in", ".jsonl")
    assert LocalFiles(str(folder)).recipe() == LocalFiles(str(folder / "all.jsonl")).recipe()


def test_recipe_follows_content_and_not_place(tmp_path):
    here, there = write_texts(tmp_path / "here", ".txt"), write_texts(tmp_path / "there", ".txt")
    assert LocalFiles(str(here)).recipe() == LocalFiles(str(there)).recipe()
    (there / "07.txt").write_text("another story")
    assert LocalFiles(str(here)).recipe() != LocalFiles(str(there)).recipe()


def test_equal_texts_are_never_on_both_sides(tmp_path):
    folder = write_texts(tmp_path / "in", ".txt")
    for number, text in enumerate(TEXTS):
        (folder / f"copy{number}.txt").write_text(text, encoding="utf-8")
    train, held_out, _ = sides(LocalFiles(str(folder), holdout_fraction=0.3), tmp_path / "store")
    assert held_out
    assert not set(train) & set(held_out)
    assert len(train) + len(held_out) == 80


@given(
    st.dictionaries(st.binary(min_size=16, max_size=16), st.integers(1, 100_000), min_size=2, max_size=50),
    st.floats(0.01, 0.99),
)
def test_the_held_out_share_is_near_the_one_asked_for_when_documents_allow_it(lengths, fraction):
    chosen, share = choose_held_out(lengths, fraction)
    total, asked = sum(lengths[key] for key in chosen), fraction * sum(lengths.values())
    long = [characters for characters in lengths.values() if fraction * characters >= LEAST_TAIL]
    if share:
        ends = share * sum(long)
        assert total + ends <= asked * (1 + 1e-9)
        assert total + ends == pytest.approx(asked) or share == 0.5
    elif long:
        assert asked / 2 <= total <= asked
    else:
        assert chosen
        assert total <= asked or chosen == {min(lengths, key=lambda k: (lengths[k], k))}


@given(st.text(min_size=2), st.integers(-2, 20))
def test_nothing_is_lost_where_a_text_is_cut(text, place):
    head, tail = cut_before(text, place)
    assert head + tail == text
    if 0 < place < len(text):
        assert head.strip() or not tail
    else:
        assert not head or not tail


def test_the_tail_of_a_single_document_is_held_out_at_white_space(tmp_path):
    file = tmp_path / "book.txt"
    file.write_text(" ".join(f"word{n}" for n in range(1000)))
    train, held_out, _ = sides(LocalFiles(str(file), holdout_fraction=0.1), tmp_path / "store")
    assert train[0] + held_out[0] == file.read_text()
    assert re.fullmatch(r"word\d+( word\d+)* ", train[0])
    assert len(held_out[0]) == pytest.approx(0.1 * len(file.read_text()), abs=10)


def test_separator_splits_text_files_and_blank_parts_are_skipped(tmp_path):
    file = tmp_path / "stories.txt"
    file.write_text("one\n---\n  \n---\ntwo\n---\nthree")
    train, held_out, text = sides(LocalFiles(str(file), document_separator="\n---\n"), tmp_path / "store")
    assert sorted(train + held_out) == ["one", "three", "two"]
    assert text.count("train", "documents") == 2


def test_counts_are_of_documents_characters_and_utf8_bytes(tmp_path):
    train, held_out, text = sides(LocalFiles(str(write_texts(tmp_path / "in", ".txt"))), tmp_path / "store")
    for side, texts in (("train", train), ("held_out", held_out)):
        assert text.count(side, "documents") == len(texts)
        assert text.count(side, "characters") == sum(map(len, texts))
        assert text.count(side, "bytes") == sum(len(t.encode()) for t in texts)


def test_byte_order_mark_and_hidden_files_are_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello there")
    (tmp_path / ".b.txt").write_text("hidden")
    assert [document.text for document in LocalFiles(str(tmp_path)).documents()] == ["hello there"]


def refuse(tmp_path, content, name, message, **options):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        pyarrow.parquet.write_table(pyarrow.table(content), tmp_path / name)
    with pytest.raises(ValueError, match=message) as caught:
        prepare_text(ArtifactStore(tmp_path / "store"), LocalFiles(str(tmp_path / name), **options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"caf\xe9 is latin-1", "a.txt", r"a.txt is not UTF-8 .* at byte 3"),
        (b'{"text": "fine"}\n{"text": "caf\xe9"}', "a.jsonl", "a.jsonl line 2 is not UTF-8"),
        (b"", "a.txt", "corpus local is empty"),
        (b" \n \n", "a.txt", "corpus local is empty"),
        (b"", "a.jsonl", "corpus local is empty"),
        (b"x", "a.txt", "too short"),
        (b'{"text": "fine"}\n{"text": ', "a.jsonl", "a.jsonl line 2 is not JSON"),
        (b'["fine"]', "a.jsonl", "line 1 is not a JSON object"),
        (
            b'{"body": "fine", "id": 3}',
            "a.jsonl",
            "line 1 has no 'text': set data.text_field to one of body .str., id .int",
        ),
        (b'{"text": 7}', "a.jsonl", "line 1: 'text' holds int instead of text"),
        (b'{"text": "a \\ud800 b"}', "a.jsonl", "half a surrogate pair at character 2"),
        (b"no parquet", "a.parquet", "a.parquet is not a readable parquet file"),
        (
            {"body": ["a"], "id": [1]},
            "a.parquet",
            "has no 'text': set data.text_field to one of body .string., id .int64",
        ),
        ({"text": ["a", None]}, "a.parquet", "row 2: 'text' is null"),
        ({"text": [1, 2]}, "a.parquet", "row 1: 'text' holds int instead of text"),
        (b"text", "a.docx", r"docx is not one of .txt, .jsonl, .parquet"),
    ],
)
def test_unreadable_files_are_one_clear_line(tmp_path, content, name, message):
    refuse(tmp_path, content, name, message)
    assert not list((tmp_path / "store" / "text").glob("[!.]*") if (tmp_path / "store").exists() else [])


def test_missing_file_and_empty_folder_are_refused(tmp_path):
    with pytest.raises(ValueError, match="nowhere does not exist"):
        LocalFiles(str(tmp_path / "nowhere")).files()
    with pytest.raises(ValueError, match="holds no"):
        LocalFiles(str(tmp_path)).files()


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 2])
def test_impossible_holdout_fraction_is_refused(fraction):
    with pytest.raises(ValueError, match="holdout_fraction"):
        LocalFiles("a.txt", holdout_fraction=fraction)


def test_empty_separator_is_refused():
    with pytest.raises(ValueError, match="document_separator"):
        LocalFiles("a.txt", document_separator="")
