"""The training form: packed documents, losses, gradients, compilation, initial weights."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from model_cases import CASES, SIZES, case_model, tokens

from experiments.models.configuration import RlExpConfig
from experiments.models.initialisation import initialise
from experiments.models.shapes import AttentionMechanism
from experiments.models.transformer import RlExpForCausalLM, build_model


def document_positions(document_ids: torch.Tensor) -> torch.Tensor:
    """Positions that restart at 0 with every document: (B, T) from the (B, T) numbers of the documents."""
    times = torch.arange(document_ids.shape[1], device=document_ids.device).expand_as(document_ids)
    starts = torch.ones_like(document_ids, dtype=torch.bool)
    starts[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return times - torch.where(starts, times, 0).cummax(dim=1).values


@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_packed_documents_are_read_as_if_they_were_apart(name, restart):
    model, lengths = case_model(name), (5, 1, 6)
    documents = [tokens(1, length, seed=length) for length in lengths]
    apart = torch.cat([model(document, use_cache=False).logits for document in documents], dim=1)
    document_ids = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None]
    positions = document_positions(document_ids) if restart else None
    packed = model(
        torch.cat(documents, dim=1), document_ids=document_ids, position_ids=positions, use_cache=False
    ).logits
    assert torch.allclose(packed, apart, rtol=0, atol=1e-12)


@torch.no_grad()
def test_without_document_ids_packed_documents_do_see_each_other():
    model, (first, second) = case_model("gqa"), (tokens(1, 5, seed=1), tokens(1, 5, seed=2))
    packed = model(torch.cat((first, second), dim=1), use_cache=False).logits[:, 5:]
    assert not torch.allclose(packed, model(second, use_cache=False).logits, atol=1e-3)


def test_the_loss_is_the_mean_cross_entropy_of_the_targets_that_count():
    model, input_ids = case_model("gla"), tokens(2, 9)
    targets = tokens(2, 9, seed=5)
    targets[0, :4] = -100
    logits = model(input_ids, use_cache=False).logits
    expected = F.cross_entropy(logits[targets != -100], targets[targets != -100])
    assert torch.allclose(model.loss(input_ids, targets), expected, rtol=0, atol=1e-12)
    each = model.loss(input_ids, targets, reduction="none")
    assert each.shape == targets.shape
    assert torch.equal(each[0, :4], torch.zeros(4, dtype=torch.float64))
    assert torch.allclose(each.sum(), model.loss(input_ids, targets, reduction="sum"))
    assert torch.allclose(each.sum() / 14, expected)


def test_labels_are_shifted_as_transformers_does():
    model, input_ids = case_model("gqa", torch.float32), tokens(2, 9)
    expected = model.loss(input_ids[:, :-1], input_ids[:, 1:])
    assert torch.allclose(model(input_ids, labels=input_ids).loss, expected, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_every_weight_gets_a_gradient(name):
    model = case_model(name)
    model.loss(tokens(2, 9), tokens(2, 9, seed=5)).backward()
    assert [name for name, weight in model.named_parameters() if not weight.grad.any()] == []


@pytest.mark.parametrize("name", ["gqa", "gta", "gla-split-query", "tied"])  # one of each module
def test_the_training_form_compiles_into_one_graph(name):
    model = case_model(name, torch.float32)
    input_ids, targets = tokens(2, 9), tokens(2, 9, seed=5)
    compiled = torch.compile(model.loss, fullgraph=True, backend="aot_eager")
    loss = compiled(input_ids, targets)
    loss.backward()
    gradient = model.decoder.embedding.weight.grad.clone()
    model.zero_grad()
    expected = model.loss(input_ids, targets)
    expected.backward()
    assert torch.allclose(loss, expected, atol=1e-6)
    assert torch.allclose(gradient, model.decoder.embedding.weight.grad, atol=1e-6)


def test_packed_documents_compile_into_one_graph():
    model, document_ids = case_model("gla", torch.float32), torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2, 2]])
    compiled = torch.compile(model.loss, fullgraph=True, backend="eager")
    arguments = (tokens(1, 9), tokens(1, 9, seed=5), document_positions(document_ids), document_ids)
    assert torch.allclose(compiled(*arguments), model.loss(*arguments), atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable.*:FutureWarning")  # the older name of 5.17
def test_gradient_checkpointing_changes_nothing_but_memory():
    model, arguments = case_model("gla"), (tokens(2, 9), tokens(2, 9, seed=5))
    model.train()
    model.loss(*arguments).backward()
    plain = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model.loss(*arguments).backward()
    for parameter, gradient in zip(model.parameters(), plain, strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_weights_counted_by_the_shape_are_the_weights_of_the_model(name):
    model = case_model(name)
    assert sum(p.numel() for p in model.parameters()) == model.config.model_shape().parameters()


@pytest.mark.parametrize(
    ("options", "millions"),
    [
        ({"attention": "mha"}, 183.454),
        ({"attention": "gqa"}, 174.017),
        ({"attention": "gta"}, 171.953),
        ({"attention": "mla", "low_rank_bias": True}, 181.441),
        ({"attention": "gla", "low_rank_bias": True, "split_query_latent": True}, 175.543),
    ],
)
def test_real_modules_of_the_small_model_have_the_parameters_of_table_18(options, millions):
    config = RlExpConfig(
        hidden_size=768, layers=12, query_heads=12, head_dim=64, vocab_size=128_256, feed_forward_dim=2048, **options
    )
    with torch.device("meta"):
        model = RlExpForCausalLM(config)
    counted = sum(p.numel() for p in model.parameters())
    assert counted == config.model_shape().parameters()
    assert counted / 1e6 == pytest.approx(millions, abs=0.0006)


def test_initial_weights_depend_on_the_generator_alone():
    config = RlExpConfig(**SIZES, attention="gla")
    models = []
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        models.append(build_model(config, torch.Generator().manual_seed(7)))
    states = [model.state_dict() for model in models]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    other = build_model(config, torch.Generator().manual_seed(8))
    assert not torch.equal(other.decoder.embedding.weight, models[0].decoder.embedding.weight)


def test_mechanisms_that_share_a_seed_share_their_embedding():
    embeddings = [
        build_model(
            RlExpConfig(**SIZES, attention=mechanism), torch.Generator().manual_seed(7)
        ).decoder.embedding.weight
        for mechanism in AttentionMechanism
    ]
    assert all(torch.equal(embedding, embeddings[0]) for embedding in embeddings)


def test_initial_matrices_have_the_configured_spread_and_zeroed_outputs_are_zero():
    model = build_model(
        RlExpConfig(**SIZES, attention="mla", zero_init_output=True, low_rank_bias=True, initializer_range=0.05),
        torch.Generator().manual_seed(7),
    )
    for name, parameter in model.named_parameters():
        if name.endswith(("output.weight", "bias")):
            assert not parameter.any()
        elif parameter.dim() == 1:
            assert torch.equal(parameter, torch.ones_like(parameter))
        else:
            assert parameter.std().item() == pytest.approx(0.05, rel=0.1)
    initialise(model, torch.Generator().manual_seed(8))
    assert not model.decoder.blocks[0].attention.output.weight.any()


def test_scaled_latents_have_the_size_that_the_width_asks_for():
    """sqrt(d / C) after the norm, for the latents and for the query latent (MLRA, arXiv 2603.02188)."""
    options = dict(SIZES, attention="gla", latent_dim=8, query_latent_dim=16)
    plain = build_model(RlExpConfig(**options), torch.Generator().manual_seed(7))
    scaled = build_model(RlExpConfig(**options, latent_scaling=True), torch.Generator().manual_seed(7))
    latent, query_latent = torch.randn(1, 3, 16), torch.randn(1, 3, 16)
    for name, inputs, factor in (("latent_norm", latent, 2.0), ("query_norm", query_latent, 2**0.5)):
        norms = [getattr(model.decoder.blocks[0].attention, name) for model in (plain, scaled)]
        assert torch.allclose(norms[1](inputs), factor * norms[0](inputs), atol=1e-6)


small = st.none() | st.integers(1, 8)
accepted_or_refused = st.fixed_dictionaries(
    {
        "attention": st.sampled_from([mechanism.value for mechanism in AttentionMechanism]),
        "hidden_size": st.integers(1, 16),
        "query_heads": st.integers(1, 6),
        "head_dim": st.integers(1, 8),
        "key_value_heads": st.none() | st.integers(1, 6),
        "tied_heads": st.none() | st.integers(1, 6),
        "latent_heads": st.none() | st.integers(1, 6),
        "latent_dim": small,
        "query_latent_dim": small,
        "rope_dim": st.none() | st.integers(0, 8),
        "split_query_latent": st.booleans(),
        "low_rank_bias": st.booleans(),
        "output_gate": st.booleans(),
    }
)
COUNTS_BY_MECHANISM = {
    "gta": ("tied_heads", "rope_dim"),
    "mla": ("latent_dim", "query_latent_dim", "rope_dim"),
    "gla": ("latent_heads", "latent_dim", "query_latent_dim", "rope_dim"),
    "gqa": ("key_value_heads",),
    "tied_key_value": ("key_value_heads",),
}


@settings(max_examples=80, deadline=None)
@given(accepted_or_refused)
def test_any_accepted_shape_builds_runs_and_decodes(values):
    """Counts that belong to other mechanisms are left out, so that most drawn shapes are accepted."""
    foreign = ("key_value_heads", "tied_heads", "latent_heads", "latent_dim", "query_latent_dim", "rope_dim")
    for name in foreign:
        if name not in COUNTS_BY_MECHANISM.get(values["attention"], ()):
            values[name] = None
    try:
        config = RlExpConfig(**values, layers=1, vocab_size=11, feed_forward_dim=4)
    except ValueError:  # its text is tested with the shapes
        return
    model = build_model(config, torch.Generator().manual_seed(0), torch.float64).eval()
    assert sum(p.numel() for p in model.parameters()) == config.model_shape().parameters()
    input_ids = tokens(1, 4, vocabulary=11)
    with torch.no_grad():
        full = model(input_ids, use_cache=False).logits
        prompt = model(input_ids[:, :2])
        rest = model(input_ids[:, 2:], past_key_values=prompt.past_key_values).logits
    assert torch.allclose(rest, full[:, 2:], rtol=0, atol=1e-10)
