"""Rules R1 to R5 on sweeps with a planted signal, and with none."""

from __future__ import annotations

import numpy as np
import pytest
from rlhf_sweep_cases import made_run, sweep_directory

from experiments.reports.rlhf_runs import group_runs, read_runs
from experiments.reports.rlhf_statements import findings_of

RULES = ("predicts", "above_variance", "above_accuracy", "proxy_above_variance")


def judged(runs, preset):
    found, _ = read_runs(runs)
    return findings_of([preset], group_runs(found))


def signal_sweep(root, *, effect, policies=1, models=16, seeds=3, draws=0):
    """Reward models whose truth rises with their teaching signal, whatever their variance and accuracy."""
    draw = np.random.default_rng(draws)
    directory = sweep_directory(root, "teachers_2")
    runs = []
    for policy in range(policies):
        signals = draw.permutation(np.linspace(0.1, 1.0, models))
        others = draw.uniform(0.2, 0.9, size=(models, 3))
        for model in range(models):
            own = draw.normal(scale=0.1)
            for seed in range(seeds):
                gain = 1 + effect * signals[model] + own + 0.01 * draw.normal()
                runs.append(
                    made_run(
                        directory,
                        arm=f"model_{model}",
                        seed=seed,
                        policy=f"{('gqa', 'gla', 'mha', 'mla')[policy]}, 1,000 tokens",
                        properties={
                            "teaching_signal": signals[model],
                            "learning_signal": signals[model] + 0.05 * others[model, 0],
                            "teaching_signal_per_root_kl_adam": signals[model],
                            "variance": others[model, 0],
                            "on_policy_accuracy": others[model, 1],
                            "harm_aware_accuracy": others[model, 2],
                        },
                        proxy=lambda share, gain=gain: gain * share,
                        truth=lambda share, gain=gain: gain * share,
                    )
                )
    return runs


def test_a_planted_signal_fulfils_the_rules_at_both_probes(tmp_path):
    found = judged(signal_sweep(tmp_path, effect=2.0), "teachers_2")
    for rule in RULES:
        items = [item for item in found if item.statement.id == f"signal.{rule}"]
        assert [item.case for item in items] == ["step 25", "step 50"]
        assert all(item.verdict == "reproduced" for item in items), rule
        assert all(item.drawn == "16 reward models" for item in items)
    (equal_kl,) = [item for item in found if item.statement.id == "signal.equal_kl"]
    assert equal_kl.verdict == "reproduced"


def test_a_signal_that_predicts_nothing_fulfils_no_rule(tmp_path):
    fulfilled = 0
    for draws in range(8):
        found = judged(signal_sweep(tmp_path / str(draws), effect=0.0, draws=draws), "teachers_2")
        fulfilled += sum(
            item.verdict == "reproduced" for item in found if item.statement.id in {f"signal.{rule}" for rule in RULES}
        )
    assert fulfilled <= 4  # of 64, each at most 2.5 %, both probes alike


def test_choosing_by_a_planted_signal_loses_little_and_beats_other_choices(tmp_path):
    found = judged(signal_sweep(tmp_path, effect=2.0, policies=4, models=6, seeds=5), "policy_dependence")
    losses = [item for item in found if item.statement.id == "signal.choice_loses_little"]
    assert [item.verdict for item in losses] == ["reproduced", "reproduced"]
    assert losses[0].drawn == "5 seeds, in each 4 policies x 6 reward models"
    others = {item.case: item for item in found if item.statement.id == "signal.choice_above_others"}
    assert len(others) == 6
    assert others["reward variance, step 25"].verdict == "reproduced"
    assert others["one for all policies, step 50"].verdict == "reproduced"


def test_choosing_by_an_empty_signal_is_no_better_than_choosing_one_for_all(tmp_path):
    found = judged(signal_sweep(tmp_path, effect=0.0, policies=4, models=6, seeds=5), "policy_dependence")
    others = {item.case: item for item in found if item.statement.id == "signal.choice_above_others"}
    assert others["one for all policies, step 25"].verdict != "reproduced"


@pytest.mark.parametrize("models", [5, 3])
def test_fewer_than_six_reward_models_are_no_choice(tmp_path, models):
    found = judged(signal_sweep(tmp_path, effect=2.0, policies=2, models=models, seeds=2), "policy_dependence")
    assert not [item for item in found if item.statement.id.startswith("signal.choice")]
