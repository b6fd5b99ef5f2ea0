"""A GPU image has torch, triton and transformers, and not the experiment stack: what of this runs there must import."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ABSENT = ("hydra", "omegaconf", "wandb", "datasets", "typer", "rich", "pyarrow")
HIDE = f"""
import sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r} + refused:
            return None
        return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Hiding, sys.meta_path)
"""


def import_all(names, refused=()):
    """Import these modules in a process of its own, without the absent packages and `refused`: its standard error.

    They are hidden, not broken: transformers asks whether it could import them.
    """
    program = f"refused = {tuple(refused)!r}\n{HIDE}" + "".join(f"import {name}\n" for name in names)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "decoding")])
    environment = os.environ | {"PYTHONPATH": path, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    return done.stderr if done.returncode else ""


KERNELS = ("triton_kernel", "triton_attend")
GPU_CHECK = "experiments.benchmarks.gpu_check"


def decoding_modules():
    return [f"experiments.decoding.{path.stem}" for path in sorted((ROOT / "experiments/decoding").glob("[!_]*.py"))]


def test_decode_kernels_their_tests_and_the_gpu_check_import_without_the_experiment_stack():
    tests = [path.stem for path in sorted((ROOT / "tests/decoding").glob("test_*.py"))]
    assert import_all([GPU_CHECK, *decoding_modules(), *tests]) == ""


def test_all_but_the_triton_kernels_imports_without_triton():
    """`gpu_check` says that triton is missing; it must get so far."""
    names = [name for name in decoding_modules() if not name.endswith(KERNELS)]
    assert import_all([GPU_CHECK, *names], refused=("triton",)) == ""


def test_a_hidden_package_is_really_hidden():
    assert "No module named 'hydra'" in import_all(["hydra"])
    assert "No module named 'triton'" in import_all(["experiments.decoding.triton_attend"], refused=("triton",))
