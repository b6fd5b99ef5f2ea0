"""`rl-exp reward-eval`: what reward models are like for a policy, before any of them trains it.

    rl-exp reward-eval
    rl-exp reward-eval rewards=[on_policy_100,perfect_low_variance] attention=gla

Method. The policy draws probe rollouts at temperature 1 from its pure distribution, kept with their exact
log-probabilities; a second pair of completions for each prompt comes from elsewhere (off-policy). Every reward model
scores both. Its properties follow from the scores, the ground truth and the log-probabilities, with bootstrap intervals
over prompts (experiments/reward_metrics/evaluation.py); all reward models share the resamples. They belong to this
policy as much as to the reward model: another policy gives other numbers (What Makes a Reward Model a Good Teacher?,
Theorem 3). Learning and teaching signals say how far the first step on a reward model moves it and the ground truth
(docs/teaching_signal.md), with jackknife intervals over prompts.

The last line on stdout is one JSON document; `results.json` and `results.parquet` have the same rows.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from conf.reward_config import RewardConfig, named_reward
from conf.reward_eval_config import RewardEvalConfig
from conf.rlhf_config import SignalProbes
from experiments.preparation.policy import PolicyMaker
from experiments.preparation.properties import OffPolicyOutputs, evaluate_rewards, prepare_off_policy
from experiments.preparation.rewards import prepare_rewards
from experiments.preparation.setup import Setup, prepare
from experiments.reports.reward_figures import draw_properties, draw_variance_against_accuracy, draw_within_prompt_std
from experiments.reports.reward_tables import (
    accuracies_table,
    effective_line,
    errors_table,
    properties_table,
    signals_table,
)
from experiments.reward_metrics.evaluation import Evaluation
from experiments.rewards.reward import Reward
from experiments.runs.files import finite, read_json, write_json
from experiments.runs.row_files import send_media, write_parquet
from experiments.runs.run import Run
from experiments.teaching_signal.estimates import Signals
from experiments.teaching_signal.probe_signals import probe_signals

logger = logging.getLogger(__name__)

Row = dict[str, Any]


def reward_eval(config: RewardEvalConfig, run: Run, make_policy: PolicyMaker) -> dict[str, Any]:
    """Score, measure, print, draw, record; returns the summary. `results.json` is the document of the last line."""
    run.resume_metrics(0)  # policy, rollouts and reward models are kept; the rest takes seconds and starts over
    setup = prepare(config, run, make_policy)
    policy, task, probe = setup.policy, setup.task, setup.probe
    off_policy = prepare_off_policy(setup)
    record_setup(setup, off_policy)
    print_setup(setup, off_policy)
    rewards: list[Reward] = []
    with run.progress("reward models", len(config.rewards)) as bar:
        for name in config.rewards:
            rewards += prepare_rewards(setup, [name])
            bar.advance(1, ready=name)
    evaluation = evaluate_rewards(
        setup,
        rewards,
        off_policy,
        run.seeds.numpy("evaluation"),
        resamples=config.resamples,
        error_tolerance=config.error_tolerance,
    )

    signals = None
    if config.probe.signals is not SignalProbes.none:
        signals = probe_signals(policy.model, probe, rewards, last_layers=config.probe.signal_layers)
    rows = [finite(row) for row in evaluation.rows()]
    for place, (row, name) in enumerate(zip(rows, config.rewards, strict=True)):
        row |= {} if signals is None else finite(signals.rows()[place])
        row["variance_is_set"] = variance_is_set(named_reward(name), rewards[place])
    for number, (row, reward) in enumerate(zip(rows, rewards, strict=True)):
        run.log(reward_metrics(row, reward), reward_model=number)
    document = {
        "command": "reward-eval",
        "run_id": run.id,
        "policy": policy.label,
        "policy_address": policy.address,
        "task": task.name,
        "prompts": probe.prompts,
        "samples": probe.samples,
        "off_policy_pairs": _pairs(off_policy),
        "confidence": evaluation.confidence,
        "rows": rows,
    }
    run.write_json("results.json", document)
    write_parquet(rows, run.directory / "results.parquet")
    show(rows, run.console)
    scores = np.stack([probe.by_prompt(reward.probe_rewards) for reward in rewards])
    figures = draw(evaluation, scores, run.figures)
    for figure in figures:
        run.console.print(f"[bold]figure[/]    {figure}", highlight=False, soft_wrap=True)
    send_media(run, config.tracking.mode.value, "reward_models", rows, figures)
    return summary(evaluation, signals) | {"policy": policy.label, "task": task.name}


def compare(runs: list[Path], sweep_directory: Path, console: Console) -> None:
    """The end of a sweep: the same tables over all runs, each row with its policy; `results.json` as for one run."""
    documents = [read_json(run / "results.json") for run in runs]
    rows: list[Row] = []
    for document in documents:
        facts = {name: document[name] for name in ("run_id", "policy", "task")}
        rows += [facts | row for row in document["rows"]]
    write_json(sweep_directory / "results.json", {"command": "reward-eval", "runs": documents})
    write_parquet(rows, sweep_directory / "results.parquet")
    show(rows, console)


def record_setup(setup: Setup, off_policy: OffPolicyOutputs | None) -> None:
    """What the run starts from, in its manifest."""
    setup.run.add_to_manifest(
        policy=setup.policy.label,
        policy_address=setup.policy.address,
        policy_identity=setup.policy.identity,
        task=setup.task.recipe(),
        off_policy_pairs=_pairs(off_policy),
    )


def print_setup(setup: Setup, off_policy: OffPolicyOutputs | None) -> None:
    """The first screen's part on policy, task and probe."""
    probe = setup.probe
    setup.run.console.print(
        f"[bold]policy[/]    {setup.policy.label}\n"
        f"[bold]task[/]      {setup.task.name}, ground truth of the policy {probe.outputs.ground_truth.mean():+.3f}\n"
        f"[bold]probe[/]     {probe.prompts} prompts x {probe.samples} samples, {_pairs(off_policy)} off-policy pairs",
        highlight=False,
    )


def _pairs(off_policy: OffPolicyOutputs | None) -> int:
    return 0 if off_policy is None else len(off_policy.prompt)


def reward_metrics(row: Row, reward: Reward) -> Row:
    """A reward model's row of metrics.jsonl: `reward/<property>` with its interval, and what it is made of."""
    facts = {f"facts/{name}": value for name, value in reward.facts.items() if isinstance(value, int | float | str)}
    labels = ("reward_model", "prompts", "variance_is_set")
    measured = {f"reward/{name}": value for name, value in row.items() if name not in labels}
    return {"name": row["reward_model"], **measured, **facts}


def show(rows: list[Row], console: Console) -> None:
    """The tables, one after the other."""
    for table in (properties_table(rows), accuracies_table(rows), errors_table(rows)):
        console.print(table)
    if any(row.get("teaching_signal") is not None for row in rows):
        console.print(signals_table(rows))
    console.print(effective_line(rows), highlight=False)


def draw(evaluation: Evaluation, scores: np.ndarray, directory: Path) -> list[Path]:
    """The figures; one that cannot be drawn ends no run."""
    try:
        return [
            draw_variance_against_accuracy(evaluation, directory),
            draw_properties(evaluation, directory),
            draw_within_prompt_std(evaluation.reward_models, scores, directory),
        ]
    except Exception:
        logger.warning("a figure could not be drawn", exc_info=True)
        return []


def variance_is_set(settings: RewardConfig, reward: Reward) -> bool:
    """Whether constants per prompt bring the variance to the configured one: then it says nothing of the reward."""
    return settings.target_variance is not None and "prompt_constants_std" in reward.facts


def summary(evaluation: Evaluation, signals: Signals | None) -> dict[str, Any]:
    """The headline: which reward model should teach this policy, as far as the probe tells them apart."""
    headline: dict[str, Any] = {"reward_models": len(evaluation.reward_models)}
    if signals is not None:
        headline["predicted_best_teacher"] = predicted_teachers(signals)
    accuracy = evaluation.values["harm_aware_accuracy"]
    if np.isfinite(accuracy).all():
        place = int(accuracy.argmax())
        headline["highest_harm_aware_accuracy"] = f"{evaluation.reward_models[place]}, {accuracy[place]:.3f}"
    return headline


def predicted_teachers(signals: Signals) -> str:
    """The reward models with the highest teaching signals, and those that cannot be told from the highest."""
    order, alike = signals.best_teachers()
    names = [signals.reward_models[place] for place in order]
    line = names[0] if len(names) == 1 else f"{names[0]}, then {names[1]}"
    if not alike:
        return line
    return f"{line}; not separable from {names[0]}: {', '.join(signals.reward_models[place] for place in alike)}"
