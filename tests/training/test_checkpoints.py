"""Checkpoints: whole or absent, checked, no pickles."""

from __future__ import annotations

import errno
import json

import pytest
import torch
from safetensors.torch import save_file

from experiments.runs.files import sha256_of_file, write_json
from experiments.runs.ranks import Ranks
from experiments.training import checkpoints
from experiments.training.checkpoints import list_checkpoints, load_checkpoint, load_latest_checkpoint, save_checkpoint


def state(step):
    return {
        "step": step,
        "rate": 0.1 + 0.2,
        "model": {"weight": torch.randn(3, 4), "scalar": torch.tensor(2.0)},
        "optimizer": {"state": {0: {"step": torch.tensor(5.0), "exp_avg": torch.randn(3)}}, "groups": [{"lr": 1e-3}]},
    }


def test_what_is_loaded_is_what_was_saved_bit_for_bit(tmp_path):
    saved = state(3)
    loaded = load_checkpoint(save_checkpoint(tmp_path, 3, saved, keep=2))
    assert loaded["rate"] == saved["rate"]
    assert torch.equal(loaded["model"]["weight"], saved["model"]["weight"])
    assert loaded["model"]["scalar"].shape == ()
    assert torch.equal(loaded["optimizer"]["state"][0]["exp_avg"], saved["optimizer"]["state"][0]["exp_avg"])
    assert loaded["optimizer"]["groups"] == saved["optimizer"]["groups"]


def test_the_newest_are_kept(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, state(step), keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000002", "step_00000003"]
    assert load_latest_checkpoint(tmp_path)["step"] == 3


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "MANIFEST.json"])
def test_a_damaged_file_is_named_and_the_checkpoint_before_it_is_used(tmp_path, name, caplog):
    save_checkpoint(tmp_path, 1, state(1), keep=2)
    damaged = save_checkpoint(tmp_path, 2, state(2), keep=2) / name
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 0xFF
    damaged.write_bytes(bytes(content))
    assert load_latest_checkpoint(tmp_path)["step"] == 1
    assert name in caplog.text


def test_a_damaged_later_checkpoint_is_not_kept_instead_of_a_whole_one(tmp_path):
    save_checkpoint(tmp_path, 1, state(1), keep=1)
    damaged = save_checkpoint(tmp_path, 9, state(9), keep=2) / "state.json"
    damaged.write_text("{}")
    assert load_latest_checkpoint(tmp_path)["step"] == 1
    save_checkpoint(tmp_path, 2, state(2), keep=1)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000002"]


def test_a_truncated_or_missing_file_is_passed_over(tmp_path):
    save_checkpoint(tmp_path, 1, state(1), keep=3)
    short = save_checkpoint(tmp_path, 2, state(2), keep=3) / "tensors.safetensors"
    short.write_bytes(short.read_bytes()[:100])
    (save_checkpoint(tmp_path, 3, state(3), keep=3) / "state.json").unlink()
    assert load_latest_checkpoint(tmp_path)["step"] == 1


def test_what_a_kill_left_half_written_is_no_checkpoint(tmp_path):
    (tmp_path / ".step_00000009.123.tmp").mkdir()
    (tmp_path / "step_00000008").mkdir()  # renamed by hand, or by an older version: no manifest
    assert load_latest_checkpoint(tmp_path) is None
    assert not (tmp_path / ".step_00000009.123.tmp").exists()


def test_objects_are_refused_rather_than_pickled(tmp_path):
    with pytest.raises(TypeError, match="cannot hold"):
        save_checkpoint(tmp_path, 1, {"thing": object()}, keep=1)
    assert list_checkpoints(tmp_path) == []


def test_a_manifest_of_another_shape_is_passed_over(tmp_path):
    save_checkpoint(tmp_path, 1, state(1), keep=2)
    (save_checkpoint(tmp_path, 2, state(2), keep=2) / "MANIFEST.json").write_text("{}")
    assert load_latest_checkpoint(tmp_path)["step"] == 1


def sharded_checkpoint(folder, first_rows, second_rows):
    """A checkpoint of two ranks, of a matrix whose rows they hold; returns its folder."""
    folder.mkdir(parents=True)
    written = {}
    for rank, rows in enumerate((first_rows, second_rows), start=1):
        shard = folder / f"shard-{rank:05d}-model-00001-of-00001.safetensors"
        offsets = {"/weight": {"saved_offsets": [min(rows), 0]}}
        values = torch.tensor([[float(row)] * 3 for row in rows])
        save_file({"/weight": values}, shard, metadata={"DCP_SHARDING_INFO": json.dumps(offsets)})
        written[shard.name] = shard
    write_json(folder / "state.json", {"__dict__": [["weight", {"__tensor__": "/weight"}], ["step", 7]]})
    written["state.json"] = folder / "state.json"
    files = {name: {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)} for name, path in written.items()}
    write_json(folder / "MANIFEST.json", {"step": 7, "files": files})
    return folder


def test_the_shards_of_ranks_are_read_as_whole_tensors(tmp_path):
    loaded = load_checkpoint(sharded_checkpoint(tmp_path / "step_00000007", [0, 1], [2, 3]))
    assert loaded["weight"].tolist() == [[float(row)] * 3 for row in range(4)]


def test_shards_that_do_not_fit_together_are_passed_over(tmp_path, caplog):
    save_checkpoint(tmp_path, 1, state(1), keep=3)
    sharded_checkpoint(tmp_path / "step_00000007", [0, 1], [3, 4])  # nobody has row 2
    assert load_latest_checkpoint(tmp_path)["step"] == 1
    assert "step_00000007 cannot be used" in caplog.text


class Second(Ranks):
    """The second of two ranks, which hears what the first one chose."""

    rank, size = 1, 2

    def __init__(self, chosen):
        self.chosen = chosen

    def broadcast(self, value=None):
        return self.chosen


def test_a_rank_loads_the_checkpoint_that_the_first_rank_chose(tmp_path):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, state(step), keep=2)
    assert load_latest_checkpoint(tmp_path, Second("step_00000001"))["step"] == 1
    assert load_latest_checkpoint(tmp_path, Second(None)) is None


def test_a_file_system_that_does_not_answer_is_no_damage(tmp_path, monkeypatch):
    for step in (1, 2):
        save_checkpoint(tmp_path, step, state(step), keep=2)

    def stale(path):
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    monkeypatch.setattr(checkpoints, "sha256_of_file", stale)
    with pytest.raises(OSError, match="Stale file handle"):
        load_latest_checkpoint(tmp_path)
    assert len(list_checkpoints(tmp_path)) == 2
