"""Secrets stay out of everything that a run writes: manifest, configuration, logs, and W&B's own files."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from train_cases import tiny_training

PLANTED = {
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "HF_TOKEN": "hf_PlantedTokenPlantedTokenPlanted",
    "DATABASE_PASSWORD": "planted-password",
}
NETRC_PASSWORD = "89abcdef0123456789abcdef0123456789abcdef"


def test_a_run_and_its_wandb_files_hold_no_secret_of_the_machine(tmp_path):
    netrc = tmp_path / "home" / ".netrc"
    netrc.parent.mkdir()
    netrc.write_text(f"machine api.wandb.ai login user password {NETRC_PASSWORD}\n")
    netrc.chmod(0o600)
    environment = os.environ | PLANTED | {"NETRC": str(netrc), "WANDB_MODE": "offline"}
    words = tiny_training(tmp_path, "tracking.mode=offline", f"output_dir={tmp_path / 'outputs'}")
    command = [sys.executable, "-m", "cli.main", "train", *words]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    written = [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in written)  # W&B did write
    for secret in (*PLANTED.values(), NETRC_PASSWORD):
        assert secret not in finished.stdout + finished.stderr
        for path in written:
            assert secret.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.path=https://user:planted-pass@host/x", "a password, token or key"),
        ("tracking.project=hf_PlantedTokenPlantedTokenPlanted", "a password, token or key"),
        ("tracking.group=planted-password", "DATABASE_PASSWORD"),
        ("tracking.tags=[a,sk-planted0123456789planted]", "a password, token or key"),
        ("tracking.project=${oc.env:DATABASE_PASSWORD}", "resolvers"),
        ("seed=${oc.env:DATABASE_PASSWORD}", "resolvers"),
        ("tracking.project='${oc.env:DATABASE_PASSWORD}'", "resolvers"),
        ("tracking.project=\\${oc.env:DATABASE_PASSWORD}", "resolve"),
        ("hydra.launcher.n_jobs=${oc.env:DATABASE_PASSWORD}", "resolvers"),
    ],
)
def test_a_secret_in_a_setting_is_refused_without_being_shown(override, expected, rl_exp, tmp_path, monkeypatch):
    monkeypatch.setenv("DATABASE_PASSWORD", "planted-password")
    assert_refused(rl_exp("train", override), expected, tmp_path)


@pytest.mark.parametrize("words", [["-m", "training.samples=1,2"], ["--cfg", "job"]])
def test_a_secret_is_refused_in_sweeps_and_where_the_configuration_is_only_shown(words, rl_exp, tmp_path):
    result = rl_exp("train", "tracking.project=hf_PlantedTokenPlantedTokenPlanted", *words)
    assert_refused(result, "a password, token or key", tmp_path)


def assert_refused(result, expected, folder):
    assert result.exit_code == 2, result.output
    assert expected in " ".join(result.stderr.split()), result.stderr
    for secret in ("planted-pass", "PlantedToken", "planted0123"):
        assert secret not in result.output
    assert list(folder.iterdir()) == []
