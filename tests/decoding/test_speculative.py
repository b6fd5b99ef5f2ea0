"""Speculation changes how fast a text comes, never the text."""

import pytest
import torch
from engine_cases import ONE_OF_EACH, case_model, log_probabilities_of, prompts_of, true_log_probabilities

from experiments.decoding.engine import DecodeEngine, Request
from experiments.decoding.sampling import GREEDY, SamplingOptions
from experiments.decoding.speculative import DraftModel, PromptLookup, SpeculativeEngine

SIZE = {"batch_size": 3, "max_length": 48}
SAMPLED = SamplingOptions(temperature=0.7, top_p=0.9)


def mixed_requests():
    """Repetitive prompts, greedy and sampled, with stop tokens and several samples."""
    prompts = [prompt * 3 for prompt in prompts_of(4, 2, 5)]
    return [
        Request(prompt, 14, sampling=options, seed=seed, stop_tokens=(3, 4), samples_per_prompt=2, min_new_tokens=2)
        for seed, prompt in enumerate(prompts)
        for options in (GREEDY, SAMPLED)
    ]


class Stubborn:
    """Proposes the same tokens whatever the text."""

    def propose(self, sequences, counts):
        return [[7] * min(count, row) for row, count in enumerate(counts)]  # ragged, none for the first

    def forget(self, sequence):
        pass


@pytest.mark.parametrize("proposals", ["prompt lookup", "draft", "wrong"])
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_texts_are_those_of_plain_decoding(name, proposals):
    model = case_model(name)
    proposer = {
        "prompt lookup": PromptLookup,
        "draft": lambda: DraftModel(case_model(name, layers=1), **SIZE),
        "wrong": Stubborn,
    }[proposals]()
    plain = DecodeEngine(model, **SIZE).generate(mixed_requests())
    engine = SpeculativeEngine(model, proposer=proposer, draft_length=3, page_size=2, **SIZE)
    completions = engine.generate(mixed_requests())
    assert [(c.tokens, c.finish_reason) for c in completions] == [(c.tokens, c.finish_reason) for c in plain]
    for completion in completions:
        truth = true_log_probabilities(model, completion)
        torch.testing.assert_close(log_probabilities_of(completion), truth, rtol=0, atol=1e-5)
    assert engine.cache.free_pages == engine.cache.pages
    assert engine.proposed_tokens > 0


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
def test_a_draft_that_is_the_model_is_always_right(sampling):
    """14 tokens: the first with the prompt, then 5 + 5 + 3 of them in three steps."""
    model = case_model("gta")
    engine = SpeculativeEngine(model, proposer=DraftModel(model, **SIZE), draft_length=4, **SIZE)
    engine.generate([Request([1, 2, 3], 14, sampling=sampling)])
    assert dict(engine.accepted_lengths) == {4: 2, 2: 1}
    assert engine.acceptance_rate == 1.0
    assert engine.tokens_per_step == pytest.approx(13 / 3)


def test_the_draft_cache_follows_accepted_and_rejected_tokens():
    """After every step the draft holds a prefix of each running text, and its next proposals come from just that."""
    model, small = case_model("gla"), case_model("gla", layers=1)
    draft = DraftModel(small, **SIZE)
    engine = SpeculativeEngine(model, proposer=draft, draft_length=3, **SIZE)
    for request in mixed_requests():
        engine.submit(request)
    while not engine.finished:
        engine.step()
        held = [(sequence, draft.cache.lengths[sequence.slot]) for sequence in engine.running]
        running = {sequence.slot for sequence, _ in held}
        assert all(draft.cache.lengths[slot] == 0 for slot in range(3) if slot not in running)
        fresh = DraftModel(small, **SIZE)
        counts = [2] * len(engine.running)
        assert draft.propose(engine.running, counts) == fresh.propose(engine.running, counts)


def test_prompt_lookup_continues_the_last_occurrence_of_the_longest_match():
    engine = SpeculativeEngine(case_model("mha"), proposer=PromptLookup(longest=2), draft_length=4, **SIZE)
    propose = engine.proposer.propose

    def proposed(text, count):
        engine.running.clear()
        engine.waiting.clear()
        engine.submit(Request(text, 1))
        return propose([engine.waiting[0]], [count])[0]

    assert proposed([1, 2, 3, 9, 1, 2], 2) == [3, 9]
    assert proposed([1, 2, 3, 1, 2, 4, 1, 2], 1) == [4]  # the last occurrence
    assert proposed([2, 5, 1, 2, 3, 7, 2], 3) == [3, 7, 2]  # one token matches, at its last occurrence
    assert proposed([8, 8, 8], 4) == [8, 8, 8, 8]  # in a circle
    assert proposed([5, 1, 2, 3, 1, 2], 5) == [3, 1, 2, 3, 1]
    assert proposed([1, 2, 3], 4) == []
    assert proposed([1], 4) == []


def test_repeated_text_is_accepted_in_long_runs():
    """A greedy text that runs in a circle: prompt lookup finds it."""
    model = case_model("gqa")
    engine = SpeculativeEngine(model, proposer=PromptLookup(), draft_length=4, batch_size=1, max_length=300)
    (completion,) = engine.generate([Request([1, 2, 3], 250, sampling=GREEDY)])
    assert (
        completion.tokens
        == DecodeEngine(model, batch_size=1, max_length=300)
        .generate([Request([1, 2, 3], 250, sampling=GREEDY)])[0]
        .tokens
    )
    assert engine.tokens_per_step > 3


def test_impossible_proposers_are_refused():
    model = case_model("mha")
    with pytest.raises(ValueError, match="vocabulary of 50"):
        SpeculativeEngine(model, proposer=DraftModel(case_model("mha", vocab_size=50), **SIZE), **SIZE)
    with pytest.raises(ValueError, match="batch_size=1"):
        SpeculativeEngine(model, proposer=DraftModel(model, batch_size=1, max_length=48), **SIZE)
    with pytest.raises(ValueError, match="draft_length=0"):
        SpeculativeEngine(model, proposer=PromptLookup(), draft_length=0, **SIZE)
    with pytest.raises(ValueError, match="shortest=2 and longest=1"):
        PromptLookup(longest=1, shortest=2)
