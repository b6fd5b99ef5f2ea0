"""The compiled linear layers against fp64, and against their twins in plain torch."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.decoding.cpu_linear import PanelBlock, PanelLinear, entry_points
from experiments.decoding.prepared_layer import TorchBlock, TorchLinear

pytestmark = pytest.mark.skipif(entry_points() is None, reason="needs a C++ compiler")
EPSILON = 1e-5


def normal(*sizes, seed=0):
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 20) | st.sampled_from([255, 256, 257, 600]),
    inputs=st.integers(1, 70),
    outputs=st.integers(1, 100),
    norm=st.booleans(),
    bias=st.booleans(),
    residual=st.booleans(),
    gap=st.integers(0, 3),
)
def test_rows_of_any_shape(rows, inputs, outputs, norm, bias, residual, gap):
    """Also rows that are a part of longer ones, and more of them than one look at the weight takes."""
    x, weight = normal(rows, inputs + gap)[:, :inputs], normal(outputs, inputs, seed=1)
    added = normal(outputs, seed=2) if bias else None
    before = normal(rows, outputs + gap, seed=3)[:, gap:] if residual else None
    epsilon = EPSILON if norm else -1.0
    mine = PanelLinear(weight, added, epsilon=epsilon)(x, before)
    wide = F.rms_norm(x.double(), (inputs,), None, EPSILON) if norm else x.double()
    truth = F.linear(wide, weight.double(), None if added is None else added.double())
    truth = truth if before is None else truth + before
    torch.testing.assert_close(mine.double(), truth, rtol=1e-5, atol=1e-5)
    twin = TorchLinear(weight, added, epsilon=epsilon)(x, before)
    torch.testing.assert_close(mine, twin, rtol=1e-5, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.sampled_from([1, 2, 5, 8, 11, 300]),
    hidden=st.integers(1, 50),
    heads=st.integers(1, 40),
    width=st.integers(1, 70),
)
def test_the_end_of_a_block(rows, hidden, heads, width):
    output, gate_and_up, down = (
        normal(hidden, heads, seed=1) / heads**0.5,
        normal(2 * width, hidden, seed=2) / hidden**0.5,
        normal(hidden, width, seed=3) / width**0.5,
    )
    mine = PanelBlock(PanelLinear(output), PanelLinear(gate_and_up, interleave=True), PanelLinear(down), EPSILON)
    twin = TorchBlock(TorchLinear(output), TorchLinear(gate_and_up), TorchLinear(down), EPSILON)
    x, attended = normal(rows, hidden, seed=4), normal(rows, heads, seed=5)
    after = x.double() + attended.double() @ output.double().t()
    gates, values = (F.rms_norm(after, (hidden,), None, EPSILON) @ gate_and_up.double().t()).chunk(2, dim=-1)
    truth = after + (F.silu(gates) * values) @ down.double().t()
    torch.testing.assert_close(mine(x, attended).double(), truth, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(twin(x, attended).double(), truth, rtol=1e-5, atol=1e-5)


def test_extreme_gates_stay_finite():
    """silu of -300 and 300: the exponential under- and overflows, the product must not."""
    gates = torch.tensor([[300.0], [-300.0], [88.0], [-88.0], [0.0]])
    hidden = torch.ones(5, 1)
    for gate, row in zip(gates, hidden[:, None], strict=True):
        gate_and_up = torch.cat((gate[None], torch.ones(1, 1)))
        block = PanelBlock(
            PanelLinear(torch.zeros(1, 1)),
            PanelLinear(gate_and_up, interleave=True),
            PanelLinear(torch.ones(1, 1)),
            0.0,
        )
        torch.testing.assert_close(block(row, torch.zeros(1, 1)), 1.0 + F.silu(gate[None]))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_do_not_depend_on_the_number_of_threads(threads):
    x, linear = normal(9, 64), PanelLinear(normal(300, 64, seed=1), epsilon=EPSILON)
    before = torch.get_num_threads()
    expected = linear(x)
    try:
        torch.set_num_threads(threads)
        assert torch.equal(linear(x), expected)
    finally:
        torch.set_num_threads(before)


def test_rows_of_another_type_or_shape_are_refused():
    linear = PanelLinear(torch.ones(3, 4))
    for wrong in (torch.ones(2, 4, dtype=torch.float64), torch.ones(4, 2).t(), torch.ones(2, 3)):
        with pytest.raises(ValueError, match="rows of 4 torch.float32"):
            linear(wrong)
