"""The verifiers of IFEval and IFBench serve as constraints, without a network."""

from __future__ import annotations

import builtins

import pytest

from experiments.tasks.benchmark_checks import benchmark_constraint
from experiments.tasks.constraints import constraint_credit


def test_without_the_package_the_message_names_it(monkeypatch):
    real = builtins.__import__

    def no_nltk(name, *rest, **named):
        if name == "nltk":
            raise ModuleNotFoundError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", no_nltk)
    with pytest.raises(ValueError, match=r"pip install 'rl-exp\[tasks\]'"):
        benchmark_constraint("ifeval/punctuation:no_comma", {})


def test_verifiers_of_both_benchmarks_check_texts():
    pytest.importorskip("if_verifiable")
    credit = constraint_credit(
        ["ifeval/punctuation:no_comma", "ifbench/count:numbers", "contains_comma"],
        arguments={"ifbench/count:numbers": {"N": 2}},
    )
    met = credit.met(["5 and 6", "5, 6 and 7", "", "\N{SNOWMAN}"])
    assert met["constraint/ifeval/punctuation:no_comma"].tolist() == [1, 0, 0, 1]
    assert met["constraint/ifbench/count:numbers"].tolist() == [1, 0, 0, 0]
    assert credit.constraints[1].description == "Include exactly 2 numbers in the response."


def test_a_text_that_breaks_a_verifier_does_not_meet_it():
    pytest.importorskip("if_verifiable")
    check = benchmark_constraint("ifbench/words:alphabet", {}).check
    assert check("a big cat")
    assert not check("z \N{LATIN SMALL LETTER E WITH ACUTE} b")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("ifbench/count:number", {}, "does not exist: use another, such as ifbench/count:numbers"),
        ("ifbench/count:numbers", {}, r"needs exactly the arguments \['N'\], not \[\]"),
        ("ifbench/words:alphabet", {"N": 1}, r"needs exactly the arguments none, not \['N'\]"),
        ("ifeval/language:response_language", {"language": "en"}, "does not answer equally each time"),
    ],
)
def test_an_impossible_verifier_is_refused(name, arguments, message):
    pytest.importorskip("if_verifiable")
    with pytest.raises(ValueError, match=message):
        benchmark_constraint(name, arguments)
