"""The build of the C++ kernel, in processes of its own: where it lands, who waits, what happens without a compiler."""

import os
import shutil
import subprocess
import sys

import pytest

PROGRAM = """
import sys, warnings
sys.path.insert(0, "tests/decoding")
warnings.simplefilter("always")
from decode_cases import decode_case, oracle, small_shape
from experiments.decoding.attention import attend
from experiments.decoding.cpu_library import cpu_library
case = decode_case(small_shape("gta"), [9, 40], query_length=2)
for _ in range(2):
    outputs = attend(case.shape, case.queries, case.layer, case.lengths, kernel="cpu")
    assert (outputs.double() - oracle(case)).abs().max() < 1e-5
print("compiled" if cpu_library() else "reference")
print(sorted({"hydra", "wandb", "datasets", "transformers"} & set(sys.modules)))
"""


def start(folder, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "RL_EXP_KERNEL_CACHE": str(folder), "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(not shutil.which("c++") or not shutil.which("ninja"), reason="needs a C++ compiler and ninja")
def test_two_processes_that_build_at_once_share_one_library(tmp_path):
    """Also: the kernels need none of the heavy packages."""
    for process in [start(tmp_path), start(tmp_path)]:
        output, errors = process.communicate(timeout=300)
        assert output.split("\n")[:2] == ["compiled", "[]"], errors
    assert len(list(tmp_path.glob("*/*.so"))) == 1


def test_without_a_compiler_the_reference_takes_over_with_one_warning(tmp_path):
    output, errors = start(tmp_path, CXX=str(tmp_path / "no-such-compiler")).communicate(timeout=300)
    assert output.startswith("reference"), errors
    assert errors.count("cannot be built") == 1
    assert not list(tmp_path.glob("*/*.so"))
