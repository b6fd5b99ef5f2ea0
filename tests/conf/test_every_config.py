"""Every YAML of conf/ composes into its typed schema, and the paper's sizes come out of them."""

from __future__ import annotations

from functools import cache

import pytest

from conf.commands import COMMANDS
from conf.compose import UserError, config_groups, plain, plan_jobs, typed
from conf.train_config import TrainConfig
from experiments.runs.identity import flatten

# What an option needs beside its own name.
COMPANIONS = {
    ("data", "local"): ["data.path=."],
    ("data", "python_source"): [],
    ("tokenizer", "hub"): ["tokenizer.path=gpt2"],
}


@cache
def composed(name: str, *overrides: str):
    command = COMMANDS[name]
    (job,), _ = plan_jobs(command, list(overrides), multirun=False)
    return typed(command, job.config)


TRAIN_OPTIONS = [
    (group, option)
    for group in ("attention", "model", "data", "tokenizer", "optimizer")
    for option in config_groups()[group]
]


@pytest.mark.parametrize(("group", "option"), TRAIN_OPTIONS)
def test_every_option_of_train_composes(group, option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("some text")
    config = composed("train", f"{group}={option}", *COMPANIONS.get((group, option), []))
    assert isinstance(config, TrainConfig)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes_as_it_stands(command):
    jobs, _ = plan_jobs(COMMANDS[command], [], multirun=False)
    assert jobs
    assert all(isinstance(typed(COMMANDS[command], job.config), COMMANDS[command].schema()) for job in jobs)


PAPER_COUNTS = {  # millions of parameters at a vocabulary of 128,256 (Tables 6 to 10 and 18)
    ("small", "mha"): 183.45,
    ("medium", "mha"): 433.77,
    ("large", "mha"): 876.55,
    ("xl", "mha"): 1471.12,
    ("medium", "gqa"): 433.77,
    ("medium", "mqa"): 433.77,
    ("large", "gqa"): 876.55,
    ("large", "gta"): 876.55,
}
PAPER_COUNTS_AT_ONE_WIDTH = {  # the small model with a feed-forward of 2048 for all (Table 18)
    "mha": 183.45,
    "gqa": 174.01,
    "gta": 171.95,
    "mla": 181.44,
    "gla_q": 175.54,
}


@pytest.mark.parametrize(("size", "mechanism"), PAPER_COUNTS)
def test_the_papers_parameter_counts_come_out_of_the_configs(size, mechanism):
    config = composed("train", f"model={size}", f"attention={mechanism}")
    assert round(config.model_shape(128_256).parameters() / 1e6, 2) == PAPER_COUNTS[size, mechanism]


@pytest.mark.parametrize("mechanism", PAPER_COUNTS_AT_ONE_WIDTH)
def test_the_papers_counts_without_matching_come_out_of_the_configs(mechanism):
    config = composed("train", "model=small", f"attention={mechanism}", "model.feed_forward_dim=2048")
    counted = config.model_shape(128_256).parameters() / 1e6
    assert counted == pytest.approx(PAPER_COUNTS_AT_ONE_WIDTH[mechanism], abs=0.01)


@pytest.mark.parametrize("size", ["small", "medium", "large", "xl"])
@pytest.mark.parametrize("mechanism", ["mha", "mqa", "gqa", "gta", "mla", "gla", "gla_q"])
def test_published_widths_stay_within_one_percent_of_the_anchor(size, mechanism):
    anchor = composed("train", f"model={size}", "attention=mha").model_shape(128_256).parameters()
    counted = composed("train", f"model={size}", f"attention={mechanism}").model_shape(128_256).parameters()
    assert counted == pytest.approx(anchor, rel=0.01)


def test_a_shape_that_departs_from_the_paper_is_matched_and_not_given_the_published_width():
    published = composed("train", "model=small", "attention=gqa").model_shape(128_256)
    other = composed("train", "model=small", "attention=gqa", "attention.key_value_heads=2").model_shape(128_256)
    assert published.feed_forward_dim == 2392
    assert other.feed_forward_dim > 2392


def test_a_number_that_is_the_default_does_not_change_the_run():
    (a,), _ = plan_jobs(COMMANDS["train"], [], multirun=False)
    (b,), _ = plan_jobs(COMMANDS["train"], ["seed=0", "attention=gqa"], multirun=False)
    (c,), _ = plan_jobs(
        COMMANDS["train"], ["output_dir=elsewhere", "tracking.mode=disabled", "force=true"], multirun=False
    )
    (d,), _ = plan_jobs(COMMANDS["train"], ["seed=1"], multirun=False)
    assert a.run_id == b.run_id == c.run_id != d.run_id


def test_the_order_of_a_sweep_is_hydras():
    jobs, multirun = plan_jobs(COMMANDS["train"], ["seed=0,1", "attention=gqa,gta"], multirun=True)
    assert multirun
    assert [job.overrides for job in jobs][:2] == [("seed=0", "attention=gqa"), ("seed=0", "attention=gta")]
    ranged, _ = plan_jobs(COMMANDS["train"], ["seed=range(0,3)", "attention=glob(gl*)"], multirun=True)
    assert len(ranged) == 6


def test_a_stray_key_is_refused_even_where_hydra_would_add_it():
    with pytest.raises(UserError, match=r"training\.tokens"):
        plan_jobs(COMMANDS["train"], ["+training.token=3"], multirun=False)


def test_flat_keys_name_every_setting_once():
    (job,), _ = plan_jobs(COMMANDS["train"], [], multirun=False)
    flat = flatten(plain(job.config))
    assert flat["tracking.project"] == "rl-exp"
    assert flat["attention.mechanism"] == "gqa"
    assert "hydra" not in {key.split(".")[0] for key in flat}
