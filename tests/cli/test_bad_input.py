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


def test_an_unknown_command_is_answered_with_the_nearest(rl_exp):
    result = rl_exp("trian")
    assert result.exit_code == 2
    assert "train" in result.stderr


def test_an_output_folder_that_is_a_file_is_refused(rl_exp, tmp_path):
    (tmp_path / "taken").write_text("a file")
    result = rl_exp("train", "output_dir=taken")
    assert result.exit_code == 2
    assert "output_dir=taken" in result.stderr
