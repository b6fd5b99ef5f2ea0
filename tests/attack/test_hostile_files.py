"""Checkpoints, model folders and problem files made by someone else: refused by name, and none of their code runs."""

from __future__ import annotations

import json
import pickle
import struct

import pytest
from hostile_content import Touches
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.policies.problems import KEYS, read_problem
from experiments.rewards.hub_reward import SequenceClassifierScorer
from experiments.runs.files import sha256_of_file, write_json
from experiments.training.checkpoints import load_checkpoint, load_latest_checkpoint


def hostile_tensors(sentinel) -> dict[str, bytes]:
    huge = json.dumps({"a": {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 2**62]}}).encode()
    return {
        "a pickle": pickle.dumps(Touches(sentinel)),
        "a header longer than the file": struct.pack("<Q", 2**62) + b"{}",
        "tensors larger than the file": struct.pack("<Q", len(huge)) + huge,
        "nothing": b"",
    }


KINDS = ("a pickle", "a header longer than the file", "tensors larger than the file", "nothing")


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_of_hostile_tensors_is_named_and_passed_over(kind, tmp_path):
    folder = tmp_path / "step_00000001"
    folder.mkdir()
    (folder / "tensors.safetensors").write_bytes(hostile_tensors(tmp_path / "sentinel")[kind])
    write_json(folder / "state.json", {"__dict__": []})
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_of_file(folder / name)}
        for name in ("tensors.safetensors", "state.json")
    }
    write_json(folder / "MANIFEST.json", {"step": 1, "files": files})  # whoever wrote it knows its hashes
    with pytest.raises(ValueError, match=r"tensors\.safetensors is not a safetensors file"):
        load_checkpoint(folder)
    assert load_latest_checkpoint(tmp_path) is None
    assert not (tmp_path / "sentinel").exists()


@pytest.fixture
def model_folder(tmp_path):
    """A Llama classifier's configuration and a byte-level tokenizer; the weights are each test's own."""
    from experiments.data.tokenizer import PlainBytes

    folder = tmp_path / "model"
    PlainBytes().make(None).save_pretrained(folder)
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 300, "num_labels": 1, **shape}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_reward_model_of_pickles_is_refused_and_not_run(name, model_folder, tmp_path):
    (model_folder / name).write_bytes(pickle.dumps(Touches(tmp_path / "sentinel")))
    with pytest.raises(ValueError, match=r"reward\.hub\.path=.* cannot be loaded"):
        SequenceClassifierScorer(str(model_folder))
    assert not (tmp_path / "sentinel").exists()


def test_a_reward_model_with_code_of_its_own_is_refused_and_not_run(model_folder, tmp_path):
    (model_folder / "own.py").write_text(f"open({str(tmp_path / 'sentinel')!r}, 'w')\n")
    own = dict.fromkeys(("AutoConfig", "AutoModelForSequenceClassification"), "own.Own")
    (model_folder / "config.json").write_text(json.dumps({"model_type": "unheard_of", "auto_map": own}))
    with pytest.raises(ValueError, match="trust_remote_code"):
        SequenceClassifierScorer(str(model_folder))
    assert not (tmp_path / "sentinel").exists()


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
STRUCTURES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
PROBLEMS = STRUCTURES | st.dictionaries(st.sampled_from(KEYS), STRUCTURES | st.lists(st.floats(), max_size=4))


@settings(
    max_examples=300,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(content=PROBLEMS | st.binary(max_size=60), suffix=st.sampled_from([".yaml", ".json"]))
def test_random_problem_files_give_a_problem_or_one_line(content, suffix, tmp_path):
    path = tmp_path / f"problem{suffix}"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    message = f"{path}"
    try:
        read_problem(path)
    except ValueError as error:
        message = str(error)
    assert len(message.splitlines()) == 1
    assert str(path) in message
