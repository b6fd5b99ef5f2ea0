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
from conf.claim_config import STATEMENTS, load_claim, load_claims
from conf.commands import COMMANDS
from conf.compose import config_groups, plain, plan_jobs
from experiments.report import commands_of, ledger
from experiments.reports.claims import NO_EVIDENCE, PARTLY, VERDICTS, Evidence, Part
from experiments.reports.train_comparison import compare_training_runs
from experiments.reward_metrics.correlations import Interval
from experiments.reward_metrics.statements import computed

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
    assert f"{len(load_claims())} no evidence yet" in text
    assert "run rl-exp rlhf-sweep preset=partial_credit" in text
    assert len(json.loads(rl_exp("report", "claims", "--json").stdout)) == len(load_claims())


def test_published_results_have_a_row_for_every_statement_that_a_claim_lists():
    entries = ledger(Path("nowhere"))
    assert len(entries) == len(load_claims())
    for entry in entries:
        for part in entry.parts:
            assert part.findings is None or part.findings, f"{entry.name}: no row fits {part.statement.id}"
            assert all(item.drawn for item in part.findings or ()), f"{part.statement.id} does not say what n counts"


def test_what_does_not_count_says_why():
    for entry in ledger(Path("nowhere")):
        assert all(part.counts or "beside the verdict: " in part.note for part in entry.parts)


def planted_rows(name, *, holds):
    """statements.json of a run that found the statement inside its region, or outside."""
    statement = STATEMENTS[name]
    low, high = statement.low, statement.high
    inside = (low + high) / 2 if math.isfinite(low + high) else low + 1 if math.isfinite(low) else high - 1
    outside = low - 1 if math.isfinite(low) else high + 1
    value = inside if holds else outside
    effect = Interval(value, value - 1e-9, value + 1e-9, 9) if statement.unit else computed(value)
    return [statement.found(effect, "planted").as_dict()]


RECORDED = [
    (claim, key, name)
    for claim, config in load_claims().items()
    for key, evidence in config.evidence.items()
    for name in evidence.statements
    if STATEMENTS[name].measure is None
]


@pytest.mark.usefixtures("nothing_published")
@pytest.mark.parametrize(("claim", "key", "name"), RECORDED, ids=[f"{claim}-{name}" for claim, _, name in RECORDED])
def test_planted_effects_and_nulls_reach_the_ledger(tmp_path, claim, key, name):
    evidence = load_claims()[claim].evidence[key]
    for holds, verdict in ((True, "reproduced"), (False, "not reproduced")):
        plant(tmp_path, planted_rows(name, holds=holds), folder=evidence.reference, file=evidence.file)
        (entry,) = ledger(tmp_path, [claim])
        (part,) = [part for part in entry.parts if part.statement.id == name]
        assert part.verdict == verdict
        if part.counts and not holds:
            assert entry.verdict == "not reproduced"
        if not part.counts:
            assert entry.verdict in (NO_EVIDENCE, "inconclusive")


@pytest.mark.usefixtures("nothing_published")
def test_a_claim_is_partly_measured_until_all_its_parts_have_evidence(tmp_path):
    claim = load_claims()["slow_teacher"]
    for key, evidence in claim.evidence.items():
        rows = [row for name in evidence.statements for row in planted_rows(name, holds=True)]
        plant(tmp_path, rows, folder=evidence.reference, file=evidence.file)
        expected = "reproduced" if key == list(claim.evidence)[-1] else PARTLY
        assert verdict_of(tmp_path, "slow_teacher") == expected


def test_evidence_that_is_not_of_a_later_day_than_its_rule_is_exploratory():
    statement = STATEMENTS["rlhf.variance_proxy"]
    for date, exploratory in (("2026-11-24", True), (statement.ruled, True), ("2026-11-26", False)):
        part = Part(statement, Evidence("e", "s", "c", date=date), ())
        assert part.exploratory == exploratory
        assert ("exploratory" in part.note) == exploratory
    assert not Part(statement, Evidence("e", "s", "c"), None).exploratory


def test_checks_and_parts_of_our_own_do_not_decide():
    """Caches are arithmetic: with their part alone, a claim on quality is not measured."""
    kinds = {name: str(STATEMENTS[name].kind) for name in ("train.gta_cache", "bench.gqa_over_gta", "train.gta_loss")}
    assert kinds == {"train.gta_cache": "check", "bench.gqa_over_gta": "ours", "train.gta_loss": "paper"}
    assert [STATEMENTS[name].counts for name in kinds] == [False, False, True]


@pytest.mark.usefixtures("nothing_published")
def test_a_changed_number_changes_the_verdict(tmp_path):
    shutil.copytree(
        REFERENCE / "controlled" / "reward_variance", tmp_path / "reference" / "controlled" / "reward_variance"
    )
    path = tmp_path / "reference" / "controlled" / "reward_variance" / "statements.json"
    assert verdict_of(tmp_path, "flat_landscape") == PARTLY
    rows = json.loads(path.read_text())
    (row,) = [row for row in rows if row["id"] == "reward_variance.time_exponent" and row["case"] == "rare rewards"]
    row |= {"effect": -0.1, "interval": [-0.2, -0.05], "verdict": "reproduced"}  # the word is not what counts
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
    assert entry.verdict == PARTLY


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
    rows = planted_rows("rlhf.low_variance_slows", holds=True)
    for number in range(2):
        made_run(tmp_path, f"r{number}", experiment="rlhf", summary={"x": 1})
    sweep = tmp_path / "sweeps" / "rlhf-sweep-1"
    sweep.mkdir(parents=True)
    jobs = [{"run_id": f"r{number}"} for number in range(2)]
    record = {"command": "rlhf-sweep", "experiment": "rlhf", "jobs": jobs, "overrides": overrides}
    (sweep / "sweep.json").write_text(json.dumps(record))
    (sweep / "statements.json").write_text(json.dumps(rows))
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
    (found,) = entry.parts[0].findings
    assert found.effect.value == pytest.approx(0.1)
    assert found.effect.n == 3
    assert entry.verdict == "not reproduced"


def attention_rows(ratio, *, runs=15, spread=0.05):
    """Rows of `bench`: at two lengths and two types MLA takes `ratio` times GLA's time, GQA 1.5 times GTA's."""
    return [
        {"mechanism": m, "model": "medium", "kernel": "cpu", "query_length": q, "status": "measured", "dtype": dtype,
         "context": context, "batch": 8, "page_size": 64, "threads": 2, "runs": runs, "seconds": s * context,
         "seconds_q1": (1 - spread) * s * context, "seconds_q3": (1 + spread) * s * context}
        for dtype in ("fp32", "bf16")
        for context in (256, 4096)
        for q in (1, 2)
        for m, s in (("mla", ratio if context == 4096 else 9.0), ("gla-2", 1.0), ("gqa-4", 1.5), ("gta-4", 1.0))
    ]  # fmt: skip


@pytest.mark.usefixtures("nothing_published")
@pytest.mark.parametrize(
    ("ratio", "settings", "verdict"),
    [
        (2.0, {}, "reproduced"),
        (1.0, {}, "not reproduced"),
        (1.25, {}, "inconclusive"),
        (2.0, {"runs": 5}, "inconclusive"),
    ],
)
def test_decode_times_are_compared_at_the_longest_context_and_by_quartiles_of_enough_rounds(
    tmp_path, ratio, settings, verdict
):
    plant(tmp_path, {"rows": attention_rows(ratio, **settings)}, folder="bench/attention", file="results.json")
    (entry,) = ledger(tmp_path, ["decode_kernels"])
    assert entry.verdict == verdict
    found = entry.parts[0].findings
    assert [item.case for item in found] == [f"medium, {dtype}, 8, 4096, 64, 2" for dtype in ("fp32", "bf16")]
    assert found[0].effect.value == pytest.approx(ratio)
    if "runs" not in settings:
        assert found[0].effect.low == pytest.approx(ratio * 0.95 / 1.05)


def served(scale, *, rounds=True):
    """Rows of `bench mode=serving` on a machine that slows down: GLA serves `scale` times as many tokens as MLA."""
    drift, rows = [1.0, 1.1, 1.3, 1.6, 2.0, 2.5, 3.0], []
    for mechanism, factor in (("mla", 1.0), ("gla-2", scale), ("gqa-4", 1.0), ("gta-4", 1.0)):
        by_round = [factor * value * (1.01 if number % 2 else 0.99) for number, value in enumerate(drift)]
        latency = [1 / value for value in by_round]
        row = {"mechanism": mechanism, "status": "measured", "tokens_per_second": by_round[3], "end_to_end_p50": 1.0}
        by = {"tokens_per_second_by_round": by_round, "end_to_end_p50_by_round": latency} if rounds else {}
        rows.append(row | by)
    return {"rows": rows}


@pytest.mark.usefixtures("nothing_published")
@pytest.mark.parametrize(("scale", "verdict"), [(1.2, "reproduced"), (0.8, "not reproduced")])
def test_a_ratio_by_round_is_free_of_the_drift_of_the_machine(tmp_path, scale, verdict):
    plant(tmp_path, served(scale), folder="bench/serving", file="results.json")
    (entry,) = ledger(tmp_path, ["serving"])
    assert entry.verdict == verdict
    assert entry.parts[0].findings[0].effect.value == pytest.approx(scale)
    assert entry.parts[0].findings[0].drawn == "7 rounds"
    plant(tmp_path, served(scale, rounds=False), folder="bench/serving", file="results.json")
    assert verdict_of(tmp_path, "serving") == "inconclusive"  # of an earlier version: a ratio of medians


@pytest.mark.usefixtures("nothing_published")
@pytest.mark.parametrize(("gap", "verdict"), [(0.0, "reproduced"), (0.1, "not reproduced")])
def test_gla_is_held_against_mla_and_its_bytes_are_a_check(tmp_path, gap, verdict):
    document = planted_arms(0.0)
    for arm in document["arms"]:
        if arm["mechanism"] == "gla":
            arm["by_seed"]["eval/web_bible/loss"] = {
                seed: loss + gap - 0.01 for seed, loss in document["arms"][2]["by_seed"]["eval/web_bible/loss"].items()
            }
    plant(tmp_path, document)
    split = [{"mechanism": m, "tensor_parallel": 2, "bytes": b} for m, b in (("gla-2", 640), ("mla", 1152))]
    plant(tmp_path, {"bytes_per_device": split}, folder="bench/attention", file="results.json")
    (entry,) = ledger(tmp_path, ["gla"])
    assert entry.verdict == verdict
    assert (entry.parts[1].verdict, entry.parts[1].counts) == ("reproduced", False)
    assert entry.summary.endswith("; 1 check")


def test_regions_are_said_in_words():
    assert STATEMENTS["rlhf.variance_proxy"].region == "above 0"
    assert STATEMENTS["partial_credit.std_relief"].region == "at least 0.25 and at most 0.5"
    assert STATEMENTS["train.gta_loss"].region == "at most 0.01 nats per token"


@pytest.mark.parametrize(
    ("ids", "said"),
    [("[train.gta_lose]", "train.gta_lose does not exist"), ("[train.gta_cache]", "no statement that counts"),
     ("[train.gta_loss, train.gta_loss]", "twice")],
)  # fmt: skip
def test_a_claim_that_cannot_be_judged_is_refused(tmp_path, ids, said):
    text = (REFERENCE.parents[1] / "conf" / "claim" / "gta.yaml").read_text()
    head = text[: text.index("    statements:")]
    (tmp_path / "odd.yaml").write_text(f"{head}    statements: {ids}\n")
    with pytest.raises(ValueError, match=said):
        load_claim(tmp_path / "odd.yaml")


def test_every_verdict_has_its_colour_on_the_page():
    template = (Path(experiments.report.__file__).parent / "reports" / "html_page.html.j2").read_text()
    assert all(f'"{verdict}": ' in template for verdict in VERDICTS)


@pytest.mark.parametrize("text", ["title: x", "a: [", "titel: x", "- 3", ""])
def test_a_claim_file_that_does_not_fit_is_named(tmp_path, text):
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"odd\.yaml is not a claim"):
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
    assert entry["verdict"] == PARTLY
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
