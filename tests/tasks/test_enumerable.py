"""The enumerable task: every completion can be listed, and its ground truth is what its formula says."""

from __future__ import annotations

import json

import numpy as np
import pytest

from experiments.tasks.enumerable import prepare_enumerable
from experiments.tasks.prompt_spread import standard_normal
from experiments.tasks.task import outputs_of


def test_every_completion_is_listed_once():
    task = prepare_enumerable()
    outputs = task.enumerate_outputs()
    assert outputs.shape == (16**4, 4)
    assert outputs.min() == 0
    assert outputs.max() == 15
    assert len(np.unique(outputs, axis=0)) == 16**4


def test_the_ground_truth_is_its_formula():
    task = prepare_enumerable(prompts=3)
    prompt, (a, b, c, d) = task.prompts[2], (3, 15, 0, 3)
    (truth,), parts = task.score([prompt], [""], [(a, b, c, d)])
    tokens, bigrams = task.values.tokens, task.values.bigrams
    token_value = (tokens[a] + tokens[b] + tokens[c] + tokens[d]) / 4
    bigram_value = (bigrams[prompt.tokens[-1], a] + bigrams[a, b] + bigrams[b, c] + bigrams[c, d]) / 4
    assert parts["token_value"][0] == pytest.approx(token_value)
    assert parts["bigram_value"][0] == pytest.approx(bigram_value)
    assert truth == pytest.approx(1 + 0.9 * standard_normal(prompt.text) + 0.6 * token_value + 1.2 * bigram_value)


def test_many_completions_at_once_score_as_each_alone():
    task = prepare_enumerable(vocabulary=5, max_new_tokens=3)
    outputs = task.enumerate_outputs()
    for prompt in task.prompts[:3]:
        together = task.ground_truth_of(prompt, outputs)
        alone = outputs_of(task, [prompt] * len(outputs), [""] * len(outputs), outputs.tolist(), [False] * len(outputs))
        np.testing.assert_allclose(together, alone.ground_truth, atol=1e-12)


def test_the_best_completion_depends_on_the_prompt():
    task = prepare_enumerable()
    outputs = task.enumerate_outputs()
    best = {tuple(outputs[task.ground_truth_of(prompt, outputs).argmax()]) for prompt in task.prompts[:16]}
    assert len(best) > 1


def test_a_completion_may_be_shorter_but_not_empty():
    task = prepare_enumerable()
    truth, _ = task.score(task.prompts[:2], ["", ""], [(1,), (1, 2)])
    assert truth.shape == (2,)
    with pytest.raises(ValueError, match="no token"):
        task.score(task.prompts[:1], [""], [()])


def test_prompts_differ_and_follow_from_the_seed():
    task = prepare_enumerable(prompts=200)
    assert len({prompt.tokens for prompt in task.prompts}) == 200
    assert task.prompts == prepare_enumerable(prompts=200).prompts
    assert task.prompts != prepare_enumerable(prompts=200, seed=1).prompts


def test_recipes_are_json_and_tell_tasks_apart():
    tasks = [prepare_enumerable(**changes) for changes in ({}, {"seed": 1}, {"bigram_weight": 2.0}, {"prompts": 5})]
    assert len({json.dumps(task.recipe(), sort_keys=True) for task in tasks}) == len(tasks)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocabulary": 3, "prompts": 82}, r"task\.prompts=82 are too many: there are 81"),
        ({"max_new_tokens": 6}, r"task\.max_new_tokens=6 makes 16\^6 completions"),
        ({"prompt_tokens": 0}, "at least one prompt"),
    ],
)
def test_what_cannot_be_listed_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        prepare_enumerable(**settings)


def test_a_policy_with_another_vocabulary_is_refused(byte_tokenizer):
    with pytest.raises(ValueError, match="does not fit a policy with 258: train it with data=markov tokenizer=symbols"):
        prepare_enumerable(tokenizer=byte_tokenizer)
