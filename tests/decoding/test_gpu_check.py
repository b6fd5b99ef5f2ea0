"""What of the GPU check runs on a CPU: its cells, its judgements, its document, its refusals. No figure of a GPU."""

import json
import subprocess
import sys

import pytest
import torch
from decode_cases import MECHANISMS, small_shape
from gpu_cases import CEILINGS, CountingTimer

from experiments.benchmarks import gpu_check, gpu_tuning
from experiments.benchmarks.cells import AttentionCell
from experiments.benchmarks.gpu_check import Budget, exit_code, run_groups, run_parity
from experiments.benchmarks.gpu_goals import judge_goals, ratios
from experiments.benchmarks.gpu_machine import CLOCK_FIELDS, clocks
from experiments.benchmarks.gpu_parity import (
    ParityCase,
    check_parity,
    grouped_reference,
    hostile_cache,
    parity_cases,
    random_queries,
    worst_row_error,
)
from experiments.benchmarks.gpu_speed import (
    SpeedCell,
    baseline_groups,
    full_cache,
    measure_group,
    paper_groups,
    random_rows,
)
from experiments.decoding.cache import STORAGE_DTYPES
from experiments.decoding.reference import reference_attend

CPU = torch.device("cpu")
UNLIMITED = Budget(1e9)


def silent(text):
    pass


def speed_cell(name="gqa", kernel="triton", **fields):
    cell = {"shape": small_shape(name), "batch": 2, "context_length": 32, "dtype": torch.bfloat16, "page_size": 16}
    return SpeedCell(name=name, kernel=kernel, cell=AttentionCell(**(cell | fields)))


def parity_case(**fields):
    case = {"name": "gqa", "shape": small_shape("gqa"), "query_length": 2, "page_size": 4, "dtype": torch.float32}
    return ParityCase(**(case | {"lengths": (9, 0, 1)} | fields))


def measure(group, attend=reference_attend, timer=None):
    timer = timer or CountingTimer()
    return measure_group(group, attend=attend, timer=timer, ceilings=CEILINGS, device=CPU)


# What is checked and measured --------------------------------------------------------------------------------------


def test_the_papers_cells_are_all_there_side_by_side():
    groups = paper_groups()
    cells = {
        (cell.name, cell.cell.context_length, cell.cell.query_length, cell.cell.page_size)
        for group in groups
        for cell in group
    }
    contexts = [1024 * 2**power for power in range(7)]
    mechanisms = ["mla", "gla-2", "gta-8", "gqa-8"]
    assert cells == {(m, c, t, p) for m in mechanisms for c in contexts for t in (1, 2) for p in (1, 64)}
    for group in groups:
        names = {cell.name for cell in group}
        assert names in ({"gla-2", "mla"}, {"gta-8", "gqa-8"})
        assert {cell.cell.page_size for cell in group} == {1, 64}
        assert all(cell.cell.batch == 128 and cell.cell.shape.query_heads == 128 for cell in group)


def test_the_papers_layers_cache_what_the_paper_counts():
    elements = {cell.name: cell.cell.shape.cached_elements() for group in paper_groups() for cell in group}
    assert elements == {"mla": 576, "gla-2": 576, "gta-8": 1088, "gqa-8": 2048}


def test_the_largest_group_fits_an_80_gigabyte_gpu():
    for group in paper_groups():
        assert sum({cell.name: cell.labels()["cache_bytes"] for cell in group}.values()) < 60e9


def test_every_baseline_stands_beside_our_kernel():
    groups = baseline_groups()
    assert {group[1].kernel for group in groups} == {"baseline", "sdpa", "flex", "flashinfer_mla"}
    for group in groups:
        assert [cell.kernel for cell in group] == ["triton", group[1].kernel]
        assert group[0].cell == group[1].cell
    assert {group[1].name for group in groups if group[1].kernel == "flashinfer_mla"} == {"mla"}


def test_parity_covers_mechanisms_query_lengths_pages_and_types():
    cases = parity_cases()
    assert {str(case.shape.mechanism) for case in cases} == {str(mechanism) for mechanism in MECHANISMS}
    assert {case.query_length for case in cases} >= {1, 2, 4}
    assert {case.page_size for case in cases} >= {None, 1, 16, 64}
    assert {case.dtype for case in cases} == set(STORAGE_DTYPES)
    assert all(0 in case.lengths and 1 in case.lengths for case in cases)
    assert any(case.shape.group_size & (case.shape.group_size - 1) for case in cases), "every group is a power of two"


# Caches and references ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", [None, 1, 4])
def test_a_hostile_cache_holds_its_rows_and_nothing_else(page_size):
    lengths = (9, 0, 1)
    shape = small_shape("gqa")
    cache = hostile_cache(shape, lengths, page_size=page_size, dtype=torch.float32, device=CPU)
    finite = cache.storage.isfinite().all(-1)
    assert finite.sum() == sum(lengths)
    assert cache.storage[~finite].isnan().all()
    used = [entry for entry in cache.page_table.flatten().tolist() if entry < cache.storage.shape[0]]
    assert len(set(used)) == len(used)
    assert (
        reference_attend(
            shape, random_queries(shape, 3, 1, torch.float32, CPU), cache, torch.tensor(lengths, dtype=torch.int32)
        )
        .isfinite()
        .all()
    )


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("query_length", [1, 3])
def test_the_grouped_reference_computes_what_the_reference_computes(mechanism, query_length):
    shape, lengths = small_shape(mechanism), (20, 0, 1, 2)
    cache = hostile_cache(shape, lengths, page_size=4, dtype=torch.bfloat16, device=CPU)
    queries = random_queries(shape, len(lengths), query_length, torch.bfloat16, CPU)
    expected = reference_attend(shape, queries.double(), cache, torch.tensor(lengths, dtype=torch.int32))
    torch.testing.assert_close(grouped_reference(shape, queries, cache, lengths), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("page_size", [None, 1, 16])
def test_a_full_cache_gives_every_row_to_one_sequence(page_size):
    cell = speed_cell(page_size=page_size).cell
    cache = full_cache(cell, random_rows(cell, CPU))
    assert sorted(cache.page_table.flatten().tolist()) == list(range(cache.storage.shape[0]))
    assert cache.storage.shape[0] * cache.storage.shape[1] == cell.batch * cell.context_length
    assert cache.storage.isfinite().all()


def test_the_worst_row_decides_and_zero_rows_must_be_zero():
    reference = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    assert worst_row_error(reference.float(), reference) == 0
    assert worst_row_error(reference + torch.tensor([[0.0], [0.1], [0.0]]), reference) == pytest.approx(0.1 * 2**0.5)
    assert worst_row_error(reference + torch.tensor([[0.0], [0.0], [1e-9]]), reference) == float("inf")
    assert worst_row_error(reference * torch.nan, reference) == float("inf")


# Rows --------------------------------------------------------------------------------------------------------------


def test_a_right_kernel_passes_and_a_wrong_one_fails():
    row = check_parity(parity_case(), reference_attend, CPU)
    assert row["status"] == "passed"
    assert row["worst_row_error"] < 1e-5
    row = check_parity(parity_case(), lambda *inputs: 1.01 * reference_attend(*inputs), CPU)
    assert row["status"] == "failed"
    assert row["reason"]


def test_a_case_that_raises_is_a_row_and_the_rest_goes_on():
    def attend(shape, *inputs):
        if shape.mechanism == "gta":
            raise RuntimeError("no kernel image\nand more")
        return reference_attend(shape, *inputs)

    cases = [parity_case(name="gta", shape=small_shape("gta")), parity_case()]
    rows = run_parity(cases, attend, CPU, UNLIMITED, silent)
    assert [row["status"] for row in rows] == ["failed", "passed"]
    assert rows[0]["reason"] == "RuntimeError: no kernel image"


def test_cells_are_rows_with_their_distance_to_the_limits():
    rows = measure([speed_cell(), speed_cell(page_size=1), speed_cell("gta"), speed_cell(kernel="sdpa")])
    assert [row["status"] for row in rows] == ["measured"] * 4
    for row in rows:
        assert row["seconds_best"] <= row["seconds_q1"] <= row["seconds"] <= row["seconds_q3"]
        assert row["fraction_of_bandwidth"] == pytest.approx(row["bytes"] / row["seconds"] / 3e12)
        assert row["fraction_of_matmul"] == pytest.approx(row["flops"] / row["seconds"] / 8e14)
        assert row["fraction_of_limit"] == pytest.approx(row["floor_seconds"] / row["seconds"])
        assert row["worst_row_error"] < 1e-2
    assert json.dumps(rows)


def test_the_peak_of_fp32_storage_is_the_better_of_fp32_units_and_three_tf32_products():
    assert CEILINGS.matmul_flops(torch.bfloat16) == CEILINGS.matmul_flops(torch.float16) == 8e14
    assert CEILINGS.matmul_flops(torch.float32) == 1e14
    (row,) = measure([speed_cell(dtype=torch.float32)])
    assert row["fraction_of_matmul"] == pytest.approx(row["flops"] / row["seconds"] / 1e14)


def test_a_group_gets_the_rounds_that_its_seconds_allow_and_at_least_five():
    timer = CountingTimer()
    rows = measure_group(
        [speed_cell()],
        attend=reference_attend,
        timer=timer,
        ceilings=CEILINGS,
        device=CPU,
        most_rounds=7,
        seconds=100.0,
    )
    assert rows[0]["runs"] == 7
    assert measure([speed_cell()])[0]["runs"] == 5  # the first call takes a second of the usual 1.5


def test_the_straightforward_kernel_is_measured_beside_ours():
    pytest.importorskip("triton")
    rows = measure([speed_cell(), speed_cell(kernel="baseline")])
    assert [(row["kernel"], row["status"]) for row in rows] == [("triton", "measured"), ("baseline", "measured")]


def test_cells_of_a_group_are_timed_in_turns():
    """The timer's seconds grow with every run: cells timed one after the other would differ by a whole block."""
    rows = measure([speed_cell(), speed_cell(page_size=1)])
    assert abs(rows[0]["seconds"] - rows[1]["seconds"]) < rows[0]["runs"] / 2


def test_a_wrong_result_is_not_timed():
    rows = measure([speed_cell(), speed_cell("gta")], attend=lambda *inputs: 0.5 * reference_attend(*inputs))
    assert all(row["status"] == "failed" and "the result is wrong" in row["reason"] for row in rows)
    assert all("seconds" not in row for row in rows)


def test_a_baseline_that_is_not_installed_is_a_row_and_the_kernel_is_measured(monkeypatch):
    monkeypatch.setitem(sys.modules, "flashinfer", None)
    rows = measure([speed_cell("mla"), speed_cell("mla", kernel="flashinfer_mla")])
    assert [row["status"] for row in rows] == ["measured", "failed"]
    assert "FlashInfer cannot be imported" in rows[1]["reason"]


def test_a_context_off_the_page_grid_is_a_row_with_its_reason():
    (row,) = measure([speed_cell(context_length=33)])
    assert row["reason"] == "ValueError: context=33 is not a whole number of pages of 16 tokens"


def test_what_the_time_does_not_suffice_for_is_a_row():
    times = iter([0.0, 50.0, 50.0])
    budget = Budget(100, clock=lambda: next(times))
    (row,) = run_parity([parity_case()], reference_attend, CPU, budget, silent)
    assert row["status"] == "skipped"
    rows = run_groups(
        [[speed_cell()]],
        0.4,
        attend=reference_attend,
        timer=CountingTimer(),
        ceilings=CEILINGS,
        device=CPU,
        budget=budget,
        report=silent,
    )
    assert [row["status"] for row in rows] == ["skipped"]


# Goals and the document --------------------------------------------------------------------------------------------


def timed(mechanism, seconds, query_length=2, page_size=64, **fields):
    place = {"batch": 128, "query_heads": 128, "head_dim": 128, "context": 8192}
    limits = {"bound": "memory", "fraction_of_bandwidth": 0.9, "fraction_of_matmul": 0.7}
    row = {"mechanism": mechanism, "kernel": "triton", "status": "measured", "seconds": seconds}
    return row | {"query_length": query_length, "page_size": page_size} | place | limits | fields


def test_ratios_compare_cells_that_differ_in_one_thing_only():
    rows = [
        timed("mla", 4.0),
        timed("gla-2", 2.0),
        timed("gla-2", 1.0, query_length=1),
        timed("mla", 9.0, context=1024),
    ]
    assert ratios(rows, {"mechanism": "mla"}, {"mechanism": "gla-2"}) == [2.0]


def test_goals_are_judged_by_their_cells():
    rows = [
        timed("mla", 3.0, bound="compute", fraction_of_bandwidth=0.2),
        timed("gla-2", 1.5),
        timed("gla-2", 1.8, page_size=1, fraction_of_matmul=0.5),
        timed("gqa-8", 1.7),
        timed("gta-8", 1.0),
    ]
    judged = {goal["goal"].partition(":")[0]: goal for goal in judge_goals(rows)}
    bandwidth, matmul, pages, latent, tied = judged.values()
    assert (bandwidth["cells"], bandwidth["reached"]) == (4, True)
    assert (matmul["cells"], matmul["cells_reaching_it"], matmul["reached"]) == (2, 1, False)
    assert (pages["highest"], pages["reached"]) == (pytest.approx(1.2), False)
    assert (latent["median"], latent["reached"]) == (2.0, True)
    assert (tied["lowest"], tied["reached"]) == (1.7, True)


def test_a_goal_without_cells_is_neither_reached_nor_missed():
    failed = timed("gla-2", 1.0) | {"status": "failed"}
    assert all(goal["reached"] is None and goal["cells"] == 0 for goal in judge_goals([failed]))


@pytest.mark.parametrize(
    ("statuses", "code"), [(["passed"], 0), (["passed", "skipped"], 0), (["passed", "failed"], 1), (["skipped"], 1)]
)
def test_the_exit_code_tells_whether_parity_held(statuses, code):
    assert exit_code({"parity": [{"status": status} for status in statuses]}) == code


def test_clocks_are_read_by_name_and_absent_where_the_tool_fails():
    values = [f"value {number}" for number in range(len(CLOCK_FIELDS))]
    assert clocks(lambda command: ", ".join(values) + "\n") == dict(zip(CLOCK_FIELDS, values, strict=True))
    assert clocks(lambda command: "no devices were found") is None

    def broken(command):
        raise subprocess.CalledProcessError(9, command)

    assert clocks(broken) is None


def test_without_a_gpu_there_is_one_line_and_exit_code_2(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main(["--output", str(tmp_path / "results.json")]) == 2
    refusal = capsys.readouterr().err
    assert refusal.count("\n") == 1
    assert "needs a CUDA device" in refusal
    assert not list(tmp_path.iterdir())


def test_interpreted_kernels_are_not_measured(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "TRITON_INTERPRET is set" in gpu_check.why_not()
    monkeypatch.delenv("TRITON_INTERPRET")
    assert gpu_check.why_not() is None


@pytest.fixture
def small_gpu(monkeypatch):
    """The check with a device that is none: small cells, in the interpreter, with made-up seconds."""
    pytest.importorskip("triton")
    monkeypatch.setattr(gpu_check, "GraphTimer", lambda device: CountingTimer())
    monkeypatch.setattr(gpu_check, "describe_gpu", lambda device: {"name": "none"})
    monkeypatch.setattr(gpu_check, "measure_gpu_ceilings", lambda timer, device: CEILINGS)
    monkeypatch.setattr(gpu_check, "parity_cases", lambda: [parity_case()])
    monkeypatch.setattr(gpu_check, "paper_groups", lambda: [[speed_cell("gta"), speed_cell("gta", page_size=1)]])
    monkeypatch.setattr(gpu_check, "baseline_groups", lambda: [[speed_cell("gta", kernel="sdpa")]])
    monkeypatch.setattr(gpu_tuning, "paper_shapes", lambda: {"gta": small_shape("gta")})
    monkeypatch.setattr(gpu_tuning, "QUERY_LENGTHS", (1,))


def test_the_document_has_every_part(small_gpu):
    document = gpu_check.check(UNLIMITED, CPU, False, silent)
    assert [row["status"] for row in document["parity"]] == ["passed"]
    assert [row["status"] for row in document["cells"] + document["baselines"]] == ["measured"] * 3
    assert document["ceilings"]["memory_bytes"] == 3e12
    assert document["environment"]["versions"]["torch"] == torch.__version__
    assert {"device", "clocks", "goals", "blocks", "time"} <= set(document)
    assert any(blocks["mechanism"] == "gta" for blocks in document["blocks"])
    assert json.dumps(document)


def test_tuning_measures_the_neighbours_of_the_tables_entry(small_gpu):
    lines = []
    rows = gpu_tuning.measure_blocks(CountingTimer(), CEILINGS, CPU, lambda: False, lines.append, batch=1, context=64)
    assert sum(row["in_table"] for row in rows) == 1
    assert len(rows) > 3
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    assert len(lines) == 1
