"""Parity of the Triton decode kernels at real sizes, on a GPU: `pytest -m gpu`."""

import pytest
import torch

from experiments.benchmarks.gpu_parity import parity_cases

pytest.importorskip("triton")

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")]


@pytest.mark.parametrize("case", parity_cases(), ids=lambda case: "-".join(map(str, case.labels().values())))
def test_the_kernel_computes_what_fp64_computes(case):
    from experiments.benchmarks.gpu_parity import check_parity

    row = check_parity(case, "triton", torch.device("cuda"))
    assert row["status"] == "passed", row


def test_captured_steps_are_replayed_over_what_their_memory_holds_then():
    from experiments.decoding.static_step import CudaGraphs

    memory, capture = torch.ones(2, device="cuda"), CudaGraphs()
    doubled, negated = capture(lambda: memory * 2), capture(lambda: -memory)  # the second shares the first's pool
    memory.fill_(3)
    assert doubled().tolist() == [6, 6]
    assert negated().tolist() == [-3, -3]
