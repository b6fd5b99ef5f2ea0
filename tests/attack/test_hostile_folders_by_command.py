"""Model and tokenizer folders made by someone else, on the command line: one line, and none of their code runs."""

from __future__ import annotations

import json
import pickle
import random
import shutil

import pytest
import torch
from hostile_content import Touches
from rlhf_cases import tiny_rlhf
from safetensors.torch import load_file, save_file
from train_cases import tiny_training

from experiments.data.tokenizer import PlainBytes
from experiments.models.configuration import RlExpConfig
from experiments.models.transformer import RlExpForCausalLM


@pytest.fixture(scope="module")
def whole_model(tmp_path_factory):
    """A small model with its tokenizer, as `rl-exp train` leaves it."""
    folder = tmp_path_factory.mktemp("hostile") / "model"
    tokenizer = PlainBytes().make(None)
    shape = {"hidden_size": 32, "layers": 1, "query_heads": 4, "head_dim": 8, "feed_forward_dim": 32}
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    RlExpForCausalLM(RlExpConfig(vocab_size=len(tokenizer), **shape, **special)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pickled_weights(folder, sentinel) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Touches(sentinel)))


def pickle_named_safetensors(folder, sentinel) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(Touches(sentinel)))


def truncated_weights(folder, sentinel) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def weights_of_another_shape(folder, sentinel) -> None:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name, tensor in weights.items() if tensor.ndim == 2)
    save_file(weights | {name: torch.zeros(3, 5)}, folder / "model.safetensors", metadata={"format": "pt"})


def code_of_its_own(folder, sentinel) -> None:
    (folder / "own.py").write_text(f"open({str(sentinel)!r}, 'w')\n")
    own = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM"), "own.Own")
    (folder / "config.json").write_text(json.dumps({"model_type": "unheard_of", "auto_map": own}))


def tokenizer_with_code(folder, sentinel) -> None:
    (folder / "own.py").write_text(f"open({str(sentinel)!r}, 'w')\n")
    settings = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "tokenizer.json").unlink(missing_ok=True)


def fuzzed_tokenizer(folder, sentinel) -> None:
    content = bytearray((folder / "tokenizer.json").read_bytes())
    draw = random.Random(3)
    for _ in range(40):
        content[draw.randrange(len(content))] = draw.randrange(256)
    (folder / "tokenizer.json").write_bytes(bytes(content))


def config_that_is_a_list(folder, sentinel) -> None:
    (folder / "config.json").write_text("[1, 2]")


MODELS = (
    pickled_weights,
    pickle_named_safetensors,
    truncated_weights,
    weights_of_another_shape,
    code_of_its_own,
    config_that_is_a_list,
)
TOKENIZERS = (tokenizer_with_code, fuzzed_tokenizer)


def assert_refused_in_one_line(result, folder, sentinel) -> None:
    assert result.exit_code in (1, 2), result.output
    assert "Traceback" not in result.output + result.stderr
    assert not isinstance(result.exception, BaseException) or isinstance(result.exception, SystemExit)
    said = [line for line in (result.output + result.stderr).splitlines() if "failed:" in line or "error:" in line]
    assert said, result.output
    assert str(folder) in said[0], said
    assert not sentinel.exists(), "its code ran"


@pytest.mark.parametrize("damage", [*MODELS, *TOKENIZERS], ids=lambda damage: damage.__name__)
def test_a_hostile_policy_is_refused_by_rlhf(damage, whole_model, rl_exp, tmp_path):
    folder = shutil.copytree(whole_model, tmp_path / "theirs")
    damage(folder, tmp_path / "sentinel")
    result = rl_exp("rlhf", *tiny_rlhf(tmp_path, f"policy.path={folder}"))
    assert_refused_in_one_line(result, folder, tmp_path / "sentinel")


@pytest.mark.parametrize("damage", MODELS, ids=lambda damage: damage.__name__)
def test_a_hostile_model_is_refused_by_bench(damage, whole_model, rl_exp, tmp_path):
    folder = shutil.copytree(whole_model, tmp_path / "theirs")
    damage(folder, tmp_path / "sentinel")
    words = ("mode=generate", "bench.context=[8]", "bench.batch=[1]", "bench.rounds=1", "tracking.mode=disabled")
    result = rl_exp("bench", *words, f"bench.policy={folder}")
    assert_refused_in_one_line(result, folder, tmp_path / "sentinel")


@pytest.mark.parametrize("damage", TOKENIZERS, ids=lambda damage: damage.__name__)
def test_a_hostile_tokenizer_is_refused_by_train(damage, whole_model, rl_exp, tmp_path):
    folder = shutil.copytree(whole_model, tmp_path / "theirs")
    damage(folder, tmp_path / "sentinel")
    words = [word for word in tiny_training(tmp_path) if not word.startswith("tokenizer=")]
    result = rl_exp("train", *words, "tokenizer=hub", f"tokenizer.path={folder}")
    assert_refused_in_one_line(result, folder, tmp_path / "sentinel")
