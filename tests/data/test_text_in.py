"""What goes in comes out: nothing of a text is left out, cut or changed without a word."""

from __future__ import annotations

import bz2
import gzip
import json
import threading
import tracemalloc
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from experiments.data import tokenizer as tokenizer_module
from experiments.data.corpus import prepare_corpus
from experiments.data.documents import BadRows, OnBadRow
from experiments.data.hub_dataset import HubDataset
from experiments.data.local_files import LocalFiles
from experiments.data.text import prepare_text
from experiments.data.tokenizer import BytePairEncoding, HubTokenizer, PlainBytes, prepare_tokenizer
from experiments.runs.artifacts import ArtifactStore

SKIP = BadRows(OnBadRow.skip, most=0.9)
SENTENCE = "Once upon a time there were {} foxes in a wood. "


def texts(source):
    return [document.text for document in source.documents()]


def numbers_of(corpus):
    return len(corpus.tokens), {name: len(text.tokens) for name, text in corpus.held_out.items()}


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(tmp_path.with_name(f"{tmp_path.name}-store"))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(8):
        (tmp_path / "in" / f"{number}.txt").write_text(SENTENCE.format(number) * (20 + number))
    return tmp_path / "in"


@pytest.mark.parametrize("setting", ["truncation", "padding"])
def test_truncation_and_padding_of_a_tokenizer_file_change_no_text(setting, folder, store, tmp_path):
    plain = prepare_tokenizer(store, BytePairEncoding(300), prepare_text(store, LocalFiles(str(folder)))).path
    backend = Tokenizer.from_file(str(plain / "tokenizer.json"))
    if setting == "truncation":
        backend.enable_truncation(16)
    else:
        backend.enable_padding(pad_id=1, pad_token="<|padding|>")
    changed = tmp_path / "changed"
    changed.mkdir()
    for file in plain.iterdir():
        (changed / file.name).write_bytes(file.read_bytes())
    backend.save(str(changed / "tokenizer.json"))
    expected = prepare_corpus(store, LocalFiles(str(folder)), HubTokenizer(str(plain)))
    found = prepare_corpus(store, LocalFiles(str(folder)), HubTokenizer(str(changed)))
    assert numbers_of(found) == numbers_of(expected)
    assert not any("give the text" in note for note in found.notes)


def test_a_tokenizer_that_loses_text_is_named_with_an_example(folder, store, tmp_path):
    letters = {letter: place for place, letter in enumerate("abcdefghijklmnopqrstuvwxyz .0123456789")}
    backend = Tokenizer.from_str(
        json.dumps(
            {
                "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
                "normalizer": {"type": "Lowercase"}, "pre_tokenizer": None, "post_processor": None,
                "decoder": {"type": "Fuse"},
                "model": {"type": "BPE", "vocab": letters, "merges": []},
            }
        )
    )  # fmt: skip
    (tmp_path / "lossy").mkdir()
    backend.save(str(tmp_path / "lossy" / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>"}
    (tmp_path / "lossy" / "tokenizer_config.json").write_text(json.dumps(config))
    corpus = prepare_corpus(store, LocalFiles(str(folder)), HubTokenizer(str(tmp_path / "lossy")))
    (note,) = (note for note in corpus.notes if "training text back" in note.replace("the text of ", ""))
    assert "'Once upon" in note
    assert "comes back as 'once upon" in note


def compressed(text: str) -> dict[str, bytes]:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(text.encode())
    return {".gz": gzip.compress(text.encode()), ".bz2": bz2.compress(text.encode()), ".zst": sink.getvalue()}


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".zst"])
def test_compressed_text_is_read_beside_plain_text(suffix, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "plain"}\n')
    lines = "".join(json.dumps({"text": f"line {number}"}) + "\n" for number in range(3000))
    (tmp_path / f"b.jsonl{suffix}").write_bytes(compressed(lines)[suffix])
    (tmp_path / f"c.txt{suffix}").write_bytes(compressed("a text\r\n")[suffix])
    assert texts(LocalFiles(str(tmp_path))) == ["plain", *(f"line {number}" for number in range(3000)), "a text\n"]
    (tmp_path / f"b.jsonl{suffix}").write_bytes(compressed(lines)[suffix][:-300])
    with pytest.raises(ValueError, match="b.jsonl.* cannot be decompressed"):
        texts(LocalFiles(str(tmp_path)))


def test_links_to_folders_are_followed_once_and_unread_files_are_counted(folder, tmp_path, store):
    (folder / "loop").symlink_to(folder)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "linked.txt").write_text("a linked text")
    (folder / "link").symlink_to(tmp_path / "more")
    (folder / "notes.md").write_text("12345")
    (folder / ".hidden.txt").write_text("1234567")
    source = LocalFiles(str(folder))
    assert len(texts(source)) == 9
    assert source.left_out() == "2 files, 12 bytes: 1 hidden, 1 of other kinds (.md)"
    assert f"not read: {source.left_out()}" in prepare_corpus(store, source, PlainBytes()).notes


def test_several_paths_are_one_corpus_in_their_order(folder, tmp_path):
    (tmp_path / "z.txt").write_text("last")
    assert texts(LocalFiles((str(folder), str(tmp_path / "z.txt")))) == [*texts(LocalFiles(str(folder))), "last"]


def bad_rows(tmp_path):
    lines = [b'{"text": "one"}', b'{"text": null}', b'{"text": ', b'{"text": "caf\xe9"}', b'{"text": 7}', b'{"id": 7}']
    lines += [b'{"text": "  "}', b'{"text": "a \\ud800 b"}', b'{"text": "two"}', b'{"text": "three"}']
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
    return str(tmp_path / "rows.jsonl")


def test_all_bad_rows_of_a_file_are_listed_at_once_and_counted_from_one(tmp_path):
    with pytest.raises(ValueError, match="rows.jsonl line 2: 'text' is null; also") as caught:
        texts(LocalFiles(bad_rows(tmp_path)))
    listed = (
        "line 3 (malformed), line 4 (undecodable), line 5 (of another type), line 6 (without the field), line 8 (und"
    )
    assert listed in str(caught.value)
    table = pa.table({"text": ["one", None]})
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match="rows.parquet row 2: 'text' is null"):
        texts(LocalFiles(str(tmp_path / "rows.parquet")))


def test_skipped_rows_are_counted_by_kind_and_blank_ones_too(tmp_path, store):
    text = prepare_text(store, LocalFiles(bad_rows(tmp_path), bad_rows=SKIP))
    assert sorted([*text.documents("train"), *text.documents("held_out")]) == ["one", "three", "two"]
    assert text.dropped == {
        "null": 1, "malformed": 1, "undecodable": 2, "of another type": 1, "without the field": 1, "blank": 1,
    }  # fmt: skip
    corpus = prepare_corpus(store, LocalFiles(bad_rows(tmp_path), bad_rows=SKIP), PlainBytes())
    assert any(note.startswith("left out: ") and "2 undecodable" in note for note in corpus.notes)


def test_more_skipped_rows_than_the_setting_allows_stop_the_run(tmp_path, store):
    with pytest.raises(ValueError, match=r"6 of 10 rows are no text, more than data.most_bad_rows=0.01"):
        prepare_text(store, LocalFiles(bad_rows(tmp_path), bad_rows=BadRows(OnBadRow.skip)))


def test_a_text_file_that_is_skipped_leaves_no_part_of_it(folder, store):
    (folder / "9.txt").write_bytes(b"fine " * 500_000 + b"\xff")
    text = prepare_text(store, LocalFiles(str(folder), bad_rows=SKIP))
    assert text.dropped == {"undecodable": 1}
    assert text.count("train", "documents") + text.count("held_out", "documents") == 8
    with pytest.raises(ValueError, match="9.txt is not UTF-8 .* at byte 2500000"):
        texts(LocalFiles(str(folder)))


def test_line_ends_mean_the_same_in_every_format(tmp_path):
    text, found = "one\r\ntwo\rthree\n", []
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}))
    pq.write_table(pa.table({"text": [text]}), tmp_path / "a.parquet")
    for suffix in (".txt", ".jsonl", ".parquet"):
        found += texts(LocalFiles(str(tmp_path / f"a{suffix}")))
    assert found == ["one\ntwo\nthree\n"] * 3


def test_a_field_within_a_field_is_named_with_a_dot(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"meta": {"text": "inner"}, "meta.text": "outer"}\n{"meta": {"text": "inner"}}')
    pq.write_table(pa.table({"meta": [{"text": "deep", "id": 1}]}), tmp_path / "b.parquet")
    assert texts(LocalFiles(str(tmp_path), text_field="meta.text")) == ["outer", "inner", "deep"]
    with pytest.raises(ValueError, match=r"no 'meta.body': set data.text_field to one of meta \(dict\)"):
        texts(LocalFiles(str(tmp_path / "a.jsonl"), text_field="meta.body"))


CHAT = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"


def chat_rows(tmp_path):
    rows = [[{"from": "human", "value": f"What is {n}?"}, {"from": "gpt", "value": f"It is {n}."}] for n in range(50)]
    (tmp_path / "chat.jsonl").write_text("\n".join(json.dumps({"conversations": row}) for row in rows))
    return LocalFiles(str(tmp_path / "chat.jsonl"), text_field="conversations")


def test_messages_become_text_by_the_chat_template_of_the_tokenizer(tmp_path, folder, store):
    path = prepare_tokenizer(store, BytePairEncoding(300), prepare_text(store, LocalFiles(str(folder)))).path
    plain, chat = tmp_path / "plain", tmp_path / "chat"
    for place in (plain, chat):
        place.mkdir()
        for file in path.iterdir():
            (place / file.name).write_bytes(file.read_bytes())
    (chat / "chat_template.jinja").write_text(CHAT)
    source = chat_rows(tmp_path)
    corpus = prepare_corpus(store, source, HubTokenizer(str(chat)))
    first = corpus.tokenizer.decode(corpus.tokens[: corpus.offsets[1] - 1])
    assert first == "<user>What is 0?<assistant>It is 0."
    with pytest.raises(ValueError, match="has no chat template"):
        prepare_corpus(store, source, HubTokenizer(str(plain)))
    with pytest.raises(ValueError, match="which the chat template of a tokenizer makes a text of"):
        prepare_corpus(store, source, PlainBytes())


@pytest.mark.parametrize("books", [3, 10])
def test_ends_of_long_documents_are_held_out_where_complete_ones_are_too_long(books, tmp_path, store):
    for number in range(books):
        (tmp_path / f"book{number}.txt").write_text(SENTENCE.format(number) * 400)
    (tmp_path / "LICENSE.txt").write_text("Copy as you like it.\n")
    source = LocalFiles(str(tmp_path), holdout_fraction=0.05)
    text = prepare_text(store, source)
    held_out = text.count("held_out", "characters")
    assert held_out / (held_out + text.count("train", "characters")) == pytest.approx(0.05, abs=0.002)
    ends = [document for document in text.documents("held_out") if "foxes" in document]
    assert len(ends) == books
    corpus = prepare_corpus(store, source, PlainBytes())
    assert f"held out: {books + 1:,} of {2 * books + 1} documents, 5.0% of the characters" in corpus.notes[0]


def test_a_held_out_set_of_few_tokens_is_warned_of(tmp_path, store):
    (tmp_path / "a.txt").write_text(SENTENCE * 40)
    notes = prepare_corpus(store, LocalFiles(str(tmp_path)), PlainBytes()).notes
    assert any(note.startswith("warning: local has ") and "tokens only" in note for note in notes)


@pytest.mark.parametrize("shape", ["one line", "one word", "many files"])
def test_memory_of_reading_and_dividing_does_not_grow_with_the_text(shape, tmp_path, store, monkeypatch):
    """Twenty times the text of a chunk, and at no time more than a few chunks of it."""
    chunk = 200_000
    for name, size in (("local_files.CHUNK", chunk), ("text.GROUP_CHARACTERS", chunk), ("text.LONGEST_PIECE", 50_000)):
        monkeypatch.setattr(f"experiments.data.{name}", size)
    line = {"one word": "a" * 46, "one line": "a b c d e f g h i j k l m n o p q r s t u v w "}.get(shape)
    if line is None:
        for number in range(100):
            (tmp_path / f"{number}.txt").write_text(SENTENCE.format(number) * 800)
    else:
        (tmp_path / "a.txt").write_text(line * 86_000)
    prepare_text(
        ArtifactStore(tmp_path.with_name(f"{tmp_path.name}-first")), LocalFiles(str(tmp_path), name="warm")
    )  # imports
    tracemalloc.start()
    try:
        prepare_text(store, LocalFiles(str(tmp_path)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 * chunk  # 3 chunks of text, each as str, as UTF-8 and in a list of rows


def test_a_word_without_end_trains_a_tokenizer_in_no_time(tmp_path, store):
    (tmp_path / "a.txt").write_text("a" * 400_000)
    (tmp_path / "b.txt").write_text(SENTENCE * 100)
    corpus = prepare_corpus(store, LocalFiles(str(tmp_path)), BytePairEncoding(300))
    decoded = "".join(corpus.tokenizer.decode(corpus.tokens[a : b - 1]) for a, b in pairwise(corpus.offsets))
    assert decoded.count("a") > 360_000


def test_a_signal_ends_the_wait_for_a_tokenizer():
    """Training is in a thread: what the main thread waits for is a lock, which signals interrupt."""
    seen = []

    class Slow:
        def train_from_iterator(self, pieces, trainer):
            seen.append(threading.current_thread() is threading.main_thread())

    tokenizer_module.train_in_the_background(Slow(), iter(()), None)
    assert seen == [False]


def test_hub_rows_are_counted_from_one_and_skipped_by_kind(tmp_path, store):
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"text": None if n == 4 else f"story {n}\r\n"}) for n in range(30)))
    options = {"data_files": str(file), "streaming": True}
    with pytest.raises(ValueError, match="row 5: 'text' is null"):
        texts(HubDataset("json", **options))
    text = prepare_text(store, HubDataset("json", bad_rows=SKIP, **options))
    assert text.dropped == {"null": 1}
    assert "story 3\n" in [*text.documents("train"), *text.documents("held_out")]
