"""The schema of `data` and `tokenizer`: every option composes; mistakes are found before anything is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.data_config import DataConfig, DataSource, HeldOutSet, TokenizerConfig, TokenizerKind
from experiments.data.hub_dataset import HubDataset
from experiments.data.local_files import LocalFiles
from experiments.data.markov import MarkovChain, SymbolTokenizer
from experiments.data.python_library import PythonDocstrings, PythonSource
from experiments.data.reasoning_gym_text import ReasoningGymText
from experiments.data.tokenizer import BytePairEncoding, HubTokenizer, PlainBytes
from experiments.data.web_bible import WebBible

CONF = Path(__file__).parents[2] / "conf"


def composed(group: str, option: str, **changes):
    schema = OmegaConf.structured({"data": DataConfig, "tokenizer": TokenizerConfig}[group])
    return OmegaConf.to_object(OmegaConf.merge(schema, OmegaConf.load(CONF / group / f"{option}.yaml"), changes))


@pytest.mark.parametrize(
    ("option", "kind"),
    [
        ("web_bible", WebBible),
        ("python_source", PythonSource),
        ("local", LocalFiles),
        ("tinystories", HubDataset),
        ("wikitext103", HubDataset),
        ("fineweb_edu", HubDataset),
    ],
)
def test_every_data_option_is_a_source(tmp_path, option, kind):
    (tmp_path / "a.txt").write_text("text")
    data = composed("data", option, **({"path": str(tmp_path)} if option == "local" else {}))
    source = data.corpus_source()
    assert isinstance(source, kind)
    assert source.name == data.name == option
    assert all(held_out.name != option for held_out in data.held_out_sources())
    assert len(data.held_out_sources()) >= 1


def test_every_option_file_is_tested():
    assert {file.stem for file in (CONF / "data").glob("*.yaml")} == {
        "web_bible", "python_source", "local", "tinystories", "wikitext103", "fineweb_edu", "markov",
        "reasoning",
    }  # fmt: skip
    assert {file.stem for file in (CONF / "tokenizer").glob("*.yaml")} == {"bpe", "bytes", "hub", "symbols"}


@pytest.mark.parametrize(
    ("option", "choice"),
    [
        ("bpe", BytePairEncoding(2048)),
        ("bytes", PlainBytes()),
        ("hub", HubTokenizer("gpt2")),
        ("symbols", SymbolTokenizer()),
    ],
)
def test_every_tokenizer_option_is_a_choice(option, choice):
    config = composed("tokenizer", option, **({"path": "gpt2"} if option == "hub" else {}))
    assert config.tokenizer_choice() == choice


def test_defaults_of_the_schema_are_the_embedded_corpus():
    assert composed("data", "web_bible") == DataConfig()
    assert composed("tokenizer", "bpe") == TokenizerConfig()
    assert [type(source) for source in DataConfig().held_out_sources()] == [PythonDocstrings]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": DataSource.local, "name": "local"}, "data.source=local needs data.path"),
        ({"source": DataSource.hub, "name": "hub"}, "data.source=hub needs data.path"),
        ({"source": DataSource.local, "name": "local", "path": "no/such/folder"}, "no/such/folder does not exist"),
        ({"name": "a/b"}, "data.name='a/b'"),
        ({"held_out_sets": [HeldOutSet.web_bible]}, "repeat a name"),
        ({"source": DataSource.python_source, "name": "python_source"}, "python_docstrings are part of python_source"),
        ({"source": DataSource.hub, "name": "x", "path": "a/b", "holdout_fraction": 2.0}, "holdout_fraction=2.0"),
    ],
)
def test_impossible_data_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocabulary_size": 100}, "tokenizer.vocabulary_size=100 is too small"),
        ({"kind": TokenizerKind.hub}, "tokenizer=hub needs tokenizer.path"),
    ],
)
def test_impossible_tokenizer_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TokenizerConfig(**settings)


def test_unknown_held_out_set_is_refused_by_the_schema():
    with pytest.raises(OmegaConfBaseException, match="web_bible, python_docstrings, python_source"):
        composed("data", "web_bible", held_out_sets=["novels"])


def test_a_markov_chain_has_no_held_out_sets_of_other_domains():
    data = composed("data", "markov")
    assert data.corpus_source() == MarkovChain()
    assert data.held_out_sources() == []
    with pytest.raises(ValueError, match="a Markov chain knows no text of other domains"):
        composed("data", "markov", held_out_sets=["web_bible"])


def test_worked_examples_take_their_arguments_from_the_subset():
    source = composed("data", "reasoning", most_documents=50).corpus_source()
    assert source == ReasoningGymText(
        "chain_sum", {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}, examples=50
    )
    with pytest.raises(ValueError, match="write them as in max_terms=2"):
        composed("data", "reasoning", subset="max_terms").corpus_source()
    with pytest.raises(ValueError, match=r"data\.source=reasoning needs data\.path"):
        composed("data", "reasoning", path=None)
