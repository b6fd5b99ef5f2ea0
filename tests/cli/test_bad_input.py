"""A user's mistake is one clear line on stderr, exit code 2, and nothing is written."""

from __future__ import annotations

import pytest

MISTAKES = {
    "a misspelt key": (["train", "training.tokns=5"], "Did you mean training.tokens"),
    "a misspelt key behind a plus": (["train", "+sede=1"], "Did you mean seed"),
    "a key in the wrong place": (["train", "tokens=5"], "Did you mean training.tokens"),
    "an unknown option of a group": (["train", "attention=glaa"], "Did you mean gla"),
    "an unknown option in a sweep": (["train", "-m", "attention=gla,gtaa"], "attention=gtaa does not exist"),
    "a misspelt flag": (["train", "--dryrun"], "Did you mean --dry-run"),
    "a word that is no override": (["train", "gla"], "key=value"),
    "a word where a number belongs": (["train", "training.tokens=many"], "training.tokens"),
    "an unknown enum value": (["train", "device=tpu"], "device"),
    "a negative seed": (["train", "seed=-1"], "seed=-1"),
    "a sweep without -m": (["train", "seed=0,1"], "add -m"),
    "heads that are not divisible": (
        ["train", "attention=gqa", "attention.key_value_heads=3"],
        "use one of 1, 2, 4, 8",
    ),
    "an odd rope dim": (["train", "attention=gta", "attention.rope_dim=5"], "even"),
    "latent heads that do not divide": (["train", "attention=gla", "attention.latent_heads=3"], "latent_heads=3"),
    "a setting of another mechanism": (["train", "attention=gqa", "attention.latent_heads=2"], "latent_heads=2"),
    "accumulation that does not divide": (["train", "training.accumulation=3"], "training.accumulation=3"),
    "a deleted setting": (["train", "~seed"], "cannot be deleted"),
    "a missing data file": (["train", "data=local", "data.path=nowhere.txt"], "nowhere.txt"),
    "an impossible job inside a sweep": (
        ["train", "-m", "attention=gla", "attention.latent_heads=1,3"],
        "latent_heads=3",
    ),
    "no value after --cfg": (["train", "--cfg"], "--cfg needs a value"),
    "--cfg with a sweep": (["train", "-m", "seed=1,2", "--cfg", "job"], "--dry-run"),
    "unbalanced quotes": (["train", "data.path='x"], "could not be read"),
    "a value that needs quotes of its own": (["train", "data.path=a&(b"], 'data.path="..."'),
    "no key before the sign": (["train", "=5"], "key=value"),
    "dashes before a setting": (["train", "--attention", "gla"], "attention="),
    "an unknown view of the configuration": (["train", "--cfg", "jobb"], "use one of job, hydra, all"),
    "a number that is none": (["train", "model.rope_base=nan"], "model.rope_base=nan"),
    "an infinite number": (["train", "optimizer.learning_rate=1e400"], "learning_rate=inf"),
    "a reference to a variable that is not set": (["train", "output_dir=${oc.env:RL_EXP_NOT_SET}"], "RL_EXP_NOT_SET"),
    "a reference to itself": (["train", "seed=${seed}"], "Recursive"),
    "a setting without a value": (["train", "seed=???"], "seed: Missing"),
    "a path that no system takes": (
        ["train", "data=local", "data.path=" + 3000 * "x/"],
        "... cannot be read: File name too long",
    ),
    "a feed-forward of no width": (["train", "model.feed_forward_dim=0"], "model.feed_forward_dim=0"),
    "a negative rotation base": (["train", "model.rope_base=-1"], "model.rope_base=-1.0"),
    "a held-out part of more than all": (["train", "data.holdout_fraction=2"], "data.holdout_fraction=2.0"),
    "a group of Hydra's set like a key": (["train", "hydra.launcher=joblib"], "hydra/launcher=joblib"),
    "an unknown launcher": (["train", "-m", "seed=0,1", "hydra/launcher=slurm"], "hydra/launcher=slurm does not exist"),
    "a value of a sweep that is named twice": (["train", "-m", "seed=0,1,0"], "seed=0,1,0 names 0 twice"),
    "a comma too many": (["train", "-m", "seed=0,,1,"], "has a comma too many: write seed=0,1"),
    "a path in a home that is none": (["train", "data=local", "data.path=~/no-such-x"], "no-such-x does not exist"),
    "a sweep that matches nothing": (["train", "-m", "attention=glob(zz*)"], "matches nothing"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_message_with_exit_code_2_and_writes_nothing(mistake, rl_exp, tmp_path):
    words, expected = MISTAKES[mistake]
    result = rl_exp(*words)
    assert result.exit_code == 2, result.output
    assert expected in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


FILES = {
    "an empty file": ("a.txt", b"", "is empty"),
    "another encoding": ("a.txt", "é à ".encode("latin-1"), "a.txt is not UTF-8"),
    "a broken line": ("a.jsonl", b'{"text": "the ox\n', "a.jsonl line 1 is not JSON"),
    "brackets without end": ("a.jsonl", b'{"text": ' + b"[" * 100_000, "a.jsonl line 1 is not JSON"),
    "another field": ("a.jsonl", b'{"body": "the ox"}\n', "set data.text_field to one of body"),
    "bytes that are no parquet": (
        "a.parquet",
        b"PAR1" + bytes(20) + b"PAR1",
        "a.parquet is not a readable parquet file",
    ),
    "another kind of file": ("a.csv", b"text\nthe ox", "not one of .txt, .jsonl, .parquet"),
}


@pytest.mark.parametrize("fault", FILES)
def test_a_text_file_that_cannot_be_read_is_refused_before_a_run_begins(fault, rl_exp, tmp_path):
    name, content, expected = FILES[fault]
    (tmp_path / name).write_bytes(content)
    result = rl_exp("train", "data=local", f"data.path={name}")
    assert result.exit_code == 2, result.output
    assert expected in " ".join(result.stderr.split())
    assert not (tmp_path / "outputs").exists()


def test_an_unknown_command_is_answered_with_the_nearest(rl_exp):
    result = rl_exp("trian")
    assert result.exit_code == 2
    assert "train" in result.stderr


def test_an_output_folder_that_is_a_file_is_refused(rl_exp, tmp_path):
    (tmp_path / "taken").write_text("a file")
    result = rl_exp("train", "output_dir=taken")
    assert result.exit_code == 2
    assert "output_dir=taken" in result.stderr
