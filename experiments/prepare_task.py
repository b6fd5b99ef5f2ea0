"""From a configuration to a task: prompts and a ground truth, as tokens of the policy."""

from __future__ import annotations

from typing import Any

from conf.rlhf_config import PolicyTaskConfig
from conf.task_config import TaskConfig, TaskKind
from experiments.data.corpus import TokenisedCorpus, prepare_corpus
from experiments.data.hub_rows import HubRows
from experiments.prepare import PreparedPolicy
from experiments.rewards.hub_reward import SequenceClassifierScorer
from experiments.runs.run import Run
from experiments.tasks.constraints import prepare_constraints, prepare_instructions
from experiments.tasks.dataset_prompts import Fields
from experiments.tasks.enumerable import prepare_enumerable
from experiments.tasks.fluency import FluencyTerm
from experiments.tasks.preference import prepare_preference
from experiments.tasks.reasoning import prepare_reasoning
from experiments.tasks.sentiment import prepare_sentiment
from experiments.tasks.task import Task


def prepare_task(config: PolicyTaskConfig, run: Run, policy: PreparedPolicy) -> Task:
    """The task that the configuration names. ValueError where the policy or the text does not fit it."""
    task = config.task
    run.console.print(f"[bold]task[/]      {task.kind.value}: prompts and ground truth are prepared", highlight=False)
    shared: dict[str, Any] = {
        "prompts": task.prompts,
        "max_new_tokens": task.max_new_tokens,
        "seed": task.prompt_seed,
        "prompt_spread": task.prompt_spread,
        "reward_offset": task.reward_offset,
        "tokenizer": policy.tokenizer,
    }
    if task.kind is TaskKind.enumerable:
        return prepare_enumerable(prompt_tokens=task.prompt_tokens, vocabulary=len(policy.tokenizer), **shared)

    instructed = shared | {"tokenizer_address": policy.address, "longest_prompt": task.longest_prompt}
    if task.kind is TaskKind.reasoning:
        reasoning = task.reasoning
        return prepare_reasoning(
            reasoning.dataset, arguments=reasoning.arguments, plain_format=reasoning.plain_format, **instructed
        )
    if task.kind is TaskKind.preference:
        return prepare_preference(
            _rows(task),
            _scorer(task, policy).score,
            scorer_recipe={"path": task.scorer.path, **task.scorer.values()},
            fields=_fields(task),
            plain_format=task.dataset.plain_format,
            **instructed,
        )

    fluency = None
    if task.fluency_weight:
        fluency = FluencyTerm(task.fluency_weight, policy.reference_scores.per_token, policy.address)
    credit: dict[str, Any] = {
        "names": task.constraints.names,
        "weights": task.constraints.weights,
        "binary": task.constraints.binary,
        "arguments": task.constraints.arguments,
        "fluency": fluency,
    }
    if task.kind is TaskKind.constraints and task.dataset.path:
        return prepare_instructions(
            _rows(task), fields=_fields(task), plain_format=task.dataset.plain_format, **credit, **instructed
        )
    continued = shared | {
        "prompt_tokens": task.prompt_tokens,
        "stop_at_sentence_end": task.stop_at_sentence_end,
        # A policy of another origin brings a tokenizer of its own.
        "tokenizer_address": None if config.policy.path is None else policy.address,
    }
    text = prepare_text(config, run)
    if task.kind is TaskKind.constraints:
        return prepare_constraints(text, **credit, **continued)
    return prepare_sentiment(text, fluency=fluency, **continued)


def prepare_text(config: PolicyTaskConfig, run: Run) -> TokenisedCorpus:
    """The text that prompts and real continuations come from: that of the policy."""
    return prepare_corpus(run.artifacts, config.data.corpus_source(), config.tokenizer.tokenizer_choice())


def _rows(task: TaskConfig) -> HubRows:
    data = task.dataset
    return HubRows(data.path, data.subset, data.split, data.data_files, data.revision, setting="task.dataset")


def _fields(task: TaskConfig) -> Fields:
    return Fields(task.dataset.prompt, task.dataset.chosen, task.dataset.rejected)


def _scorer(task: TaskConfig, policy: PreparedPolicy) -> SequenceClassifierScorer:
    return SequenceClassifierScorer(**task.scorer.values(), device=policy.model.device)
