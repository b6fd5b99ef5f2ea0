"""Prompts and steps over the cache against full forward passes, with NaN in the cache wherever nothing was written."""

import pytest
import torch
from engine_cases import (
    CASES,
    ONE_OF_EACH,
    VOCABULARY,
    case_model,
    log_probabilities_of,
    prompts_of,
    true_log_probabilities,
)

from experiments.decoding.cache import CacheFullError
from experiments.decoding.engine import DecodeEngine, Request
from experiments.decoding.model_step import DecodeModel
from experiments.decoding.prepared_layer import PreparedGroupedTied
from experiments.models.attention import Projected
from experiments.models.decoder import ATTENTION_CLASSES
from experiments.models.grouped_query import GroupedQueryAttention

ROUNDING = 1e-5  # absolute, of logits up to 3


def poisoned_cache(model, **options):
    cache = model.new_cache(batch_size=4, max_length=40, **options)
    for storage in cache.storage:
        storage.fill_(torch.nan)
    return cache


@torch.no_grad()
def true_logits(model, text, count):
    return model(torch.tensor([text])).logits[0, -count:]


@pytest.mark.parametrize("page_size", [None, 3])
@pytest.mark.parametrize("name", CASES)
def test_steps_of_any_length_give_the_logits_of_a_full_pass(name, page_size):
    """Prompts of different length, one of them shared; steps of 1 and 3 tokens, and a ragged one."""
    model = case_model(name)
    decoding = DecodeModel(model)
    cache = poisoned_cache(decoding, page_size=page_size)
    prompts = prompts_of(7, 3, 7)
    logits = decoding.prefill(cache, prompts, [[2], [0, 3], [1]], chunk_tokens=12)
    for prompt, mine in zip(prompts, logits, strict=True):
        torch.testing.assert_close(mine[None], true_logits(model, prompt, 1), rtol=0, atol=ROUNDING)

    texts = {2: prompts[0], 0: prompts[1], 3: prompts[1], 1: prompts[2]}
    sequences = [3, 0, 2, 1]
    for counts in ([1, 1, 1, 1], [1, 1, 1, 1], [3, 3, 3, 3], [1, 3, 2, 2]):
        new = torch.tensor(prompts_of(*[max(counts)] * 4, seed=sum(counts)))
        logits = decoding.decode(cache, new, sequences, counts)
        for row, (sequence, count) in enumerate(zip(sequences, counts, strict=True)):
            texts[sequence] = texts[sequence] + new[row, -count:].tolist()
            truth = true_logits(model, texts[sequence], count)
            torch.testing.assert_close(logits[row, -count:], truth, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("name", CASES)
def test_rejected_tokens_leave_no_trace(name):
    model = case_model(name)
    decoding = DecodeModel(model)
    cache = poisoned_cache(decoding, page_size=2)
    (prompt,) = prompts_of(6)
    decoding.prefill(cache, [prompt], [[1]])
    decoding.decode(cache, torch.tensor([[7, 8, 9]]), [1])
    cache.roll_back([2], [1])
    logits = decoding.decode(cache, torch.tensor([[10]]), [1])[0]
    torch.testing.assert_close(logits, true_logits(model, [*prompt, 7, 10], 1), rtol=0, atol=ROUNDING)


def test_a_prompt_costs_the_same_rows_whether_copied_or_computed():
    decoding = DecodeModel(case_model("gla"))
    cache = poisoned_cache(decoding, page_size=3)
    (prompt,) = prompts_of(8)
    decoding.prefill(cache, [prompt], [[0]])
    cache.copy_prefix(0, [2, 3], len(prompt))
    logits = decoding.decode(cache, torch.tensor([[5], [5], [5]]), [0, 2, 3])
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])


def test_long_chunks_and_short_ones_read_prompts_alike():
    decoding = DecodeModel(case_model("mla"))
    prompts, places = prompts_of(9, 2, 9, 5), [[0], [1], [2], [3]]
    whole = decoding.prefill(poisoned_cache(decoding), prompts, places)
    singly = decoding.prefill(poisoned_cache(decoding), prompts, places, chunk_tokens=1)
    torch.testing.assert_close(whole, singly, rtol=0, atol=ROUNDING)


def test_an_empty_prompt_is_refused():
    decoding = DecodeModel(case_model("mha"))
    with pytest.raises(ValueError, match="at least 1 token"):
        decoding.prefill(poisoned_cache(decoding), [[1], []], [[0], [1]])


def test_a_full_cache_is_told_before_anything_changes():
    decoding = DecodeModel(case_model("mha"))
    cache = decoding.new_cache(batch_size=2, max_length=4)
    decoding.prefill(cache, [[1, 2, 3]], [[0]])
    with pytest.raises(CacheFullError, match="max_length=4"):
        decoding.decode(cache, torch.tensor([[1, 2]]), [0])
    assert cache.lengths.tolist() == [3, 0]


def test_steps_need_no_gradient_and_leave_none():
    model = case_model("gta")
    decoding = DecodeModel(model)
    cache = decoding.new_cache(batch_size=1, max_length=8)
    logits = decoding.prefill(cache, [[1, 2, 3]], [[0]])
    assert logits.shape == (1, VOCABULARY)
    assert not logits.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_products_in_bf16_stay_near_the_full_pass_and_refresh_takes_new_weights(name, cache_dtype):
    model = case_model(name)
    decoding = DecodeModel(model, kernel="reference", dtype=torch.bfloat16)
    for scale in (1.0, 1.1):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(scale)
        decoding.refresh()
        cache = poisoned_cache(decoding, dtype=cache_dtype)
        prompts = prompts_of(7, 5)
        logits = decoding.prefill(cache, prompts, [[0], [1]])
        assert logits.dtype == torch.float32
        for row, prompt in enumerate(prompts):
            difference = logits[row] - true_logits(model, prompt, 1)[0]
            assert 0 < difference.abs().max() < 0.1  # of logits up to 4: bf16 has 8 bits
        logits = decoding.decode(cache, torch.tensor([[3], [4]]), [0, 1])[:, 0]
        for row, prompt in enumerate(prompts):
            truth = true_logits(model, [*prompt, 3 + row], 1)[0]
            torch.testing.assert_close(logits[row], truth, rtol=0, atol=0.15)


def test_the_compiled_library_computes_in_fp32_only():
    if not DecodeModel(case_model("mha"))._compiled:
        pytest.skip("needs a C++ compiler")
    assert DecodeModel(case_model("mha"), dtype=torch.bfloat16).kernel == "reference"
    with pytest.raises(ValueError, match="use kernel=reference"):
        DecodeModel(case_model("mha"), kernel="cpu", dtype=torch.bfloat16)


def test_an_engine_that_computes_another_mechanism_is_refused(monkeypatch):
    """GTA whose keys are taken from the wrong half of the tied state: close enough to generate fluent nonsense."""
    correct = PreparedGroupedTied.expand

    def wrong(self, rows, rotation):
        keys, values = correct(self, rows, rotation)
        return keys, values.flip(-1)

    monkeypatch.setattr(PreparedGroupedTied, "expand", wrong)
    with pytest.raises(RuntimeError, match=r"logits differ from the model's by \d.*form of gta with kernel=cpu"):
        DecodeModel(case_model("gta"))


def test_a_subclass_of_a_mechanism_is_not_run_as_its_parent(monkeypatch):
    """Normed queries and keys without a prepared form: tokens have the log-probabilities of the model itself."""

    class NormedAttention(GroupedQueryAttention):
        def project(self, hidden, rotation):
            queries, (keys, values), gate = super().project(hidden, rotation)
            return Projected(4 * queries / queries.norm(dim=-1, keepdim=True), (keys.tanh(), values), gate)

    monkeypatch.setitem(ATTENTION_CLASSES, "gqa", NormedAttention)
    model = case_model("gqa")
    requests = [Request(prompt, max_new_tokens=6) for prompt in prompts_of(2, 5, 5)]
    for completion in DecodeEngine(model, batch_size=2, max_length=16, page_size=4).generate(requests):
        expected = true_log_probabilities(model, completion)
        torch.testing.assert_close(log_probabilities_of(completion), expected, atol=ROUNDING, rtol=0)
