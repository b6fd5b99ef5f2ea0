"""What of the GPU's side of bench runs on a CPU: its cells, its references, its judgements. No figure of a GPU."""

import dataclasses
import json
import sys

import pytest
import torch
from gpu_cases import CEILINGS, CountingTimer, MadeUpGpu

from experiments.benchmarks import gpu_attention, gpu_check
from experiments.benchmarks.cells import AttentionCell
from experiments.benchmarks.gpu import OnGpu
from experiments.benchmarks.gpu_attention import full_cache, measure_side_by_side, random_rows
from experiments.benchmarks.gpu_check import Budget, exit_code, judge_goals, paper_groups, stock_groups
from experiments.benchmarks.gpu_parity import (
    ParityCase,
    check_parity,
    grouped_reference,
    hostile_cache,
    parity_cases,
    random_queries,
    worst_row_error,
)
from experiments.decoding.attention import attend
from experiments.decoding.cache import STORAGE_DTYPES
from experiments.decoding.reference import reference_attend
from experiments.models.shapes import AttentionMechanism, AttentionShape

CPU = torch.device("cpu")


def small_shape(name="gqa"):
    return AttentionShape(mechanism=AttentionMechanism(name), hidden_size=64, query_heads=4, head_dim=16)


def cell(name="gqa", **fields):
    given = {"batch": 2, "context": 32, "dtype": "bf16", "page_size": 16, "kernel": "reference"} | fields
    return AttentionCell(mechanism=name, shape=small_shape(name), **given)


def parity_case(**fields):
    case = {"name": "gqa", "shape": small_shape(), "query_length": 2, "page_size": 4, "dtype": torch.float32}
    return ParityCase(**(case | {"lengths": (9, 0, 1)} | fields))


def measure(cells, timer=None, **options):
    gpu = MadeUpGpu()
    gpu.timer = timer or CountingTimer()
    return measure_side_by_side(cells, OnGpu(gpu, CEILINGS), **({"rounds": 25, "seconds": 1.5} | options))


# What is checked and measured --------------------------------------------------------------------------------------


def test_the_papers_cells_are_all_there_side_by_side():
    groups = paper_groups()
    cells = {(c.mechanism, c.context, c.query_length, c.page_size) for group in groups for c in group}
    contexts = [1024 * 2**power for power in range(7)]
    mechanisms = ["mla", "gla-2", "gta-8", "gqa-8"]
    assert cells == {(m, c, t, p) for m in mechanisms for c in contexts for t in (1, 2) for p in (1, 64)}
    for group in groups:
        assert {c.mechanism for c in group} in ({"gla-2", "mla"}, {"gta-8", "gqa-8"})
        assert {c.page_size for c in group} == {1, 64}
        assert all(c.batch == 128 and c.shape.query_heads == 128 and c.dtype == "bf16" for c in group)


def test_the_papers_layers_cache_what_the_paper_counts():
    elements = {c.mechanism: c.shape.cached_elements() for group in paper_groups() for c in group}
    assert elements == {"mla": 576, "gla-2": 576, "gta-8": 1088, "gqa-8": 2048}


def test_the_largest_group_fits_an_80_gigabyte_gpu():
    for group in paper_groups():
        assert sum({c.mechanism: c.needed_bytes() for c in group}.values()) < 60e9


def test_every_stock_kernel_stands_beside_ours():
    groups = stock_groups()
    assert {group[1].kernel for group in groups} == {"sdpa", "flex", "flashinfer"}
    for ours, stock in groups:
        assert ours == dataclasses.replace(stock, kernel="triton")
    assert {group[1].mechanism for group in groups if group[1].kernel == "flashinfer"} == {"mla"}


def test_parity_covers_mechanisms_query_lengths_pages_and_types():
    cases = parity_cases()
    assert {case.shape.mechanism for case in cases} == set(AttentionMechanism)
    assert {case.query_length for case in cases} >= {1, 2, 4}
    assert {case.page_size for case in cases} >= {None, 1, 16, 64}
    assert {case.dtype for case in cases} == set(STORAGE_DTYPES)
    assert all(0 in case.lengths and 1 in case.lengths for case in cases)
    assert any(case.shape.group_size & (case.shape.group_size - 1) for case in cases), "every group is a power of two"


# Caches and references ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", [None, 1, 4])
def test_a_hostile_cache_holds_its_rows_and_nothing_else(page_size):
    lengths = (9, 0, 1)
    cache = hostile_cache(small_shape(), lengths, page_size=page_size, dtype=torch.float32, device=CPU)
    finite = cache.storage.isfinite().all(-1)
    assert finite.sum() == sum(lengths)
    assert cache.storage[~finite].isnan().all()
    used = [entry for entry in cache.page_table.flatten().tolist() if entry < cache.storage.shape[0]]
    assert len(set(used)) == len(used)


@pytest.mark.parametrize("mechanism", AttentionMechanism)
@pytest.mark.parametrize("query_length", [1, 3])
def test_the_grouped_reference_computes_what_the_reference_computes(mechanism, query_length):
    shape, lengths = small_shape(mechanism), (20, 0, 1, 2)
    cache = hostile_cache(shape, lengths, page_size=4, dtype=torch.bfloat16, device=CPU)
    queries = random_queries(shape, len(lengths), query_length, torch.bfloat16, CPU)
    expected = reference_attend(shape, queries.double(), cache, torch.tensor(lengths, dtype=torch.int32))
    torch.testing.assert_close(grouped_reference(shape, queries, cache, lengths), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("page_size", [None, 1, 16])
def test_a_full_cache_gives_every_row_to_one_sequence(page_size):
    problem = cell(page_size=page_size)
    cache = full_cache(problem, random_rows(problem, CPU))
    assert sorted(cache.page_table.flatten().tolist()) == list(range(cache.storage.shape[0]))
    assert cache.storage.shape[0] * cache.storage.shape[1] == problem.batch * problem.context
    assert cache.storage.isfinite().all()


def test_the_worst_row_decides_and_zero_rows_must_be_zero():
    reference = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    assert worst_row_error(reference.float(), reference) == 0
    assert worst_row_error(reference + torch.tensor([[0.0], [0.1], [0.0]]), reference) == pytest.approx(0.1 * 2**0.5)
    assert worst_row_error(reference + torch.tensor([[0.0], [0.0], [1e-9]]), reference) == float("inf")
    assert worst_row_error(reference * torch.nan, reference) == float("inf")


def test_interpreted_triton_kernels_pass_parity_and_a_wrong_kernel_fails(monkeypatch):
    triton_attend = pytest.importorskip("experiments.decoding.triton_attend")
    if not triton_attend.INTERPRETED:
        pytest.skip("triton was imported without TRITON_INTERPRET=1")
    assert check_parity(parity_case(), "triton", CPU)["status"] == "passed"
    monkeypatch.setattr("experiments.benchmarks.gpu_parity.attend", lambda *a, **named: 1.01 * attend(*a, **named))
    row = check_parity(parity_case(), "reference", CPU)
    assert (row["status"], bool(row["reason"])) == ("failed", True)


# Rows --------------------------------------------------------------------------------------------------------------


def test_the_peak_of_fp32_storage_is_the_better_of_fp32_units_and_three_tf32_products():
    assert CEILINGS.matmul_flops(torch.bfloat16) == CEILINGS.matmul_flops(torch.float16) == 8e14
    assert CEILINGS.matmul_flops(torch.float32) == 1e14


def test_cells_get_the_rounds_that_their_seconds_allow_and_at_least_five():
    assert measure([cell()], rounds=7, seconds=100.0)[0]["runs"] == 7
    assert measure([cell()])[0]["runs"] == 5  # the first call takes a second of the usual 1.5


def test_cells_of_a_group_are_timed_in_turns():
    """The timer's seconds grow with every run: cells timed one after the other would differ by a whole block."""
    rows = measure([cell(), cell(page_size=1)])
    assert abs(rows[0]["seconds"] - rows[1]["seconds"]) < rows[0]["runs"] / 2


def test_a_wrong_result_is_not_timed(monkeypatch):
    monkeypatch.setattr(gpu_attention, "attend", lambda *inputs, **named: 0.5 * attend(*inputs, **named))
    rows = measure([cell(), cell("gta")])
    assert all(row["status"] == "failed" and "the result is wrong" in row["reason"] for row in rows)
    assert all("seconds" not in row for row in rows)


def test_a_stock_kernel_that_is_not_installed_is_a_row_and_ours_is_measured(monkeypatch):
    monkeypatch.setitem(sys.modules, "flashinfer", None)
    rows = measure([cell("mla"), cell("mla", kernel="flashinfer")])
    assert [row["status"] for row in rows] == ["measured", "failed"]
    assert "FlashInfer cannot be imported" in rows[1]["reason"]


def test_a_context_off_the_page_grid_is_a_row_with_its_reason():
    (row,) = measure([cell(context=33)])
    assert row["reason"] == "context=33 is not a whole number of pages of 16 tokens"


# Goals and the document --------------------------------------------------------------------------------------------


def timed(mechanism, seconds, query_length=2, page_size=64, **fields):
    row = {"mechanism": mechanism, "status": "measured", "seconds": seconds, "context": 8192, "bound": "memory"}
    row |= {"fraction_of_limit": 0.9, "flops": 0.7 * seconds, "peak_flops": 1.0}
    return row | {"query_length": query_length, "page_size": page_size} | fields


def test_goals_are_judged_by_their_cells():
    rows = [
        timed("mla", 3.0, bound="compute", fraction_of_limit=0.2),
        timed("mla", 9.0, context=1024),
        timed("gla-2", 1.5),
        timed("gla-2", 1.8, page_size=1, flops=0.5 * 1.8),
        timed("gla-2", 1.0, query_length=1),
        timed("gqa-8", 1.7),
        timed("gta-8", 1.0),
    ]
    bandwidth, matmul, pages, latent, tied = judge_goals(rows)
    assert (bandwidth["cells"], bandwidth["reached"]) == (6, True)
    assert (matmul["cells"], matmul["cells_reaching_it"], matmul["reached"]) == (2, 1, False)
    assert (pages["cells"], pages["highest"], pages["reached"]) == (1, pytest.approx(1.2), False)
    assert (latent["cells"], latent["median"], latent["reached"]) == (1, 2.0, True)
    assert (tied["lowest"], tied["reached"]) == (1.7, True)


def test_a_goal_without_cells_is_neither_reached_nor_missed():
    failed = timed("gla-2", 1.0) | {"status": "failed"}
    assert all(goal["reached"] is None and goal["cells"] == 0 for goal in judge_goals([failed]))


@pytest.mark.parametrize(
    ("statuses", "code"), [(["passed"], 0), (["passed", "skipped"], 0), (["passed", "failed"], 1), (["skipped"], 1)]
)
def test_the_exit_code_tells_whether_parity_held(statuses, code):
    assert exit_code({"parity": [{"status": status} for status in statuses]}) == code


def test_without_a_gpu_there_is_one_line_and_exit_code_2(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main(["--output", str(tmp_path / "results.json")]) == 2
    refusal = capsys.readouterr().err
    assert refusal.count("\n") == 1
    assert "no CUDA device" in refusal
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small_check(monkeypatch):
    """The check in the interpreter: small cells; a case that fails, a cell that the time does not suffice for."""
    pytest.importorskip("triton")
    monkeypatch.setattr(gpu_check, "parity_cases", lambda: [parity_case(), parity_case(dtype=torch.int8)])
    monkeypatch.setattr(gpu_check, "paper_groups", lambda: [[cell("gta", kernel="triton")]])
    monkeypatch.setattr(gpu_check, "stock_groups", lambda: [[cell("gta", kernel="sdpa")]])
    monkeypatch.setattr(gpu_check, "paper_shapes", lambda: {"gta": small_shape("gta")})
    return OnGpu(MadeUpGpu(), CEILINGS)


def test_the_check_has_every_part_and_goes_on_after_a_case_that_raises(small_check):
    lines = []
    times = iter([0.0, 1.0, 1.0, 50.0])
    budget = Budget(100, clock=lambda: next(times, 96.0))
    document = gpu_check.check(small_check, budget, lines.append)
    assert [row["status"] for row in document["parity"]] == ["passed", "failed"]
    assert [row["status"] for row in document["cells"] + document["baselines"]] == ["measured", "skipped"]
    assert any(blocks["mechanism"] == "gta" for blocks in document["blocks"])
    assert len(document["goals"]) == 5
    assert len(lines) == 3
    assert json.loads(json.dumps(document)) == document


def test_tuning_measures_the_neighbours_of_the_tables_entry(small_check, monkeypatch):
    monkeypatch.setattr(gpu_check, "QUERY_LENGTHS", (1,))
    lines = []
    rows = gpu_check.tune(small_check, Budget(1e9), lines.append, batch=1, context=64)["tuning"]
    assert sum(row["in_table"] for row in rows) == 1
    assert len(rows) > 3
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    assert len(lines) == 1
