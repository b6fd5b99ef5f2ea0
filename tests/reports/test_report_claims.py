"""`rl-exp report claims`: verdicts follow from numbers, and every claim has its row."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from report_cases import made_run
from rich.console import Console

import experiments.report
from conf.claim_config import load_claim, load_claims
from conf.commands import COMMANDS
from conf.compose import config_groups, plain, plan_jobs
from experiments.report import commands_of, ledger
from experiments.reports.claim_rules import Rule, Spread, apply_rule, region
from experiments.reports.claims import NO_EVIDENCE
from experiments.reports.train_comparison import compare_training_runs

REFERENCE = Path(__file__).resolve().parents[2] / "outputs" / "reference"


@pytest.fixture
def nothing_published(tmp_path, monkeypatch):
    """No evidence but what a test plants."""
    monkeypatch.setattr(experiments.report, "PUBLISHED", tmp_path / "nothing")


def planted_arms(gap, *, seeds=5, noise=0.002, shared=0.05, seed=0):
    """comparison.json of a sweep in which GTA's loss is `gap` above GQA's, within seeds."""
    generator = np.random.default_rng(seed)
    common = generator.normal(4.0, shared, seeds)
    arms = []
    for mechanism, extra, cache in (("gqa", 0.0, 256), ("gta", gap, 144), ("mla", 0.0, 144), ("gla", 0.0, 144)):
        losses = common + extra + generator.normal(0, noise, seeds)
        by_seed = {str(number): float(loss) for number, loss in enumerate(losses)}
        arms.append(
            {
                "mechanism": mechanism,
                "seeds": seeds,
                "cache_bytes_per_token_per_layer": cache,
                "eval/web_bible/loss": float(losses.mean()),
                "by_seed": {"eval/web_bible/loss": by_seed},
            }
        )
    return {"arms": arms}


def plant(output_dir, document, *, folder="train/mechanisms", file="comparison.json"):
    place = output_dir / "reference" / folder
    place.mkdir(parents=True, exist_ok=True)
    (place / file).write_text(json.dumps(document))
    return place / file


def verdict_of(output_dir, name="gta"):
    (entry,) = ledger(output_dir, [name])
    return entry.verdict


@pytest.mark.usefixtures("nothing_published")
@pytest.mark.parametrize(
    ("gap", "verdict"), [(0.0, "reproduced"), (-0.1, "reproduced"), (0.1, "not reproduced"), (0.01, "inconclusive")]
)
def test_a_planted_gap_decides_the_verdict(tmp_path, gap, verdict):
    plant(tmp_path, planted_arms(gap))
    assert verdict_of(tmp_path) == verdict


@pytest.mark.usefixtures("nothing_published")
def test_a_planted_null_is_rarely_called_a_difference(tmp_path):
    verdicts = []
    for seed in range(30):
        plant(tmp_path, planted_arms(0.01, seeds=3, seed=seed))  # at the border: both wrong verdicts are at 2.5 %
        verdicts.append(verdict_of(tmp_path))
    assert verdicts.count("inconclusive") >= 24


@pytest.mark.usefixtures("nothing_published")
def test_means_without_seeds_or_one_seed_decide_nothing(tmp_path):
    document = planted_arms(-1.0)
    for arm in document["arms"]:
        del arm["by_seed"]
    plant(tmp_path, document)
    assert verdict_of(tmp_path) == "inconclusive"
    plant(tmp_path, planted_arms(-1.0, seeds=1))
    assert verdict_of(tmp_path) == "inconclusive"


@pytest.mark.usefixtures("nothing_published")
@pytest.mark.parametrize("content", ["", "{", "[]", "3", "null", '{"arms": 3}', '{"arms": [1, {"mechanism": "gta"}]}'])
def test_damaged_evidence_decides_nothing_and_ends_nothing(rl_exp, tmp_path, content):
    plant(tmp_path / "outputs", {}).write_text(content)
    result = rl_exp("report", "claims", "gta")
    assert result.exit_code == 0, result.output
    assert verdict_of(tmp_path / "outputs") in (NO_EVIDENCE, "inconclusive")


@pytest.mark.usefixtures("nothing_published")
def test_every_claim_has_a_row_where_there_is_no_evidence_at_all(rl_exp):
    result = rl_exp("report", "claims")
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "11 no evidence yet" in text
    assert "run rl-exp rlhf-sweep preset=partial_credit" in text
    assert len(json.loads(rl_exp("report", "claims", "--json").stdout)) == 11


def test_published_results_give_verdicts_and_every_row_that_a_rule_names_is_there():
    entries = ledger(Path("nowhere"))
    assert len(entries) == 11
    for entry in entries:
        for part in entry.parts:
            assert part.statements is None or part.statements, f"{entry.name}: no row fits {part.says!r}"
    by_name = {entry.name: entry for entry in entries}
    tabular = [part for part in by_name["flat_landscape"].parts if part.evidence == "tabular"]
    assert [part.verdict for part in tabular] == ["reproduced", "reproduced"]
    assert by_name["variance_and_accuracy"].verdict == "inconclusive"


@pytest.mark.usefixtures("nothing_published")
def test_a_changed_number_changes_the_verdict(tmp_path):
    shutil.copytree(
        REFERENCE / "controlled" / "reward_variance", tmp_path / "reference" / "controlled" / "reward_variance"
    )
    path = tmp_path / "reference" / "controlled" / "reward_variance" / "statements.json"
    assert verdict_of(tmp_path, "flat_landscape") == "reproduced"
    rows = json.loads(path.read_text())
    rows[0] |= {"effect": -0.1, "interval": [-0.2, -0.05], "verdict": "reproduced"}  # the word is not what counts
    path.write_text(json.dumps(rows))
    assert verdict_of(tmp_path, "flat_landscape") == "not reproduced"


def test_every_command_of_a_claim_composes():
    for words in {tuple(words) for name in load_claims() for words in commands_of(name)}:
        if words[0] == "rlhf-sweep":
            assert words[1].removeprefix("preset=") in config_groups()["preset"]
        else:
            first = [word.partition(",")[0] for word in words[1:] if word != "-m"]
            assert plan_jobs(COMMANDS[words[0]], first, multirun=False)


@pytest.mark.usefixtures("nothing_published")
def test_local_evidence_is_a_run_with_the_settings_of_the_command_and_no_other(tmp_path):
    rows = json.loads((REFERENCE / "controlled" / "reward_variance" / "statements.json").read_text())
    for run_id, overrides, state in (
        ("good", ["experiment=reward_variance", "seed=3", "threads=1", f"output_dir={tmp_path}"], "finished"),
        ("other", ["experiment=reward_variance", "experiment.outputs=12"], "finished"),
        ("dead", ["experiment=reward_variance"], "interrupted"),
    ):
        (job,), _ = plan_jobs(COMMANDS["controlled"], overrides, multirun=False)
        run = made_run(tmp_path, run_id, experiment="controlled", state=state, summary={"x": 1})
        (run / "config.yaml").write_text(json.dumps(plain(job.config)))
        (run / "statements.json").write_text(json.dumps(rows))
    (entry,) = ledger(tmp_path, ["flat_landscape"])
    assert entry.evidence[0].run_ids == ("good",)
    assert entry.verdict == "reproduced"


@pytest.mark.usefixtures("nothing_published")
def test_a_local_sweep_counts_whatever_its_seeds_and_the_one_of_most_runs_is_taken(tmp_path):
    plant(tmp_path, planted_arms(0.1))
    mechanisms = "attention=mha,gqa,gta,mla,gla"
    for name, jobs, extra in (("a", 2, ["seed=0"]), ("b", 4, ["seed=0,1", "threads=1"]), ("c", 9, ["model=nano"])):
        ids = [f"{name}{number}" for number in range(jobs)]
        for run_id in ids:
            made_run(tmp_path, run_id, summary={"x": 1})
        sweep = tmp_path / "sweeps" / f"train-{name}"
        sweep.mkdir(parents=True)
        record = {"command": "train", "experiment": "train", "jobs": [{"run_id": run_id} for run_id in ids]}
        record["overrides"] = [mechanisms, "training.tokens=500000", *extra]
        (sweep / "sweep.json").write_text(json.dumps(record))
        (sweep / "comparison.json").write_text(json.dumps(planted_arms(0.0)))
    (entry,) = ledger(tmp_path, ["gta"])
    assert entry.evidence[0].place == tmp_path / "sweeps" / "train-b"
    assert entry.verdict == "reproduced"


@pytest.mark.usefixtures("nothing_published")
@pytest.mark.parametrize(
    ("overrides", "found"),
    [(["preset=good_teacher", "seed=0,1"], True), ([], True), (["preset=harm_aware"], False), (["task=digits"], False)],
)
def test_a_sweep_of_language_models_is_evidence_under_its_preset_or_the_default_one(tmp_path, overrides, found):
    row = {"statement": "at equal (perfect) accuracy, low reward variance slows learning down (x)", "source": "s"}
    row |= {"measured": "m", "effect": 0.3, "interval": [0.1, 0.5], "n": 3}
    for number in range(2):
        made_run(tmp_path, f"r{number}", experiment="rlhf", summary={"x": 1})
    sweep = tmp_path / "sweeps" / "rlhf-sweep-1"
    sweep.mkdir(parents=True)
    jobs = [{"run_id": f"r{number}"} for number in range(2)]
    record = {"command": "rlhf-sweep", "experiment": "rlhf", "jobs": jobs, "overrides": overrides}
    (sweep / "sweep.json").write_text(json.dumps(record))
    (sweep / "statements.json").write_text(json.dumps([row]))
    (entry,) = ledger(tmp_path, ["flat_landscape"])
    evidence = next(item for item in entry.evidence if item.name == "language_models")
    assert (evidence.place == sweep) == found
    assert evidence.place is None or len(evidence.run_ids) == 2


@pytest.mark.usefixtures("nothing_published")
@pytest.mark.parametrize("content", ["", "[]", "{", '{"command": "train", "overrides": null}', '{"jobs": 3}'])
def test_damaged_sweeps_and_provenance_are_passed_over(tmp_path, content):
    plant(tmp_path, planted_arms(0.0))
    (tmp_path / "reference" / "train" / "mechanisms" / "provenance.json").write_text(content)
    (tmp_path / "sweeps" / "train-1").mkdir(parents=True)
    (tmp_path / "sweeps" / "train-1" / "sweep.json").write_text(content)
    made_run(tmp_path, "odd", experiment="controlled").joinpath("config.yaml").write_text(content)
    assert verdict_of(tmp_path) == "reproduced"
    assert verdict_of(tmp_path, "flat_landscape") == NO_EVIDENCE


@pytest.mark.usefixtures("nothing_published")
def test_what_a_sweep_of_train_writes_is_evidence_by_seed(tmp_path):
    runs = []
    for mechanism, gap, cache in (("gqa", 0.0, 256), ("gta", 0.1, 144)):
        for seed in (3, 5, 7):
            loss = 4.0 + seed + gap + 0.001 * (seed == 5)  # seeds differ by more than mechanisms do
            numbers = {"eval/web_bible/loss": loss, "eval/web_bible/perplexity": math.exp(loss), "objective": loss}
            numbers |= {"parameters": 1, "tokens_per_second": 1.0, "cache_bytes_per_token_per_layer": cache}
            settings = {"attention.mechanism": mechanism}
            summary = {"mechanism": mechanism, **numbers}
            runs.append(made_run(tmp_path, f"{mechanism}{seed}", seed=seed, settings=settings, summary=summary))
    place = tmp_path / "reference" / "train" / "mechanisms"
    compare_training_runs(runs, place, Console(quiet=True))
    arms = json.loads((place / "comparison.json").read_text())["arms"]
    assert list(arms[0]["by_seed"]["eval/web_bible/loss"]) == ["3", "5", "7"]
    (entry,) = ledger(tmp_path, ["gta"])
    (found,) = entry.parts[0].statements
    assert found.effect.value == pytest.approx(0.1)
    assert found.effect.n == 3
    assert entry.verdict == "not reproduced"


def test_quartiles_give_the_widest_ratio_and_only_rows_that_agree_are_compared():
    rows = [
        {"mechanism": m, "dtype": dtype, "context": context, "seconds": s, "seconds_q1": 0.9 * s, "seconds_q3": 1.1 * s}
        for dtype in ("fp32", "bf16")
        for context, scale in ((256, 1.0), (4096, 10.0))
        for m, s in (("mla", 2.0 * scale), ("gla-2", 1.0 * scale))
    ]
    rule = Rule(
        "GLA is faster", "bench", rows="rows", where={"mechanism": "mla"}, over={"mechanism": "gla*"}, same=["dtype"],
        largest=["context"], value="seconds", spread=Spread.quartiles, at_least=1.2,
    )  # fmt: skip
    found = apply_rule(rule, {"rows": rows}, "a paper")
    assert [item.statement for item in found] == ["GLA is faster (fp32)", "GLA is faster (bf16)"]
    assert found[0].effect.value == pytest.approx(2.0)
    assert found[0].effect.low == pytest.approx(2.0 * 0.9 / 1.1)
    assert found[0].verdict == "reproduced"


def test_a_ratio_by_round_is_free_of_the_drift_of_the_machine_and_one_of_quartiles_is_not():
    drift = [1.0, 1.1, 1.3, 1.6, 2.0, 2.5, 3.0]
    rows = []
    for mechanism, scale in (("mla", 1.0), ("gla-2", 1.2)):
        rounds = [scale * value * (1.01 if number % 2 else 0.99) for number, value in enumerate(drift)]
        low, high = np.quantile(rounds, (0.25, 0.75))
        row = {"mechanism": mechanism, "speed": rounds[3], "speed_q1": low, "speed_q3": high, "speed_by_round": rounds}
        rows.append(row)
    words = {"rows": "rows", "where": {"mechanism": "gla*"}, "over": {"mechanism": "mla"}, "above": 1.0}
    by_round = Rule("faster", "bench", value="speed_by_round", spread=Spread.rounds, **words)
    by_quartiles = Rule("faster", "bench", value="speed", spread=Spread.quartiles, **words)
    (paired,), (wide,) = (apply_rule(rule, {"rows": rows}, "a paper") for rule in (by_round, by_quartiles))
    assert paired.verdict == "reproduced"
    assert paired.effect.value == pytest.approx(1.2)
    assert paired.effect.n == 7
    assert wide.verdict == "inconclusive"
    rows[0].pop("speed_by_round")  # of an earlier version: a ratio of medians, and nothing decided
    (old,) = apply_rule(by_round, {"rows": rows}, "a paper")
    assert old.effect.value == pytest.approx(1.2)
    assert old.verdict == "inconclusive"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"at_most": None}, "has no region"),
        ({"at_least": 3.0}, "empty region"),
        ({"spread": Spread.interval, "minus": {"mechanism": "gqa"}}, "cannot be combined"),
        ({"over": {"mechanism": "gqa"}, "minus": {"mechanism": "gqa"}}, "both minus and over"),
    ],
)
def test_a_rule_that_cannot_be_judged_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        Rule("x", "training", **({"at_most": 0.01, "spread": Spread.seeds} | change))


def test_regions_are_said_in_words():
    assert region(Rule("x", "y", above=0.0)) == "above 0"
    assert region(Rule("x", "y", at_least=0.25, at_most=0.5, unit="nats")) == "at least 0.25 and at most 0.5 nats"


@pytest.mark.parametrize("text", ["title: x", "a: [", "titel: x", "- 3", ""])
def test_a_claim_file_that_does_not_fit_is_named(tmp_path, text):
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"odd\.yaml is no claim"):
        load_claim(tmp_path / "odd.yaml")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("gtb",), "claim gtb does not exist"),
        (("--run", "nope"), "claim nope does not exist"),
        (("--run", "gla/nope"), "claim gla has no evidence nope"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(rl_exp, words, said):
    result = rl_exp("report", "claims", *words)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_published")
def test_run_makes_the_evidence_from_nothing(rl_exp):
    result = rl_exp("report", "claims", "--run", "flat_landscape/tabular", "--json")
    assert result.exit_code == 0, result.output
    (entry,) = json.loads(result.stdout)
    assert entry["verdict"] == "reproduced"
    assert entry["evidence"][0]["published"] is False


def test_ctrl_c_waits_for_the_child_which_saves_what_it_has(rl_exp, monkeypatch):
    waits = []

    class Child:
        def __init__(self, words, **_):
            pass

        def wait(self):
            waits.append(len(waits))
            if len(waits) < 3:  # pressed twice, while the child saves
                raise KeyboardInterrupt
            return 130

    monkeypatch.setattr(subprocess, "Popen", Child)
    result = rl_exp("report", "claims", "--run", "gta")
    assert len(waits) == 3
    assert result.exit_code == 130
    assert "the same command continues" in result.stderr


@pytest.mark.parametrize("code", [0, 1, 130])
def test_run_calls_the_commands_of_the_claim_and_passes_their_failure_on(rl_exp, monkeypatch, code):
    called = []

    class Child:
        def __init__(self, words, **_):
            called.append(words[3:])

        def wait(self):
            return code

    monkeypatch.setattr(subprocess, "Popen", Child)
    result = rl_exp("report", "claims", "--run", "flat_landscape")
    assert called[0] == ["controlled", "experiment=reward_variance", "output_dir=outputs"]
    assert len(called) == (2 if code == 0 else 1)
    assert result.exit_code == code
