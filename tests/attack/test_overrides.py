"""Random command lines at the pre-flight: jobs or one line, nothing else, and nothing on disk."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conf.commands import COMMANDS
from conf.compose import UserError, config_groups, plain, plan_jobs, typed
from experiments.runs.identity import flatten

KEYS = {
    name: sorted(flatten(plain(plan_jobs(command, [], multirun=False)[0][0].config)))
    for name, command in COMMANDS.items()
}
HYDRA = (
    "hydra.run.dir hydra.sweep.dir hydra.sweep.subdir hydra.searchpath hydra.job.chdir hydra.job.env_set.X hydra.mode "
    "hydra.launcher._target_ hydra.launcher.n_jobs hydra.callbacks.x._target_ hydra.output_subdir hydra.sweeper.params "
    "hydra.sweeper.params.seed hydra/launcher hydra/sweeper hydra/job_logging hydra.verbose hydra hydra.launcher"
).split()
VALUES = [
    *"1 -1 0 nan inf -inf 1e400 1e-400 null true ???".split(),
    *"99999999999999999999999999 0x10 [] {} [1,[2,[3]]] [ }".split(),
    *"' \" 'a' {a:{b:[1]}} ${seed} ${oc.env:HOME} ${oc.env:NO_SUCH,x} ${oc.decode:1}".split(),
    *"${hydra:runtime.cwd} ${nowhere} ${ ${${seed}} \\${oc.env:HOME} '${oc.env:HOME}'".split(),
    *"1,2 a,b range(0,10000000000) range(0,3) range(0,1,0) range(0,inf)".split(),
    *"range(nan,1) shuffle(range(0,99999999)) sort(3,1,2) choice(1,2)".split(),
    *"glob(*) glob(zz*) interval(0,1) tag(a,choice(1,2)) int(x)".split(),
    *"str([1,2]) extend_list(1) ../../x /etc/passwd ~ é 雪 =a a=b".split(),
    *": , %00 gla local hub".split(),
    *("", " ", "a\nb", "a\x00b", "\x1b[31m", "\ud800", "\u202e", "'a b'"),
    *("9" * 5000, "x" * 30_000, "[" * 2000, "{a:" * 300),
]


@st.composite
def command_lines(draw):
    """A command, whether it sweeps, and one to three overrides: known, nearly known and unknown keys, all values."""
    name = draw(st.sampled_from(sorted(COMMANDS)))
    known = st.sampled_from(KEYS[name])
    groups = sorted(config_groups())
    near = st.builds(
        lambda key, place: key[: place % len(key)] + key[place % len(key) + 1 :], known, st.integers(0, 40)
    )
    key = st.one_of(
        known,
        known,
        st.sampled_from(groups),
        near,
        st.sampled_from(HYDRA),
        st.builds("{}@{}".format, st.sampled_from(groups), known),
        st.text(max_size=12),
    )
    value = st.one_of(st.sampled_from(VALUES), st.sampled_from(VALUES), st.integers().map(str), st.text(max_size=20))
    sign = st.sampled_from(["", "", "", "+", "++", "~"])
    override = st.builds("{}{}={}".format, sign, key, value)
    return name, draw(st.booleans()), draw(st.lists(override, min_size=1, max_size=3))


def planned_or_refused(name: str, multirun: bool, overrides: list[str]) -> bool:
    try:
        jobs, _ = plan_jobs(COMMANDS[name], overrides, multirun=multirun)
    except UserError as error:
        message = str(error)
        assert message
        assert len(message.splitlines()) == 1, message
        assert len(message) < 4000
        assert not any(ord(mark) < 32 for mark in message.replace("\t", "")), repr(message)
        return False
    for job in jobs:
        typed(COMMANDS[name], job.config)
    return True


def attack(examples: int):
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=checks)


@attack(40)
@given(line=command_lines())
def test_any_overrides_give_jobs_or_one_line_and_write_nothing(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    planned_or_refused(*line)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@attack(4000)
@given(line=command_lines())
def test_thousands_of_overrides_give_jobs_or_one_line(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    planned_or_refused(*line)
    assert list(tmp_path.iterdir()) == []


REFUSED = {
    "a class behind the launcher": (["-m", "hydra.launcher._target_=os.system"], "_target_"),
    "a class within a callback": (["+hydra.callbacks.x={_target_:os.system}"], "_target_"),
    "a folder of Hydra's": (["hydra.run.dir=/tmp"], "output_dir=PATH"),
    "a folder of Hydra's sweeps": (["-m", "hydra.sweep.dir=/tmp"], "output_dir=PATH"),
    "a search path": (["hydra.searchpath=[file:///tmp]"], "hydra.mode may be set"),
    "variables for jobs": (["+hydra.job.env_set.LD_PRELOAD=/tmp/x.so"], "hydra.mode may be set"),
    "a group of Hydra's that logs": (["hydra/job_logging=default"], "hydra.mode may be set"),
    "a mapping for null": (["-m", "+hydra.sweeper.params={hydra.run.dir: '/tmp'}"], "cannot be composed"),
    "a group elsewhere": (["+attention@model=gla"], "without @model"),
    "a sweep without end": (["-m", "seed=range(0,10000000000)"], "10,000,000,000 jobs"),
    "a shuffled sweep without end": (["-m", "seed=shuffle(range(0,10000000000))"], "10,000,000,000 jobs"),
    "a product of sweeps": (["-m", "seed=range(0,100)", "training.tokens=range(4000,4100)"], "10,000 jobs"),
    "a range to infinity": (["-m", "training.tokens=range(0,inf)"], "is not a range"),
    "a range that stands still": (["-m", "seed=range(0,5,0)"], "is not a range"),
    "brackets without end": (["data.path=" + "[" * 5000], "5,000 brackets"),
    "a long text": (["data.path=" + "x" * 100_000], "are the most"),
    "a number of many digits": (["seed=" + "9" * 5000], "seed"),
    "a terminal's escape": (["data.path=\x1b[31mred"], "control character"),
    "bytes that are no text": (["data.path=\udcff"], "not UTF-8"),
    "two lines in a path": (["output_dir='a\nb'"], "one line"),
}


@pytest.mark.parametrize("attack_name", REFUSED)
def test_an_attack_is_one_line_with_exit_code_2_and_writes_nothing(attack_name, rl_exp, tmp_path):
    words, expected = REFUSED[attack_name]
    result = rl_exp("train", *words)
    assert result.exit_code == 2, (result.output, result.exception)
    assert expected in " ".join(result.stderr.split()), result.stderr
    assert "Traceback" not in result.output
    assert "\x1b[31mred" not in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=0,1"],
        ["hydra.mode=MULTIRUN", "seed=range(0,3)"],
        ["output_dir=runs/${seed}", "seed=0,1"],
    ],
)
def test_what_sweeps_need_is_taken(words):
    jobs, multirun = plan_jobs(COMMANDS["train"], words, multirun=True)
    assert multirun
    assert len(jobs) >= 2
