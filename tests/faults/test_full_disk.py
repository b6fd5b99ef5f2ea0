"""A disk that is really full or read-only: a tmpfs in a mount namespace of a process's own, which leaves nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from train_cases import tiny_training

# One process does all runs. It prints what each left; the claims are below. argv: the mount point, then the words.
RUNS = """
import json, logging, subprocess, sys
from pathlib import Path
from typer.testing import CliRunner
from cli.main import app
from train_cases import metric_rows, only_run

disk, words = Path(sys.argv[1]), sys.argv[2:]
logging.raiseExceptions = False  # as `cli.main.main` does

def mount(*options):
    subprocess.run(["mount", *options], check=True)

def look(folder):
    runs = list((folder / "outputs" / "train").glob("*"))
    if not runs:
        return {}
    (run,) = runs
    model = run / "model" / "model.safetensors"
    status = run / "status.json"
    return {
        "status": json.loads(status.read_text()) if status.exists() else None,
        "checkpoints": sorted(path.name for path in (run / "checkpoints").glob("*")),
        "model": hash(model.read_bytes()) if model.exists() else None,
        "rows": metric_rows(run) if (run / "metrics.jsonl").exists() else None,
    }

def train(folder):
    result = CliRunner().invoke(app, ["train", *words, f"output_dir={folder}/outputs"])
    return {"exit_code": result.exit_code, "output": " ".join(result.output.split()), **look(folder)}

results = {}
mount("-t", "tmpfs", "-o", "size=64m", "tmpfs", disk)
results["straight"] = train(disk / "straight")
for kilobytes in (24, 60, 220, 1300):
    used = int(subprocess.run(["du", "-sk", disk], capture_output=True, text=True, check=True).stdout.split()[0])
    mount("-o", f"remount,size={used + kilobytes}k", disk)
    full = train(disk / str(kilobytes))
    mount("-o", "remount,size=64m", disk)
    results[f"{kilobytes}k"] = {"full": full, "roomy": train(disk / str(kilobytes))}

fresh = disk / "fresh" / "outputs" / "train"
fresh.mkdir(parents=True)
mount("--bind", fresh, fresh)
mount("-o", "remount,ro,bind", fresh)
results["experiment_read_only"] = train(disk / "fresh")
mount("-o", "remount,ro", disk)
results["finished_read_only"] = train(disk / "straight")
results["new_read_only"] = train(disk / "new")
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What the runs of `RUNS` left, by name. Skipped where a process may not mount anything, even for itself alone."""
    folder = tmp_path_factory.mktemp("disk")
    alone = ["unshare", "--map-root-user", "--mount"]
    try:
        subprocess.run(
            [*alone, "mount", "-t", "tmpfs", "tmpfs", folder], check=True, capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no tmpfs can be mounted here: {getattr(error, 'stderr', '') or error}")
    (folder / "disk").mkdir()
    command = [*alone, sys.executable, "-c", RUNS, folder / "disk", *tiny_training(folder)]
    paths = os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.parametrize("size", ["24k", "60k", "220k", "1300k"])
def test_a_full_disk_is_told_with_the_file_and_the_run_is_failed(results, size):
    full = results[size]["full"]
    assert full["exit_code"] == 1, full["output"]
    assert full["output"].count("No space left on device: '/") == 1, full["output"]
    assert "run the same command again: it continues where it stopped" in " ".join(full["output"].split())
    assert "Traceback" not in full["output"]
    assert full["status"]["state"] == "failed"
    assert "No space left on device: '/" in full["status"]["reason"]


@pytest.mark.parametrize(
    ("size", "file", "checkpoints"),
    [("60k", "/artifacts/tokens/", []), ("220k", "tensors.safetensors", []), ("1300k", "tensors.safetensors", [8])],
)
def test_the_file_that_did_not_fit_is_named_and_earlier_checkpoints_stay(results, size, file, checkpoints):
    full = results[size]["full"]
    assert file in full["status"]["reason"]
    assert full["checkpoints"] == [f"step_{step:08d}" for step in checkpoints], "whole ones, and no half one"


@pytest.mark.parametrize("size", ["24k", "60k", "220k", "1300k"])
def test_with_room_again_the_same_command_ends_as_an_undisturbed_run(results, size):
    roomy, straight = results[size]["roomy"], results["straight"]
    assert straight["exit_code"] == roomy["exit_code"] == 0, roomy["output"]
    assert ("continuing after step 8" in roomy["output"]) == (size == "1300k")
    assert roomy["model"] == straight["model"]
    assert roomy["rows"] == straight["rows"]
    assert len(roomy["rows"]) > 3


@pytest.mark.parametrize("where", ["finished_read_only", "new_read_only"])
def test_a_read_only_output_folder_is_refused_in_one_line(results, where):
    assert results[where]["exit_code"] == 2
    assert results[where]["output"].startswith("error: output_dir=/")
    assert "name a folder that you may write, output_dir=PATH" in results[where]["output"]
    assert "Traceback" not in results[where]["output"]


def test_a_read_only_folder_below_the_output_folder_is_named(results):
    result = results["experiment_read_only"]
    assert result["exit_code"] == 1
    assert "failed: [Errno 30] Read-only file system: '/" in result["output"]
    assert "Traceback" not in result["output"]
