"""Every task of conf/task composes, and mistakes in one are found before anything is prepared."""

from __future__ import annotations

import pytest

from conf.commands import COMMANDS
from conf.compose import UserError, config_groups, plan_jobs, typed
from conf.task_config import TaskKind
from experiments.tasks.constraint_checks import constraint_named

COMPANIONS = {
    "preference": ["task.dataset.path=pairs.jsonl", "task.scorer.path=model"],
    "python": [f"task.python.function={__file__}:composed"],
}
KINDS = {"ultrafeedback": TaskKind.preference, "ifbench": TaskKind.constraints}


def composed(*overrides: str):
    (job,), _ = plan_jobs(COMMANDS["rlhf"], list(overrides), multirun=False)
    return typed(COMMANDS["rlhf"], job.config)


@pytest.mark.parametrize("option", config_groups()["task"])
def test_every_task_composes(option):
    task = composed(f"task={option}", *COMPANIONS.get(option, [])).task
    assert task.kind is KINDS.get(option) or task.kind.value == option


def test_the_language_of_the_enumerable_task_has_sixteen_tokens():
    config = composed("task=enumerable", "data=markov", "tokenizer=symbols", "model=nano")
    assert config.data.corpus_source().name == "markov"


def test_constraints_take_arguments_on_the_command_line():
    config = composed("task=constraints", "task.constraints.names=[minimum_words:4,starts_with_letter:t]")
    assert [constraint_named(name).description for name in config.task.constraints.names] == [
        "Use at least 4 words.",
        "Begin the first word with the letters t.",
    ]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.prompts=0"], r"task\.prompts=0: must be at least 1"),
        (["task.max_new_tokens=0"], r"task\.max_new_tokens=0: must be at least 1"),
        (["task.prompt_spread=-1"], r"task\.prompt_spread=-1\.0: must be at least 0"),
        (["task=constraints", "task.constraints.names=[contains_coma]"], "Did you mean contains_comma"),
        (
            ["task=enumerable", "task.fluency_weight=0.1"],
            "must be 0 with task.kind=enumerable",
        ),
        (["task=preference"], "task=preference needs task.dataset.path"),
        (["task=preference", "task.dataset.path=a.jsonl"], "task=preference needs task.scorer.path"),
    ],
)
def test_impossible_tasks_are_one_message(overrides, message):
    with pytest.raises(UserError, match=message):
        composed(*overrides)
