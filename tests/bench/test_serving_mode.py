"""Serving: every request is finished, the cache's budget is kept, and smaller caches let more requests in."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cli.main import app
from experiments.benchmarks.serving import (
    Arrival,
    Lengths,
    ServingSetting,
    _warm_up,
    draw_arrivals,
    measure_serving,
    serve,
)
from experiments.decoding.engine import DecodeEngine, Request
from experiments.decoding.static_step import StaticSteps
from experiments.models.configuration import RlExpConfig
from experiments.models.transformer import build_model

SIZES = {"hidden_size": 32, "layers": 2, "query_heads": 4, "head_dim": 8, "vocab_size": 61, "feed_forward_dim": 48}


def model(mechanism: str):
    return build_model(RlExpConfig(attention=mechanism, **SIZES), torch.Generator().manual_seed(0)).eval()


def setting(mechanism: str = "gqa", cache_bytes: int = 40_000, dtype: str = "fp32") -> ServingSetting:
    return ServingSetting(
        mechanism=mechanism,
        dtype=dtype,
        threads=1,
        kernel="reference",
        cache_bytes=cache_bytes,
        largest_batch=16,
        page_size=4,
    )


def arrivals(requests: int = 12, per_second: float = 1e6) -> list[Arrival]:
    prompt, output = Lengths("uniform", 10, 0.4, 16), Lengths("lognormal", 6, 0.5, 12)
    return draw_arrivals(requests, per_second, prompt, output, SIZES["vocab_size"], np.random.default_rng(3))


@pytest.mark.parametrize("mechanism", ["mha", "gqa", "gta", "mla", "gla"])
def test_every_request_is_finished_within_the_budget(mechanism):
    found = serve(setting(mechanism), model(mechanism), arrivals())
    assert found["finished"] == found["requests"] == 12
    assert found["new_tokens"] == sum(arrival.new_tokens for arrival in arrivals())
    assert found["prompt_tokens"] == sum(len(arrival.prompt) for arrival in arrivals())
    assert 0 < found["most_used_bytes"] <= found["cache_bytes"] <= 40_000
    assert found["between_tokens_p50"] <= found["between_tokens_p99"]
    assert found["first_token_p50"] < found["end_to_end_p50"] <= found["end_to_end_p99"] <= found["seconds"]


def test_a_smaller_cache_per_token_lets_more_requests_in():
    mha, gta = (serve(setting(name), model(name), arrivals()) for name in ("mha", "gta"))
    assert gta["bytes_per_token"] < mha["bytes_per_token"]
    assert gta["budget_tokens"] > mha["budget_tokens"]
    assert gta["most_together"] > mha["most_together"]


def test_bf16_storage_doubles_the_tokens_of_a_budget():
    fp32, bf16 = (serve(setting(dtype=dtype), model("gqa"), arrivals()) for dtype in ("fp32", "bf16"))
    assert 0 <= bf16["budget_tokens"] - 2 * fp32["budget_tokens"] <= 4  # whole pages of 4


def test_requests_that_come_one_by_one_never_wait_for_each_other():
    found = serve(setting(), model("gqa"), arrivals(requests=4, per_second=1e-4))
    assert found["most_together"] == 1
    assert found["busy_share"] < 0.01


def test_a_request_beyond_the_budget_is_reported_and_the_others_go_on():
    settings = [setting(cache_bytes=1_000), setting()]
    shapes = {"gqa": model("gqa").config.model_shape()}
    rows = measure_serving(settings, model, shapes, arrivals(), rounds=2, memory_share=0.8, seed=0)
    assert [row["status"] for row in rows] == ["skipped", "measured"]
    assert rows[0]["reason"]
    assert rows[1]["runs"] == 2
    assert rows[1]["tokens_per_second_q1"] <= rows[1]["tokens_per_second_q3"]


def test_arrivals_depend_on_the_generator_alone():
    assert arrivals() == arrivals()
    times = [arrival.seconds for arrival in arrivals()]
    assert times == sorted(times)


@pytest.mark.parametrize("distribution", ["fixed", "uniform", "lognormal"])
def test_lengths_have_the_mean_and_the_bounds_that_are_asked_for(distribution):
    drawn = Lengths(distribution, 100, 0.3, 400).draw(4000, np.random.default_rng(0))
    assert drawn.mean() == pytest.approx(100, rel=0.02)
    assert drawn.std() == pytest.approx(0 if distribution == "fixed" else 30, rel=0.1)
    cut = Lengths(distribution, 100, 2.0, 120).draw(1000, np.random.default_rng(0))
    assert cut.min() >= 1
    assert cut.max() <= 120


def test_the_command_serves_every_mechanism_at_one_budget(tmp_path):
    words = [
        "mode=serving",
        "model=nano",
        "serving.requests=6",
        "bench.rounds=1",
        "serving.cache_megabytes=0.4",
        "threads=1",
    ]
    words += ["serving.prompt.mean=20", "serving.output.mean=6", "tracking.mode=disabled"]
    result = CliRunner().invoke(app, ["bench", f"output_dir={tmp_path}/outputs", *words])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout.splitlines()[-1])
    assert [row["mechanism"] for row in document["rows"]] == ["mha", "gqa-4", "gta-4", "mla", "gla-2"]
    assert all(row["finished"] == 6 and row["cache_bytes"] <= 400_000 for row in document["rows"])
    assert all(row["end_to_end_p50_by_round"] == [row["end_to_end_p50"]] for row in document["rows"])


def test_before_serving_every_bucket_of_a_graph_is_captured():
    """Else the first requests would wait for captures."""
    engine = DecodeEngine(model("gqa"), batch_size=12, max_length=30, page_size=4, kernel="reference")
    captured = []

    def capture(function):
        captured.append(function)
        return function

    engine.static_steps = StaticSteps(engine.model, engine.cache, capture)
    _warm_up(engine, arrivals())
    before = len(captured)
    assert before == len({1, 2, 4, 8, 12})
    engine.generate([Request([1, 2], max_new_tokens=2 + number) for number in range(12)])
    assert len(captured) == before
