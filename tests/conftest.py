"""Fixtures that several rooms share. No network, no keys, one thread: tests run beside each other."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Triton decides for its interpreter when it is first imported, and torch imports it: it cannot be left to one test's
# module. Where there is no GPU nothing else runs a Triton kernel; where there is one, interpreted tests are skipped.
if not os.path.exists("/dev/nvidiactl"):
    os.environ.setdefault("TRITON_INTERPRET", "1")

import pytest
from typer.testing import CliRunner

from cli.main import app


@pytest.fixture
def rl_exp(tmp_path, monkeypatch):
    """`rl_exp("train", "seed=1")` runs the command line in this process, in an empty folder; returns typer's result."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str):
        return CliRunner().invoke(app, list(words))

    return call
