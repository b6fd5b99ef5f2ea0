"""`rl-exp train` on several ranks: DDP and FSDP2 are one process's training, cut in parts.

A real torchrun starts them where a rank is killed; elsewhere they are forked (`processes.run_ranks`).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from processes import run_ranks
from torchrun import torchrun
from train_cases import metric_rows, tiny_training
from typer.testing import CliRunner

from cli.main import app
from experiments.training.checkpoints import list_checkpoints, load_checkpoint

STEPS, HALFWAY = 20, 10
TOLERANCE = 1e-5


def words_for(folder: Path, output: str, *changes: str) -> list[str]:
    return tiny_training(
        folder,
        f"training.tokens={STEPS * 128}",
        f"training.checkpoint_every_tokens={HALFWAY * 128}",
        "attention=gla",
        "training.evaluation_tokens=160",  # five rows: the last batch has one, and two ranks
        "training.final_evaluation_tokens=160",
        f"output_dir={folder / output}",
        *changes,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One training, by one process and by two ranks of either kind: name -> its run directory."""
    folder = tmp_path_factory.mktemp("torchrun")
    alone = CliRunner().invoke(app, ["train", *words_for(folder, "alone")])
    assert alone.exit_code == 0, alone.output
    for kind in ("ddp", "fsdp"):
        result = run_ranks(folder, "train", *words_for(folder, kind, f"distribution={kind}"))
        assert result.returncode == 0, result.stdout + result.stderr
        assert result.stdout.count("steps of 128 tokens on cpu, 2 ranks") == 1, "the first rank alone speaks"
    return folder, {name: only_run(folder / name) for name in ("alone", "ddp", "fsdp")}


def only_run(output: Path) -> Path:
    (directory,) = (output / "train").iterdir()
    return directory


def tensors_of(state, path: str = "") -> dict[str, torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return {path: state}
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    return {name: tensor for key, value in items for name, tensor in tensors_of(value, f"{path}/{key}").items()}


def final_state(directory: Path) -> dict[str, torch.Tensor]:
    return tensors_of(load_checkpoint(directory / "checkpoints" / f"step_{STEPS:08d}"))


def largest_difference(directory: Path, other: Path) -> float:
    state, expected = final_state(directory), final_state(other)
    assert state.keys() == expected.keys()
    assert len(state) > 20, "weights and both optimizers' states"
    return max(float((state[name] - expected[name]).abs().max()) for name in expected)


def first_half_of(directory: Path, output: Path) -> None:
    """A copy of the run as it was when its first checkpoint had been written."""
    copied = output / "train" / directory.name
    shutil.copytree(directory, copied)
    shutil.copytree(directory.parent.parent / "artifacts", output / "artifacts")
    shutil.rmtree(copied / "checkpoints" / f"step_{STEPS:08d}")
    for name in ("status.json", "summary.json", "model/model.safetensors"):
        (copied / name).unlink()


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_ranks_equal_one_process_over_twenty_steps(kind, trained):
    directories = trained[1]
    assert directories[kind].name == directories["alone"].name, "one run, however many ranks"
    assert largest_difference(directories[kind], directories["alone"]) < TOLERANCE
    rows, expected = metric_rows(directories[kind]), metric_rows(directories["alone"])
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    for row, other in zip(rows, expected, strict=True):
        for name in other.keys() - {"time", "train/tokens_per_second"}:
            assert row[name] == pytest.approx(other[name], rel=TOLERANCE), name


def test_the_model_of_sharded_ranks_is_whole(trained):
    from safetensors.torch import load_file

    model, expected = (load_file(trained[1][name] / "model" / "model.safetensors") for name in ("fsdp", "alone"))
    assert model.keys() == expected.keys()
    assert max(float((model[name] - expected[name]).abs().max()) for name in expected) < TOLERANCE


def test_each_sharded_rank_writes_its_part_of_a_checkpoint_without_pickle(trained):
    checkpoint = list_checkpoints(trained[1]["fsdp"] / "checkpoints")[-1]
    manifest = json.loads((checkpoint / "MANIFEST.json").read_text())
    shards = [name for name in manifest["files"] if name.endswith(".safetensors")]
    assert len(shards) == 2
    assert {path.name for path in checkpoint.iterdir()} == {*shards, "state.json", "MANIFEST.json"}
    sizes = [manifest["files"][name]["bytes"] for name in shards]
    assert max(sizes) < 1.2 * min(sizes), "the parts are of equal size"


@pytest.mark.parametrize(
    ("written_by", "ranks", "kind"), [("fsdp", 1, "ddp"), ("fsdp", 4, "fsdp"), ("alone", 2, "fsdp")]
)
def test_a_run_goes_on_with_another_number_of_ranks(written_by, ranks, kind, trained):
    folder, directories = trained
    output = folder / f"{written_by}_then_{ranks}"
    first_half_of(directories[written_by], output)
    words = ["train", *words_for(folder, output.name, f"distribution={kind}")]
    if ranks == 1:
        result = CliRunner().invoke(app, words)
        code, text = result.exit_code, result.output
    else:
        process = run_ranks(folder, *words, ranks=ranks)
        code, text = process.returncode, process.stdout + process.stderr
    assert code == 0, text
    assert f"continuing after step {HALFWAY}" in text
    assert largest_difference(only_run(output), directories["alone"]) < TOLERANCE


def patched_program(step: int, signal_name: str) -> str:
    """The command line, whose second rank sends itself a signal when it is about to take an optimizer step."""
    return (
        "import os, signal\n"
        "from experiments.training.optimizers import OptimizerGroup\n"
        "original, calls = OptimizerGroup.step, []\n"
        "def step(group):\n"
        "    calls.append(1)\n"
        f"    if os.environ['RANK'] == '1' and len(calls) == {step}:\n"
        f"        os.kill(os.getpid(), signal.{signal_name})\n"
        "    original(group)\n"
        "OptimizerGroup.step = step\n"
        "from cli.main import main\n"
        "main()\n"
    )


def test_a_killed_rank_ends_the_others_and_the_same_command_goes_on_to_the_same_bits(trained):
    folder, directories = trained
    words = ["train", *words_for(folder, "killed")]
    (folder / "killed.py").write_text(patched_program(15, "SIGKILL"))
    result = torchrun(folder, *words, program=("killed.py",))
    assert result.returncode == 1
    assert result.stdout.count("a rank was killed (of 2") == 1, result.stdout + result.stderr
    directory = only_run(folder / "killed")
    assert json.loads((directory / "status.json").read_text())["state"] == "failed"
    again = run_ranks(folder, *words)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"continuing after step {HALFWAY}" in again.stdout
    assert largest_difference(directory, directories["ddp"]) == 0.0


def test_a_signal_to_one_rank_makes_all_save_the_same_step(trained):
    folder, _ = trained
    words = ["train", *words_for(folder, "stopped", "distribution=fsdp")]
    result = run_ranks(folder, *words, program=patched_program(13, "SIGTERM"))
    directory = only_run(folder / "stopped")
    assert json.loads((directory / "status.json").read_text())["state"] == "interrupted", result.stdout + result.stderr
    # The signal came after the ranks had agreed on step 13: all of them stop after the next one.
    assert list_checkpoints(directory / "checkpoints")[-1].name == "step_00000014"
    assert load_checkpoint(directory / "checkpoints" / "step_00000014")["step"] == 14


def test_a_batch_that_does_not_split_over_the_ranks_is_refused(rl_exp, tmp_path, monkeypatch):
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 3}.items():
        monkeypatch.setenv(name, str(value))
    result = rl_exp("train", *tiny_training(tmp_path))
    assert result.exit_code == 2, result.output
    assert "training.batch_size=4" in result.stderr
    assert "multiple of 3" in result.stderr
    assert not (tmp_path / "outputs").exists()
