"""The arithmetic of shapes against the paper's tables, and its refusals (arXiv 2505.21487)."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.models.shapes import AttentionMechanism, AttentionShape, ModelShape, matched_feed_forward_dim

# layers, hidden_size, query_heads, head_dim, rope_dim of MLA and GLA, feed-forward of the MHA anchor (Tables 6-10)
SIZES = {
    "small": (12, 768, 12, 64, 32, 2048),
    "medium": (24, 1024, 16, 64, 32, 2736),
    "large": (24, 1536, 16, 96, 32, 4096),
    "xl": (24, 2048, 16, 128, 64, 5464),
}
VOCABULARY = 128_256

# Feed-forward widths of Tables 7-10.
PUBLISHED_WIDTHS = {
    "small": {"mha": 2048, "gqa": 2392, "mqa": 2520, "gta": 2462, "mla": 2128, "gla": 2208},
    "medium": {"mha": 2736, "gqa": 3248, "mqa": 3376, "gta": 3320, "mla": 3062, "gla": 3152, "gla_q": 3280},
    "large": {"mha": 4096, "gqa": 4864, "mqa": 5056, "gta": 4976, "mla": 4640, "gla": 4768, "gla_q": 4936},
    "xl": {"mha": 5464, "gqa": 6486, "gta": 6638, "mla": 6120, "gla": 6292},
}
PUBLISHED = [(size, name) for size, widths in PUBLISHED_WIDTHS.items() for name in widths]


def paper_shape(size, name):
    _, hidden_size, query_heads, head_dim, rope_dim, _ = SIZES[size]
    mechanism = AttentionMechanism(name.removesuffix("_q"))
    latent = mechanism in (AttentionMechanism.mla, AttentionMechanism.gla)
    return AttentionShape(
        mechanism=mechanism,
        hidden_size=hidden_size,
        query_heads=query_heads,
        head_dim=head_dim,
        rope_dim=rope_dim if latent else None,
        split_query_latent=name == "gla_q",
        low_rank_bias=latent,
    )


def parameters_in_millions(size, name, feed_forward_dim):
    model = ModelShape(
        attention=paper_shape(size, name),
        layers=SIZES[size][0],
        vocabulary_size=VOCABULARY,
        feed_forward_dim=feed_forward_dim,
    )
    return model.parameters() / 1e6


@pytest.mark.parametrize(
    ("name", "published"),
    [("mha", 183.45), ("gqa", 174.01), ("gta", 171.95), ("mla", 181.44), ("gla_q", 175.54)],
)
def test_parameters_with_a_constant_feed_forward_are_those_of_table_18(name, published):
    assert parameters_in_millions("small", name, 2048) == pytest.approx(published, abs=0.0075)


@pytest.mark.parametrize(("size", "published"), [("medium", 433.77), ("large", 876.55), ("xl", 1471.12)])
def test_parameters_of_the_mha_anchors_are_those_of_table_6(size, published):
    assert parameters_in_millions(size, "mha", PUBLISHED_WIDTHS[size]["mha"]) == pytest.approx(published, abs=0.005)


def test_the_183_65_million_of_table_6_are_the_small_mla():
    assert parameters_in_millions("small", "mla", 2128) == pytest.approx(183.65, abs=0.005)


@pytest.mark.parametrize(("size", "name"), PUBLISHED)
def test_published_widths_give_every_mechanism_the_parameters_of_the_anchor(size, name):
    anchor = parameters_in_millions(size, "mha", PUBLISHED_WIDTHS[size]["mha"])
    assert parameters_in_millions(size, name, PUBLISHED_WIDTHS[size][name]) == pytest.approx(anchor, rel=0.0012)


@pytest.mark.parametrize(("size", "name"), PUBLISHED)
def test_matched_widths_are_the_published_ones_up_to_the_rounding_of_the_paper(size, name):
    """The rule gives the published width in 17 of 24 cells; the paper rounds the others down, by at most 10."""
    matched = matched_feed_forward_dim(paper_shape(size, name), SIZES[size][5])
    assert 0 <= matched - PUBLISHED_WIDTHS[size][name] <= 10
    assert matched % 8 == 0


def test_most_matched_widths_are_exactly_the_published_ones():
    exact = [
        (size, name)
        for size, name in PUBLISHED
        if matched_feed_forward_dim(paper_shape(size, name), SIZES[size][5]) == PUBLISHED_WIDTHS[size][name]
    ]
    assert len(exact) == 17
    assert {("small", name) for name in ("mha", "gqa", "mqa", "mla", "gla")} <= set(exact)


@pytest.mark.parametrize(
    ("name", "bytes_by_devices"),
    [
        ("mha", {1: 8192, 2: 4096, 4: 2048}),
        ("gqa", {1: 2048, 2: 1024, 4: 512}),
        ("gta", {1: 1152, 2: 640, 4: 384}),
        ("gla", {1: 1152, 2: 640, 4: 640}),
        ("mla", {1: 1152, 2: 1152, 4: 1152}),
    ],
)
def test_cache_bytes_of_the_xl_model_are_those_of_tables_5_and_15(name, bytes_by_devices):
    shape = paper_shape("xl", name)
    assert {devices: 2 * shape.cached_elements(devices) for devices in bytes_by_devices} == bytes_by_devices


@pytest.mark.parametrize(
    ("name", "bytes_by_devices"),
    [("gla", {1: 576, 2: 320}), ("mla", {1: 576, 2: 576}), ("gqa", {1: 1024, 2: 512}), ("gta", {1: 576, 2: 320})],
)
def test_cache_bytes_of_the_medium_model_are_those_of_table_23(name, bytes_by_devices):
    shape = paper_shape("medium", name)
    assert {devices: 2 * shape.cached_elements(devices) for devices in bytes_by_devices} == bytes_by_devices


@pytest.mark.parametrize(
    ("mechanism", "heads", "in_head_dims"),
    [
        ("mha", {}, (64, 32, 16, 8)),
        ("gqa", {"key_value_heads": 8}, (16, 8, 4, 2)),
        ("gta", {"tied_heads": 8}, (8.5, 4.5, 2.5, 1.5)),
        ("gla", {}, (4.5, 2.5, 2.5, 2.5)),
        ("mla", {}, (4.5, 4.5, 4.5, 4.5)),
        ("mqa", {}, (2, 2, 2, 2)),
    ],
)
def test_cache_of_a_llama_3_8b_shape_is_that_of_table_26(mechanism, heads, in_head_dims):
    shape = AttentionShape(
        mechanism=AttentionMechanism(mechanism), hidden_size=4096, query_heads=32, head_dim=128, **heads
    )
    assert tuple(shape.cached_elements(devices) / 128 for devices in (1, 2, 4, 8)) == in_head_dims


@pytest.mark.parametrize(
    ("mechanism", "width"), [("gqa", 16), ("gta", 16), ("tied_key_value", 16), ("mla", 24), ("gla", 24)]
)
def test_the_scale_is_that_of_the_width_over_which_training_scores(mechanism, width):
    """d_h for GTA although its key is in two parts, d_h + d_R for MLA and GLA although decoding is wider."""
    shape = AttentionShape(mechanism=AttentionMechanism(mechanism), hidden_size=64, query_heads=4, head_dim=16)
    assert shape.softmax_scale == pytest.approx(width**-0.5, rel=1e-15)


counts = st.none() | st.integers(-1, 9)
arguments = st.fixed_dictionaries(
    {
        "mechanism": st.sampled_from(AttentionMechanism),
        "hidden_size": st.integers(0, 24),
        "query_heads": st.integers(0, 8),
        "head_dim": st.integers(0, 12),
        "key_value_heads": counts,
        "tied_heads": counts,
        "latent_heads": counts,
        "latent_dim": counts,
        "query_latent_dim": counts,
        "rope_dim": counts,
        "split_query_latent": st.booleans(),
    }
)


@settings(max_examples=400, deadline=None)
@given(arguments)
def test_a_refused_shape_names_the_field_and_its_value(values):
    """Nothing but ValueError comes out, and the text has the field, its value, and what to do."""
    try:
        shape = AttentionShape(**values)
    except ValueError as refusal:
        name, value, why = re.fullmatch(r"(\w+)=(\S+) is impossible for \w+: (.+)", str(refusal)).groups()
        given_value = values[name]
        assert given_value is None or str(given_value) == value
        assert why
    else:
        assert all(value is not None for value in vars(shape).values())
        assert shape.cached_elements() > 0
        assert shape.query_heads % shape.group_size == 0


def test_a_shape_without_room_for_a_feed_forward_is_refused():
    shape = AttentionShape(mechanism=AttentionMechanism.mla, hidden_size=32, query_heads=2, head_dim=16, latent_dim=512)
    with pytest.raises(ValueError, match="feed-forward of 64 cannot give up"):
        matched_feed_forward_dim(shape, 64)
