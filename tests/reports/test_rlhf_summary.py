"""The summary of an rlhf sweep from run directories: planted effects found, planted nulls not, damage survived."""

from __future__ import annotations

import json
from contextlib import nullcontext
from io import StringIO
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from rlhf_sweep_cases import made_run, sweep_directory, teacher_sweep

from experiments.reports import rlhf_summary
from experiments.reports.rlhf_increases import Outcome, increase, points_of
from experiments.reports.rlhf_over_optimisation import over_optimisation_fit
from experiments.reports.rlhf_runs import group_runs, read_runs
from experiments.reports.rlhf_statements import findings_of
from experiments.reports.rlhf_summary import presets_of, summarise_rlhf
from experiments.reports.rlhf_teacher_statements import correlation_between, mean_correlation_within
from experiments.reward_metrics.correlations import chosen_by_other_seeds
from experiments.runs.sweeps import read_sweep


def summarised(runs, directory, draw=False):
    text = StringIO()
    drawing = nullcontext() if draw else patch.object(rlhf_summary, "figures", lambda *_: [])  # seconds each
    with drawing:
        document = summarise_rlhf(runs, directory, Console(file=text, width=110))
    return document, text.getvalue()


def coefficient(document, name, outcome, point, method="pearson"):
    wanted = (name, outcome, point, method)
    (row,) = [
        row
        for row in document["correlations"]
        if (row["property"], row["increase_of"], row["point"], row["method"]) == wanted
    ]
    return row


def verdicts(document):
    return {item["id"]: item["verdict"] for item in document["statements"]}


def judged(runs, *presets):
    found, _ = read_runs(runs)
    return {item.statement.id: item for item in findings_of(presets, group_runs(found))}


def test_a_planted_effect_is_found_and_everything_is_written(tmp_path):
    runs = teacher_sweep(tmp_path, effect=1.0)
    directory = sweep_directory(tmp_path, runs=runs)
    document, text = summarised(runs, directory, draw=True)
    row = coefficient(document, "variance", "proxy", "steps_25")
    assert row["coefficient"] > 0.7
    assert row["low"] > 0
    assert row["permutation_p"] < 0.01
    assert row["reward_models"] == 12  # the ground truth itself is none
    assert verdicts(document)["rlhf.variance_proxy"] == "reproduced"
    for name in ("comparison.json", "statements.json", "comparison.parquet"):
        assert (directory / name).is_file()
    names = {path.name for path in (directory / "figures").glob("*.png")}
    assert {"training_curves.png", "over_optimisation.png", "correlations.png"} <= names
    assert {"increase_against_variance.png", "increase_against_accuracy.png"} <= names
    assert json.loads((directory / "comparison.json").read_text())["runs"] == [run.name for run in runs]
    table = pq.read_table(directory / "comparison.parquet")
    assert table.num_rows == len(runs) == 39
    assert "property/variance" in table.column_names
    assert "reward variance" in text
    assert "left out" not in text


def test_planted_nulls_are_found_no_more_often_than_they_should_be(tmp_path):
    false = 0
    for repetition in range(12):
        folder = tmp_path / str(repetition)
        found = judged(teacher_sweep(folder, effect=0.0, draws=repetition, seeds=2), "good_teacher")
        claims = ("rlhf.variance_proxy", "rlhf.variance_truth")
        false += sum(found[claim].verdict == "reproduced" for claim in claims)
    assert false <= 3  # of 24, each at most 2.5 %


def test_low_variance_slows_the_perfect_reward_model_down(tmp_path):
    found = judged(teacher_sweep(tmp_path, effect=3.0, noise=0.005), "good_teacher")
    assert found["rlhf.low_variance_slows"].verdict == "reproduced"
    assert found["rlhf.low_variance_slows"].drawn == "3 seeds"
    for name in ("low_variance_at_end", "perfect_is_worse", "perfect_is_worse_at_end"):
        assert found[f"rlhf.{name}"].verdict == "reproduced"


def test_the_best_arm_is_chosen_by_the_other_seeds():
    values = np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.6]])
    # Without seed 0 the second arm is best (0.55 to 0); without seed 1 the first (0.5 to 0.3), as without seed 2.
    assert chosen_by_other_seeds(values).tolist() == [0.0, 0.0, 0.0]
    assert np.isnan(chosen_by_other_seeds(values[:, :1])).all()


def test_increases_are_read_off_between_two_looks(tmp_path):
    run = made_run(
        sweep_directory(tmp_path),
        arm="a",
        seed=0,
        properties={"variance": 0.5, "raw_variance": 2.0},
        proxy=lambda share: 4 * share,
        truth=lambda share: share**2,
        kl=lambda share: share,
    )
    (found,), _ = read_runs([run])
    (setting,) = group_runs([found])
    points = {point.name: point for point in points_of(setting)}
    assert set(points) == {"steps_25", "steps_50", "steps_100", "kl_all"}
    assert increase(found, Outcome.proxy, points["steps_25"]) == pytest.approx(4 * 0.25 / 2)  # in std: sqrt(2 / 0.5)
    assert increase(found, Outcome.ground_truth, points["steps_50"]) == pytest.approx((0.4**2 + 0.6**2) / 2)
    assert increase(found, Outcome.ground_truth, points["kl_all"]) == pytest.approx(1.0)


def test_a_run_that_does_not_reach_a_kl_has_no_increase_there(tmp_path):
    directory = sweep_directory(tmp_path)
    runs = [
        made_run(
            directory, arm=arm, seed=0, properties={"variance": 0.5}, proxy=lambda share: share,
            truth=lambda share: share, kl=lambda share, reach=reach: reach * share,
        )
        for arm, reach in (("slow", 0.1), ("middle", 1.0), ("fast", 2.0))
    ]  # fmt: skip
    found, _ = read_runs(runs)
    (setting,) = group_runs(found)
    points = {point.name: point for point in points_of(setting)}
    assert points["kl_all"].level == pytest.approx(0.1)
    assert points["kl_half"].level == pytest.approx(1.0)
    gains = [increase(run, Outcome.ground_truth, points["kl_half"]) for run in found]
    assert np.isnan(gains[0])
    assert gains[1:] == pytest.approx([1.0, 0.5])


def test_damaged_and_unfinished_runs_are_left_out_with_one_line_each(tmp_path):
    runs = teacher_sweep(tmp_path, effect=1.0, seeds=2)
    directory = sweep_directory(tmp_path, runs=runs)
    (runs[0] / "summary.json").write_text('{"arm": "mod')
    (runs[1] / "metrics.jsonl").write_text('{"step": 0, "probe/kl"')
    (runs[2] / "status.json").write_text('{"state": "running"}')
    (runs[3] / "metrics.jsonl").unlink()
    (runs[4] / "config.yaml").write_text("a: [")
    (runs[5] / "metrics.jsonl").write_text("")
    (runs[6] / "status.json").write_bytes(b"\xff\x00")
    (runs[7] / "summary.json").write_text('{"arm": "x", "policy": "p", "task": "t", "seed": 0, "properties": 3}')
    document, text = summarised([*runs, tmp_path / "rlhf" / "not_there"], directory)
    assert len(document["left_out"]) == 9
    assert text.count("left out:") == 9
    assert len(document["runs"]) == len(runs) - 8
    assert all("\n" not in line for line in document["left_out"])
    assert "not started" in document["left_out"][-1]


def test_nothing_to_compare_is_said(tmp_path):
    directory = sweep_directory(tmp_path)
    document, text = summarised([tmp_path / "rlhf" / "a"], directory)
    assert document == {}
    assert "no finished run" in text


def test_two_arms_and_one_seed_still_have_a_summary(tmp_path):
    directory = sweep_directory(tmp_path, "small")
    runs = [
        made_run(
            directory, arm=arm, seed=0, family=arm, properties={"variance": v, "on_policy_accuracy": 1.0},
            proxy=lambda share: share, truth=lambda share: share,
        )
        for arm, v in (("ground_truth", 0.5), ("perfect_low_variance", 0.1))
    ]  # fmt: skip
    document, _ = summarised(runs, directory)
    assert document["correlations"] == []
    assert set(verdicts(document).values()) == {"inconclusive"}


def test_the_same_runs_have_the_same_summary_in_any_order(tmp_path):
    runs = teacher_sweep(tmp_path, effect=1.0, seeds=2)
    directory = sweep_directory(tmp_path, runs=runs)
    first, _ = summarised(runs, directory)
    again, _ = summarised(runs, directory)
    assert first == again
    assert list(read_sweep(directory).runs) == runs


def policies_sweep(tmp_path, policies, models):
    """Reward models of which every second suits the policies of one mechanism, the others those of the other."""
    directory = sweep_directory(tmp_path, "policy_dependence")
    draw = np.random.default_rng(0)
    runs = []
    for number in range(policies):
        mechanism = "gqa" if number % 2 else "gla"
        for place in range(models):
            suits = (place % 2 == 0) == (mechanism == "gqa")
            variance = 0.3 + 0.5 * suits + 0.02 * place
            for seed in range(3):
                speed = variance + 0.02 * draw.normal()
                runs.append(
                    made_run(
                        directory, arm=f"model_{place}", seed=seed, policy=f"{mechanism}, {number}00,000 tokens",
                        properties={"variance": variance}, settings={"training.tokens": number},
                        proxy=lambda share, speed=speed: speed * share, truth=lambda share, speed=speed: speed * share,
                    )
                )  # fmt: skip
    return runs


def test_policies_are_settings_of_their_own_and_the_best_reward_model_may_depend_on_them(tmp_path):
    runs = policies_sweep(tmp_path, policies=3, models=4)
    settings = group_runs(read_runs(runs)[0])
    assert [setting.label for setting in settings] == [setting.policy for setting in settings]
    assert all(len(setting.arms) == 4 for setting in settings)
    found = judged(runs, "policy_dependence")
    assert found["rlhf.choice_by_policy"].verdict == "reproduced"
    assert found["rlhf.choice_by_policy"].drawn == "3 seeds, in each the same 3 policies x 4 reward models"


def test_a_few_shared_reward_models_have_no_interval_however_many_policies_and_seeds_there_are(tmp_path):
    found = judged(policies_sweep(tmp_path, policies=4, models=4), "policy_dependence")
    within = found["rlhf.variance_within_policy"]
    assert within.effect.value > 0.9
    assert np.isnan(within.effect.low)
    assert within.drawn == "4 reward models, the same for 4 policies"
    assert found["rlhf.variance_between_policies"].verdict == "inconclusive"


@pytest.mark.parametrize(("slope", "verdict"), [(1.0, "reproduced"), (0.0, "inconclusive"), (-1.0, "not reproduced")])
def test_with_enough_policies_and_reward_models_planted_correlations_are_judged(slope, verdict):
    draw = np.random.default_rng(1)
    variances = draw.uniform(size=(9, 9))
    gains = slope * variances + draw.normal(size=9) + 0.1 * draw.normal(size=(9, 9))  # models differ, in all policies
    assert correlation_between(variances, gains).n == 9
    assert np.sign(correlation_between(variances, gains).low) == (1 if slope > 0 else -1)
    within, p = mean_correlation_within(variances, slope * variances + 0.1 * draw.normal(size=(9, 9)))
    assert (p < 0.05) == (verdict != "inconclusive")
    assert within.excludes(0) == (verdict != "inconclusive")


def test_other_settings_and_knobs_of_one_reward_are_told_apart(tmp_path):
    directory = sweep_directory(tmp_path)
    runs = [
        made_run(
            directory, arm="noisy", seed=0, properties={"variance": 0.5}, proxy=lambda share: share,
            truth=lambda share: share,
            settings={"policy_gradient.kl_coefficient": kl, "reward.prompt_spread": spread, "probe.prompts": 8},
        )
        for kl in (0.0, 0.05)
        for spread in (0.0, 1.0)
    ]  # fmt: skip
    settings = group_runs(read_runs(runs)[0])
    assert [setting.label for setting in settings] == ["kl_coefficient=0.0", "kl_coefficient=0.05"]
    assert [arm.label for arm in settings[0].arms] == ["noisy prompt_spread=0.0", "noisy prompt_spread=1.0"]


def credit_sweep(tmp_path, handicaps):
    """Pairs of constraints with their rates at the start and what partial credit loses."""
    directory = sweep_directory(tmp_path, "partial_credit")
    draw = np.random.default_rng(0)
    runs = []
    for first, second, handicap in handicaps:
        for arm in ("partial_credit", "binary_credit"):
            for seed in range(3):
                end = 0.6 - handicap * (arm == "partial_credit") + 0.01 * draw.normal()
                runs.append(
                    made_run(
                        directory, arm=arm, seed=seed, family="credit", properties={"variance": 0.5},
                        settings={"task.constraints.names": [f"a{first}", f"b{second}"]},
                        parts={"constraint/a": first, "constraint/b": second},
                        proxy=lambda share: share, truth=lambda share, end=end: end * share,
                    )
                )  # fmt: skip
    return runs


EVEN_AND_UNEVEN = ((0.9, 0.05), (0.8, 0.1), (0.9, 0.2), (0.7, 0.1), (0.3, 0.25), (0.2, 0.2), (0.31, 0.3))


@pytest.mark.parametrize(
    ("handicap", "verdicts"),
    [(0.3, ["reproduced", "reproduced", "reproduced"]), (0.0, ["inconclusive", "reproduced", "inconclusive"])],
)
def test_binary_credit_wins_where_constraints_are_uneven(tmp_path, handicap, verdicts):
    pairs = [(a, b, handicap * (a >= 4 * b)) for a, b in EVEN_AND_UNEVEN]
    found = judged(credit_sweep(tmp_path, pairs), "partial_credit")
    assert [found[f"rlhf.{name}"].verdict for name in ("uneven_pairs", "even_pairs", "unevenness")] == verdicts
    assert found["rlhf.even_pairs"].drawn == "3 pairs x 3 seeds"


def test_seeds_of_one_pair_say_nothing_of_pairs(tmp_path):
    found = judged(credit_sweep(tmp_path, [(0.9, 0.05, 0.3), (0.3, 0.25, 0.2), (0.2, 0.2, -0.2)]), "partial_credit")
    assert found["rlhf.uneven_pairs"].effect.value > 0.25
    assert found["rlhf.uneven_pairs"].verdict == "inconclusive"
    assert found["rlhf.uneven_pairs"].drawn == "1 pair x 3 seeds"
    assert found["rlhf.even_pairs"].verdict == "inconclusive"  # pooled, six seeds would have an interval of their own


def test_over_optimisation_is_found_where_the_truth_peaks_before_the_end(tmp_path):
    directory = sweep_directory(tmp_path, "over_optimisation")
    draw = np.random.default_rng(0)
    runs = []
    for arm, pairs, peak in (("few_pairs", 64, 0.4), ("many_pairs", 1024, 0.8)):
        for seed in range(4):
            wobble = 0.01 * draw.normal(size=6)
            runs.append(
                made_run(
                    directory, arm=arm, seed=seed, family="trained", properties={"variance": 0.5},
                    settings={"reward.trained.pairs": pairs}, proxy=lambda share: share,
                    truth=lambda share, peak=peak, w=wobble: 1 - (share - peak) ** 2 + w[round(share * 5)] * share,
                )
            )  # fmt: skip
    found = judged(runs, "over_optimisation")
    assert {item.verdict for item in found.values()} == {"reproduced"}
    flat = judged(
        [
            made_run(
                sweep_directory(tmp_path / "flat"), arm="a", seed=seed, family="trained",
                properties={"variance": 0.5}, proxy=lambda share: share,
                truth=lambda share, s=seed: share + 0.01 * s,
            )
            for seed in range(3)
        ],
        "over_optimisation",
    )  # fmt: skip
    assert all(item.verdict != "reproduced" for item in flat.values())


def test_harm_aware_accuracy_beats_accuracy_where_that_was_planted(tmp_path):
    directory = sweep_directory(tmp_path, "harm_aware")
    draw = np.random.default_rng(3)
    runs = []
    for place in range(12):
        strict, harm_aware = draw.uniform(0.5, 0.9), 0.6 + 0.03 * place
        for seed in range(2):
            gain = harm_aware + 0.01 * draw.normal()
            properties = {"variance": 0.5, "strict_accuracy": strict, "harm_aware_accuracy": harm_aware}
            runs.append(
                made_run(
                    directory, arm=f"model_{place}", seed=seed, properties=properties, proxy=lambda share: share,
                    truth=lambda share, gain=gain: gain * share,
                )
            )  # fmt: skip
    found = judged(runs, "harm_aware")
    assert found["rlhf.harm_aware_better"].verdict == "reproduced"
    assert found["rlhf.harm_aware_weak"].verdict == "not reproduced"


def test_the_preset_decides_what_is_judged(tmp_path):
    assert presets_of(sweep_directory(tmp_path, "harm_aware")) == ["harm_aware"]
    assert presets_of(tmp_path) == []
    directory = sweep_directory(tmp_path)
    record = json.loads((directory / "sweep.json").read_text()) | {"overrides": ["seed=0,1"]}
    (directory / "sweep.json").write_text(json.dumps(record))
    assert presets_of(directory) == ["small"]


def test_the_form_of_over_optimisation_is_fitted_back(tmp_path):
    run = made_run(
        sweep_directory(tmp_path),
        arm="a",
        seed=0,
        properties={"variance": 0.5},
        proxy=lambda share: share,
        truth=lambda share: 0.3 + (share and share * (1.5 - 0.7 * np.log(share))),
        kl=lambda share: share**2,
    )
    (setting,) = group_runs(read_runs([run])[0])
    fit = over_optimisation_fit(setting.arms[0])
    assert (fit["rl_a"], fit["rl_b"], fit["rl_r2"]) == pytest.approx((1.5, 0.7, 1.0))
    assert fit["best_of_n_r2"] < 1.0
    assert fit["peak_kl"] == pytest.approx(1.0)


def test_where_nothing_moves_there_is_no_coefficient_and_the_other_figures_are_drawn(tmp_path):
    directory, runs = sweep_directory(tmp_path), []
    for place in range(4):
        properties = {"variance": 0.1 * place, "on_policy_accuracy": 0.6 + 0.1 * place}
        runs.append(
            made_run(
                directory, arm=f"model_{place}", seed=0, properties=properties, proxy=lambda share: 0.0,
                truth=lambda share: 0.0,
            )
        )  # fmt: skip
    document, _ = summarised(runs, directory, draw=True)
    assert document["arms"]
    drawn = {path.stem for path in (directory / "figures").glob("*.png")}
    assert {"training_curves", "increase_against_variance", "increase_against_accuracy"} <= drawn
    assert "correlations" not in drawn


def test_three_reward_models_have_coefficients_without_intervals(tmp_path):
    directory = sweep_directory(tmp_path)
    runs = [
        made_run(
            directory, arm=f"model_{v}", seed=0, properties={"variance": v}, proxy=lambda share, v=v: v * share,
            truth=lambda share: share,
        )
        for v in (0.2, 0.4, 0.9)
    ]  # fmt: skip
    document, text = summarised(runs, directory)
    row = coefficient(document, "variance", "proxy", "steps_100")
    assert row["coefficient"] == pytest.approx(1.0)
    assert np.isnan(row["low"])
    assert "nan" not in text
