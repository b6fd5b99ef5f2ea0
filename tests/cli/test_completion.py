"""Shell completion, asked for as the shells ask."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RL_EXP = Path(sys.executable).parent / "rl-exp"


def completions(**variables: str) -> list[str]:
    answer = subprocess.run([RL_EXP], env=os.environ | variables, capture_output=True, text=True).stdout
    return [line for line in answer.splitlines() if line]


@pytest.mark.parametrize(
    ("words", "index", "expected"),
    [
        ("rl-exp tr", "1", ["train"]),
        ("rl-exp train mod", "2", "model="),
        ("rl-exp train training.tok", "2", ["training.tokens="]),
        ("rl-exp train attention = gt", "4", ["gta"]),  # bash breaks words at the sign
        ("rl-exp train seed=1 attention =", "4", "gla_q"),
    ],
)
def test_bash_completes_groups_options_and_keys(words, index, expected):
    found = completions(COMP_WORDS=words, COMP_CWORD=index, _RL_EXP_COMPLETE="complete_bash")
    assert found == expected or expected in found


def test_zsh_completes_options_behind_the_sign():
    found = completions(_TYPER_COMPLETE_ARGS="rl-exp train attention=gl", _RL_EXP_COMPLETE="complete_zsh")
    assert any('"attention=gla"' in line for line in found)
    assert not any('"attention=gqa"' in line for line in found)


def test_the_space_that_bash_puts_behind_a_completed_key_is_no_mistake(rl_exp):
    result = rl_exp("train", "seed=", "3", "--dry-run")
    assert result.exit_code == 0
    assert "seed: 3" in result.output
