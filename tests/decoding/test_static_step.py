"""Steps over buffers that stay: the same results as plain steps, and nothing that a CUDA graph could not hold."""

import numpy as np
import pytest
import torch
from engine_cases import CASES, ONE_OF_EACH, case_model, prompts_of
from pretend_device import PretendDevice, pretend_attend

from experiments.decoding import model_step
from experiments.decoding.cache import CacheLayer
from experiments.decoding.engine import DecodeEngine, Request, batch_sampling
from experiments.decoding.model_step import DecodeModel
from experiments.decoding.sampling import GREEDY, SamplingOptions
from experiments.decoding.speculative import DraftModel, PromptLookup, SpeculativeEngine
from experiments.decoding.static_step import StaticSteps, StepBuffers, bucket
from experiments.decoding.triton_blocks import Device

ROUNDING = 4e-6  # absolute, of logits up to 3


def two_models(name, page_size, **options):
    """The same model and filled cache twice, NaN wherever nothing was written."""
    model = case_model(name)
    made = []
    for _ in range(2):
        decoding = DecodeModel(model, **options)
        cache = decoding.new_cache(batch_size=6, max_length=40, page_size=page_size)
        for storage in cache.storage:
            storage.fill_(torch.nan)
        decoding.prefill(cache, prompts_of(7, 3, 12, 5), [[2], [0, 3], [1], [5]])
        made.append((decoding, cache))
    return made


def same(mine, theirs, exact):
    if exact:
        assert torch.equal(mine, theirs)
    else:
        torch.testing.assert_close(mine, theirs, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(("kernel", "page_size"), [("cpu", None), ("reference", 3)])
@pytest.mark.parametrize("name", CASES)
def test_logits_and_cached_rows_are_those_of_plain_steps(name, kernel, page_size):
    """Bit for bit where the bucket is as large as the batch; 5 rows in a bucket of 6, and ragged ones, to rounding.

    Not with keys that are rotated on reading: there a static step sums over the whole length of the cache.
    """
    (plain, cache), (static, static_cache) = two_models(name, page_size, kernel=kernel)
    steps = StaticSteps(static, static_cache, None)
    for sequences, counts in (
        ([3, 0, 2, 1], [1, 1, 1, 1]),
        ([2, 5], [1, 1]),
        ([3, 0, 2, 1, 5], [1, 1, 1, 1, 1]),
        ([3, 0], [3, 3]),
        ([1, 3, 0, 2, 5], [1, 3, 2, 1, 3]),
    ):
        tokens = np.array(prompts_of(*[max(counts)] * len(counts), seed=sum(counts)))
        theirs = plain.decode(cache, torch.from_numpy(tokens), sequences, counts)
        mine = steps.logits(tokens, sequences, counts)
        exact = len(sequences) != 5 and name != "tied_key_value"
        for row, count in enumerate(counts):
            same(mine[row, -count:], theirs[row, -count:], exact)
    assert static_cache.lengths.tolist() == cache.lengths.tolist()
    for mine, theirs in zip(static_cache.storage, cache.storage, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=ROUNDING, equal_nan=True)


def requests():
    """Greedy, sampled, cut off by a stop token, filtered, and with a least number of tokens."""
    prompts = prompts_of(3, 6, 6, 4, 5)
    options = [GREEDY, SamplingOptions(), SamplingOptions(temperature=0.7), SamplingOptions(top_k=5, top_p=0.9)]
    made = [
        Request(p, max_new_tokens=9, seed=i, sampling=o)
        for i, (p, o) in enumerate(zip(prompts[:4], options, strict=True))
    ]
    made.append(Request(prompts[4], max_new_tokens=9, min_new_tokens=4, stop_tokens=range(40), seed=7))
    return [*made, Request(prompts[0], max_new_tokens=5, stop_tokens=range(20), seed=9, samples_per_prompt=3)]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_an_engine_of_static_steps_says_the_same(name):
    model = case_model(name)
    plain, static = (DecodeEngine(model, batch_size=5, max_length=20, kernel="reference") for _ in range(2))
    static.static_steps = StaticSteps(static.model, static.cache, None)
    for mine, theirs in zip(static.generate(requests()), plain.generate(requests()), strict=True):
        assert (mine.tokens, mine.finish_reason) == (theirs.tokens, theirs.finish_reason)
        for kind in ("policy_log_probabilities", "sampling_log_probabilities"):
            assert getattr(mine, kind) == pytest.approx(getattr(theirs, kind), abs=1e-5)


def test_a_speculative_engine_of_static_steps_says_the_same():
    model = case_model("gla")
    prompt = prompts_of(4)[0] * 3
    plain = DecodeEngine(model, batch_size=2, max_length=40, kernel="reference")
    options = {"proposer": PromptLookup(), "draft_length": 3, "batch_size": 2, "max_length": 40}
    static = SpeculativeEngine(model, kernel="reference", **options)
    static.static_steps = StaticSteps(static.model, static.cache, None)
    wanted = [Request(prompt, max_new_tokens=20, sampling=GREEDY), Request(prompt[1:], max_new_tokens=20, seed=3)]
    assert [c.tokens for c in static.generate(wanted)] == [c.tokens for c in plain.generate(wanted)]
    assert static.accepted_lengths.total() > static.accepted_lengths[0], "nothing was ever accepted"


# What a graph would read and do ------------------------------------------------------------------------------------


class CountingCapture:
    """Notes what is captured, and counts the replays."""

    def __init__(self):
        self.captured, self.replayed = 0, 0

    def __call__(self, function):
        self.captured += 1

        def replay():
            self.replayed += 1
            return function()

        return replay


def test_a_bucket_is_captured_once_and_replayed_for_all_its_batches():
    model = DecodeModel(case_model("gqa"), kernel="reference")
    cache = model.new_cache(batch_size=6, max_length=40)
    model.prefill(cache, prompts_of(2), [[0, 1, 2, 3, 4, 5]])
    capture = CountingCapture()
    steps = StaticSteps(model, cache, capture)
    for batch in (3, 4, 3, 5, 6, 1):
        steps.logits(np.ones((batch, 1), np.int64), list(range(batch)))
    assert (capture.captured, capture.replayed) == (3, 6)  # buckets of 4, 6 and 1
    steps.logits(np.ones((3, 2), np.int64), [0, 1, 2])
    assert (capture.captured, capture.replayed) == (4, 7)  # another query length is another function


@pytest.mark.parametrize(("batch", "size"), [(1, 1), (3, 4), (5, 8), (33, 40), (65, 96), (257, 384), (95, 95)])
def test_buckets_waste_little_and_never_pass_the_largest_batch(batch, size):
    assert bucket(batch, largest=95 if batch == 95 else 1000) == size


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_buffers_and_weights_stay_where_they_are(name):
    """What a captured graph reads has the same addresses for ever: inputs from step to step, weights over `refresh`."""
    model = case_model(name)
    decoding = DecodeModel(model, kernel="reference")
    cache = decoding.new_cache(batch_size=3, max_length=40)
    decoding.prefill(cache, prompts_of(2, 4, 3), [[0], [1], [2]])
    steps = StaticSteps(decoding, cache, None)

    def addresses():
        (buffers,) = steps._buffers.values()
        inputs = [tensor.data_ptr() for tensor in buffers.on_device.values()]
        table = decoding.rotation_table(cache.max_length).data_ptr()
        return [*inputs, table, *[t.data_ptr() for t in [*decoding._tensors(), *cache.storage]]]

    first = steps.logits(np.ones((3, 1), np.int64), [0, 1, 2]).clone()
    before = addresses()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    decoding.refresh()
    second = steps.logits(np.ones((2, 1), np.int64), [2, 1])
    assert addresses() == before
    assert not torch.allclose(first[1:], second.flip(0))
    fresh = DecodeModel(model, kernel="reference")
    for mine, theirs in zip(decoding._tensors(), fresh._tensors(), strict=True):
        assert torch.equal(mine, theirs)


def test_steps_are_captured_on_cuda_where_attention_waits_for_nothing():
    triton = DecodeModel(case_model("gqa"), kernel="triton")
    assert not triton.capturable, "the interpreter is no GPU"
    reference, rotating = DecodeModel(case_model("gqa")), DecodeModel(case_model("tied_key_value"), kernel="reference")
    for decoding in (triton, reference, rotating):
        decoding.device = torch.device("cuda")
    assert (triton.capturable, reference.capturable, rotating.capturable) == (True, False, True)


def test_a_step_is_one_copy_to_the_device():
    model = DecodeModel(case_model("mla"), kernel="reference")
    cache = model.new_cache(batch_size=3, max_length=40, page_size=3)
    model.prefill(cache, prompts_of(5, 2), [[0, 2], [1]])
    buffers = StepBuffers(3, 2, 14, torch.device("cpu"))
    step = cache.reserve([2, 1], [2, 1])
    buffers.fill(step, np.array([[7, 8], [0, 9]]), np.array([0.25, 0.5]), np.array([0.0, 0.5], np.float32))
    assert {tensor.untyped_storage().data_ptr() for tensor in buffers.on_device.values()} == {
        buffers.memory.untyped_storage().data_ptr()
    }
    inputs = buffers.inputs(3, 40)
    assert inputs.tokens.tolist() == [[7, 8], [0, 9], [0, 0]]
    assert inputs.positions.tolist() == [5, 6, 1, 2, 0, 0]
    assert inputs.lengths.tolist() == [7, 3, 0]
    assert inputs.written.tolist() == [0, 1, 0, 3, 0, 0]  # padding writes what the first new token writes
    assert inputs.slots[[2, 4, 5]].tolist() == [inputs.slots[0]] * 3
    assert inputs.slots[inputs.written].tolist() == inputs.slots.tolist()
    assert inputs.page_table[:2].tolist() == step.page_table.tolist()
    assert buffers.on_device["noise"].tolist() == [0.25, 0.5, 0.0]
    assert buffers.on_device["temperatures"].tolist() == [0.0, 0.5, 0.0]


@pytest.fixture
def pretend_kernel(monkeypatch):
    monkeypatch.setattr(model_step, "attend", pretend_attend)


@pytest.mark.parametrize("query_length", [1, 3])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_step_waits_for_nothing_and_has_the_same_shapes_whatever_the_numbers(name, query_length, pretend_kernel):
    with PretendDevice() as device:
        decoding = DecodeModel(case_model(name).to(device.name), kernel="reference")
        cache = decoding.new_cache(batch_size=3, max_length=40)
        decoding.prefill(cache, prompts_of(2, 4, 3), [[0], [1], [2]])
        steps = StaticSteps(decoding, cache, None)
        rows = {}
        longest = query_length
        ragged = {(2, 0, 1): [longest, 1, 1], (1, 2, 0): [1, 1, longest], (0, 1, 2): [longest, longest, 1]}
        for sequences, counts in ragged.items():
            width = max(counts)
            device.host_reads.clear()
            device.operations.clear()
            steps.logits(np.ones((len(counts), width), np.int64), sequences, counts)
            assert device.host_reads == []
            rows.setdefault((bucket(len(counts), 3), width), []).append(list(device.operations))
    runs = rows[3, query_length]
    assert len(runs) == 3
    assert len(runs[-1]) > 30
    assert runs[-2] == runs[-1], "operations or shapes depend on the inputs"


@pytest.mark.parametrize("splits", [1, 8])
def test_launching_triton_kernels_waits_for_nothing_and_makes_equal_grids_whatever_the_lengths(splits, monkeypatch):
    pytest.importorskip("triton")
    from experiments.decoding import triton_attend as launcher

    launched = []

    class Recorded:
        def __getitem__(self, grid):
            return lambda *tensors, **constants: launched.append((grid, constants))

    device = Device(capability=(9, 0), shared_bytes=2**18, multiprocessors=splits)
    monkeypatch.setattr(launcher, "INTERPRETED", False)
    monkeypatch.setattr(launcher, "check_tensors", lambda *tensors: None)
    monkeypatch.setattr(launcher, "cuda_device", lambda index: device)
    for kernel in ("attend_split", "combine"):
        monkeypatch.setattr(launcher, kernel, Recorded())
    shape = case_model("gla").config.model_shape().attention
    with PretendDevice() as pretended:
        there = pretended.name
        storage = torch.zeros(64, 16, shape.cached_elements(), device=there)
        layer = CacheLayer(storage, torch.zeros(2, 32, dtype=torch.int32, device=there))
        queries = torch.zeros(2, 1, shape.query_heads, shape.absorbed_key_dim, device=there)
        for lengths in ([5, 500], [0, 1]):
            outputs = launcher.triton_attend(shape, queries, layer, torch.tensor(lengths).int().to(there))
            assert outputs.shape == (2, 1, shape.query_heads, shape.absorbed_value_dim)
        assert pretended.host_reads == []
    assert launched[: len(launched) // 2] == launched[len(launched) // 2 :]
    assert len(launched) == (2 if splits == 1 else 4)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_drawing_tokens_waits_for_the_device_once_a_step(name, pretend_kernel, monkeypatch):
    wanted = [Request(p, max_new_tokens=6, seed=i) for i, p in enumerate(prompts_of(3, 5))]
    wanted.append(Request(prompts_of(4)[0], max_new_tokens=6, sampling=GREEDY))
    with PretendDevice() as device:
        model = case_model(name).to(device.name)
        engine = DecodeEngine(model, batch_size=4, max_length=20, kernel="reference")
        engine.static_steps = StaticSteps(engine.model, engine.cache, None)
        for request in wanted:
            engine.submit(request)
        completions = list(engine.step().completions)
        device.host_reads.clear()
        while not engine.finished:
            completions.extend(engine.step().completions)
        assert len(device.host_reads) == 5
    monkeypatch.undo()
    plain = DecodeEngine(case_model(name), batch_size=4, max_length=20, kernel="reference").generate(wanted)
    assert [c.tokens for c in completions] == [c.tokens for c in plain]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_an_engine_keeps_to_one_device_without_static_steps_too(name, pretend_kernel, monkeypatch):
    with PretendDevice() as device:
        model = case_model(name).to(device.name)
        said = DecodeEngine(model, batch_size=5, max_length=20, kernel="reference").generate(requests())
    monkeypatch.undo()
    plain = DecodeEngine(case_model(name), batch_size=5, max_length=20, kernel="reference").generate(requests())
    assert [c.tokens for c in said] == [c.tokens for c in plain]


@pytest.mark.parametrize("drafted", [False, True], ids=["prompt lookup", "draft model"])
@pytest.mark.parametrize("static", [False, True], ids=["plain", "static"])
def test_speculation_keeps_to_one_device(static, drafted, pretend_kernel, monkeypatch):
    prompt = prompts_of(4)[0] * 3
    wanted = [Request(prompt, max_new_tokens=15, sampling=GREEDY), Request(prompt[1:], max_new_tokens=15, seed=3)]
    size = {"batch_size": 2, "max_length": 30}

    def draft(device):
        return DraftModel(DecodeModel(case_model("gqa", seed=1).to(device), kernel="reference"), **size)

    with PretendDevice() as device:
        proposer = draft(device.name) if drafted else PromptLookup()
        model = case_model("gla").to(device.name)
        engine = SpeculativeEngine(model, proposer=proposer, draft_length=3, kernel="reference", **size)
        if static:
            engine.static_steps = StaticSteps(engine.model, engine.cache, None)
        said = engine.generate(wanted)
    monkeypatch.undo()
    plain = DecodeEngine(case_model("gla"), kernel="reference", **size).generate(wanted)
    assert [c.tokens for c in said] == [c.tokens for c in plain]
    assert engine.proposed_tokens > 0


def test_the_device_that_is_none_refuses_what_a_gpu_refuses():
    with PretendDevice() as device:
        there = torch.ones(3, device=device.name)
        with pytest.raises(RuntimeError, match="two devices"):
            there + torch.ones(3)
        assert (there + torch.tensor(1.0)).device.type == device.name
        assert device.host_reads == []
        assert there.sum().item() == 3.0
        assert there[torch.tensor([0, 2])].cpu().tolist() == [1.0, 1.0]
        assert len(device.host_reads) == 2


def test_only_plain_batches_are_drawn_with_the_step():
    engine = DecodeEngine(case_model("gqa"), batch_size=8, max_length=20)
    for request in requests():
        engine.submit(request)
    engine.step()
    zero = np.zeros(1, int)
    plain = [batch_sampling([sequence]).plain_at(zero) for sequence in engine.running]
    assert plain[:4] == [True, True, True, False]
