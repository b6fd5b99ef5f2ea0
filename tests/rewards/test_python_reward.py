"""Rewards of the user's own: what they see, what they may return, and what they are identified by."""

from __future__ import annotations

import numpy as np
import pytest
from made_up_outputs import made_up_outputs

from conf.reward_config import PythonRewardConfig
from experiments.rewards.python_reward import PythonReward
from experiments.runs.user_code import UserFunction

CODE = """
from my_words import vowels

def length(outputs, scale=1.0):
    return [scale * len(output.text) for output in outputs]

class Vowels:
    def __init__(self, weight):
        self.weight = weight
    def __call__(self, outputs):
        return [self.weight * vowels(output.text) for output in outputs]

def without_war(outputs):
    return [None if "war" in output.text else len(output.tokens) for output in outputs]

def one_too_few(outputs): return [1.0] * (len(outputs) - 1)
def texts(outputs): return ["good"] * len(outputs)
def undefined(outputs): return [float("nan")] * len(outputs)
def raising(outputs): raise KeyError("score")
def nothing(outputs): return None
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "my_rewards.py").write_text(CODE)
    (tmp_path / "my_words.py").write_text("def vowels(text):\n    return sum(letter in 'aeiou' for letter in text)\n")
    return tmp_path


def reward(folder, name, arguments=None, **options):
    function = UserFunction.named("reward.python.function", f"{folder}/my_rewards.py:{name}", arguments)
    return PythonReward("mine", function, **options)


def test_a_function_with_arguments_scores_the_texts(folder):
    outputs = made_up_outputs(4, 3)
    assert reward(folder, "length", {"scale": 2.0})(outputs).tolist() == [2.0 * len(text) for text in outputs.texts]


def test_a_class_is_made_once_with_its_arguments_and_may_import_a_module_next_to_it(folder):
    outputs = made_up_outputs(4, 3)
    expected = [0.5 * sum(letter in "aeiou" for letter in text) for text in outputs.texts]
    assert reward(folder, "Vowels", {"weight": 0.5})(outputs).tolist() == expected


def test_worker_processes_return_what_one_process_returns(folder):
    outputs = made_up_outputs(6, 3)
    mine = reward(folder, "Vowels", {"weight": 1.0}, workers=1)
    try:
        assert np.array_equal(mine(outputs), reward(folder, "Vowels", {"weight": 1.0})(outputs))
    finally:
        mine.close()


def test_what_cannot_be_scored_is_counted_and_takes_the_mean_of_the_rest_of_its_prompt(folder):
    outputs = made_up_outputs(8, 10)
    mine = reward(folder, "without_war", most_unscored=0.9)
    values = mine(outputs)
    missing = np.array(["war" in text for text in outputs.texts])
    prompts = np.array([prompt.index for prompt in outputs.prompts])
    assert missing.any()
    for prompt in range(8):
        of_prompt = prompts == prompt
        known = [len(outputs.tokens[row]) for row in np.flatnonzero(of_prompt & ~missing)]
        assert values[of_prompt & missing] == pytest.approx(np.mean(known))
    assert mine.facts["unscored"] == missing.sum()
    with pytest.raises(RuntimeError, match=r"without_war could not score .* raise reward.python.most_unscored=0.1"):
        reward(folder, "without_war")(outputs)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("one_too_few", "my_rewards.py:one_too_few returned 11 values for 12 outputs"),
        ("texts", "my_rewards.py:texts returned 'good' for output 0"),
        ("undefined", "my_rewards.py:undefined returned nan for output 0"),
        ("raising", "KeyError: 'score'"),
        ("nothing", "my_rewards.py:nothing returned None and not a list of 12 numbers"),
    ],
)
def test_what_is_not_a_number_per_output_is_an_error_that_names_function_and_output(folder, name, said):
    with pytest.raises(RuntimeError, match="reward mine failed on 12 outputs") as raised:
        reward(folder, name)(made_up_outputs(4, 3))
    assert said in str(raised.value)


def test_the_identity_is_the_content_of_the_file_and_of_the_modules_next_to_it(folder):
    before = reward(folder, "length").facts["code"]
    (folder / "unrelated.py").write_text("x = 1\n")
    assert reward(folder, "length").facts["code"] == before
    with (folder / "my_words.py").open("a") as file:
        file.write("\n")
    assert reward(folder, "length").facts["code"] != before


def test_a_changed_module_is_read_again(folder):
    outputs = made_up_outputs(2, 2)
    reward(folder, "Vowels", {"weight": 1.0})
    (folder / "my_words.py").write_text("def vowels(text):\n    return 7\n")
    assert reward(folder, "Vowels", {"weight": 1.0})(outputs).tolist() == [7.0] * 4


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("my_rewards.py", "must be a file and a name in it"),
        ("missing.py:length", "missing.py is not a file"),
        ("my_rewards.py:lenght", "Did you mean length?"),
        ("broken.py:f", "broken.py line 1: invalid syntax"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused_before_anything_runs(folder, monkeypatch, named, said):
    monkeypatch.chdir(folder)
    (folder / "broken.py").write_text("def f(:\n")
    with pytest.raises(ValueError, match=r"reward\.python\.function") as raised:
        PythonRewardConfig(function=named).user_function()
    assert said in str(raised.value)


def test_arguments_that_do_not_fit_are_refused(folder):
    with pytest.raises(ValueError, match=r"reward\.python\.arguments=.*do not fit my_rewards\.py:length"):
        reward(folder, "length", {"factor": 2})


def test_a_time_limit_needs_workers():
    with pytest.raises(ValueError, match=r"reward\.python\.seconds=5 needs reward\.python\.workers"):
        PythonRewardConfig(function="a.py:f", seconds=5)
