"""`rl-exp bench parallel=tensor` with two gloo ranks; test_train_torchrun.py has a real torchrun."""

from __future__ import annotations

import io
import json

import pytest
from processes import run_ranks
from rich.console import Console

from conf.commands import COMMANDS
from conf.compose import plan_jobs
from experiments.reports.bench_tables import sharded_table

WORDS = (
    *("bench", "parallel=tensor", "model=nano", "bench.kernel=[reference]", "bench.mechanism=[mha,gqa,gta,mla,gla]"),
    *("bench.batch=[2]", "bench.context=[12]", "bench.query_length=[2]", "bench.rounds=3", "tracking.mode=disabled"),
)


@pytest.fixture(scope="module")
def parallel_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensor")
    return folder, run_ranks(folder, *WORDS)


def rows_of(parallel_run) -> list[dict]:
    result = parallel_run[1]
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(result.stdout.splitlines()[-1])["rows"]


def test_two_ranks_give_the_outputs_of_the_whole_layer(parallel_run):
    for row in rows_of(parallel_run):
        assert row["tensor_parallel"] == 2
        assert row["largest_output"] > 1e-3
        assert row["largest_difference"] < 1e-5 * row["largest_output"], row


def test_every_rank_allocates_the_predicted_bytes_and_only_copies_keep_them_from_halving(parallel_run):
    rows = {(row["mechanism"], row["dtype"]): row for row in rows_of(parallel_run)}
    assert len(rows) == 5 * 2
    for row in rows.values():
        assert row["least_bytes"] == row["bytes"] == row["predicted_bytes"]
    rope_key = 4 * 4  # bytes in fp32 of the key that every rank keeps whole: half of nano's head dim of 8
    assert rows["mla", "fp32"]["bytes"] == rows["mla", "fp32"]["whole_bytes"]
    assert rows["gqa-4", "fp32"]["bytes"] == rows["gqa-4", "fp32"]["whole_bytes"] / 2
    gla = rows["gla-2", "fp32"]
    assert gla["bytes"] - rope_key == (gla["whole_bytes"] - rope_key) / 2


def test_the_first_rank_alone_speaks_and_a_finished_run_is_not_computed_again(parallel_run):
    folder, result = parallel_run
    assert result.stdout.count("one attention layer over 2 ranks") == 1
    again = run_ranks(folder, *WORDS)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("is finished already") == 1


def test_another_number_of_ranks_is_another_run(monkeypatch):
    names = set()
    for size in (1, 2, 4):
        for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": size}.items():
            monkeypatch.setenv(name, str(value))
        (job,), _ = plan_jobs(COMMANDS["bench"], list(WORDS[1:]), multirun=False)
        names.add(job.run_id)
    assert len(names) == 3


@pytest.mark.parametrize("varying", [(), ("dtype",), ("context", "batch", "query_length", "dtype", "kernel")])
def test_the_table_is_whole_on_80_columns(varying):
    common = {"context": 16384, "batch": 128, "query_length": 16, "dtype": "bf16", "kernel": "reference"}
    measured = {"whole_bytes": 8192.0, "bytes": 4096.0, "duplication_factor": 2, "largest_difference": 1.5e-07}
    measured |= {"seconds": 0.123456, "tensor_parallel": 4}
    other = {"context": 512, "batch": 1, "query_length": 1, "dtype": "fp32", "kernel": "cpu"}
    rows = [common | measured | {"mechanism": name} for name in ("gqa-4", "gla-2")]
    rows[1] |= {name: other[name] for name in varying}
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(sharded_table(rows))
    text = console.export_text()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    if len(varying) < 2:
        for cell in ("GQA-4", "GLA-2", "8,192", "4,096", "1e-07", "123,456", "16,384", "reference"):
            assert cell in text, cell


@pytest.mark.parametrize(
    "words",
    [["bench"], ["controlled"], ["reward-eval", "rewards=[coarse]"], ["rlhf-sweep"], ["bench", "mode=generate"]],
    ids=" ".join,
)
def test_commands_of_one_process_refuse_torchrun_in_one_line(words, rl_exp, tmp_path, monkeypatch):
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    result = rl_exp(*words)
    assert result.exit_code == 2, result.output
    assert "torchrun" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_torchrun_it_is_one_line_that_names_torchrun(rl_exp, tmp_path):
    result = rl_exp(*WORDS)
    assert result.exit_code == 2, result.output
    assert "torchrun --nproc-per-node 2 --no-python rl-exp bench parallel=tensor" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("rank", "says"), [(0, True), (1, False)])
def test_heads_that_do_not_split_are_refused_by_the_first_rank_alone(rank, says, rl_exp, tmp_path, monkeypatch):
    for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 3}.items():
        monkeypatch.setenv(name, str(value))
    result = rl_exp(*WORDS)
    assert result.exit_code == 2, result.output
    assert ("do not split over tensor_parallel=3" in result.stderr) is says
    assert bool(result.output.strip()) is says
    assert list(tmp_path.iterdir()) == []


def test_a_killed_rank_ends_the_run_as_failed_with_exit_code_1(tmp_path):
    killer = (  # the command line, whose second rank dies in its third collective
        "import os, signal\n"
        "from experiments.runs.ranks import TorchRanks\n"
        "original, calls = TorchRanks.barrier, []\n"
        "def barrier(ranks):\n"
        "    calls.append(1)\n"
        "    if ranks.rank == 1 and len(calls) == 3:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    original(ranks)\n"
        "TorchRanks.barrier = barrier\n"
        "from cli.main import main\n"
        "main()\n"
    )
    result = run_ranks(tmp_path, *WORDS, program=killer)
    assert result.returncode == 1
    assert result.stdout.count("a rank was killed (of 2") == 1, result.stdout + result.stderr
    (status,) = (tmp_path / "outputs" / "bench").glob("*/status.json")
    assert json.loads(status.read_text())["state"] == "failed"


def test_the_first_rank_tells_what_failed_on_another(tmp_path):
    failing = (
        "from experiments.runs.ranks import TorchRanks\n"
        "original = TorchRanks.barrier\n"
        "def barrier(ranks):\n"
        "    if ranks.rank == 1:\n"
        "        raise ValueError('a reason of its own')\n"
        "    original(ranks)\n"
        "TorchRanks.barrier = barrier\n"
        "from cli.main import main\n"
        "main()\n"
    )
    result = run_ranks(tmp_path, *WORDS, program=failing)
    assert result.returncode == 1
    assert result.stdout.count("rank 1 of 2 failed: ValueError: a reason of its own") == 1, (
        result.stdout + result.stderr
    )
