"""Configurations and weights on disk: refusals, round trips, the Auto classes, and the export with its code."""

import json
import subprocess
import sys

import pytest
import torch
from model_cases import CASES, SIZES, case_model, tokens
from transformers import AutoConfig, AutoModelForCausalLM

from experiments.models.configuration import RlExpConfig
from experiments.models.hub_export import export_for_hub
from experiments.models.transformer import RlExpForCausalLM


@pytest.mark.parametrize(
    ("keyword", "message"),
    [
        ({"hiden_size": 64}, "hiden_size=64 is not a setting of rl-exp models .did you mean 'hidden_size'"),
        ({"kv_heads": 2}, "kv_heads=2 is not a setting of rl-exp models"),
        ({"attention": "gtaa"}, "attention='gtaa' is unknown .did you mean 'gta'.*use one of mha, mqa"),
        ({"key_value_heads": 3}, "key_value_heads=3 is impossible for gqa: it must divide query_heads=4"),
        ({"feed_forward_dim": 0}, "feed_forward_dim=0"),
        ({"layers": 0}, "layers=0"),
        ({"attention": "gta", "rope_dim": 5}, "rope_dim=5 is impossible for gta.*even"),
        ({"attention": "gla", "latent_heads": 3}, "latent_heads=3 is impossible for gla.*one of 1, 2, 4"),
    ],
)
def test_a_mistake_in_a_configuration_is_named_with_its_value(keyword, message):
    with pytest.raises(ValueError, match=message):
        RlExpConfig(**{**SIZES, **keyword})


def test_a_value_of_the_wrong_type_is_refused():
    with pytest.raises(ValueError, match="hidden_size=wide is impossible for gqa: it must be a whole number"):
        RlExpConfig(hidden_size="wide")


def test_the_names_of_transformers_mean_the_same_fields():
    config = RlExpConfig(attention="gla", num_hidden_layers=3, num_attention_heads=8, intermediate_size=40)
    assert (config.layers, config.query_heads, config.feed_forward_dim) == (3, 8, 40)
    assert config.num_hidden_layers == 3


def test_what_was_left_out_is_stored_resolved(tmp_path):
    config = RlExpConfig(attention="gla", hidden_size=64, query_heads=4, head_dim=16)
    config.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert (stored["latent_heads"], stored["latent_dim"], stored["rope_dim"]) == (2, 32, 8)
    assert (stored["query_latent_dim"], stored["key_value_heads"]) == (128, 0)
    assert stored["feed_forward_dim"] == config.model_shape().feed_forward_dim
    again = RlExpConfig.from_pretrained(tmp_path)
    assert again.model_shape() == config.model_shape()
    assert again.to_dict() == config.to_dict()


def test_keys_that_another_library_stored_do_not_stop_loading(tmp_path):
    RlExpConfig(**SIZES).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**stored, "somebody_elses": 3}))
    assert RlExpConfig.from_pretrained(tmp_path).somebody_elses == 3


@pytest.mark.parametrize("name", CASES)
def test_saved_models_come_back_bit_for_bit(name, tmp_path):
    model, input_ids = case_model(name, torch.float32), tokens(2, 6)
    model.save_pretrained(tmp_path)
    for loaded in (
        RlExpForCausalLM.from_pretrained(tmp_path),
        AutoModelForCausalLM.from_pretrained(tmp_path),
    ):
        assert type(loaded) is RlExpForCausalLM
        assert loaded.state_dict().keys() == model.state_dict().keys()
        for key, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value)
        assert loaded.head.weight is loaded.decoder.embedding.weight
        assert torch.equal(loaded(input_ids).logits, model(input_ids).logits)


def test_an_untied_head_is_stored_and_loaded(tmp_path):
    model = case_model("gqa", torch.float32, tie_word_embeddings=False)
    assert sum(p.numel() for p in model.parameters()) == model.config.model_shape().parameters()
    model.save_pretrained(tmp_path)
    loaded = RlExpForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.head.weight, model.head.weight)
    assert not torch.equal(loaded.head.weight, loaded.decoder.embedding.weight)


def test_a_model_may_be_loaded_in_another_dtype(tmp_path):
    case_model("gla", torch.float32).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    assert loaded(tokens(1, 4)).logits.isfinite().all()


def test_the_auto_classes_know_the_model_type():
    config = AutoConfig.for_model("rl-exp", **SIZES, attention="gta")
    assert type(config) is RlExpConfig
    assert type(AutoModelForCausalLM.from_config(config)) is RlExpForCausalLM
    with pytest.raises(ValueError, match="did you mean 'hidden_size'"):
        AutoConfig.for_model("rl-exp", hiden_size=64)


def test_an_exported_model_loads_in_a_process_without_this_package(tmp_path):
    """The subprocess refuses every import of the package, and must generate the same tokens."""
    model = case_model("gla-biased-gated-scaled", torch.float32)
    folder = export_for_hub(model, tmp_path / "exported")
    stored = json.loads((folder / "config.json").read_text())
    assert stored["auto_map"] == {
        "AutoConfig": "configuration.RlExpConfig",
        "AutoModelForCausalLM": "transformer.RlExpForCausalLM",
    }
    script = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("experiments", "conf", "cli"):
            raise ImportError(f"{{name}} is not installed here")
sys.meta_path.insert(0, Absent())
import torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained({str(folder)!r}, trust_remote_code=True)
assert not any(name.split(".")[0] == "experiments" for name in sys.modules)
ids = torch.tensor({tokens(1, 5).tolist()})
print(model.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=0).tolist())
"""
    environment = {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    assert finished.returncode == 0, finished.stderr
    expected = model.generate(tokens(1, 5), max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert json.loads(finished.stdout.splitlines()[-1]) == expected.tolist()


def test_an_export_leaves_later_saves_without_code(tmp_path):
    model = case_model("gqa", torch.float32)
    export_for_hub(model, tmp_path / "exported")
    model.save_pretrained(tmp_path / "plain")
    assert (tmp_path / "exported" / "transformer.py").exists()
    assert list((tmp_path / "plain").glob("*.py")) == []
    assert "auto_map" not in json.loads((tmp_path / "plain" / "config.json").read_text())


def test_the_shapes_import_without_torch():
    script = "import sys, experiments.models.shapes; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
