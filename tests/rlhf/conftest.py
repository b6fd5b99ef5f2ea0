"""One policy for the tests that do not ask how it came about."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from rlhf_cases import tiny_rlhf
from typer.testing import CliRunner

from cli.main import app


@pytest.fixture(scope="session")
def first_run(tmp_path_factory) -> Path:
    """A folder with the text, and the run that made tokenizer, policy and probe rollouts from it."""
    folder = tmp_path_factory.mktemp("first_run")
    words = tiny_rlhf(folder, "policy_gradient.steps=1", f"output_dir={folder}/outputs")
    result = CliRunner().invoke(app, ["rlhf", *words])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def prepared(first_run, tmp_path) -> Path:
    """The folder to give `tiny_rlhf` for runs in `tmp_path`, which has that policy and those artifacts already."""
    for part in ("train", "artifacts"):
        shutil.copytree(first_run / "outputs" / part, tmp_path / "outputs" / part)
    return first_run
