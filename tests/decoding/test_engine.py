"""The engine says what the model says, whoever else is in the batch."""

from dataclasses import replace

import pytest
import torch
from engine_cases import (
    CASES,
    ONE_OF_EACH,
    case_model,
    greedy_text,
    log_probabilities_of,
    prompts_of,
    true_log_probabilities,
)

from experiments.decoding.engine import DecodeEngine, FinishReason, Request
from experiments.decoding.sampling import GREEDY, SamplingOptions, sequence_seed

ROUNDING = 1e-5  # absolute, of log-probabilities around -3 in fp32


def ragged_requests(**options):
    return [Request(prompt, seed=seed, **options) for seed, prompt in enumerate(prompts_of(7, 3, 12, 1, 7, 5))]


@pytest.mark.parametrize("name", CASES)
def test_greedy_texts_are_those_of_transformers_generate(name):
    """Prompts of different length, more of them than places: sequences leave and enter."""
    model = case_model(name)
    engine = DecodeEngine(model, batch_size=4, max_length=32)
    completions = engine.generate(ragged_requests(max_new_tokens=10, sampling=GREEDY))
    assert [c.tokens for c in completions] == [greedy_text(model, list(c.prompt), 10) for c in completions]


@pytest.mark.parametrize("name", CASES)
def test_log_probabilities_are_those_of_a_full_forward_pass(name):
    model = case_model(name)
    options = SamplingOptions(temperature=0.8, top_k=20, top_p=0.9)
    engine = DecodeEngine(model, batch_size=4, max_length=32)
    for completion in engine.generate(ragged_requests(max_new_tokens=12, sampling=options)):
        truth = true_log_probabilities(model, completion)
        torch.testing.assert_close(log_probabilities_of(completion), truth, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_sequence_does_not_depend_on_its_neighbours(name):
    """Alone, in another order, in batches of another size, paged or not: the same samples for the same seed."""
    model = case_model(name)
    requests = ragged_requests(max_new_tokens=12, stop_tokens=(3, 4, 5), samples_per_prompt=2)
    alone = DecodeEngine(model, batch_size=1, max_length=32)
    singly = [completion for request in requests for completion in alone.generate([request])]
    for order, options in ((1, {"batch_size": 3}), (-1, {"batch_size": 5, "page_size": 4})):
        together = DecodeEngine(model, max_length=32, **options).generate(requests[::order])
        together = sorted(together, key=lambda c: (order * c.request_id, c.sample))
        assert [c.tokens for c in together] == [c.tokens for c in singly]
        for one, other in zip(together, singly, strict=True):
            difference = log_probabilities_of(one) - log_probabilities_of(other)
            assert float(difference.abs().max()) < ROUNDING


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize("page_size", [1, 5, 64])
def test_pages_change_nothing(name, page_size):
    model = case_model(name)
    requests = ragged_requests(max_new_tokens=9)
    contiguous = DecodeEngine(model, batch_size=3, max_length=32).generate(requests)
    paged = DecodeEngine(model, batch_size=3, max_length=32, page_size=page_size).generate(requests)
    assert [c.tokens for c in paged] == [c.tokens for c in contiguous]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_the_compiled_kernel_and_the_reference_agree(name):
    model = case_model(name)
    requests = ragged_requests(max_new_tokens=9)
    texts = [
        [c.tokens for c in DecodeEngine(model, batch_size=3, max_length=32, kernel=kernel).generate(requests)]
        for kernel in ("cpu", "reference")
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_bf16_cache_stays_close(name):
    """bf16 keeps 8 bits: log-probabilities move by up to 0.05 here, where fp32 moves by 1e-5."""
    model = case_model(name)
    engine = DecodeEngine(model, batch_size=4, max_length=32, cache_dtype=torch.bfloat16)
    errors = [
        (log_probabilities_of(completion) - true_log_probabilities(model, completion)).abs().max()
        for completion in engine.generate(ragged_requests(max_new_tokens=12))
    ]
    assert 1e-4 < float(max(errors)) < 0.05


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_models_of_other_types_run_in_fp32(dtype):
    model = case_model("gla-everything", dtype)
    completions = DecodeEngine(model, batch_size=4, max_length=32).generate(ragged_requests(max_new_tokens=5))
    for completion in completions:
        truth = true_log_probabilities(model.float(), completion)  # the same weights, widened
        torch.testing.assert_close(log_probabilities_of(completion), truth, rtol=0, atol=ROUNDING)


def test_samples_of_a_prompt_equal_separate_requests():
    model = case_model("gta")
    prompts = prompts_of(9, 4)
    grouped = [Request(prompt, 8, seed=11, samples_per_prompt=5) for prompt in prompts]
    separate = [Request(prompt, 8, seed=sequence_seed(11, i)) for prompt in prompts for i in range(5)]
    engine = DecodeEngine(model, batch_size=4, max_length=32, page_size=2)
    completions = engine.generate(grouped)
    assert [(c.request_id, c.sample) for c in completions] == [(r, i) for r in range(2) for i in range(5)]
    assert [c.tokens for c in completions] == [c.tokens for c in engine.generate(separate)]
    assert len({c.tokens for c in completions}) > 5


def test_samples_of_a_prompt_compute_it_once():
    """Five samples in two places with different ends: later ones copy the rows of a running one."""
    engine = DecodeEngine(case_model("mla"), batch_size=2, max_length=40)
    engine.submit(Request(prompts_of(9)[0], 20, stop_tokens=range(20), samples_per_prompt=7))
    reports = []
    while not engine.finished:
        reports.append(engine.step())
    assert sum(len(report.completions) for report in reports) == 7
    computed = sum(report.prompt_tokens for report in reports)
    entered = sum(not report.prompt_tokens and len(report.new_tokens) == 1 for report in reports)
    # Only when both samples end in the same step has nobody the rows any more.
    assert computed % 9 == 0
    assert 9 <= computed < 7 * 9
    assert entered > 0


def test_a_stop_token_ends_a_sequence_and_is_its_last():
    model = case_model("gqa")
    (free,) = DecodeEngine(model, batch_size=1, max_length=32).generate([Request([1, 2], 20, seed=3)])
    stop = free.tokens[7]
    (stopped,) = DecodeEngine(model, batch_size=1, max_length=32).generate(
        [Request([1, 2], 20, seed=3, stop_tokens=(stop,))]
    )
    first = free.tokens.index(stop)
    assert stopped.tokens == free.tokens[: first + 1]
    assert stopped.policy_log_probabilities == free.policy_log_probabilities[: first + 1]
    assert (stopped.finish_reason, free.finish_reason) == (FinishReason.stop, FinishReason.length)


def test_a_sequence_may_end_with_its_first_token():
    model = case_model("gla")
    (first,) = greedy_text(model, [5, 6, 7], 1)
    requests = [Request([5, 6, 7], 9, sampling=GREEDY, stop_tokens=(first,)), Request([8], 1, sampling=GREEDY)]
    engine = DecodeEngine(model, batch_size=2, max_length=32, page_size=4)
    completions = engine.generate(requests)
    assert [len(c.tokens) for c in completions] == [1, 1]
    assert [c.finish_reason for c in completions] == [FinishReason.stop, FinishReason.length]
    assert engine.cache.free_pages == engine.cache.pages


def test_min_new_tokens_keeps_stop_tokens_away():
    model = case_model("mha")
    stops = tuple(range(40))
    request = Request([1, 2, 3], 20, stop_tokens=stops, min_new_tokens=6, samples_per_prompt=8)
    completions = DecodeEngine(model, batch_size=8, max_length=32).generate([request])
    assert all(len(c.tokens) >= 7 for c in completions)
    assert all(token >= 40 for c in completions for token in c.tokens[:6])
    for completion in completions:  # the policy's own probabilities do not know of the rule, the sampling ones do
        truth = true_log_probabilities(model, completion)
        torch.testing.assert_close(log_probabilities_of(completion), truth, rtol=0, atol=ROUNDING)
        pairs = zip(completion.sampling_log_probabilities, completion.policy_log_probabilities, strict=True)
        assert all(drawn > own + 0.1 for drawn, own in list(pairs)[:6])


def test_without_max_new_tokens_a_sequence_runs_to_max_length():
    model = case_model("gta")
    engine = DecodeEngine(model, batch_size=2, max_length=17, page_size=16)
    completions = engine.generate([Request([1, 2, 3], sampling=GREEDY), Request(list(range(16)), sampling=GREEDY)])
    assert [len(c.tokens) for c in completions] == [14, 1]
    assert completions[0].tokens == greedy_text(model, [1, 2, 3], 14)


def test_no_requests_give_no_completions():
    assert DecodeEngine(case_model("mha"), batch_size=2, max_length=8).generate([]) == []


def test_requests_may_arrive_while_others_run():
    model = case_model("gla")
    requests = ragged_requests(max_new_tokens=9)
    expected = DecodeEngine(model, batch_size=2, max_length=32).generate(requests)
    engine = DecodeEngine(model, batch_size=2, max_length=32)
    waiting, completions, tokens = list(requests), [], {}
    while waiting or not engine.finished:
        if waiting:
            engine.submit(waiting.pop(0))
        report = engine.step()
        completions.extend(report.completions)
        for name, new in report.new_tokens.items():
            tokens.setdefault(name, []).extend(new)
    completions.sort(key=lambda c: c.request_id)
    assert [c.tokens for c in completions] == [c.tokens for c in expected]
    assert [tuple(tokens[c.request_id, c.sample]) for c in completions] == [c.tokens for c in expected]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_refresh_takes_new_weights_and_nothing_else_does(name):
    model = case_model(name)
    engine = DecodeEngine(model, batch_size=2, max_length=32)
    request = Request([1, 2, 3], 6, sampling=GREEDY)
    before = engine.generate([request])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.0 + 0.5 * torch.rand(parameter.shape, generator=torch.Generator().manual_seed(4)))
    assert [c.policy_log_probabilities for c in engine.generate([request])] == [before[0].policy_log_probabilities]
    engine.refresh()
    (after,) = engine.generate([request])
    torch.testing.assert_close(log_probabilities_of(after), true_log_probabilities(model, after), rtol=0, atol=ROUNDING)
    assert after.policy_log_probabilities != before[0].policy_log_probabilities


def test_refresh_is_refused_while_sequences_run():
    engine = DecodeEngine(case_model("mha"), batch_size=2, max_length=32)
    engine.submit(Request([1, 2, 3], 6))
    with pytest.raises(ValueError, match="1 waiting sequences would mix two policies"):
        engine.refresh()


BASE = Request([1, 2, 3], 4)
IMPOSSIBLE = {
    "prompt of 0 tokens": replace(BASE, prompt=[]),
    "can never fit max_length=16": replace(BASE, max_new_tokens=14),
    "a prompt of 16 tokens": replace(BASE, prompt=[1] * 16, max_new_tokens=None),
    "may need 4 pages of 4 tokens, the cache has 3": replace(BASE, max_new_tokens=11),
    "max_new_tokens=0": replace(BASE, max_new_tokens=0),
    "min_new_tokens=5": replace(BASE, min_new_tokens=5),
    "samples_per_prompt=0": replace(BASE, samples_per_prompt=0),
    "token 61 is not in the model's vocabulary": replace(BASE, prompt=[61]),
    "token -1 is not in": replace(BASE, stop_tokens=(-1,)),
}


@pytest.mark.parametrize("message", IMPOSSIBLE)
def test_a_request_that_can_never_be_served_is_refused_at_once(message):
    engine = DecodeEngine(case_model("mha"), batch_size=2, max_length=16, page_size=4, pages=3)
    with pytest.raises(ValueError, match=message):
        engine.generate([BASE, IMPOSSIBLE[message]])
    assert engine.finished  # not even the possible one was queued
    assert len(engine.generate([BASE])) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cache_bytes": 10**6}, "cache_bytes needs a page_size"),
        ({"cache_bytes": 100, "page_size": 4}, "less than one page of 4 tokens"),
        ({"page_size": 65}, "page_size=65"),
        ({"kernel": "fast"}, "fast"),
    ],
)
def test_an_impossible_engine_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DecodeEngine(case_model("mha"), batch_size=2, max_length=16, **options)


def test_an_odd_head_dim_is_refused():
    model = case_model("mla", head_dim=7, rope_dim=4)
    with pytest.raises(ValueError, match="head_dim=7 is odd"):
        DecodeEngine(model, batch_size=2, max_length=16)
