"""Models of transformers as ours: equal logits in every form, weights back bit for bit, and what is refused.

The measured differences stand in docs/hub_models.md; the models have logits of about 4.
"""

import re
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    Ernie4_5Config,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    HeliumConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Qwen2Config,
    Qwen3Config,
    SeedOssConfig,
)

from experiments.decoding.engine import DecodeEngine, Request
from experiments.decoding.model_step import DecodeModel
from experiments.models.from_transformers import FAMILIES, ConvertedForCausalLM, NotConvertible, converted
from experiments.models.reward_head import reward_model_from

VOCABULARY, LENGTH, PROMPT = 61, 24, 9
TOLERANCE = 1e-4
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "max_position_embeddings": 64,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SHORT = {"rope_theta": 500.0, "original_max_position_embeddings": 8}
CASES = {
    "llama": LlamaConfig(**SIZES, rms_norm_eps=1e-2),
    "llama of multi-head attention": LlamaConfig(**SIZES | {"num_key_value_heads": 4}),
    "llama with biases, tied": LlamaConfig(**SIZES, attention_bias=True, tie_word_embeddings=True, head_dim=12),
    "llama with linear scaling": LlamaConfig(
        **SIZES, rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}
    ),
    "llama with llama3 scaling": LlamaConfig(**SIZES, rope_parameters=LLAMA3 | SHORT),
    "mistral": MistralConfig(**SIZES, sliding_window=None, head_dim=16),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen2 with yarn": Qwen2Config(**SIZES, rope_parameters={"rope_type": "yarn", "factor": 8.0, **SHORT}),
    "qwen3": Qwen3Config(**SIZES, head_dim=16),
    "qwen3 with biases, tied": Qwen3Config(**SIZES, head_dim=16, attention_bias=True, tie_word_embeddings=True),
    "seed_oss": SeedOssConfig(**SIZES, head_dim=16, attention_bias=True, attention_out_bias=True),
    "helium": HeliumConfig(**SIZES, head_dim=8, attention_bias=True),
    "ernie4_5": Ernie4_5Config(**SIZES, head_dim=12),
}


def random_model(config):
    """Biases and norms are away from their neutral starting values, so that leaving one out shows."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return model


@pytest.fixture(params=CASES, scope="module")
def pair(request):
    """A model of transformers and the same as ours."""
    model = random_model(CASES[request.param])
    return model, converted(model)


def token_ids(rows=2, length=LENGTH):
    return torch.randint(0, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(1))


def assert_close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_logits_of_a_text_equal_those_of_transformers(pair):
    theirs, ours = pair
    assert_close(ours(token_ids(), use_cache=False).logits, theirs(token_ids(), use_cache=False).logits)


@torch.no_grad()
def test_logits_behind_left_padding_equal_those_of_transformers(pair):
    theirs, ours = pair
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    mask[0, :5] = 0
    expected = theirs(token_ids(), attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
    assert_close(ours(token_ids(), attention_mask=mask).logits[mask.bool()], expected[mask.bool()])


@pytest.mark.parametrize("kernel", ["cpu", "reference"])
@torch.no_grad()
def test_logits_of_the_decode_engine_equal_those_of_transformers(pair, kernel):
    theirs, ours = pair
    tokens, engine = token_ids(), DecodeModel(ours, kernel=kernel)
    cache = engine.new_cache(batch_size=2, max_length=LENGTH)
    steps = [engine.prefill(cache, tokens[:, :PROMPT].tolist(), [[0], [1]])]
    steps += [engine.decode(cache, tokens[:, i : i + 1], [0, 1])[:, 0] for i in range(PROMPT, LENGTH)]
    assert_close(torch.stack(steps, dim=1), theirs(tokens).logits[:, PROMPT - 1 :])


def test_the_decode_engine_takes_converted_weights_in_half_precision(pair):
    """It refuses to start where its logits are not the model's."""
    DecodeModel(pair[1], dtype=torch.bfloat16)


@torch.no_grad()
def test_cached_steps_of_the_model_itself_equal_those_of_transformers(pair):
    theirs, ours = pair
    tokens = token_ids()
    first = ours(tokens[:, :PROMPT], use_cache=True)
    second = ours(tokens[:, PROMPT:], past_key_values=first.past_key_values or first.cache)
    assert_close(torch.cat((first.logits, second.logits), dim=1), theirs(tokens).logits)


def test_a_trained_model_is_saved_as_the_model_it_was_made_of(pair, tmp_path):
    theirs, ours = pair
    theirs.generation_config.update(do_sample=True, temperature=0.25)
    ours = converted(theirs)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.mul_(0.9)
    ours.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is type(theirs)
    assert loaded.generation_config.temperature == 0.25
    stored = {"dtype", "architectures", "transformers_version", "_name_or_path"}
    before, after = theirs.config.to_dict(), AutoConfig.from_pretrained(tmp_path).to_dict()
    assert {k: v for k, v in before.items() if k not in stored} == {k: v for k, v in after.items() if k not in stored}
    for name, value in theirs.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value * 0.9)
    again = converted(loaded).state_dict()
    assert all(torch.equal(again[name], value) for name, value in ours.state_dict().items())


@torch.no_grad()
def test_the_engine_gives_exact_log_probabilities_over_a_vocabulary_of_152_thousand():
    config = Qwen3Config(**SIZES | {"vocab_size": 151_936, "hidden_size": 16}, head_dim=8, tie_word_embeddings=True)
    model = random_model(config)
    engine = DecodeEngine(converted(model), batch_size=4, max_length=12)
    for drawn in engine.generate([Request([5, 151_935, 7], max_new_tokens=6, seed=1, samples_per_prompt=4)]):
        tokens = torch.tensor(drawn.prompt + drawn.tokens)
        expected = model(tokens[None]).logits[0, 2:-1].log_softmax(dim=-1).gather(1, tokens[3:, None])[:, 0]
        assert_close(torch.tensor(drawn.policy_log_probabilities), expected)


def test_a_reward_model_made_of_a_converted_policy_keeps_its_arithmetic_on_disk(tmp_path):
    policy = converted(random_model(CASES["qwen2 with yarn"]))
    reward = reward_model_from(policy, torch.Generator().manual_seed(0)).eval()
    reward.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded(token_ids()).logits, reward(token_ids()).logits)
    assert_close(loaded.decoder.hidden_states(token_ids()), policy.decoder.hidden_states(token_ids()))


def test_gradients_equal_those_of_transformers():
    theirs = random_model(CASES["qwen3 with biases, tied"])
    ours = converted(theirs)
    for model in (theirs, ours):
        model(token_ids()).logits.square().mean().backward()
    layer, block = theirs.model.layers[1], ours.decoder.blocks[1]
    joined = [getattr(layer.self_attn, f"{name}_proj").weight.grad for name in "qkv"]
    assert_close(block.attention.input.weight.grad, torch.cat(joined))
    assert_close(block.attention.key_norm.weight.grad, layer.self_attn.k_norm.weight.grad)
    assert_close(ours.head.weight.grad, theirs.lm_head.weight.grad)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (MistralConfig(**SIZES, sliding_window=16), "sliding_window=16 is in use"),
        (Qwen3Config(**SIZES, use_sliding_window=True, sliding_window=16), "sliding_window=16 is in use"),
        (LlamaConfig(**SIZES, mlp_bias=True), "weights that our decoder does not have, such as .*mlp.down_proj.bias"),
        (LlamaConfig(**SIZES, hidden_act="gelu"), "hidden_act=gelu is not silu"),
        (LlamaConfig(**SIZES, head_dim=3), "head_dim=3"),
        (
            LlamaConfig(**SIZES, rope_parameters={"rope_type": "dynamic", "rope_theta": 500.0, "factor": 2.0}),
            "rope_type=dynamic is not one of default, linear, llama3, yarn",
        ),
        (Olmo2Config(**SIZES), "Olmo2ForCausalLM is not shaped like Llama"),
        (Gemma2Config(**SIZES), "Gemma2ForCausalLM is not shaped like Llama"),
        (MixtralConfig(**SIZES), "MixtralForCausalLM is not shaped like Llama"),
        (
            GPT2Config(vocab_size=61, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0),
            "GPT2LMHeadModel is not shaped like Llama",
        ),
        (
            GPTNeoXConfig(
                vocab_size=61, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
            ),
            "GPTNeoXForCausalLM is not shaped like Llama",
        ),
    ],
)
def test_what_the_decoder_cannot_do_is_refused_with_its_reason(config, reason):
    with pytest.raises(NotConvertible, match=reason) as refused:
        converted(random_model(config))
    assert "\n" not in str(refused.value)


def test_a_window_as_long_as_the_longest_text_is_not_in_use():
    assert isinstance(converted(random_model(MistralConfig(**SIZES, sliding_window=64))), ConvertedForCausalLM)


def test_a_model_that_computes_something_else_is_refused_by_its_logits():
    model = random_model(CASES["llama"])
    model.model.norm.forward = torch.tanh
    with pytest.raises(NotConvertible, match=r"its logits differ by [\d.]+% from those of our decoder"):
        converted(model)


def test_the_documented_families_are_those_of_the_table():
    table = (Path(__file__).parents[2] / "docs/hub_models.md").read_text()
    documented = set(re.findall(r"^\| `(\w+)` ", table, re.MULTILINE))
    assert documented == {family.config_class.model_type for family in FAMILIES}
