"""`rl-exp bench mode=plan`: predictions by hand, what does not fit is said, published figures lie below the ceiling."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from conf.bench_config import BenchConfig, BenchMode
from conf.train_config import ModelConfig
from experiments.benchmarks.choices import PlanDevice
from experiments.benchmarks.device_table import DEVICES
from experiments.benchmarks.plan import PlanSetting, Serving, crossovers, faster_from, predict
from experiments.benchmarks.published_serving import PUBLISHED, SERVED_EXPERTS, compare_with_published, served_model
from experiments.decoding.whole_model_cost import Placement, device_weights

LLAMA = BenchConfig(
    mode=BenchMode.plan,
    model=ModelConfig(
        layers=32, hidden_size=4096, query_heads=32, head_dim=128, anchor_feed_forward_dim=12288, tie_embeddings=False
    ),
)
NAMES = ("mha", "gqa-8", "gta-8", "mla", "gla-2")
SHAPES = {name: LLAMA.model_shape(name) for name in NAMES}
H100 = Serving(device=DEVICES["h100"], weights="bf16", weight_bytes=2, cache="bf16", cache_bytes=2, memory_share=0.9)


def cell(mechanism: str, **fields: int) -> PlanSetting:
    given = {"tensor_parallel": 1, "context": 8192, "batch": 16, "query_length": 1} | fields
    return PlanSetting(mechanism=mechanism, **given)


def row_of(mechanism: str, **fields: int) -> dict:
    (row,) = predict([cell(mechanism, **fields)], SHAPES, H100)
    return row


def document(result) -> dict:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


def test_llama_3_8b_on_one_h100_by_hand():
    """16.06 GB of weights and 1.07 GB a sequence of 8192 tokens; a step of 16 reads 15.01 + 17.18 GB at 3.35 TB/s."""
    row = row_of("gqa-8")
    assert row["weight_bytes_per_device"] == 2 * 8_030_261_248
    assert row["cache_bytes_per_token"] == 131_072
    assert row["largest_batch"] == int((72e9 - 2 * 8_030_261_248) // (8192 * 131_072)) == 52
    read = 2 * (8_030_261_248 - 128256 * 4096) + 16 * 8192 * 131_072
    assert row["floor_seconds"] == row["memory_seconds"] == pytest.approx(read / 3.35e12)
    assert row["tokens_per_second_ceiling"] == pytest.approx(16 * 3.35e12 / read)
    assert row["bound"] == "memory"


def test_the_batch_that_fits_is_predicted_and_the_next_does_not_fit():
    assert row_of("gqa-8", batch=52)["status"] == "predicted"
    row = row_of("gqa-8", batch=53)
    assert row["status"] == "does not fit"
    assert "GB a device" in row["reason"]
    assert row["tokens_per_second_ceiling_at_largest"] == row_of("gqa-8", batch=52)["tokens_per_second_ceiling"]


def test_heads_that_do_not_split_are_a_row_and_no_error():
    row = row_of("gqa-8", tensor_parallel=3)
    assert row["status"] == "skipped"
    assert "query_heads=32" in row["reason"]


@pytest.mark.parametrize("name", NAMES)
def test_more_devices_hold_more_and_are_no_slower(name):
    rows = [row_of(name, tensor_parallel=size, batch=8) for size in (1, 2, 4, 8)]
    for fewer, more in pairwise(rows):
        assert more["weight_bytes_per_device"] < fewer["weight_bytes_per_device"]
        assert more["cache_bytes_per_token"] <= fewer["cache_bytes_per_token"]
        assert more["largest_batch"] >= fewer["largest_batch"]
        assert more["memory_seconds"] < fewer["memory_seconds"]


def test_gla_leaves_mla_behind_once_the_latent_would_be_copied():
    """On two devices GLA-2 reads 320 of MLA's 576 elements: beyond some context it must have the lower floor."""
    found = {
        (row["tensor_parallel"], row["first"], row["second"]): row["faster_from"]
        for row in crossovers([cell("mla", tensor_parallel=size) for size in (1, 2)], SHAPES, H100)
    }
    context = found[2, "gla-2", "mla"]
    assert context is not None
    assert found[2, "mla", "gla-2"] is None
    assert found[1, "gta-8", "gqa-8"] is not None
    beyond = int(context) + 1000
    floors = {name: row_of(name, tensor_parallel=2, context=beyond)["floor_seconds"] for name in ("mla", "gla-2")}
    assert floors["gla-2"] < floors["mla"]


def test_a_crossing_is_where_maxima_of_lines_meet_for_the_last_time():
    flat, steep = [(2.0, 0.0)], [(0.0, 1.0), (1.0, 0.0)]
    assert faster_from(flat, steep, 1) == 2.0
    assert faster_from(steep, flat, 1) is None
    assert faster_from([(0.0, 1.0)], [(1.0, 1.0)], 1) == 1.0
    assert faster_from([(0.0, 1.0)], [(0.0, 1.0)], 1) is None
    assert faster_from([(0.0, 1.0)], [(1.0, 1.0 + 1e-14)], 1) == 1.0  # rounding is no crossing


def test_no_published_figure_lies_above_its_ceiling():
    rows = compare_with_published()
    assert len(rows) == len(PUBLISHED) == 22
    assert all(0 < row["share_of_ceiling"] < 1 for row in rows)


def test_requests_wait_in_the_paper_where_they_are_predicted_not_to_fit():
    """With 8K prompts the published median first token comes within 12 s, or after minutes of waiting for room."""
    known = [row for row in compare_with_published() if row["prompt"] == 8192]
    known = [row for row in known if row["published_first_token_seconds"] is not None]
    assert len(known) == 6
    for row in known:
        assert row["all_fit"] == (row["published_first_token_seconds"] < 60), row


def test_the_served_model_is_the_papers():
    """236B parameters; GLA-8 on eight devices caches 320 elements a token and layer where MLA caches 576 (B.6)."""
    assert device_weights(served_model("mla"), Placement(), SERVED_EXPERTS).total == pytest.approx(236e9, rel=2e-3)
    assert served_model("gla-8").attention.cached_elements(8) == 320
    assert served_model("mla").attention.cached_elements(8) == 576


def test_every_device_that_can_be_planned_for_is_in_the_table():
    assert {device.value for device in PlanDevice} == {*DEVICES, "cpu"}


def test_the_command_plans_both_llamas_and_the_papers_model(rl_exp):
    found = {}
    for words in (["mode=plan"], ["mode=plan", "model=llama_70b", "plan.device=b200"], ["mode=plan_deepseek"]):
        found[words[-1]] = document(rl_exp("bench", *words, "tracking.mode=disabled"))
    by_hand = {row["mechanism"]: row for row in found["mode=plan"]["rows"] if row["tensor_parallel"] == 1}
    assert by_hand["gqa-8"]["parameters"] == 8_030_261_248
    assert {row["parameters"] for row in found["plan.device=b200"]["rows"] if row["mechanism"] == "gqa-8"} == {
        70_553_706_496
    }
    assert {row["devices"] for row in found["mode=plan_deepseek"]["rows"]} == {8}
    assert len(found["mode=plan_deepseek"]["published"]) == 22


def test_a_model_that_fits_no_device_is_said_and_the_run_is_finished(rl_exp):
    words = ("model=llama_70b", "bench.tensor_parallel=[1]", "bench.mechanism=[gqa-8]", "tracking.mode=disabled")
    rows = document(rl_exp("bench", "mode=plan", *words))["rows"]
    assert {row["status"] for row in rows} == {"does not fit"}
    assert all("weights alone need 141.1 of 72.0 GB" in row["reason"] for row in rows)


def test_plan_and_generate_count_the_same_bytes_and_operations(rl_exp):
    """The limit that `mode=generate` measures against is the plan for this CPU: the context is that of the middle."""
    words = ("model=nano", "bench.mechanism=[gqa,gla]", "bench.batch=[2]", "threads=1", "tracking.mode=disabled")
    measured = document(
        rl_exp("bench", "mode=generate", *words, "bench.context=[24]", "generate.new_tokens=12", "bench.rounds=1")
    )["rows"]
    planned = document(
        rl_exp(
            *("bench", "mode=plan", *words, "plan.device=cpu", "bench.context=[30]"),
            *("bench.tensor_parallel=[1,2]", "plan.vocabulary_size=4096"),
        )
    )["rows"]
    alone = [row for row in planned if row["tensor_parallel"] == 1]
    assert [(row["bytes"], row["flops"]) for row in alone] == [(row["bytes"], row["flops"]) for row in measured]
    assert {row["status"] for row in planned if row["tensor_parallel"] == 2} == {"skipped"}


def test_the_tables_fit_80_columns(rl_exp):
    result = rl_exp("bench", "mode=plan_deepseek", "tracking.mode=disabled")
    shown = [line for line in result.stdout.splitlines()[:-1] if not line.startswith(("results", "output", "h100"))]
    assert max(map(len, shown)) <= 80
    assert "…" not in result.stdout


def test_a_sweep_over_devices_ends_with_one_document(rl_exp):
    words = ("-m", "mode=plan", "plan.device=h100,h200", "bench.context=[8192]", "tracking.mode=disabled")
    found = document(rl_exp("bench", *words))
    assert {row["device"] for row in found["rows"]} == {"h100", "h200"}
