"""The sentiment task: prompts of a corpus, VADER on the continuation, prompts graded apart."""

from __future__ import annotations

import json

import numpy as np
import pytest

from experiments.tasks.corpus_prompts import corpus_prompt_set
from experiments.tasks.prompt_set import PromptOptions
from experiments.tasks.prompt_spread import PromptSpread, standard_normal
from experiments.tasks.sentiment import FluencyTerm, SentimentTask
from experiments.tasks.task import Prompt, outputs_of

TEXTS = [" rejoiced with great joy and love.", " was killed in the terrible war.", ""]
TOKENS = [[5, 6], [7], [8, 9, 10]]


def make(corpus, prompt_spread=0.0, reward_offset=0.0, fluency=None, **changes):
    options = PromptOptions(**{"prompts": 6, "prompt_tokens": 5, "max_new_tokens": 8} | changes)
    return SentimentTask(corpus_prompt_set(corpus, options), PromptSpread(prompt_spread, reward_offset), fluency)


def test_glad_continuations_are_worth_more_than_sad_ones_and_none_is_neutral(story_corpus):
    task = make(story_corpus)
    outputs = outputs_of(task, task.prompts[:3], TEXTS, TOKENS, [True, True, False])
    glad, sad, empty = outputs.ground_truth
    assert glad > 0.5
    assert sad < -0.5
    assert empty == 0
    np.testing.assert_array_equal(outputs.parts["sentiment"], outputs.ground_truth)


def test_the_ground_truth_is_sentiment_plus_weighted_fluency_plus_the_prompts_constant(story_corpus):
    def fluency(prompts, completions):
        assert prompts == [prompt.tokens for prompt in task.prompts[:3]]
        return np.array([-len(row) for row in completions], dtype=np.float64)

    task = make(story_corpus, prompt_spread=0.5, reward_offset=2.0, fluency=FluencyTerm(0.1, fluency, "abc"))
    truth, parts = task.score(task.prompts[:3], TEXTS, TOKENS)
    constants = np.array([2.0 + 0.5 * standard_normal(prompt.text) for prompt in task.prompts[:3]])
    np.testing.assert_allclose(truth, parts["sentiment"] + 0.1 * np.array([-2.0, -1, -3]) + constants)
    np.testing.assert_array_equal(parts["fluency"], [-2, -1, -3])


def test_a_scorer_without_numbers_is_refused(story_corpus):
    task = make(story_corpus, fluency=FluencyTerm(1.0, lambda prompts, rows: np.full(len(rows), np.nan), "abc"))
    with pytest.raises(ValueError, match="no finite number"):
        outputs_of(task, task.prompts[:3], TEXTS, TOKENS, [True] * 3)


def test_the_recipe_is_json_and_differs_wherever_prompts_or_rewards_would(story_corpus):
    tasks = [
        make(story_corpus),
        make(story_corpus, seed=1),
        make(story_corpus, prompts=7),
        make(story_corpus, prompt_tokens=6),
        make(story_corpus, max_new_tokens=9),
        make(story_corpus, stop_at_sentence_end=False),
        make(story_corpus, prompt_spread=0.1),
        make(story_corpus, reward_offset=0.1),
        make(story_corpus, fluency=FluencyTerm(0.1, lambda *_: np.zeros(1), "abc")),
        make(story_corpus, fluency=FluencyTerm(0.1, lambda *_: np.zeros(1), "abd")),
    ]
    texts = [json.dumps(task.recipe(), sort_keys=True) for task in tasks]
    assert len(set(texts)) == len(texts)
    assert make(story_corpus).recipe() == tasks[0].recipe()


def test_constants_are_standard_normal_over_texts_and_fixed_for_each():
    values = np.array([standard_normal(f"prompt {number}") for number in range(4000)])
    assert abs(values.mean()) < 0.05
    assert abs(values.std() - 1) < 0.05
    assert standard_normal("prompt 1") == values[1]
    prompt = Prompt(0, "prompt 1", (1,))
    np.testing.assert_allclose(PromptSpread(2.0, 1.0).constants([prompt, prompt]), 1 + 2 * values[[1, 1]])


@pytest.mark.parametrize(("spread", "offset"), [(-0.1, 0.0), (float("nan"), 0.0), (0.0, float("inf"))])
def test_impossible_spreads_are_refused(spread, offset):
    with pytest.raises(ValueError, match=r"task\.(prompt_spread|reward_offset)=.* is impossible"):
        PromptSpread(spread, offset)
