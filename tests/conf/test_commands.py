"""Where the parts of a command lie."""

from __future__ import annotations

from conf.commands import Command


def test_a_command_finds_its_parts_by_its_own_name():
    command = Command("reward-eval", "conf.train_config", "TrainConfig", step_name="prompt")
    assert command.config_name == command.experiment == command.comparison == "reward_eval"


def test_a_command_that_sweeps_anothers_jobs_compares_in_its_own_way():
    command = Command(
        "rlhf-sweep", "conf.rlhf_config", "RlhfConfig", step_name="step", experiment="rlhf", comparison="rlhf_sweep"
    )
    assert (command.config_name, command.experiment, command.comparison) == ("rlhf_sweep", "rlhf", "rlhf_sweep")


def test_the_comparison_is_the_experiments_own_unless_another_is_named():
    command = Command("again", "conf.train_config", "TrainConfig", step_name="step", experiment="train")
    assert command.comparison == "train"
