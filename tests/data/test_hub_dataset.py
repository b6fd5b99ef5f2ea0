"""Datasets through `datasets`, offline: the code that reads the hub reads local builders and saved folders here."""

from __future__ import annotations

import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from experiments.data.hub_dataset import HubDataset
from experiments.data.text import prepare_text
from experiments.runs.artifacts import ArtifactStore

TEXTS = [f"story {n} " + "again and " * (n % 5) + "end" for n in range(30)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """`datasets` caches what it builds: keep that within the test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf_cache")


@pytest.fixture
def parquet_file(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"story": TEXTS, "id": range(30)}), tmp_path / "stories.parquet")
    return str(tmp_path / "stories.parquet")


def texts(source):
    return [document.text for document in source.documents()]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_builder_with_data_files_is_read_cached_and_streamed(parquet_file, streaming):
    source = HubDataset("parquet", data_files=parquet_file, text_field="story", streaming=streaming)
    assert texts(source) == TEXTS
    assert all(document.held_out is None for document in source.documents())


@pytest.mark.parametrize("streaming", [False, True])
def test_most_documents_bounds_a_split(tmp_path, streaming):
    file = tmp_path / "stories.jsonl"
    file.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    source = HubDataset("json", data_files=str(file), streaming=streaming, most_documents=7)
    assert texts(source) == TEXTS[:7]


def test_streaming_is_the_same_corpus(parquet_file):
    options = {"data_files": parquet_file, "text_field": "story"}
    assert HubDataset("parquet", streaming=True, **options).recipe() == HubDataset("parquet", **options).recipe()


def test_a_saved_folder_has_splits(tmp_path):
    splits = {
        "train": datasets.Dataset.from_dict({"text": TEXTS[:20]}),
        "validation": datasets.Dataset.from_dict({"text": TEXTS[20:]}),
    }
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    source = HubDataset(str(tmp_path / "saved"), evaluation_split="validation")
    documents = list(source.documents())
    assert [d.text for d in documents if d.held_out is False] == TEXTS[:20]
    assert [d.text for d in documents if d.held_out is True] == TEXTS[20:]
    text = prepare_text(ArtifactStore(tmp_path / "store"), source)
    assert list(text.documents("train")) == TEXTS[:20]
    assert sorted(text.documents("held_out")) == sorted(TEXTS[20:])
    with pytest.raises(ValueError, match="no split 'test' among train, validation"):
        texts(HubDataset(str(tmp_path / "saved"), split="test"))


def test_a_saved_dataset_without_splits_is_its_training_text(tmp_path):
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(tmp_path / "saved")
    assert texts(HubDataset(str(tmp_path / "saved"))) == TEXTS


def test_changed_files_change_the_recipe(parquet_file):
    source = HubDataset("parquet", data_files=parquet_file, text_field="story")
    before = source.recipe()
    pyarrow.parquet.write_table(pyarrow.table({"story": TEXTS[:-1]}), parquet_file)
    assert source.recipe() != before


def test_rows_are_joined_up_to_the_next_beginning_of_a_document(tmp_path):
    """As in WikiText: a row is a line, an article begins with " = Title = "."""
    rows = ["", " = One = \n", " a \n", " = = Part = = \n", " b \n", " = Two = \n", " c \n"]
    datasets.Dataset.from_dict({"text": rows}).save_to_disk(tmp_path / "saved")
    source = HubDataset(str(tmp_path / "saved"), document_start=r"^ = [^=]+ = \n?$")
    assert texts(source) == ["", " = One = \n a \n = = Part = = \n b \n", " = Two = \n c \n"]


def test_missing_column_names_the_columns(parquet_file):
    with pytest.raises(ValueError, match=r"no 'text': set data.text_field to one of id .int64., story .string."):
        texts(HubDataset("parquet", data_files=parquet_file))


@pytest.mark.parametrize("streaming", [False, True])
def test_missing_column_is_named_when_streaming_json(tmp_path, streaming):
    (tmp_path / "a.jsonl").write_text('{"body": "x"}\n')
    with pytest.raises(ValueError, match=r"no 'text': set data.text_field to one of body"):
        texts(HubDataset("json", data_files=str(tmp_path / "a.jsonl"), streaming=streaming))


def test_rows_that_are_no_text_are_named(parquet_file):
    with pytest.raises(ValueError, match="row 1: 'id' holds int instead of text"):
        texts(HubDataset("parquet", data_files=parquet_file, text_field="id"))


def test_what_cannot_be_found_is_one_clear_line(tmp_path):
    for source in (
        HubDataset("json", data_files=str(tmp_path / "missing.jsonl")),
        HubDataset(str(tmp_path / "no" / "folder")),
        HubDataset("nobody/no-such-dataset-of-ours"),  # offline, so it is not there either
    ):
        with pytest.raises(ValueError, match=r"data.path=.*check the spelling and the network") as caught:
            texts(source)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"most_documents": 0}, "most_documents=0"),
        ({"evaluation_split": "train"}, "evaluation_split=train is the training split"),
        ({"evaluation_split": "test", "data_files": "a"}, "would evaluate on the training files"),
        ({"document_start": "("}, "not a regular expression"),
        ({"holdout_fraction": 1.5}, "holdout_fraction=1.5"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        HubDataset("some/path", **options)
