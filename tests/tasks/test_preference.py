"""Prompts of a preference data set, made on the spot, and a reward model as ground truth."""

from __future__ import annotations

import json

import datasets
import numpy as np
import pytest

from experiments.data.hub_rows import HubRows
from experiments.tasks.constraints import ConstraintsTask, constraint_credit
from experiments.tasks.dataset_prompts import Fields, dataset_prompt_set, end_of_turn_tokens, prompt_tokens
from experiments.tasks.preference import PreferenceTask
from experiments.tasks.prompt_set import PolicyTokenizer, PromptOptions
from experiments.tasks.prompt_spread import PromptSpread
from experiments.tasks.task import outputs_of


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """`datasets` caches what it builds: keep that within the test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf_cache")


def preference_rows(count: int):
    """As in UltraFeedback: the prompt is a text, the responses are conversations."""
    for number in range(count):
        question = f"Question {number}?"
        yield {
            "prompt": question,
            "chosen": [{"role": "user", "content": question}, {"role": "assistant", "content": f"good {number}"}],
            "rejected": [{"role": "user", "content": question}, {"role": "assistant", "content": f"bad {number}"}],
        }


def written(tmp_path, rows) -> HubRows:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return HubRows(str(file), setting="task.dataset")


def prompt_set(rows, tokenizer, **changes):
    texts = {name: changes.pop(name) for name in ("fields", "instruction", "plain_format") if name in changes}
    options = PromptOptions(**{"prompts": 4, "max_new_tokens": 8, "longest_prompt": 60} | changes)
    return dataset_prompt_set(rows, PolicyTokenizer(tokenizer, "t"), options, **texts)


def test_a_prompt_is_the_users_turn_in_the_chat_template_with_its_pair_beside(tmp_path, chat_tokenizer):
    found = prompt_set(written(tmp_path, preference_rows(6)), chat_tokenizer)
    assert len(found.prompts) == 4
    for prompt in found.prompts:
        number = prompt.text.removeprefix("Question ").removesuffix("?")
        assert chat_tokenizer.decode(prompt.tokens) == f"<|user|>{prompt.text}<|end|>\n<|assistant|>"
        assert prompt.facts == {"chosen": f"good {number}", "rejected": f"bad {number}"}


def test_completions_end_with_the_text_or_with_the_turn(chat_tokenizer, byte_tokenizer):
    turn = chat_tokenizer.convert_tokens_to_ids("<|end|>")
    assert end_of_turn_tokens(chat_tokenizer) == (chat_tokenizer.eos_token_id, turn)
    assert end_of_turn_tokens(byte_tokenizer) == (byte_tokenizer.eos_token_id,)


def test_without_a_template_the_papers_format_is_written(byte_tokenizer):
    tokens = prompt_tokens(byte_tokenizer, "Why {}?")
    assert tokens[0] == byte_tokenizer.bos_token_id
    assert bytes(tokens[1:]).decode() == "[USER] Why {}? [ASSISTANT] "


def test_the_order_follows_from_the_seed_and_prompts_are_used_once(tmp_path, chat_tokenizer):
    rows = written(tmp_path, [*preference_rows(12), *preference_rows(12)])
    all_prompts = prompt_set(rows, chat_tokenizer, prompts=12).prompts
    assert len({prompt.text for prompt in all_prompts}) == 12
    assert prompt_set(rows, chat_tokenizer, prompts=5).prompts == all_prompts[:5]
    assert prompt_set(rows, chat_tokenizer, prompts=12, seed=1).prompts != all_prompts


def test_rows_that_are_too_long_or_have_a_history_are_passed_over(tmp_path, chat_tokenizer):
    good = list(preference_rows(2))
    odd = [
        {"prompt": "long " * 20, "chosen": "a", "rejected": "b"},
        {"prompt": "long answer", "chosen": "a" * 9, "rejected": "b"},
        {"prompt": "no difference", "chosen": "a", "rejected": "a"},
        {"prompt": "", "chosen": "a", "rejected": "b"},
    ]
    texts = [{"prompt": row["prompt"], "chosen": f"good {i}", "rejected": f"bad {i}"} for i, row in enumerate(good)]
    rows = written(tmp_path, [*odd, *texts])
    assert {prompt.text for prompt in prompt_set(rows, chat_tokenizer, prompts=2).prompts} == {
        "Question 0?",
        "Question 1?",
    }
    with pytest.raises(ValueError, match=r"task\.prompts=3 are too many: .* has 2 that fit, 2 are longer than"):
        prompt_set(rows, chat_tokenizer, prompts=3)


def test_conversations_of_several_turns_are_passed_over(tmp_path, chat_tokenizer):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    rows = written(tmp_path, [{"prompt": turns}, {"prompt": turns[:1]}, {"prompt": turns[2:]}])
    fields = Fields(chosen=None, rejected=None)
    found = prompt_set(rows, chat_tokenizer, prompts=2, fields=fields)
    assert {prompt.text for prompt in found.prompts} == {"a", "c"}
    assert [prompt.facts for prompt in found.prompts] == [{}, {}]


def test_an_instruction_is_a_paragraph_of_its_own(tmp_path, chat_tokenizer):
    rows = written(tmp_path, [{"prompt": "Who?"}])
    fields = Fields(chosen=None, rejected=None)
    (prompt,) = prompt_set(rows, chat_tokenizer, prompts=1, fields=fields, instruction="Use no comma.").prompts
    assert prompt.text == "Who?\n\nUse no comma."
    assert "Use no comma.<|end|>" in chat_tokenizer.decode(prompt.tokens)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (Fields(prompt="question"), "no column 'question': set task.dataset.prompt to one of prompt, chosen, rejected"),
        (
            Fields(chosen="best"),
            "no column 'best': set task.dataset.chosen to one of .* rejected to null",
        ),
        (Fields(chosen=None), "task.dataset.chosen and task.dataset.rejected belong together"),
    ],
)
def test_missing_columns_are_named(tmp_path, chat_tokenizer, fields, message):
    with pytest.raises(ValueError, match=message):
        prompt_set(written(tmp_path, preference_rows(3)), chat_tokenizer, fields=fields)


def test_a_dataset_that_is_not_there_is_one_message(chat_tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"task\.dataset\.path=.* split train"):
        prompt_set(HubRows(str(tmp_path / "none"), setting="task.dataset"), chat_tokenizer)
    (tmp_path / "rows.xml").write_text("")
    with pytest.raises(ValueError, match=r"rows\.xml: \.xml is not one of \.jsonl"):
        prompt_set(HubRows(str(tmp_path / "rows.xml"), setting="task.dataset"), chat_tokenizer)


def longer_is_better(prompts, responses):
    return np.array([len(response) - len(prompt) for prompt, response in zip(prompts, responses, strict=True)])


def test_the_ground_truth_is_the_scorers(tmp_path, chat_tokenizer):
    prompts = prompt_set(written(tmp_path, preference_rows(4)), chat_tokenizer)
    task = PreferenceTask(prompts, longer_is_better, {"path": "scorer"}, PromptSpread(offset=1.0))
    texts = ["", "four", "eight...", "x"]
    outputs = outputs_of(task, task.prompts, texts, [[1]] * 4, [True] * 4)
    expected = [1 + len(text) - len(prompt.text) for text, prompt in zip(texts, task.prompts, strict=True)]
    np.testing.assert_array_equal(outputs.ground_truth, expected)
    assert json.loads(json.dumps(task.recipe()))["scorer"] == {"path": "scorer"}


def test_a_recipe_names_the_contents_of_local_files_not_their_place(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, same = written(tmp_path / "a", preference_rows(3)), written(tmp_path / "b", preference_rows(3))
    assert one.recipe() == same.recipe()
    assert written(tmp_path / "b", preference_rows(4)).recipe() != one.recipe()


def test_constraints_are_told_to_the_policy_as_instructions(tmp_path, chat_tokenizer):
    credit = constraint_credit(["no_comma", "minimum_words:2"], binary=False)
    rows, fields = written(tmp_path, [{"prompt": "Who?"}]), Fields(chosen=None, rejected=None)
    prompts = prompt_set(rows, chat_tokenizer, prompts=1, fields=fields, instruction=credit.instruction)
    task = ConstraintsTask(prompts, credit)
    assert task.prompts[0].text == "Who?\n\nUse no comma.\nUse at least 2 words."
    truth, _ = task.score(task.prompts, ["she"], [[1]])
    assert truth.tolist() == [0.5]
