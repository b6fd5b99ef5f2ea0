"""Model and tokenizer folders made by someone else, on the command line: one line, and none of their code runs.

Every kind of damage is in test_hostile_models.py; here is what the commands make of a refusal.
"""

from __future__ import annotations

import json
import pickle
import shutil

import pytest
from hostile_content import Touches
from rlhf_cases import tiny_rlhf
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


def code_of_its_own(folder, sentinel) -> None:
    (folder / "own.py").write_text(f"open({str(sentinel)!r}, 'w')\n")
    own = dict.fromkeys(("AutoConfig", "AutoModelForCausalLM"), "own.Own")
    (folder / "config.json").write_text(json.dumps({"model_type": "unheard_of", "auto_map": own}))


def tokenizer_with_code(folder, sentinel) -> None:
    (folder / "own.py").write_text(f"open({str(sentinel)!r}, 'w')\n")
    settings = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "tokenizer.json").unlink(missing_ok=True)


def assert_refused_in_one_line(result, folder, sentinel) -> None:
    assert result.exit_code in (1, 2), result.output
    assert "Traceback" not in result.output + result.stderr
    assert not isinstance(result.exception, BaseException) or isinstance(result.exception, SystemExit)
    said = [line for line in (result.output + result.stderr).splitlines() if "failed:" in line or "error:" in line]
    assert said, result.output
    assert str(folder) in said[0], said
    assert not sentinel.exists(), "its code ran"


@pytest.mark.parametrize("damage", [pickled_weights, code_of_its_own], ids=lambda damage: damage.__name__)
def test_a_hostile_policy_is_refused_by_rlhf(damage, whole_model, rl_exp, tmp_path):
    folder = shutil.copytree(whole_model, tmp_path / "theirs")
    damage(folder, tmp_path / "sentinel")
    result = rl_exp("rlhf", *tiny_rlhf(tmp_path, f"policy.path={folder}"))
    assert_refused_in_one_line(result, folder, tmp_path / "sentinel")


def test_a_hostile_model_is_refused_by_bench(whole_model, rl_exp, tmp_path):
    folder = shutil.copytree(whole_model, tmp_path / "theirs")
    pickled_weights(folder, tmp_path / "sentinel")
    words = ("mode=generate", "bench.context=[8]", "bench.batch=[1]", "bench.rounds=1", "tracking.mode=disabled")
    result = rl_exp("bench", *words, f"bench.policy={folder}")
    assert_refused_in_one_line(result, folder, tmp_path / "sentinel")


def test_a_hostile_tokenizer_is_refused_by_train(whole_model, rl_exp, tmp_path):
    folder = shutil.copytree(whole_model, tmp_path / "theirs")
    tokenizer_with_code(folder, tmp_path / "sentinel")
    words = [word for word in tiny_training(tmp_path) if not word.startswith("tokenizer=")]
    result = rl_exp("train", *words, "tokenizer=hub", f"tokenizer.path={folder}")
    assert_refused_in_one_line(result, folder, tmp_path / "sentinel")
