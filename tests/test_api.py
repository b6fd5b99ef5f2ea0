"""The commands from Python do what they do in a terminal, with exceptions for messages."""

from __future__ import annotations

import pytest
from rlhf_cases import write_stories

from experiments.api import load, load_sweep, run


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The words of a training of a second, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return [
        "data=local",
        f"data.path={write_stories(tmp_path / 'text')}",
        "data.held_out_sets=[]",
        "tokenizer=bytes",
        "model=nano",
        "training.tokens=1024",
        "training.sequence_length=32",
        "training.batch_size=4",
        "training.evaluation_tokens=128",
        "training.final_evaluation_tokens=128",
        "training.samples=0",
        "tracking.mode=disabled",
        "threads=1",
    ]


def test_a_run_comes_back_with_all_that_it_left(tiny):
    result = run("train", *tiny, "seed=3")
    assert result.state == "finished"
    assert result.config.seed == 3
    assert result.summary["objective"] > 0
    rows = result.metrics()
    assert len(rows) > 1
    model, tokenizer = result.model(), result.tokenizer()
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)
    again = run("train", *tiny, "seed=3")
    assert again.directory.resolve() == result.directory.resolve()
    assert load(result.id[:6]).summary == load(result.directory).summary == result.summary


def test_numbers_are_written_as_on_the_command_line(tiny):
    assert run("train", *tiny, "training.tokens=1.024e3").id == run("train", *tiny).id


def test_a_sweep_is_a_list_of_runs(tiny, tmp_path):
    results = run("train", "-m", *tiny, "seed=0,1")
    assert [result.config.seed for result in results] == [0, 1]
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    assert [result.id for result in load_sweep(sweep)] == [result.id for result in results]
    with pytest.raises(ValueError, match="is a sweep of 2 runs: use load_sweep"):
        load(sweep)


def test_a_mistake_is_the_exception_that_the_command_line_prints(tiny):
    with pytest.raises(ValueError, match=r"unknown setting training\.token.*Did you mean training\.tokens"):
        run("train", *tiny, "training.token=1")
    with pytest.raises(ValueError, match=r"command 'trian' does not exist.*Did you mean train"):
        run("trian")


def test_a_run_that_fails_raises_with_its_reason(tiny, tmp_path):
    (tmp_path / "text" / "0.txt").write_bytes(b"\xff\xfe broken")
    with pytest.raises((RuntimeError, ValueError), match=r"0\.txt"):
        run("train", *tiny)
