"""`rl-exp rlhf` on two ranks: rollouts and gradients are split, the result is one process's."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import run_ranks
from rlhf_cases import metric_rows, tiny_rlhf
from safetensors.torch import load_file
from typer.testing import CliRunner

from cli.main import app

TOLERANCE = 1e-5
ALGORITHM = ("reward=ground_truth", "policy_gradient.kl_place=loss", "policy_gradient.minibatches=2")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process, in the folder where others share its policy and probe."""
    folder = tmp_path_factory.mktemp("rlhf")
    result = CliRunner().invoke(app, ["rlhf", *tiny_rlhf(folder, *ALGORITHM, f"output_dir={folder / 'alone'}")])
    assert result.exit_code == 0, result.output
    return folder, only_run(folder / "alone")


def only_run(output: Path) -> Path:
    (directory,) = (output / "rlhf").iterdir()
    return directory


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_ranks_equal_one_process(kind, alone):
    folder, expected = alone
    words = tiny_rlhf(folder, *ALGORITHM, f"output_dir={folder / kind}", f"distribution={kind}")
    result = run_ranks(folder, "rlhf", *words)
    assert result.returncode == 0, result.stdout + result.stderr
    directory = only_run(folder / kind)
    assert directory.name == expected.name
    weights, others = (load_file(each / "model" / "model.safetensors") for each in (directory, expected))
    assert max(float((weights[name] - others[name]).abs().max()) for name in others) < TOLERANCE
    rows, expected_rows = metric_rows(directory), metric_rows(expected)
    assert len(rows) == len(expected_rows) > 6
    for row, other in zip(rows, expected_rows, strict=True):
        assert row.keys() == other.keys()
        for name, value in other.items():
            assert row[name] == pytest.approx(value, rel=1e-4, abs=1e-4), name
    start, end = (load_file(path / "model" / "model.safetensors") for path in (policy_of(folder / kind), directory))
    assert max(float((start[name] - end[name]).abs().max()) for name in end) > 100 * TOLERANCE, "it moved"


def policy_of(output: Path) -> Path:
    (directory,) = (output / "train").iterdir()
    return directory


def test_commands_that_need_one_process_refuse_two(rl_exp, tmp_path, monkeypatch):
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    result = rl_exp("reward-eval", "task.prompts=12", "probe.prompts=6")
    assert result.exit_code == 2, result.output
    assert "torchrun started 2 processes, and this command uses one" in result.stderr
