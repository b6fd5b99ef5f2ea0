"""Model and tokenizer folders made by someone else: one line naming setting and folder, and no code runs."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hostile_content import Touches
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import load_file, save_file

from experiments.benchmarks.grid_models import load_policy
from experiments.data.tokenizer import HubTokenizer, PlainBytes
from experiments.models.configuration import RlExpConfig
from experiments.models.transformer import RlExpForCausalLM
from experiments.preparation.policy import load_policy as load_initial_policy
from experiments.rewards.hub_reward import SequenceClassifierScorer
from experiments.runs.files import read_json, write_json

OWN_CODE = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM", "AutoModelForSequenceClassification"), "own.Own")


def as_policy(folder: Path) -> None:
    run = SimpleNamespace(console=Console(quiet=True))
    policy = SimpleNamespace(path=str(folder), package=None, revision=None, made_by_train=False)
    config = SimpleNamespace(policy=policy)
    load_initial_policy(config, run, torch.device("cpu"), lambda settings, run: folder)


LOADERS = {"policy.path": as_policy, "bench.policy": lambda folder: load_policy(str(folder))}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A sound model folder as `rl-exp train` leaves it, for each test to spoil."""
    config = RlExpConfig(
        attention="gqa", hidden_size=16, layers=1, query_heads=2, head_dim=8, key_value_heads=1, feed_forward_dim=16,
        vocab_size=258,
    )  # fmt: skip
    folder = tmp_path / "model"
    RlExpForCausalLM(config).save_pretrained(folder)
    PlainBytes().make(None).save_pretrained(folder)
    return folder


def only_pickles(folder: Path, sentinel: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Touches(sentinel)))


def pickle_by_another_name(folder: Path, sentinel: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(Touches(sentinel)))


def truncated(folder: Path, sentinel: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def lying_header(folder: Path, sentinel: Path) -> None:
    header = json.dumps({"head.weight": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)


def another_shape(folder: Path, sentinel: Path) -> None:
    write_json(folder / "config.json", read_json(folder / "config.json") | {"feed_forward_dim": 32})


def missing_weights(folder: Path, sentinel: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[next(name for name in tensors if "feed_forward.output" in name)]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def code_of_its_own(folder: Path, sentinel: Path) -> None:
    (folder / "own.py").write_text(f"open({str(sentinel)!r}, 'w')\n")
    write_json(folder / "config.json", {"model_type": "unheard_of", "auto_map": OWN_CODE})


def no_mapping(folder: Path, sentinel: Path) -> None:
    (folder / "config.json").write_text("[1]")


SPOILED = (
    *(only_pickles, pickle_by_another_name, truncated, lying_header, another_shape),
    *(missing_weights, code_of_its_own, no_mapping),
)


def refusal(load, folder: Path, sentinel: Path) -> str:
    with pytest.raises(ValueError, match=".") as caught:
        load(folder)
    assert not sentinel.exists()
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert str(folder) in message
    return message


@pytest.mark.parametrize("setting", LOADERS)
def test_the_sound_folder_loads(setting, folder):
    LOADERS[setting](folder)


@pytest.mark.parametrize("spoil", SPOILED)
@pytest.mark.parametrize("setting", LOADERS)
def test_a_hostile_model_folder_is_one_line_and_runs_nothing(setting, spoil, folder, tmp_path):
    spoil(folder, tmp_path / "sentinel")
    assert f"{setting}=" in refusal(LOADERS[setting], folder, tmp_path / "sentinel")


def test_known_architectures_with_code_beside_them_do_not_run_it(folder, tmp_path):
    """`auto_map` beside a model type that is known: the known class is taken, the code is not."""
    (folder / "own.py").write_text(f"open({str(tmp_path / 'sentinel')!r}, 'w')\n")
    write_json(folder / "config.json", read_json(folder / "config.json") | {"auto_map": OWN_CODE})
    for load in LOADERS.values():
        load(folder)
    assert not (tmp_path / "sentinel").exists()


def test_a_language_model_is_no_reward_model_with_a_random_head(folder):
    """transformers would draw the missing head at random and only warn."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=258, num_labels=1
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    with pytest.raises(ValueError, match=r"reward\.hub\.path=.* lack 1 of the model's weights, such as score\.weight"):
        SequenceClassifierScorer(str(folder))


def test_a_tokenizer_with_code_of_its_own_is_refused_and_not_run(folder, tmp_path):
    (folder / "own.py").write_text(f"open({str(tmp_path / 'sentinel')!r}, 'w')\n")
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
    write_json(folder / "tokenizer_config.json", own)
    message = refusal(lambda path: HubTokenizer(str(path)).make(None), folder, tmp_path / "sentinel")
    assert "code of its own" in message


def test_a_tokenizer_of_pickles_alone_is_refused_and_not_run(tmp_path):
    folder = tmp_path / "pickles"
    folder.mkdir()
    for name in ("vocab.pkl", "tokenizer.pkl", "pytorch_model.bin", "tokenizer.model"):
        (folder / name).write_bytes(pickle.dumps(Touches(tmp_path / "sentinel")))
    message = refusal(lambda path: HubTokenizer(str(path)).make(None), folder, tmp_path / "sentinel")
    assert message.startswith("tokenizer.path=")


VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just([]) | st.just({}) | st.just([1])


@st.composite
def spoiled_json(draw):
    """Which file, and how: a value of the sound one replaced, its text cut off, or another document altogether."""
    name = draw(st.sampled_from(["tokenizer.json", "tokenizer_config.json"]))
    how = draw(st.sampled_from(["replaced", "cut", "other"]))
    return name, how, draw(VALUES), draw(st.integers(0, 10_000))


@settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(spoiled=spoiled_json())
def test_fuzzed_tokenizer_files_give_a_tokenizer_or_one_line(spoiled, folder):
    name, how, value, place = spoiled
    sound = (folder / name).read_text()
    keys = sorted(json.loads(sound))
    content = {
        "replaced": json.dumps(json.loads(sound) | {keys[place % len(keys)]: value}),
        "cut": sound[: place % len(sound)],
        "other": json.dumps(value),
    }[how]
    (folder / name).write_text(content)
    try:
        HubTokenizer(str(folder)).make(None)
    except ValueError as error:
        message = str(error)
        assert len(message.splitlines()) == 1, message
        assert message.startswith(f"tokenizer.path={folder}"), message
    finally:
        (folder / name).write_text(sound)
