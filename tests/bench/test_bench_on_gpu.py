"""`rl-exp bench device=cuda` with a GPU that is none: Triton's interpreter, made-up seconds, a real record."""

from __future__ import annotations

import json
from itertools import product

import pytest
import torch
from gpu_cases import CEILINGS, CLOCKS, MadeUpGpu
from typer.testing import CliRunner

from cli import hydra_command
from cli.main import app
from conf.bench_config import BenchConfig, BenchMode, GridConfig, Parallel
from conf.run_config import Device
from experiments import bench as bench_command
from experiments.benchmarks import gpu as gpu_module
from experiments.benchmarks.choices import BenchKernel

MECHANISMS = ("gqa-4", "gla-2")  # a program of Triton's interpreter takes milliseconds
SMALL = ("model=nano", "bench.batch=[2]", "bench.rounds=2", "tracking.mode=disabled")
GRID = (
    "bench.mechanism=[gqa,gla]",
    "bench.context=[16,40]",
    "bench.query_length=[1,20]",
    "bench.dtype=[fp32,bf16]",
    "bench.page_size=[null,16]",
)


def interpreted() -> bool:
    """Whether Triton kernels run on CPU tensors in this process."""
    pytest.importorskip("triton")
    from experiments.decoding import triton_attend

    return triton_attend.INTERPRETED


def run_bench(folder, monkeypatch, gpu, *words):
    monkeypatch.setattr(bench_command, "open_gpu", lambda needs_triton: gpu)
    monkeypatch.setattr(hydra_command, "has_cuda", lambda: True)
    return CliRunner().invoke(app, ["bench", f"output_dir={folder}/outputs", "device=cuda", *SMALL, *words])


def last_line(result) -> dict:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def gpu_run(tmp_path_factory):
    """Folder and output of a grid with cells that cannot be: queries beyond a context, a context off the page grid."""
    if not interpreted():
        pytest.skip("triton was imported without TRITON_INTERPRET=1")
    folder = tmp_path_factory.mktemp("gpu")
    with pytest.MonkeyPatch.context() as monkeypatch:
        result = run_bench(folder, monkeypatch, MadeUpGpu(), *GRID)
    assert result.exit_code == 0, result.output
    return folder, result


def test_triton_and_torchs_products_are_measured_where_no_kernel_is_named(gpu_run):
    rows = last_line(gpu_run[1])["rows"]
    cells = {
        tuple(row[name] for name in ("mechanism", "context", "query_length", "dtype", "page_size", "kernel"))
        for row in rows
    }
    assert cells == set(product(MECHANISMS, (16, 40), (1, 20), ("fp32", "bf16"), (None, 16), ("triton", "matmul")))
    assert len(rows) == len(cells)


def test_every_row_has_its_distance_to_the_ceilings_of_the_device(gpu_run):
    measured = [row for row in last_line(gpu_run[1])["rows"] if row["status"] == "measured"]
    assert len(measured) == 2 * 2 * 2 * (2 * 1 + 1 * 2)  # mechanisms, kernels, types; contexts 16 and 40
    for row in measured:
        assert row["worst_row_error"] < (1e-2 if row["kernel"] == "triton" else 5e-2)
        assert row["bandwidth"] == CEILINGS.memory_bytes
        assert row["peak_flops"] == {"fp32": 1e14, "bf16": 8e14}[row["dtype"]]
        assert row["floor_seconds"] == pytest.approx(max(row["bytes"] / 3e12, row["flops"] / row["peak_flops"]))
        assert row["fraction_of_limit"] == pytest.approx(row["floor_seconds"] / row["seconds"])
        assert row["tokens_per_second"] == pytest.approx(2 * row["query_length"] / row["seconds"])
        assert row["gigaflops_per_second"] == pytest.approx(row["flops"] / row["seconds"] / 1e9)
        assert row["seconds_q1"] <= row["seconds"] <= row["seconds_q3"]
        assert row["cuda_graph"] is True
        assert row["threads"] is None
        assert row["path"] == "triton" if row["kernel"] == "triton" else row["path"].startswith("matmul_")


def test_a_cell_that_cannot_be_says_why_and_the_others_are_measured(gpu_run):
    for row in last_line(gpu_run[1])["rows"]:
        if row["query_length"] > row["context"]:
            assert (row["status"], "query_length=20" in row["reason"]) == ("failed", True)
        elif row["page_size"] == 16 and row["context"] == 40:
            assert (row["status"], "whole number of pages of 16" in row["reason"]) == ("failed", True)
        else:
            assert row["status"] == "measured", row


def test_the_record_has_the_device_its_driver_clocks_and_ceilings(gpu_run):
    machine = last_line(gpu_run[1])["machine"]
    assert machine["gpu"] == {"name": "a GPU that is none"}
    assert machine["clocks"] == {"before": CLOCKS, "after_ceilings": CLOCKS, "after": CLOCKS}
    assert machine["ceilings"] == [{"memory_bytes": 3e12, **vars(CEILINGS)}]
    (run,) = (gpu_run[0] / "outputs" / "bench").iterdir()
    assert json.loads((run / "manifest.json").read_text())["machine"] == machine


def test_tables_figures_and_parquet_are_those_of_the_processor(gpu_run):
    (run,) = (gpu_run[0] / "outputs" / "bench").iterdir()
    for name in ("throughput_against_context", "roofline", "bytes_per_device"):
        for suffix in (".png", ".svg"):
            assert (run / "figures" / name).with_suffix(suffix).stat().st_size > 1000
    assert (run / "results.parquet").stat().st_size > 1000
    words = gpu_run[1].stdout
    assert "kernel triton" in words
    assert "a GPU that is none" in words
    assert "driver made-up driver_version" in words
    assert "…" not in words


def test_a_cell_beyond_the_devices_memory_is_left_out(tmp_path, monkeypatch):
    if not interpreted():
        pytest.skip("triton was imported without TRITON_INTERPRET=1")
    gpu = MadeUpGpu(free_bytes=100_000, clocks=None)
    words = ("bench.mechanism=[gqa]", "bench.context=[16,100000]", "bench.kernel=[triton]", "bench.dtype=[bf16]")
    result = run_bench(tmp_path, monkeypatch, gpu, *words)
    rows = last_line(result)["rows"]
    assert [row["status"] for row in rows if row["context"] == 16] == ["measured"] * 2
    assert {(row["status"], "GB" in row["reason"]) for row in rows if row["context"] == 100_000} == {("skipped", True)}
    assert "nvidia-smi did not answer" in result.stdout


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_whole_models_are_measured_in_the_type_of_their_cache_beside_the_devices_ceilings(tmp_path, monkeypatch, dtype):
    if not interpreted():
        pytest.skip("triton was imported without TRITON_INTERPRET=1")
    words = ("mode=generate", "model=nano", "bench.mechanism=[gqa,gla]", "bench.batch=[2]", "bench.context=[8]")
    options = ("generate.new_tokens=4", "generate.peers=[own_dynamic,llama_dynamic]", "generate.speculative=true")
    result = run_bench(tmp_path, monkeypatch, MadeUpGpu(), *words, *options, f"bench.dtype=[{dtype}]")
    document = last_line(result)
    assert document["machine"]["gpu"] == {"name": "a GPU that is none"}
    measured = {(row["mechanism"], row["system"]): row for row in document["rows"] if row["status"] == "measured"}
    systems = {"rl-exp", "transformers", "rl-exp speculative"}
    assert set(measured) == set(product(("gqa-4", "gla-2"), systems)) | {("gqa-4", "Llama")}
    ours = measured["gqa-4", "rl-exp"]
    assert (ours["kernel"], ours["threads"], ours["residence"]) == ("triton", None, "memory")
    assert (ours["bandwidth"], ours["peak_flops"]) == (3e12, {"fp32": 1e14, "bf16": 8e14}[dtype])
    element = {"fp32": 4, "bf16": 2}[dtype]
    assert ours["bytes"] == pytest.approx(element * ours["parameters"] + ours["cache_bytes"], rel=0.2)
    assert ours["fraction_of_limit"] == pytest.approx(ours["floor_seconds"] / ours["step_seconds"])


def test_serving_is_measured_on_the_device(tmp_path, monkeypatch):
    if not interpreted():
        pytest.skip("triton was imported without TRITON_INTERPRET=1")
    lengths = [f"serving.{what}.{name}" for what in ("prompt", "output") for name in ("mean=4", "longest=6")]
    words = ("mode=serving", "model=nano", "bench.mechanism=[gta]", "bench.rounds=1", "serving.requests=3")
    sizes = ("serving.cache_megabytes=0.1", "serving.largest_batch=2", "bench.dtype=[bf16]")
    result = run_bench(tmp_path, monkeypatch, MadeUpGpu(), *words, *lengths, *sizes)
    (row,) = last_line(result)["rows"]
    assert (row["status"], row["finished"], row["kernel"], row["threads"]) == ("measured", 3, "triton", None)
    too_small = run_bench(tmp_path, monkeypatch, MadeUpGpu(free_bytes=1000), *words, *lengths, *sizes, "seed=1")
    assert too_small.exit_code == 1
    assert "bench.memory_share of the free memory" in " ".join(too_small.output.split())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("words", [("device=cuda",), ("bench.kernel=[triton]",), ("device=cuda", "mode=generate")])
def test_without_a_gpu_what_needs_one_is_a_mistake_with_exit_code_2(words, rl_exp, tmp_path):
    result = rl_exp("bench", *SMALL, *words)
    assert result.exit_code == 2, result.output
    said = " ".join(result.stderr.split())
    assert "no CUDA device" in said
    assert "use device=cpu" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("command", ["train", "rlhf", "reward-eval"])
def test_every_command_refuses_device_cuda_where_there_is_none(command, rl_exp, tmp_path):
    result = rl_exp(command, "device=cuda")
    assert (result.exit_code, "no CUDA device" in result.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == []
    assert rl_exp(command, "device=cuda", "--dry-run").exit_code == 0


def test_auto_takes_a_gpu_where_there_is_one_and_kernels_allow_it(monkeypatch):
    monkeypatch.setattr(bench_command, "open_gpu", lambda needs_triton: "gpu")
    assert bench_command.measuring_gpu(BenchConfig()) == "gpu"
    assert bench_command.measuring_gpu(BenchConfig(device=Device.cpu)) is None
    assert bench_command.measuring_gpu(BenchConfig(bench=GridConfig(kernel=[BenchKernel.cpu]))) is None
    assert bench_command.measuring_gpu(BenchConfig(bench=GridConfig(threads=[1, 2]))) is None
    assert bench_command.measuring_gpu(BenchConfig(parallel=Parallel.tensor)) is None

    def refuse(needs_triton):
        raise ValueError("no CUDA device")

    monkeypatch.setattr(bench_command, "open_gpu", refuse)
    assert bench_command.measuring_gpu(BenchConfig()) is None
    with pytest.raises(ValueError, match="device=cuda: no CUDA device"):
        bench_command.measuring_gpu(BenchConfig(device=Device.cuda))


@pytest.mark.parametrize("mode", [BenchMode.generate, BenchMode.serving])
def test_whole_models_decode_with_our_kernel_of_the_device(mode):
    config = BenchConfig(mode=mode)
    assert config.kernels(Device.cuda) == [BenchKernel.triton]
    assert config.kernels(Device.cpu) == [BenchKernel.cpu]


def test_a_gpu_is_opened_only_where_triton_kernels_can_be_timed(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(gpu_module, "GraphTimer", lambda device: None)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(gpu_module.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(ValueError, match="TRITON_INTERPRET is set"):
        gpu_module.open_gpu(needs_triton=True)
    assert gpu_module.open_gpu(needs_triton=False).device == torch.device("cuda", 0)
    monkeypatch.delenv("TRITON_INTERPRET")
    assert gpu_module.open_gpu(needs_triton=True).device == torch.device("cuda", 0)
    monkeypatch.setattr(gpu_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs the package triton"):
        gpu_module.open_gpu(needs_triton=True)
