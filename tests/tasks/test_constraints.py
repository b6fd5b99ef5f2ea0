"""Constraints: each check on texts that meet it and texts that do not, and the credit they give together."""

from __future__ import annotations

import json

import numpy as np
import pytest

from experiments.tasks.constraint_checks import CHECKS, constraint_named
from experiments.tasks.constraints import ConstraintsTask, constraint_credit
from experiments.tasks.corpus_prompts import corpus_prompt_set
from experiments.tasks.fluency import FluencyTerm
from experiments.tasks.prompt_set import PromptOptions
from experiments.tasks.prompt_spread import PromptSpread
from experiments.tasks.task import outputs_of

MET_AND_NOT = {
    "ends_with_punctuation": (["so it was.", 'he said, "Why?" ', "no!'"], ["so it was", "a. b", "", "was,"]),
    "asks_a_question": (["is it?", ' is it?"'], ["it is.", "is it? no", ""]),
    "exclaims": (["woe!"], ["woe", "woe! he"]),
    "contains_comma": (["a, b"], ["a; b", ""]),
    "no_comma": (["a; b"], ["a, b"]),
    "contains_semicolon": (["a; b"], ["a, b"]),
    "contains_quote": (['he said, "go', "\N{LEFT DOUBLE QUOTATION MARK}go"], ["he's gone"]),
    "all_lowercase": ([" and he said,"], [" and God said,", "...", ""]),
    "contains_number": ([" seven days", " 12", "Twenty-one? Or two."], [" a few", "someone", "twenty-one"]),
    "minimum_numbers": (["two or three", "3 and four", "1,000 or 2.5"], ["two", "1,000", "one hundredfold"]),
    "minimum_words": (["word " * 12], ["word " * 11]),
    "maximum_words": (["one word and not more."], ["a b c d e f", "...", ""]),
    "minimum_pronouns": (["he gave his bread to them"], ["he gave bread", "hero history theme"]),
    "contains_word": (["for God's word is of God."], ["godly gods", "God's"]),
    "starts_with_letter": ([' "Then he', " the"], [" a then", "", "..."]),
    "avoids_letter": (["a man of war"], ["a man of peace", "a man", "A MAN OF PEACE"]),
    "no_repeated_word": (["we all went up there."], ["we went up", "The man and the son went", ""]),
    "no_neighbours_alike": (["a big cat did eat"], ["a big bat did eat", "a big cat"]),
    "alliteration": (["seven silver stones"], ["seven big silver stones", "So seven"]),
    "alphabetical": (["a big cat danced"], ["a big cat came, dancing", "a big cat"]),
}
WITH_ARGUMENTS = {
    "minimum_words:3": (["a b c"], ["a b"]),
    "starts_with_letter:W": (["Who?"], ["The"]),
    "starts_with_letter:th": ([" the"], [" to"]),
    "contains_word:king": (["The King!"], ["kingdom"]),
    "alliteration:2": (["big bad"], ["big mad"]),
}


@pytest.mark.parametrize("name", [*CHECKS, *WITH_ARGUMENTS])
def test_a_constraint_is_met_by_what_meets_it_only(name):
    met, missed = (MET_AND_NOT | WITH_ARGUMENTS)[name]
    check = constraint_named(name).check
    assert [text for text in met if not check(text)] == []
    assert [text for text in missed if check(text)] == []


def test_descriptions_name_the_argument():
    assert constraint_named("minimum_words:7").description == "Use at least 7 words."
    assert constraint_named("minimum_words").description == "Use at least 12 words."


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("contains_coma", "no constraint contains_coma: .*Did you mean contains_comma"),
        ("contains_comma:3", "takes no argument: write contains_comma"),
        ("minimum_words:many", "needs a whole number of at least 1, as in minimum_words:12"),
        ("minimum_words:0", "needs a whole number"),
        ("contains_word:two words", "needs letters, as in contains_word:god"),
        ("avoids_letter:", "needs letters"),
    ],
)
def test_an_impossible_constraint_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        constraint_named(name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"names": []}, "names is empty"),
        ({"names": ["no_comma", "no_comma"]}, "repeats a constraint"),
        ({"names": ["no_comma"], "weights": [1.0, 2.0]}, "does not fit 1 constraints"),
        ({"names": ["no_comma"], "weights": [0.0]}, "as many positive numbers"),
        ({"names": ["no_comma"], "arguments": {"no_comma": {"N": 1}}}, "arguments names no_comma"),
    ],
)
def test_an_impossible_credit_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        constraint_credit(**settings)


TEXTS = ["three men, and a king.", "three men", "a, b", "he went on"]


def task_of(corpus, reward_offset=0.0, fluency=None, **changes):
    prompts = corpus_prompt_set(corpus, PromptOptions(prompts=4, prompt_tokens=5, max_new_tokens=8))
    credit = constraint_credit(**{"names": ["contains_comma", "contains_number"]} | changes)
    return ConstraintsTask(prompts, credit, PromptSpread(offset=reward_offset), fluency)


def test_binary_credit_needs_all_and_partial_credit_counts(story_corpus):
    binary, partial = task_of(story_corpus), task_of(story_corpus, binary=False, weights=[3.0, 1.0])
    rows = [TEXTS, [[1]] * 4, [True] * 4]
    one, other = (outputs_of(task, task.prompts, *rows) for task in (binary, partial))
    np.testing.assert_array_equal(one.ground_truth, [1, 0, 0, 0])
    np.testing.assert_allclose(other.ground_truth, [1, 0.25, 0.75, 0])
    for outputs in (one, other):
        assert list(outputs.parts) == ["constraint/contains_comma", "constraint/contains_number"]
        np.testing.assert_array_equal(outputs.parts["constraint/contains_comma"], [1, 0, 1, 0])
        np.testing.assert_array_equal(outputs.parts["constraint/contains_number"], [1, 1, 0, 0])


def test_constants_and_fluency_are_added(story_corpus):
    fluency = FluencyTerm(0.5, lambda prompts, rows: np.full(len(rows), -2.0), "abc")
    task = task_of(story_corpus, reward_offset=3.0, fluency=fluency)
    truth, parts = task.score(task.prompts, TEXTS, [[1]] * 4)
    np.testing.assert_allclose(truth, [3, 2, 2, 2])
    np.testing.assert_array_equal(parts["fluency"], [-2] * 4)


def test_the_recipe_is_json_and_tells_tasks_apart(story_corpus):
    tasks = [
        task_of(story_corpus),
        task_of(story_corpus, binary=False),
        task_of(story_corpus, binary=False, weights=[1.0, 2.0]),
        task_of(story_corpus, names=["contains_comma"]),
        task_of(story_corpus, names=["contains_comma", "minimum_words:3"]),
        task_of(story_corpus, names=["contains_comma", "minimum_words:4"]),
    ]
    texts = {json.dumps(task.recipe(), sort_keys=True) for task in tasks}
    assert len(texts) == len(tasks)
