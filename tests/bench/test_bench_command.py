"""`rl-exp bench` from the command line to the last line of stdout."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from typer.testing import CliRunner

from cli.main import app
from experiments.decoding.cache import DecodeCache
from experiments.models.shapes import AttentionMechanism, AttentionShape

MECHANISMS = ("mha", "gqa", "gta", "mla", "gla")
NANO = ("model=nano", "bench.batch=[2]", "bench.rounds=2", "threads=1", "tracking.mode=disabled")
IMPOSSIBLE_QUERIES = 32  # more than the shorter context holds


def run_bench(folder: Path, *words: str):
    return CliRunner().invoke(app, ["bench", f"output_dir={folder}/outputs", *NANO, *words])


def only_run(folder: Path) -> Path:
    (run,) = (folder / "outputs" / "bench").iterdir()
    return run


@pytest.fixture(scope="module")
def attention_run(tmp_path_factory):
    """Folder and output of a grid with cells that cannot be: a query length beyond a context, and one beyond memory."""
    folder = tmp_path_factory.mktemp("attention")
    contexts = "bench.context=[16,64,100000000000]"
    queries = f"bench.query_length=[1,{IMPOSSIBLE_QUERIES}]"
    result = run_bench(folder, contexts, queries, "bench.page_size=[null,4]", "bench.dtype=[fp32,bf16]")
    assert result.exit_code == 0, result.output
    return folder, result.stdout


def last_line(stdout: str) -> dict:
    return json.loads(stdout.splitlines()[-1])


def test_the_last_line_is_one_json_document_with_every_cell(attention_run):
    folder, stdout = attention_run
    document = last_line(stdout)
    assert document == json.loads((only_run(folder) / "results.json").read_text())
    cells = {
        tuple(row[name] for name in ("mechanism", "context", "query_length", "dtype", "page_size", "kernel"))
        for row in document["rows"]
    }
    names = ("mha", "gqa-4", "gta-4", "mla", "gla-2")
    contexts = (16, 64, 100000000000)
    assert cells == set(
        product(names, contexts, (1, IMPOSSIBLE_QUERIES), ("fp32", "bf16"), (None, 4), ("cpu", "matmul"))
    )
    assert len(document["rows"]) == len(cells)


def test_a_cell_that_cannot_be_is_reported_and_the_rest_goes_on(attention_run):
    _, stdout = attention_run
    for row in last_line(stdout)["rows"]:
        if row["context"] == 100000000000:
            assert row["status"] == "skipped"
            assert "GB" in row["reason"]
        elif row["query_length"] > row["context"]:
            assert row["status"] == "failed"
            assert f"query_length={IMPOSSIBLE_QUERIES}" in row["reason"]
        else:
            assert row["status"] == "measured"
    assert "not measured:" in stdout


def test_every_row_has_a_positive_floor_below_its_time_in_all_units(attention_run):
    rows = [row for row in last_line(attention_run[1])["rows"] if row["status"] == "measured"]
    assert len(rows) == 5 * 2 * 2 * (2 + 1) * 2
    for row in rows:
        assert row["floor_seconds"] > 0
        assert row["fraction_of_limit"] == pytest.approx(row["floor_seconds"] / row["seconds"])
        assert row["seconds_q1"] <= row["seconds"] <= row["seconds_q3"]
        assert row["tokens_per_second"] == pytest.approx(2 * row["query_length"] / row["seconds"])
        assert row["gigabytes_per_second"] == pytest.approx(row["bytes"] / row["seconds"] / 1e9)
        assert row["floor_seconds"] == pytest.approx(
            max(row["bytes"] / row["bandwidth"], row["flops"] / row["peak_flops"])
        )


def test_the_bytes_of_a_row_are_those_of_an_allocated_cache(attention_run):
    for row in last_line(attention_run[1])["rows"]:
        if row["status"] != "measured":
            continue
        shape = AttentionShape(
            mechanism=AttentionMechanism(row["mechanism"].partition("-")[0]), hidden_size=64, query_heads=8, head_dim=8
        )
        cache = DecodeCache(
            shape,
            layers=1,
            batch_size=2,
            max_length=row["context"],
            page_size=row["page_size"],
            dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[row["dtype"]],
        )
        assert row["cache_bytes"] == cache.allocated_bytes()


def test_the_run_leaves_metrics_parquet_and_figures(attention_run):
    folder, stdout = attention_run
    run, rows = only_run(folder), last_line(stdout)["rows"]
    table = pyarrow.parquet.read_table(run / "results.parquet").to_pylist()
    assert [row["mechanism"] for row in table] == [row["mechanism"] for row in rows]
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["cell"] for row in metrics] == list(range(len(rows)))
    assert [row.get("decode/tokens_per_second") for row in metrics] == [row.get("tokens_per_second") for row in rows]
    for name in ("throughput_against_context", "roofline", "bytes_per_device"):
        for suffix in (".png", ".svg"):
            assert (run / "figures" / name).with_suffix(suffix).stat().st_size > 1000


def test_the_document_carries_ceilings_load_and_what_it_shows_of_the_papers_statements(attention_run):
    document = last_line(attention_run[1])
    (ceiling,) = document["machine"]["ceilings"]
    assert ceiling["threads"] == 1
    assert min(ceiling[name] for name in ("memory_read_bytes", "cache_read_bytes", "fp32_flops")) > 0
    assert len(document["machine"]["load_average_before"]) == 3
    found = {row["id"]: row for row in document["statements"]}
    assert found["bench.gla_split"]["effect"] == 40 / 72
    assert found["bench.gla_split"]["verdict"] == "reproduced"
    assert found["bench.mla_over_gla_one_query"]["verdict"] == "inconclusive"  # of two rounds
    bytes_of = {(row["mechanism"], row["tensor_parallel"]): row["bytes"] for row in document["bytes_per_device"]}
    assert [bytes_of["mla", size] for size in (1, 2, 4)] == [72, 72, 72]
    assert [bytes_of["gla-2", size] for size in (1, 2, 4)] == [72, 40, 40]


def test_the_tables_fit_80_columns(attention_run):
    shown = [
        line for line in attention_run[1].splitlines()[:-1] if not line.startswith(("results", "output", "machine"))
    ]
    assert max(len(line) for line in shown if "not measured" not in line) <= 80
    assert "…" not in attention_run[1]


def test_a_finished_bench_prints_its_document_again(attention_run):
    folder, stdout = attention_run
    run = only_run(folder)
    words = (run / "overrides.yaml").read_text()
    assert "bench.context" in words
    again = run_bench(
        folder,
        "bench.context=[16,64,100000000000]",
        f"bench.query_length=[1,{IMPOSSIBLE_QUERIES}]",
        "bench.page_size=[null,4]",
        "bench.dtype=[fp32,bf16]",
    )
    assert "finished already" in again.stdout
    assert last_line(again.stdout) == last_line(stdout)


def test_a_grid_of_which_nothing_can_be_measured_is_a_failed_run(tmp_path):
    result = run_bench(tmp_path, "bench.context=[16]", "bench.query_length=[32]", "bench.mechanism=[gta]")
    assert result.exit_code == 1
    assert "none of 4 cells could be measured" in " ".join(result.output.split())


def test_generation_reports_prefill_decode_transformers_and_speculation(tmp_path):
    result = run_bench(
        tmp_path,
        "mode=generate",
        "bench.mechanism=[gqa,gla]",
        "bench.context=[24]",
        "generate.new_tokens=12",
        "generate.peers=[own_dynamic,llama_dynamic]",
        "generate.speculative=true",
    )
    assert result.exit_code == 0, result.output
    rows = last_line(result.stdout)["rows"]
    systems = [(row["mechanism"], row["system"]) for row in rows]
    names = ("rl-exp", "transformers", "Llama", "rl-exp speculative")
    assert sorted(systems) == sorted(product(("gqa-4", "gla-2"), names))
    for row in rows:
        if (row["mechanism"], row["system"]) == ("gla-2", "Llama"):
            assert row["status"] == "skipped"
            assert "no Llama counterpart" in row["reason"]
            continue
        assert row["status"] == "measured", row
        assert row["tokens_per_second"] > 0
        if row["system"] == "rl-exp speculative":
            assert row["same_text"] is True
            assert row["accepted_length"] > 0
        else:
            assert row["prefill_tokens_per_second"] > 0
            assert row["floor_seconds"] > 0


def test_a_sweep_ends_with_one_table_and_one_document_for_all_jobs(tmp_path):
    words = ("-m", "model=nano,tiny", "bench.mechanism=[gqa,gta]", "bench.context=[16]", "bench.kernel=[cpu]")
    result = CliRunner().invoke(app, ["bench", f"output_dir={tmp_path}/outputs", *NANO[1:], *words])
    assert result.exit_code == 0, result.output
    document = last_line(result.stdout)
    assert len(document["runs"]) == 2
    assert {row["model"] for row in document["rows"]} == {"8x8", "8x16"}
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    assert pyarrow.parquet.read_table(sweep / "results.parquet").num_rows == len(document["rows"])


def test_without_a_compiler_the_kernel_is_called_reference(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.bench.cpu_library", lambda: None)
    words = ("bench.mechanism=[gqa]", "bench.context=[16]", "bench.query_length=[1]", "bench.dtype=[fp32]")
    words += ("bench.kernel=[cpu,reference]",)
    assert [row["kernel"] for row in last_line(run_bench(tmp_path, *words).stdout)["rows"]] == ["reference"]
