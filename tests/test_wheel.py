"""The wheel, installed into an empty environment, does outside of a checkout what its commands say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from train_cases import tiny_training

ROOT = Path(__file__).resolve().parent.parent
pytest.importorskip("setuptools", reason="builds the wheel")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"COLUMNS": "200"}


def call(folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(words, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The command `rl-exp` of an environment that has the wheel, and of this one all that the wheel needs."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    source = folder / "source"
    source.mkdir()
    packed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], check=True, capture_output=True).stdout
    for name in filter(None, packed.decode().split("\0")):
        if name.split("/")[0] in ("cli", "conf", "experiments", "pyproject.toml", "README.md", "LICENSE"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    call(folder, *pip, "wheel", source, "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    (wheel,) = folder.glob("rl_exp-*.whl")
    venv.create(folder / "empty", symlinks=True)
    site = folder / "empty" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    call(folder, *pip, "--python", folder / "empty" / "bin" / "python", "install", "--no-deps", "--no-index", wheel)
    others = [path for path in sys.path if path.endswith("site-packages")]
    # At the end of the path, and without the finder by which this checkout is installed there.
    (site / "others.pth").write_text("".join(f"import sys; sys.path.append({path!r})\n" for path in others))
    return folder / "empty" / "bin" / "rl-exp"


@pytest.mark.slow
def test_a_wheel_trains_measures_and_reports_outside_of_a_checkout(installed, tmp_path):
    where = call(
        tmp_path, installed.with_name("python"), "-c", "import experiments; print(experiments.__file__)"
    ).stdout
    assert Path(where.strip()).is_relative_to(installed.parents[1]), "not the checkout's"

    assert "results   outputs/train/" in call(tmp_path, installed, "train", *tiny_training(tmp_path)).stdout
    grid = ("model=nano", "bench.rounds=1", "bench.batch=[1]", "bench.context=[16]", "bench.kernel=[cpu]")
    result = call(tmp_path, installed, "bench", *grid, "bench.dtype=[fp32]", "tracking.mode=disabled")
    assert json.loads(result.stdout.splitlines()[-1])["rows"]
    sizes = ("experiment.problems=40", "experiment.horizons=[20,50]", "experiment.judged_after=50")
    call(tmp_path, installed, "controlled", "experiment=error_categories", *sizes, "tracking.mode=disabled")

    for words in (("claims",), ("figures",), ("html",)):
        result = call(tmp_path, installed, "report", *words)
        assert "the published results are not installed" in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr
