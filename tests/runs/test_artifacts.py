"""The artifact store: made once, whole or absent, damage is noticed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.runs.artifacts import SIDE_CAR, ArtifactStore, address_of

RECIPE = {"source": "web", "size": 3, "parts": ["a", "b"]}

PLAIN_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)

MAKER = """
import os, sys
from pathlib import Path
from experiments.runs.artifacts import ArtifactStore

root, log, message = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]

def make(folder):
    with log.open("a") as stream:
        stream.write(f"{os.getpid()}\\n")
    (folder / "half.bin").write_bytes(b"half")
    if message == "hang":
        print("half made", flush=True)
        sys.stdin.readline()
    (folder / "whole.bin").write_bytes(bytes(range(256)) * 4096)
    return {"count": 1}

if message == "race":
    print("ready", flush=True)
    sys.stdin.readline()
artifact = ArtifactStore(root).get_or_make("thing", {"n": 1}, make)
print(artifact.address, artifact.facts["count"], sorted(artifact.files), flush=True)
"""


def write_two_files(folder: Path) -> dict[str, int]:
    (folder / "nested").mkdir()
    (folder / "one.bin").write_bytes(b"one")
    (folder / "nested" / "two.bin").write_bytes(b"two" * 1000)
    return {"tokens": 7}


def start_maker(tmp_path: Path, message: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MAKER, str(tmp_path / "store"), str(tmp_path / "makers.log"), message],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_second_request_finds_the_first_artifact(tmp_path):
    calls = []

    def make(folder):
        calls.append(folder)
        return write_two_files(folder)

    first = ArtifactStore(tmp_path).get_or_make("corpus", RECIPE, make)
    second = ArtifactStore(tmp_path).get_or_make("corpus", dict(reversed(RECIPE.items())), make)
    assert first == second
    assert len(calls) == 1
    assert first.path == tmp_path / "corpus" / first.address
    assert (first.path / "nested" / "two.bin").read_bytes() == b"two" * 1000
    assert first.recipe == RECIPE
    assert first.facts == {"tokens": 7}


def test_side_car_records_what_made_the_artifact(tmp_path):
    artifact = ArtifactStore(tmp_path).get_or_make("corpus", RECIPE, write_two_files)
    side_car = json.loads((artifact.path / SIDE_CAR).read_text())
    assert side_car["kind"] == "corpus"
    assert side_car["recipe"] == RECIPE
    assert side_car["facts"] == {"tokens": 7}
    assert side_car["files"]["one.bin"]["bytes"] == 3
    assert len(side_car["files"]["nested/two.bin"]["sha256"]) == 64
    assert side_car["versions"]["python"]
    assert side_car["made"]


def test_address_is_the_sha256_of_canonical_json():
    """sha256 of {"a":1,"b":[true]} computed by an independent tool."""
    import hashlib

    assert address_of({"b": [True], "a": 1}) == hashlib.sha256(b'{"a":1,"b":[true]}').hexdigest()[:16]
    assert address_of({"a": 1}) != address_of({"a": 2})


@given(st.dictionaries(st.text(), PLAIN_JSON, max_size=4))
def test_address_does_not_depend_on_the_order_of_keys(recipe):
    assert address_of(recipe) == address_of(dict(reversed(recipe.items())))


@pytest.mark.parametrize("recipe", [{"path": Path("a")}, {"x": float("nan")}, {"x": {1, 2}}])
def test_recipe_that_is_not_json_is_refused(tmp_path, recipe):
    with pytest.raises(ValueError, match="plain JSON"):
        ArtifactStore(tmp_path).get_or_make("corpus", recipe, write_two_files)


@pytest.mark.parametrize("kind", ["", "a/b", ".hidden", ".."])
def test_kind_that_is_no_folder_name_is_refused(tmp_path, kind):
    with pytest.raises(ValueError, match="folder name"):
        ArtifactStore(tmp_path).get_or_make(kind, RECIPE, write_two_files)


def test_failed_maker_leaves_nothing_behind(tmp_path):
    store = ArtifactStore(tmp_path)

    def fail(folder):
        (folder / "half.bin").write_bytes(b"half")
        raise RuntimeError("out of text")

    with pytest.raises(RuntimeError, match="out of text"):
        store.get_or_make("corpus", RECIPE, fail)
    assert [p.name for p in (tmp_path / "corpus").iterdir() if not p.name.endswith(".lock")] == []
    assert store.get_or_make("corpus", RECIPE, write_two_files).facts == {"tokens": 7}


@pytest.mark.parametrize("damage", ["truncate", "remove", "side_car_removed", "side_car_garbage", "recipe", "facts"])
def test_damaged_artifact_is_named_and_made_again(tmp_path, caplog, damage):
    store = ArtifactStore(tmp_path)
    artifact = store.get_or_make("corpus", RECIPE, write_two_files)
    side_car = artifact.path / SIDE_CAR
    if damage == "truncate":
        os.truncate(artifact.path / "nested" / "two.bin", 10)
    elif damage == "remove":
        (artifact.path / "one.bin").unlink()
    elif damage == "side_car_removed":
        side_car.unlink()
    elif damage == "side_car_garbage":
        side_car.write_text('{"kind": "cor')
    elif damage == "recipe":
        side_car.write_text(side_car.read_text().replace('"size": 3', '"size": 4'))
    else:
        side_car.write_text(side_car.read_text().replace('"tokens": 7', '"tokens": 8'))
    again = store.get_or_make("corpus", RECIPE, write_two_files)
    assert again == artifact
    assert (again.path / "nested" / "two.bin").read_bytes() == b"two" * 1000
    assert again.damage() is None
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1
    assert str(artifact.path) in warnings[0]


def test_a_flipped_bit_is_found_although_the_size_is_right_and_mended(tmp_path, caplog):
    store = ArtifactStore(tmp_path)
    artifact = store.get_or_make("corpus", RECIPE, write_two_files)
    file = artifact.path / "nested" / "two.bin"
    content = bytearray(file.read_bytes())
    content[1500] ^= 1
    file.write_bytes(content)
    assert "nested/two.bin" in str(artifact.damage())
    assert store.find("corpus", RECIPE) is None
    store.get_or_make("corpus", RECIPE, write_two_files)
    assert file.read_bytes() == b"two" * 1000
    assert "sha256" in caplog.text


def test_processes_that_ask_at_once_make_it_once(tmp_path):
    makers = [start_maker(tmp_path, "race") for _ in range(4)]
    for maker in makers:
        assert maker.stdout.readline() == "ready\n"
    for maker in makers:
        maker.stdin.write("go\n")
        maker.stdin.flush()
    results = [maker.communicate(timeout=60) for maker in makers]
    assert [maker.returncode for maker in makers] == [0] * 4, results
    assert len({out for out, _ in results}) == 1
    assert "['half.bin', 'whole.bin']" in results[0][0]
    assert len((tmp_path / "makers.log").read_text().split()) == 1


def test_artifact_half_made_by_a_killed_process_is_made_again(tmp_path):
    killed = start_maker(tmp_path, "hang")
    assert killed.stdout.readline() == "half made\n"
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait(timeout=60) == -signal.SIGKILL
    killed.communicate()
    folder = tmp_path / "store" / "thing"
    assert list(folder.glob(".*.tmp/half.bin"))
    assert not (folder / address_of({"n": 1})).exists()

    second = start_maker(tmp_path, "whole")
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert "['half.bin', 'whole.bin']" in out
    assert "half made by a process that ended early" in err
    assert not list(folder.glob(".*.tmp"))
