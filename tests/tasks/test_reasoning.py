"""Questions of reasoning-gym as a task and as a training text."""

from __future__ import annotations

import builtins
import itertools
import json

import numpy as np
import pytest

from experiments.data.corpus import prepare_corpus
from experiments.data.reasoning_gym_text import ReasoningGymText, parsed_arguments, procedural_dataset
from experiments.data.tokenizer import BytePairEncoding
from experiments.runs.artifacts import ArtifactStore
from experiments.tasks.prompt_set import PolicyTokenizer, PromptOptions
from experiments.tasks.prompt_spread import PromptSpread
from experiments.tasks.reasoning import prepare_reasoning
from experiments.tasks.task import outputs_of

SMALL = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}


def test_without_the_package_the_message_names_it(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **named):
        if name.startswith("reasoning_gym"):
            raise ModuleNotFoundError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"pip install 'rl-exp\[tasks\]'"):
        procedural_dataset("chain_sum", {}, size=1, seed=0)


@pytest.fixture
def task(byte_tokenizer):
    pytest.importorskip("reasoning_gym")
    return make(byte_tokenizer)


def make(tokenizer, name="chain_sum", **changes):
    texts = {"arguments": SMALL} | {key: changes.pop(key) for key in ("arguments", "plain_format") if key in changes}
    spread = PromptSpread(changes.pop("prompt_spread", 0.0), changes.pop("reward_offset", 0.0))
    options = PromptOptions(**{"prompts": 12, "max_new_tokens": 6} | changes)
    return prepare_reasoning(name, PolicyTokenizer(tokenizer, "t"), options, spread=spread, **texts)


def test_the_verifier_solves_the_answer_and_nothing_else(task):
    texts = [f" {prompt.facts['answer']}\n" for prompt in task.prompts]
    right = outputs_of(task, task.prompts, texts, [[1]] * 12, [True] * 12)
    wrong = outputs_of(task, task.prompts, ["99"] * 12, [[1]] * 12, [True] * 12)
    np.testing.assert_array_equal(right.ground_truth, 1)
    np.testing.assert_array_equal(right.parts["solved"], 1)
    np.testing.assert_array_equal(wrong.ground_truth, 0)
    np.testing.assert_array_equal(wrong.parts["solved"], 0)


def test_questions_differ_and_follow_from_the_seed(task, byte_tokenizer):
    assert len({prompt.text for prompt in task.prompts}) == 12
    assert make(byte_tokenizer).prompts == task.prompts
    assert make(byte_tokenizer, seed=1).prompts != task.prompts
    assert bytes(task.prompts[0].tokens[1:]).decode() == task.prompts[0].text + "\n"


def test_recipes_are_json_and_tell_tasks_apart(task, byte_tokenizer):
    tasks = [task, make(byte_tokenizer, seed=1), make(byte_tokenizer, arguments=SMALL | {"max_digits": 2})]
    assert len({json.dumps(each.recipe(), sort_keys=True) for each in tasks}) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "chain_sums"}, "has no data set chain_sums: use another, such as chain_sum"),
        ({"name": "countdown"}, "runs answers as Python code"),
        ({"arguments": {"terms": 2}}, "refuses .*: it takes allow_negation, max_digits, max_terms"),
        ({"arguments": SMALL | {"max_terms": 1}}, "refuses"),
        ({"prompts": 300}, r"task\.prompts=300 are too many: 15000 draws of chain_sum gave 200 different questions"),
    ],
)
def test_impossible_tasks_are_refused(byte_tokenizer, settings, message):
    pytest.importorskip("reasoning_gym")
    with pytest.raises(ValueError, match=message):
        make(byte_tokenizer, **settings)


def test_the_training_text_is_question_line_break_answer():
    pytest.importorskip("reasoning_gym")
    source = ReasoningGymText("chain_sum", SMALL, examples=20)
    documents = list(source.documents())
    assert len(documents) == 20
    for document in documents:
        question, answer = document.text.rsplit("\n", 1)
        left, sign, right = question.removesuffix(" =").split(": ")[1].split()
        assert int(answer) == int(left) + (int(right) if sign == "+" else -int(right))
    assert json.loads(json.dumps(source.recipe()))["arguments"] == SMALL


def test_arguments_are_read_as_what_they_are():
    text = "max_terms=2, allow_negation=false,share=0.5,mode=easy"
    assert parsed_arguments(text) == {"max_terms": 2, "allow_negation": False, "share": 0.5, "mode": "easy"}
    assert parsed_arguments("") == {}
    with pytest.raises(ValueError, match="write them as in max_terms=2"):
        parsed_arguments("max_terms")


def test_a_question_is_tokenised_as_the_training_text_has_it(tmp_path):
    pytest.importorskip("reasoning_gym")
    corpus = prepare_corpus(
        ArtifactStore(tmp_path), ReasoningGymText("chain_sum", SMALL, examples=300), BytePairEncoding(300)
    )
    documents = {tuple(corpus.tokens[start:end].tolist()) for start, end in itertools.pairwise(corpus.offsets.tolist())}
    beginnings = {document[:length] for document in documents for length in range(len(document))}
    task = make(corpus.tokenizer, prompts=100)
    known = sum(prompt.tokens[1:] in beginnings for prompt in task.prompts)
    assert known > 50, "of 200 questions, most are in a text of 300"
