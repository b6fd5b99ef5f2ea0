"""Names that are no names: reports on an outputs folder made by someone else stay within it and obey no text in it."""

from __future__ import annotations

import json

import pytest

NAMES = ("<script>alert(1)</script>", "[red]x[/red]", "esc\x1b[31mred", "line\nbreak", "n" * 250)


@pytest.fixture
def hostile_outputs(tmp_path):
    outputs = tmp_path / "outputs"
    for name in NAMES:
        run = outputs / "train" / name.replace("/", "\u2215")
        run.mkdir(parents=True)
        status = {"state": "failed" if "x" in name else name, "heartbeat": "2026-01-01T00:00:00+00:00", "reason": name}
        (run / "status.json").write_text(json.dumps(status))
        (run / "summary.json").write_text(json.dumps({name: 1.0, "eval/x/perplexity": name}))
        (run / "overrides.yaml").write_text(json.dumps({name: name}))
        (run / "manifest.json").write_text(json.dumps({"experiment": name, "command": ["rl-exp", name]}))
    (outputs / "train" / "loop").symlink_to(outputs / "train")
    (outputs / "loop").symlink_to(outputs)
    return outputs


@pytest.mark.parametrize("words", [["runs"], ["runs", "--json"], ["claims"], ["figures"]])
def test_a_report_on_hostile_outputs_ends_and_sends_no_escape_to_the_terminal(words, rl_exp, hostile_outputs):
    result = rl_exp("report", *words)
    assert result.exit_code in (0, 2), (result.output, result.exception)
    assert "\x1b[31m" not in result.output


def test_the_page_escapes_markup_of_run_directories(rl_exp, hostile_outputs):
    result = rl_exp("report", "html")
    assert result.exit_code == 0
    assert "\x1b[31m" not in result.output
    page = (hostile_outputs / "report" / "report.html").read_text()
    assert "alert(1)" in page  # it is shown
    assert "<script>alert" not in page


@pytest.mark.parametrize("name", ["../../etc", "/etc/passwd", "a\nb", "gta/../../x", "\x1b[31m"])
def test_a_claim_that_is_a_path_is_refused_by_name(name, rl_exp, tmp_path):
    result = rl_exp("report", "claims", "--run", name)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["rlhf", "other_rewards=[../train]"],
        ["rlhf", "other_rewards=[../../../../../../etc/passwd]"],
        ["rlhf", "reward=../train"],
        ["rlhf", "reward.family=ensemble", "reward.ensemble.members=[../x,/etc/passwd]"],
        ["rlhf", "task=../../x"],
        ["reward-eval", "rewards=[../x]"],
        ["train", "attention=../rlhf"],
        ["train", "data=../../x"],
        ["train", "hydra/launcher=../../x"],
        ["controlled", "problem=/etc/passwd"],
        ["report", "compare", "../../etc"],
    ],
    ids=" ".join,
)
def test_a_name_that_climbs_out_of_its_folder_is_refused_and_writes_nothing(words, rl_exp, tmp_path):
    result = rl_exp(*words)
    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert "root:" not in result.output + result.stderr, "what the file holds is not shown"
    assert list(tmp_path.iterdir()) == []
