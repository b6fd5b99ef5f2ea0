"""From a configuration to a task: prompts and a ground truth, as tokens of the policy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from conf.rlhf_config import PolicyTaskConfig
from conf.task_config import TaskConfig, TaskKind
from experiments.data.corpus import TokenisedCorpus, prepare_corpus
from experiments.data.hub_rows import HubRows
from experiments.preparation.policy import Policy
from experiments.rewards.hub_reward import SequenceClassifierScorer
from experiments.runs.run import Run
from experiments.tasks.constraints import ConstraintsTask, constraint_credit
from experiments.tasks.corpus_prompts import corpus_prompt_set
from experiments.tasks.dataset_prompts import Fields, dataset_prompt_set
from experiments.tasks.enumerable import prepare_enumerable
from experiments.tasks.fluency import FluencyTerm
from experiments.tasks.preference import PreferenceTask
from experiments.tasks.prompt_set import PolicyTokenizer, PromptOptions, PromptSet
from experiments.tasks.prompt_spread import PromptSpread
from experiments.tasks.python_task import PythonTask, listed_prompt_set
from experiments.tasks.reasoning import prepare_reasoning
from experiments.tasks.sentiment import SentimentTask
from experiments.tasks.task import Floats, Task


def prepare_task(config: PolicyTaskConfig, run: Run, policy: Policy, like: Task | None = None) -> Task:
    """The task that the configuration names. ValueError where the policy or the text does not fit it.

    `like` is the same task on other prompts, whose scorer is taken: reward models can be large.
    """
    run.console.print(f"[bold]task[/]      {config.task.kind}: prompts and ground truth are prepared", highlight=False)
    task, options, tokenizer = config.task, prompt_options(config), PolicyTokenizer(policy.tokenizer, policy.address)
    spread = PromptSpread(task.prompt_spread, task.reward_offset)
    match task.kind:
        case TaskKind.enumerable:
            return prepare_enumerable(
                vocabulary=len(policy.tokenizer),
                prompts=options.prompts,
                prompt_tokens=options.prompt_tokens,
                max_new_tokens=options.max_new_tokens,
                seed=options.seed,
                prompt_spread=task.prompt_spread,
                reward_offset=task.reward_offset,
                tokenizer=policy.tokenizer,
            )
        case TaskKind.reasoning:
            reasoning = task.reasoning
            return prepare_reasoning(
                reasoning.dataset,
                tokenizer,
                options,
                arguments=reasoning.arguments,
                plain_format=reasoning.plain_format,
                spread=spread,
            )
        case TaskKind.preference:
            if isinstance(like, PreferenceTask):
                prompts = _dataset_prompts(task, tokenizer, options)
                return PreferenceTask(prompts, like.scorer, like.scorer_recipe, spread)
            scorer = SequenceClassifierScorer(**task.scorer.values(), device=policy.model.device)
            recipe = task.scorer.values() | scorer.identity
            return PreferenceTask(_dataset_prompts(task, tokenizer, options), scorer.score, recipe, spread)
        case TaskKind.constraints:
            credit = constraint_credit(
                task.constraints.names,
                weights=task.constraints.weights,
                binary=task.constraints.binary,
                arguments=task.constraints.arguments,
            )
            if task.dataset.path:
                prompts = _dataset_prompts(task, tokenizer, options, credit.instruction)
            else:
                prompts = _corpus_prompts(config, run, tokenizer, options)
            return ConstraintsTask(prompts, credit, spread, _fluency(task, policy))
        case TaskKind.python:
            function = task.python.user_function()
            run.keep_code(function.files())
            listed = listed_prompt_set(function, tokenizer, options, task.dataset.plain_format)
            if listed is None and task.dataset.path:
                listed = _dataset_prompts(task, tokenizer, options)
            prompts = listed or _corpus_prompts(config, run, tokenizer, options)
            return PythonTask(prompts, function, function.load(), spread)
        case TaskKind.sentiment:
            prompts = _corpus_prompts(config, run, tokenizer, options)
            return SentimentTask(prompts, spread, _fluency(task, policy))


def prompt_options(config: PolicyTaskConfig) -> PromptOptions:
    """Which prompts the policy is trained on."""
    task = config.task
    return PromptOptions(
        prompts=task.prompts,
        max_new_tokens=task.max_new_tokens,
        seed=config.seed_of(task.prompt_seed),
        prompt_tokens=task.prompt_tokens,
        stop_at_sentence_end=task.stop_at_sentence_end,
        longest_prompt=task.longest_prompt,
    )


def prepare_text(config: PolicyTaskConfig, run: Run) -> TokenisedCorpus:
    """The text that prompts and real continuations come from: that of the policy."""
    return prepare_corpus(run.artifacts, config.data.corpus_source(), config.tokenizer_choice())


def _corpus_prompts(
    config: PolicyTaskConfig, run: Run, tokenizer: PolicyTokenizer, options: PromptOptions
) -> PromptSet:
    """A policy that `rl-exp train` made has the corpus's tokenizer; one of another origin brings its own."""
    return corpus_prompt_set(prepare_text(config, run), options, None if config.policy.made_by_train else tokenizer)


def _dataset_prompts(
    task: TaskConfig, tokenizer: PolicyTokenizer, options: PromptOptions, instruction: str = ""
) -> PromptSet:
    data = task.dataset
    return dataset_prompt_set(
        HubRows(data.path or "", data.subset, data.split, data.data_files, data.revision, setting="task.dataset"),
        tokenizer,
        options,
        fields=Fields(data.prompt, data.chosen, data.rejected, tuple(data.facts)),
        instruction=instruction,
        plain_format=data.plain_format,
    )


def _fluency(task: TaskConfig, policy: Policy) -> FluencyTerm | None:
    if not task.fluency_weight:
        return None

    def per_token(prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Floats:
        values = policy.reference_log_probabilities(prompts, completions).double().sum(dim=1).numpy()
        return np.asarray(values / np.array([len(row) for row in completions]))

    return FluencyTerm(task.fluency_weight, per_token, policy.address)
